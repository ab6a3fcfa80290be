"""The audit takes any ONNX file: ours, other quantizers', float16, with loops; its shares always add up."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modeltailor.compress import Format
from modeltailor.compress.formats import Composer
from modeltailor.compress.formats.names import site_label
from modeltailor.estimators.audit import Audit, audit
from modeltailor.estimators.bench import example_inputs

RNG = np.random.default_rng(0)
BACKEND = Path(onnx.__file__).parent / "backend" / "test" / "data"


def _model(nodes, inputs, outputs, tensors, opset: int = 18) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _floats(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array((RNG.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32), name)


def chain(kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Three products with activation functions in between."""
    n = helper.make_node
    nodes = [
        n("MatMul", ["x", "a.weight"], ["m0"], name="m0"), n("Relu", ["m0"], ["r0"], name="r0"),
        n("MatMul", ["r0", "b.weight"], ["m1"], name="m1"), n("Tanh", ["m1"], ["r1"], name="r1"),
        n("MatMul", ["r1", "c.weight"], ["y"], name="m2"),
    ]  # fmt: skip
    tensors = [_floats(f"{k}.weight", 64, 64) for k in "abc"]
    if kind != TensorProto.FLOAT:
        tensors = [numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float16), t.name) for t in tensors]
    x, y = (helper.make_tensor_value_info(name, kind, ["n", 64]) for name in "xy")
    return _model(nodes, [x], [y], tensors)


def looped() -> onnx.ModelProto:
    """A product five times in the body of a loop."""
    n = helper.make_node
    rows = helper.make_tensor_value_info("h", TensorProto.FLOAT, [4, 64])
    body = helper.make_graph(
        [n("MatMul", ["h", "w"], ["h1"], name="inner"), n("Tanh", ["h1"], ["h2"]), n("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            rows,
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h2", TensorProto.FLOAT, [4, 64]),
        ],
    )
    nodes = [n("Loop", ["count", "yes", "x"], ["l"], body=body, name="loop"), n("Relu", ["l"], ["y"], name="last")]
    tensors = [_floats("w", 64, 64), numpy_helper.from_array(np.array(5), "count")]
    tensors.append(numpy_helper.from_array(np.array(True), "yes"))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 64]) for name in "xy")
    return _model(nodes, [x], [y], tensors)


def _audited(model: onnx.ModelProto, folder: Path, **options: object) -> Audit:
    path = folder / "model.onnx"
    onnx.save(model, path)
    kind = np.float16 if model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16 else np.float32
    return audit(path, {"x": RNG.normal(size=(4, 64)).astype(kind)}, n=10, **options)  # type: ignore[arg-type]


def _adds_up(found: Audit) -> None:
    assert sum(n.share for n in found.nodes) == pytest.approx(1.0)
    roles = {r: sum(n.share for n in found.nodes if n.role == r) for r in ("compute", "conversion", "layout", "other")}
    assert sum(roles.values()) == pytest.approx(1.0)
    assert sum(s for _, s in found.compute_share) == pytest.approx(roles["compute"])
    assert sum(c.share for c in found.converting) == pytest.approx(found.conversion_share)
    assert found.conversions == len(found.converting)
    assert found.sentence.endswith(".")
    assert json.loads(json.dumps(found.to_plain()))["sentence"] == found.sentence


def test_float16_file_shows_the_casts_that_the_runtime_put_in(tmp_path: Path) -> None:
    found = _audited(chain(TensorProto.FLOAT16), tmp_path)
    _adds_up(found)
    assert {c.op_type for c in found.inserted} == {"Cast"}
    assert {(c.source, c.target) for c in found.inserted} == {("float16", "float"), ("float", "float16")}
    assert all(c.ms >= 0 for c in found.inserted)


def test_another_quantizers_file(tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"x": RNG.normal(size=(4, 64)).astype(np.float32)} for _ in range(4)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    onnx.save(chain(), tmp_path / "float.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(
            tmp_path / "float.onnx",
            tmp_path / "quantized.onnx",
            Reader(),
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    found = audit(tmp_path / "quantized.onnx", {"x": RNG.normal(size=(4, 64)).astype(np.float32)}, n=10)
    _adds_up(found)
    assert {p for p, _ in found.compute_share} == {"int8"}
    assert {c.op_type for c in found.converting} == {"QuantizeLinear", "DequantizeLinear"}
    assert all(c.after and c.before for c in found.converting)


def test_body_of_a_loop_counts_once(tmp_path: Path) -> None:
    found = _audited(looped(), tmp_path)
    _adds_up(found)
    of = {n.name: n for n in found.nodes}
    assert of["inner"].role == "compute"
    assert of["loop"].share < 1.0 - of["inner"].share


def test_conversions_that_undo_each_other_are_paired(tmp_path: Path) -> None:
    n = helper.make_node
    ends = ["s", "z"]
    nodes = [
        n("Tanh", ["x"], ["t"]),
        n("QuantizeLinear", ["t", *ends], ["q"], name="down"),
        n("DequantizeLinear", ["q", *ends], ["d"], name="up"),
        n("Softmax", ["d"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(np.float32(0.01), "s"), numpy_helper.from_array(np.uint8(128), "z")]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy")
    found = _audited(_model(nodes, [x], [y], tensors), tmp_path)
    _adds_up(found)
    assert [(p.first, p.second) for p in found.pairs] == [("down", "up")]
    first = next(c for c in found.converting if c.name == "down")
    assert (first.source, first.target, first.after, first.before) == ("float", "uint8", "Tanh", ("DequantizeLinear",))
    assert not first.is_inserted


def test_our_files_tell_what_was_asked_for(tmp_path: Path) -> None:
    composer = Composer(chain(), {"x": RNG.normal(size=(32, 64)).astype(np.float32)})
    asked = {"a": "w4a8-dynamic", "b": "w8a8", "c": "w4-block32"}
    formats = {s: Format.parse(f) for s, f in asked.items()}
    path = tmp_path / "built.onnx"
    path.write_bytes(composer.compose(formats).model_bytes)
    feed = {"x": RNG.normal(size=(4, 64)).astype(np.float32)}
    requested = {site_label(k): formats[s.name] for k, s in enumerate(composer.sites)}
    found = audit(path, feed, requested=requested, n=10)
    _adds_up(found)
    assert [n.asked for n in found.nodes if n.role == "compute"] == list(asked.values())
    assert found.fall_backs == ()


def test_request_that_nothing_executes_is_listed(tmp_path: Path) -> None:
    found = _audited(chain(), tmp_path, requested={"elsewhere": Format.parse("w8a8")})
    assert [(f.name, f.executed, f.share) for f in found.fall_backs] == [("elsewhere", "nothing", 0.0)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pytorch-operator", "pytorch-converted", "simple"])
def test_graphs_of_the_onnx_package(kind: str) -> None:
    """All graphs there that take tensors; what the runtime refuses is refused by name."""
    from modeltailor.errors import ModelTailorError

    audited = 0
    for path in sorted((BACKEND / kind).glob("*/model.onnx")):
        try:
            inputs = example_inputs(path, shapes={}, batch=2)
            found = audit(path, inputs, n=5)
        except ModelTailorError:
            continue
        if found.nodes:
            _adds_up(found)
            audited += 1
    assert audited > 5
