"""The probe's models run on the kernels they stand for; its table judges by measured times alone."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

from modeltailor.errors import CandidateError
from modeltailor.targets import FakeDevice, LocalDevice, load_profile
from modeltailor.targets import _probe_models as nets
from modeltailor.targets.probe import ProbeTable, probe
from modeltailor.targets.session import open_session, optimized_model


def kernels(model):
    return [n.op_type for n in optimized_model(model.SerializeToString()).graph.node]


def run(model, shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return open_session(model.SerializeToString(), LocalDevice(load_profile("local")).options).run(None, {"x": x})[0]


def test_models_run_on_the_kernels_that_they_stand_for():
    u8s8 = {"channels": 8, "side": 8, "activation": "u8", "weight": "s8", "per_channel": True}
    assert kernels(nets.quantized_conv_net(**u8s8)).count("QLinearConv") == 3
    assert kernels(nets.quantized_conv_net(**u8s8, depthwise=True)).count("QLinearConv") == 3
    assert "QLinearConv" not in kernels(nets.quantized_conv_net(**u8s8, relu_folds=False, depthwise=True))
    for activation, weight in (("u8", "s8"), ("s8", "s8"), ("u8", "u8")):
        model = nets.quantized_matmul_net(rows=4, width=32, activation=activation, weight=weight, per_channel=True)
        assert kernels(model).count("QLinearMatMul") == 3
    for kind in ("u8", "s8", "s8c"):
        assert kernels(nets.matmul_net(rows=4, width=32, dynamic=kind)) == ["DynamicQuantizeMatMul"] * 3
    assert kernels(nets.matmul_net(rows=4, width=32)) == ["MatMul"] * 3
    for bits in (8, 4, 2):
        assert kernels(nets.block_net(rows=4, width=64, bits=bits, accuracy_level=4)) == ["MatMulNBits"] * 3
    assert kernels(nets.conversion_net(channels=4, side=8, pairs=4)).count("QuantizeLinear") == 4
    for kind in ("u8", "s8"):
        assert kernels(nets.dynamic_conv_net(channels=8, side=8, weight=kind)).count("ConvInteger") == 3
    wide = nets.quantized_conv_net(**{**u8s8, "activation": "u16"})
    assert {t.data_type for t in wide.graph.initializer if t.name.startswith("a") and "zero" in t.name} == {
        onnx.TensorProto.UINT16
    }
    assert "QLinearConv" not in kernels(wide)


def test_zeros_are_as_many_as_asked_for_and_bf16_is_the_upper_half():
    def first(model):
        return next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w1")

    dense = first(nets.conv_net(channels=16, side=8))
    assert np.mean(first(nets.conv_net(channels=16, side=8, zeros="0.9")) == 0) == pytest.approx(0.9, abs=0.03)
    quarter = first(nets.conv_net(channels=16, side=8, zeros="2:4"))
    assert np.all(np.sum(quarter.reshape(16, 4, 4, 9) != 0, axis=2) == 2)
    half = first(nets.conv_net(channels=16, side=8, number="bf16")).astype(np.float32)
    assert np.max(np.abs(half - dense) / np.abs(dense)) < 2**-7
    onnx.checker.check_model(nets.conv_net(channels=16, side=8, number="bf16"), full_check=True)
    onnx.checker.check_model(nets.matmul_net(rows=4, width=32, number="bf16"), full_check=True)


def test_quantized_models_compute_what_the_float_ones_compute():
    float_out = run(nets.conv_net(channels=16, side=8), (1, 16, 8, 8))
    for activation, weight, per_channel in (
        ("u8", "s8", True),
        ("s8", "s8", True),
        ("u8", "u8", False),
        ("u16", "s8", True),
    ):
        made = nets.quantized_conv_net(
            channels=16, side=8, activation=activation, weight=weight, per_channel=per_channel
        )
        error = np.abs(run(made, (1, 16, 8, 8)) - float_out)
        assert error.mean() < 0.1 * np.abs(float_out).mean()
    for kind in ("u8", "s8"):
        made = nets.dynamic_conv_net(channels=16, side=8, weight=kind)
        assert np.abs(run(made, (1, 16, 8, 8)) - float_out).mean() < 0.1 * np.abs(float_out).mean()
    half = run(nets.conv_net(channels=16, side=8, number="fp16"), (1, 16, 8, 8))
    assert np.abs(half - float_out).mean() < 0.01 * np.abs(float_out).mean()
    wide = run(nets.matmul_net(rows=4, width=64), (1, 4, 64))
    for kind in ("u8", "s8", "s8c"):
        assert np.abs(run(nets.matmul_net(rows=4, width=64, dynamic=kind), (1, 4, 64)) - wide).mean() < 0.05


FORMATS = ("conv", "matmul")


def latency(path: Path) -> float:
    """A made-up device: third trial of every kind twice as fast as the first, fourth slower, others equal."""
    return {"2": 0.5, "3": 1.3}.get(path.stem.rpartition("-")[2], 1.0)


def test_pays_and_reasons_follow_the_measured_times():
    table = probe(FakeDevice(latency), kinds=FORMATS)
    assert table.pays("w8a8", "conv", "u8s8 per channel")
    assert not table.pays("w8a8", "conv", "s8s8 per channel")
    assert table.pays("w8a8", "conv")
    assert not table.pays("fp16", "conv")
    assert not table.pays("w2-block32", "matmul")
    assert not table.pays("w3", "conv")
    assert "2.00 times as fast as fp32" in table.reason("w8a8", "conv")
    assert "slower than fp32: 0.77" in table.reason("w8a8", "conv", "s8s8 per channel")
    assert "no clear gain" in probe(FakeDevice(latency, noise=0.3, seed=2), kinds=FORMATS).reason("fp16", "conv")
    assert "was not measured" in table.reason("w3", "conv")
    best = table.best("w8a8", "conv")
    assert best is not None
    assert best.detail == "u8s8 per channel"
    assert table.left_out == ()
    reversed_table = probe(FakeDevice(lambda p: 1.0 / latency(p)), kinds=FORMATS)
    assert reversed_table.pays("w8a8", "conv", "s8s8 per channel")
    assert not reversed_table.pays("w8a8", "conv", "u8s8 per channel")


def test_format_that_does_not_run_is_noted_and_the_rest_is_measured():
    broken = CandidateError("CRASH:SEGV", "", "the process was killed by SIGSEGV")
    table = probe(FakeDevice(latency, failures={"conv-3.onnx": broken}), kinds=FORMATS)
    assert not table.pays("w8a8", "conv", "s8s8 per channel")
    assert "does not run" in table.reason("w8a8", "conv", "s8s8 per channel")
    assert table.pays("w8a8", "conv", "u8s8 per channel")
    assert [e.detail for e in table.entries[:4]] == ["fp32", "bf16", "u8s8 per channel", "s8s8 per channel"]
    with pytest.raises(CandidateError):
        probe(FakeDevice(latency, failures={"conv-0.onnx": broken}), kinds=FORMATS)


def test_channel_multiples_are_read_off_the_times():
    def coarse(path):  # twelve models: fp32 then w8a8, 12 16 24 32 48 64 channels; w8a8 pays in steps of 16
        kind, _, number = path.stem.rpartition("-")
        counts = (12, 16, 24, 32, 48, 64)
        if kind != "channels":
            return 1.0
        count = counts[int(number) % 6]
        return count / 16 if int(number) < 6 else -(-count // 32) * 1.0

    table = probe(FakeDevice(coarse), kinds=("channels",))
    assert (table.channel_multiple("fp32"), table.channel_multiple("w8a8")) == (4, 16)


def test_table_is_cached_by_fingerprint_and_a_broken_cache_is_ignored(tmp_path):
    first = FakeDevice(latency)
    table = probe(first, kinds=FORMATS, cache=tmp_path / "cache")
    again = FakeDevice(latency)
    assert probe(again, kinds=FORMATS, cache=tmp_path / "cache") == table
    assert again.calls == []
    probe(other := FakeDevice(latency, name="other"), kinds=FORMATS, cache=tmp_path / "cache")
    assert other.calls
    for file in (tmp_path / "cache").iterdir():
        file.write_text("{}")
    redone = probe(again, kinds=FORMATS, cache=tmp_path / "cache")
    assert dataclasses.replace(redone, seconds=0.0) == dataclasses.replace(table, seconds=0.0)
    assert again.calls


def test_only_wanted_kinds_are_measured_and_a_later_call_adds_the_rest(tmp_path):
    device = FakeDevice(latency)
    first = probe(device, kinds=("depthwise", "conversion"), cache=tmp_path)
    assert {e.kind for e in first.entries} == {"depthwise", "conversion"}
    assert first.conversion_us is not None
    assert "was not measured" in first.reason("w8a8", "conv")
    calls = len(device.calls)
    second = probe(device, kinds=("conv", "depthwise"), cache=tmp_path)
    assert len(device.calls) == calls + 1
    assert {e.kind for e in second.entries} == {"depthwise", "conversion", "conv"}
    assert second.entries[: len(first.entries)] == first.entries
    with pytest.raises(ValueError, match="with_threads"):
        probe(device, kinds=("threads",))


def test_out_of_time_kinds_are_named_and_not_cached(tmp_path):
    table = probe(FakeDevice(latency), cache=tmp_path, limit_s=0.0)
    assert table.entries == ()
    assert table.left_out == (
        *("conv", "matmul", "depthwise", "conversion", "bandwidth", "channels", "sparsity", "matvec"),
    )
    assert list(tmp_path.iterdir()) == []


def test_threads_are_related_to_the_fewest():
    table = probe(
        FakeDevice(latency), kinds=(), with_threads={1: FakeDevice(lambda _: 4.0), 2: FakeDevice(lambda _: 2.5)}
    )
    assert [(e.detail, e.speedup) for e in table.entries if e.kind == "threads"] == [
        ("1 threads", 1.0),
        ("2 threads", 1.6),
    ]


@pytest.mark.slow
def test_probe_of_this_machine_takes_at_most_a_minute():
    table = probe(LocalDevice(load_profile("local")))
    assert isinstance(table, ProbeTable)
    assert table.seconds < 75
    assert table.tried("w8a8", "conv")
    assert table.reason("w2-block32", "matmul")
