"""Two files beside each other: inputs are made to fit, refusals name the input, rows hold what was measured."""

import hashlib
import json
import re

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from modeltailor import places
from modeltailor.commands.bench import command
from modeltailor.errors import CandidateError, ConfigError, ModelError
from modeltailor.estimators.bench import common_inputs, compare_files, example_inputs
from modeltailor.targets import FakeDevice, LocalDevice, TimingPlan, _probe_models, load_profile


def add_net(dims, mask_dims, path):
    """``x`` (float) and ``some_mask`` (int64) of the given dims."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["some_mask"], ["m"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "m"], ["y"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, dims),
            helper.make_tensor_value_info("some_mask", TensorProto.INT64, mask_dims),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_inputs_fit_the_model(tmp_path):
    path = add_net(["n", 3], ["n", 3], tmp_path / "m.onnx")
    made = example_inputs(path, batch=4)
    assert {k: (v.shape, v.dtype.name) for k, v in made.items()} == {
        "x": ((4, 3), "float32"),
        "some_mask": ((4, 3), "int64"),
    }
    assert np.all(made["some_mask"] == 1)
    np.testing.assert_array_equal(made["x"], example_inputs(path, batch=4)["x"])


def test_free_dimensions_are_asked_for_by_name(tmp_path):
    path = add_net(["n", "length"], ["n", "length"], tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match=r"'x'.*free dims.*length.*Set shapes\.x"):
        example_inputs(path)
    made = example_inputs(path, shapes={"x": (2, 7), "some_mask": (2, 7)})
    assert made["x"].shape == (2, 7)
    with pytest.raises(ConfigError, match=r"shapes\.z"):
        example_inputs(path, shapes={"z": (1,)})
    fixed = add_net([2, 3], [2, 3], tmp_path / "f.onnx")
    with pytest.raises(ConfigError, match=r"shapes\.x.*must fit \[2, 3\]; got \[2, 4\]"):
        example_inputs(fixed, shapes={"x": (2, 4)})


def test_rows_hold_what_was_measured_and_what_was_read(tmp_path):
    paths = [add_net(["n", 3], ["n", 3], tmp_path / name) for name in ("a.onnx", "b.onnx")]
    device = FakeDevice({"a.onnx": 2.0, "b.onnx": 0.5}, peak_bytes=lambda p: 5, evidence="measured-on-device")
    bench = compare_files(device, paths, batch=8)
    first, second = bench.rows
    assert (first.measured.speedup.value, second.measured.speedup.value) == (1.0, pytest.approx(4.0))
    assert first.measured.latency_ms.value == pytest.approx(2.0)
    assert second.per_second == pytest.approx(16_000)
    assert second.measured.peak_memory_bytes == first.measured.peak_memory_bytes == 5
    assert first.sha256 == hashlib.sha256(paths[0].read_bytes()).hexdigest()
    assert first.size_bytes == paths[0].stat().st_size
    assert bench.shapes == (("x", (8, 3)), ("some_mask", (8, 3)))


def test_refusals_name_the_file(tmp_path):
    path = add_net(["n", 3], ["n", 3], tmp_path / "a.onnx")
    other = tmp_path / "conv.onnx"
    onnx.save(
        _probe_models.quantized_matmul_net(rows=2, width=4, activation="u8", weight="s8", per_channel=False), other
    )
    renamed = onnx.load(other)
    renamed.graph.input[0].name = renamed.graph.node[0].input[0] = "z"
    onnx.save(renamed, other)
    device = FakeDevice(lambda _: 1.0)
    with pytest.raises(ModelError, match=r"conv\.onnx.*takes input 'z'"):
        compare_files(device, [path, other])
    with pytest.raises(ModelError, match="no such file"):
        compare_files(device, [path, tmp_path / "absent.onnx"])
    with pytest.raises(ConfigError, match="at least two"):
        compare_files(device, [path])
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        compare_files(device, [path, tmp_path / "bad.onnx"])


def test_on_this_machine_the_larger_model_is_slower(tmp_path):
    paths = []
    for width in (32, 256):
        paths.append(tmp_path / f"w{width}.onnx")
        onnx.save(_probe_models.conv_net(channels=width, side=16, inputs=3), paths[-1])
    plan = TimingPlan(quads=2, block_inferences=5, block_ms=2.0, warmup_s=0.05)
    bench = compare_files(LocalDevice(load_profile("local")), paths, max_pairs=2, plan=plan)
    assert bench.rows[1].measured.speedup.value < 0.5
    assert bench.rows[1].measured.verdict == "NOISY"
    assert bench.rows[1].measured.peak_memory_bytes > bench.rows[0].measured.peak_memory_bytes


@pytest.mark.parametrize(("n", "seconds", "least"), [(2, 60.0, 120.0), (5, 60.0, 300.0), (2, 1200.0, 600.0)])
def test_slow_models_get_the_time_that_was_given(tmp_path, n, seconds, least):
    files = [add_net(["n", 3], ["n", 3], tmp_path / f"m{i}.onnx") for i in range(n)]
    seen = []

    class Patient(FakeDevice):
        def time(self, artifacts, inputs, plan):
            seen.append(plan.timeout_s / plan.pairs)
            return super().time(artifacts, inputs, plan)

    compare_files(Patient(lambda _: 1.0), files, seconds=seconds)
    assert min(seen) >= least
    stuck = CandidateError("TIMEOUT", "", "took longer")
    with pytest.raises(CandidateError, match="--time"):
        compare_files(FakeDevice(lambda _: 1.0, failures={"m1.onnx": stuck}), files, seconds=seconds)


def test_more_files_than_a_device_can_hold_are_refused(tmp_path):
    file = add_net(["n", 3], ["n", 3], tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="at most 64"):
        compare_files(FakeDevice(lambda _: 1.0), [file] * 65)


@pytest.fixture
def batched(tmp_path):
    """Files of one model by their batch: ``free``, ``one``, ``two``, ``four``."""
    sizes = {"free": "n", "one": 1, "two": 2, "four": 4}
    return {name: add_net([size, 3], [size, 3], tmp_path / f"{name}.onnx") for name, size in sizes.items()}


def test_batch_that_no_input_takes_is_refused_before_anything_is_timed(batched, monkeypatch):
    device = FakeDevice(lambda _: 1.0)
    monkeypatch.setattr(places, "open_place", lambda *_: device)
    done = CliRunner().invoke(command, [str(batched["one"]), str(batched["one"]), "--batch", "1", "--batch", "8"])
    assert isinstance(done.exception, ConfigError)
    assert done.exception.code == "CFG-15"
    refused = "one.onnx, input 'x': has a fixed batch of 1; got 8. Export it with a free batch, or leave --batch out."
    assert done.exception.line() == f"error[CFG-15] {refused}"
    assert device.calls == []
    with pytest.raises(ConfigError, match=re.escape(refused)):
        compare_files(device, [batched["one"]] * 2, batch=8)
    with pytest.raises(ConfigError, match=r"four\.onnx, input 'x': has a fixed batch of 4; got 1"):
        compare_files(device, [batched["four"], batched["free"]], batch=1)
    with pytest.raises(ConfigError, match=r"shapes\.x: has a batch of 2 by its shape; got 8"):
        common_inputs([batched["free"]] * 2, shapes={"x": (2, 3), "some_mask": (2, 3)}, batches=(8,))
    assert compare_files(device, [batched["four"]] * 2, batch=4).shapes[0] == ("x", (4, 3))


def test_files_of_which_one_fixes_the_batch_are_compared_at_that_one(batched, monkeypatch):
    device = FakeDevice(lambda _: 1.0)
    for names in (("free", "four"), ("four", "free"), ("four", "four")):
        files = [batched[n] for n in names]
        assert compare_files(device, files).shapes == (("x", (4, 3)), ("some_mask", (4, 3)))
        assert compare_files(device, files, batch=4).rows[0].per_second == pytest.approx(4000)
    assert compare_files(device, [batched["free"]] * 2).shapes[0] == ("x", (1, 3))
    with pytest.raises(ConfigError, match=r"four\.onnx, input 'x': has a fixed batch of 4; got 8\. Export it"):
        compare_files(device, [batched["free"], batched["four"]], batch=8)
    for names in (("two", "four"), ("free", "two", "four")):
        with pytest.raises(ConfigError, match=r"four\.onnx, input 'x': has a fixed batch of 4; got 2\. Compare files"):
            compare_files(device, [batched[n] for n in names])
    monkeypatch.setattr(places, "open_place", lambda *_: device)
    done = CliRunner().invoke(command, [str(batched["free"]), str(batched["four"]), "-q", "--json"])
    assert [r["batch"] for r in json.loads(done.output)["rounds"]] == [4]
    done = CliRunner().invoke(command, [*[str(batched["free"])] * 2, "-q", "--batch", "1", "--batch", "8"])
    assert "batch 8" in done.output
    assert "x [8, 3]" in done.output
