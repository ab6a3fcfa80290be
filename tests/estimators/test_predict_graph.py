"""Graphs as they are executed: work, memory, and latency from a profile and a few measurements."""

import itertools
import math

import numpy as np
import pytest
from onnx import TensorProto, checker, helper, numpy_helper, save

from modeltailor.errors import ModelError
from modeltailor.estimators import Estimate
from modeltailor.estimators.predict.graph import read_graph
from modeltailor.estimators.predict.microcontroller import fit, plan_memory
from modeltailor.estimators.predict.predict import (
    Measured,
    NoEstimate,
    could_be_best,
    predict,
    predict_all,
    suggest_measurements,
)
from modeltailor.estimators.predict.work import graph_work
from modeltailor.targets.profile import Figure, Profile

FLOAT, INT8 = TensorProto.FLOAT, TensorProto.UINT8


def figure(value, origin="inferred"):
    return Figure(value=value, origin=origin, source="made for a test")


def profile(**changes):
    made = {
        "name": "made-up",
        "title": "Made up",
        "kind": "embedded",
        "runtime": "none",
        "peak_gops": {"fp32": figure(20.0)},
        "bandwidth_gbps": figure(5.0),
    }
    return Profile(**{**made, **changes})


def quantized(path):
    """Quantize, convolve between dequantize and quantize, dequantize: what a quantizer writes."""
    weights = [
        numpy_helper.from_array(np.zeros((8, 4, 3, 3), np.int8), "w"),
        numpy_helper.from_array(np.float32(0.1), "s"),
        numpy_helper.from_array(np.uint8(0), "z"),
        numpy_helper.from_array(np.int8(0), "zw"),
    ]
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="in"),
        node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="d"),
        node("DequantizeLinear", ["w", "s", "zw"], ["wd"], name="dw"),
        node("Conv", ["xd", "wd"], ["c"], name="conv", pads=[1] * 4),
        node("Relu", ["c"], ["r"], name="relu"),
        node("QuantizeLinear", ["r", "s", "z"], ["rq"], name="q"),
        node("DequantizeLinear", ["rq", "s", "z"], ["y"], name="out"),
    ]
    given = [helper.make_tensor_value_info("x", FLOAT, [1, 4, 8, 8])]
    made = [helper.make_tensor_value_info("y", FLOAT, [1, 8, 8, 8])]
    model = helper.make_model(
        helper.make_graph(nodes, "q", given, made, weights), opset_imports=[helper.make_opsetid("", 21)]
    )
    checker.check_model(model)
    save(model, path)
    return path


def test_work_of_convolutions(tmp_path, chain):
    kernels = graph_work(chain(tmp_path / "a.onnx", [3, 8, 12]), lanes=8).kernels
    assert [k.operator_class for k in kernels] == ["conv", "conv"]  # each ReLU is fused
    assert [k.macs for k in kernels] == [16 * 16 * 8 * 3 * 9, 16 * 16 * 12 * 8 * 9]
    assert kernels[0].padded_macs == kernels[0].macs
    assert kernels[1].padded_macs == kernels[1].macs * 16 // 12  # 12 channels fill two registers of 8
    assert [k.registers for k in kernels] == [1, 2]
    assert [k.rated_macs / k.padded_macs for k in kernels] == [
        1.75,
        1.25,
    ]  # few channels share each input that is loaded
    assert kernels[0].read_bytes == 4 * (3 * 256 + 8 * 3 * 9)
    assert kernels[0].written_bytes == 4 * 8 * 256


def test_classes_of_convolutions(tmp_path, chain):
    assert graph_work(chain(tmp_path / "p.onnx", [8, 8], kernel=1)).kernels[0].operator_class == "pointwise"
    deep = graph_work(chain(tmp_path / "d.onnx", [8, 8], depthwise=True)).kernels[0]
    assert (deep.operator_class, deep.macs) == ("depthwise", 256 * 8 * 9)


def test_a_quantized_convolution_is_one_integer_kernel(tmp_path):
    kernels = graph_work(quantized(tmp_path / "q.onnx")).kernels
    assert [(k.operator_class, k.number_format) for k in kernels] == [("convert", "fp32"), ("conv", "int8")]
    assert kernels[1].read_bytes == 4 * 64 + 8 * 4 * 9
    assert kernels[1].written_bytes == 8 * 64


def test_shapes_pass_through_the_runtimes_own_operators(tmp_path):
    node = helper.make_node
    scale, zero = numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(0), "z")
    nodes = [
        node("QLinearAdd", ["a", "s", "z", "b", "s", "z", "s", "z"], ["c"], domain="com.microsoft"),
        node("QLinearGlobalAveragePool", ["c", "s", "z", "s", "z"], ["d"], domain="com.microsoft", channels_last=0),
        node("Flatten", ["d"], ["e"]),
        node("DequantizeLinear", ["e", "s", "z"], ["f"]),
    ]
    given = [helper.make_tensor_value_info(n, INT8, [1, 6, 4, 4]) for n in "ab"]
    graph = helper.make_graph(nodes, "g", given, [helper.make_tensor_value_info("f", FLOAT, None)], [scale, zero])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    save(helper.make_model(graph, opset_imports=imports), tmp_path / "m.onnx")
    read = read_graph(tmp_path / "m.onnx")
    assert [t.shape for k in read.kernels for t in k.outputs] == [(1, 6, 4, 4), (1, 6, 1, 1)]
    assert read.kernels[0].outputs[0].size_bytes == 96


def test_what_is_not_known_is_said(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        read_graph(tmp_path / "bad.onnx")
    given = [helper.make_tensor_value_info("x", FLOAT, [1, "length"])]
    graph = helper.make_graph([helper.make_node("Sin", ["x"], ["y"])], "g", given,
                              [helper.make_tensor_value_info("y", FLOAT, None)])  # fmt: skip
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), tmp_path / "s.onnx")
    with pytest.raises(ModelError, match="symbolic dimensions"):
        read_graph(tmp_path / "s.onnx")
    assert read_graph(tmp_path / "s.onnx", {"length": 5}).inputs[0].shape == (1, 5)


def test_memory_of_a_chain_is_its_widest_neighbours(tmp_path, chain):
    plan = plan_memory(read_graph(chain(tmp_path / "a.onnx", [4, 16, 8, 8])))
    sizes = [4 * w * 256 for w in (4, 16, 8, 8)]
    assert plan.live_bytes == plan.arena_bytes == max(a + b for a, b in itertools.pairwise(sizes))
    assert plan.flash_bytes == 4 * 9 * (16 * 4 + 8 * 16 + 8 * 8)
    assert plan.busiest == "conv1"


def test_a_plan_never_lays_living_tensors_over_each_other(tmp_path, chain):
    rng = np.random.default_rng(0)
    widths = [int(w) for w in rng.integers(1, 40, 12)]
    plan = plan_memory(read_graph(chain(tmp_path / "a.onnx", widths, side=7)))
    for i, a in enumerate(plan.placements):
        for b in plan.placements[:i]:
            together = a.first <= b.last and b.first <= a.last
            apart = a.offset + a.size_bytes <= b.offset or b.offset + b.size_bytes <= a.offset
            assert apart or not together
    assert plan.live_bytes <= plan.arena_bytes <= 1.5 * plan.live_bytes


def test_what_does_not_fit_is_refused_with_the_bytes(tmp_path, chain):
    plan = plan_memory(read_graph(chain(tmp_path / "a.onnx", [4, 16, 8])))
    assert fit(plan, profile(flash_bytes=figure(1e6), memory_bytes=figure(1e6))).fits
    refused = fit(plan, profile(flash_bytes=figure(1000), memory_bytes=figure(plan.arena_bytes - 1)))
    assert not refused.fits
    assert "flash" in refused.reason
    assert "(1 too many)" in refused.reason


def truth_ms(path):
    """A device that is three times slower than the profile says, and slow on 1x1 convolutions."""
    time = 0.05
    for k in graph_work(path).kernels:
        time += 0.01 + 3 * 2e-6 * k.padded_macs / 20 * (2 if k.operator_class == "pointwise" else 1)
    return time


def test_prediction_learns_from_measurements(tmp_path, chain):
    rng = np.random.default_rng(1)
    models = [
        chain(tmp_path / f"{i}.onnx", [3, *(int(w) for w in rng.integers(2, 9, 3) * 8)], kernel=int(rng.choice([1, 3])))
        for i in range(24)
    ]
    truth = np.array([truth_ms(m) for m in models])
    chosen = [s.model for s in suggest_measurements(models, profile(), 5)]
    assert chosen[0] == 0
    measured = [Measured(model=models[i], latency_ms=float(truth[i])) for i in chosen]
    before, after = predict_all(models, profile()), predict_all(models, profile(), measured)
    assert {e.evidence for e in before} == {"predicted"}
    assert [i for i, e in enumerate(after) if e.evidence == "measured-on-device"] == sorted(chosen)
    assert {after[i].evidence for i in range(24) if i not in chosen} == {"predicted"}
    values = np.array([e.value for e in after])
    assert np.mean(np.abs(values / truth - 1) < 0.1) >= 0.9
    assert np.corrcoef(np.argsort(np.argsort(values)), np.argsort(np.argsort(truth)))[0, 1] > 0.97
    wide = [e.high / e.low for e in before]
    assert min(wide) > 2 > np.median([e.high / e.low for e in after])
    assert np.mean([e.low <= t <= e.high for e, t in zip(before, truth, strict=True)]) > 0.6


def test_unknown_placement_gives_no_number(tmp_path, chain):
    model = chain(tmp_path / "a.onnx", [3, 8, 8])
    accelerator = profile(provider="QNNExecutionProvider")
    refused = predict(model, accelerator)
    assert isinstance(refused, NoEstimate)
    assert "Conv" in refused.reason
    seen = predict(model, accelerator, [Measured(model=model, latency_ms=2.0)])
    assert isinstance(seen, Estimate)
    assert seen.value == pytest.approx(2.0, rel=0.1)
    assert isinstance(predict(model, profile(peak_gops={}, bandwidth_gbps=None)), NoEstimate)


def test_overlapping_bands_are_ties():
    def estimate(low, value, high):
        return Estimate(value=value, low=low, high=high, evidence="predicted")

    found = could_be_best([estimate(1, 2, 3), estimate(2.5, 4, 5), estimate(3.5, 4, 5), NoEstimate(reason="x")])
    assert found == [0, 1, 3]


@pytest.mark.parametrize("latency", [0.0, -1.0, math.inf, math.nan])
def test_a_latency_is_finite_and_positive(tmp_path, latency):
    with pytest.raises(ValueError, match="finite and positive"):
        Measured(model=tmp_path, latency_ms=latency)


def test_of_a_table_only_the_rows_that_are_looked_up_are_read(tmp_path):
    node = helper.make_node
    weights = [
        numpy_helper.from_array(np.zeros((30_000, 64), np.float32), "table"),
        numpy_helper.from_array(np.zeros((64, 32), np.float32), "w"),
        *(numpy_helper.from_array(np.array([v]), n) for n, v in (("from", 0), ("to", 1), ("axis", 1))),
    ]
    nodes = [
        node("Gather", ["table", "ids"], ["rows"], name="look"),
        node("Slice", ["rows", "from", "to", "axis"], ["first"], name="slice"),
        node("MatMul", ["first", "w"], ["y"], name="product"),
    ]
    given = [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 8])]
    made = [helper.make_tensor_value_info("y", FLOAT, [1, 1, 32])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", given, made, weights), opset_imports=[helper.make_opsetid("", 18)]
    )
    save(model, tmp_path / "m.onnx")
    work = graph_work(tmp_path / "m.onnx")
    look, cut, product = work.kernels
    assert look.read_bytes == 4 * 8 * 64 + 8 * 8  # rows, and where they are
    assert cut.read_bytes < 4 * 64 + 100
    assert product.weight_bytes == 4 * 64 * 32
    assert work.weight_bytes - product.weight_bytes <= 4 * 8 * 64 + 100


def test_an_integer_convolution_collects_where_the_pixels_of_its_windows_lie(tmp_path, chain):
    assert graph_work(quantized(tmp_path / "q.onnx")).kernels[1].gathered_bytes == 16 * 64 * 9
    assert graph_work(chain(tmp_path / "f.onnx", [3, 8])).kernels[0].gathered_bytes == 0
