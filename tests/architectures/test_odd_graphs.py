"""Graphs with one peculiarity each, and random ones: all built in random recipes and held to their simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from architectures.case import Case, pictures
from architectures.random_graphs import NEWEST_OPSET, random_case
from architectures.verdict import judge
from modeltailor.compress import Format
from modeltailor.compress.formats import Composer, executed_kernels
from modeltailor.targets.session import optimized_model

RNG = np.random.default_rng(0)
node = helper.make_node


def _floats(name: str, *shape: int) -> onnx.TensorProto:
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    return numpy_helper.from_array((RNG.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32), name)


def _case(folder: Path, nodes, tensors, outputs=("y",), opset: int = 18, ir_version: int = 8) -> Case:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 8, 8])
    inputs = [x]
    if ir_version < 4:  # initializers are listed as inputs, too
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    made = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
    graph = helper.make_graph(nodes, "g", inputs, made, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    path = folder / "odd.onnx"
    onnx.save(model, path)
    return Case(path, {"x": pictures(16, 8, channels=4)})


def test_layers_that_share_a_weight_may_differ_in_format(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w", "bias"], ["c"], pads=[1] * 4),
        node("Conv", ["c", "w"], ["d"], pads=[1] * 4, dilations=[1, 1]),
        node("BatchNormalization", ["d", "s", "m", "m", "s"], ["y"]),
    ]
    tensors = [_floats("w", 4, 4, 3, 3), _floats("bias", 4), _floats("m", 4)]
    tensors.append(numpy_helper.from_array(np.array([0.5, 1, 1.5, 2], np.float32), "s"))
    case = _case(tmp_path, nodes, tensors)
    composer = Composer(case.path, case.inputs)
    assert len(composer.sites) == 3
    for names in (("w8a8", "w4", "codebook4a8"), ("w4a8", "fp16", "w8a8"), ("w6a8", "w6a8", "w6a8")):
        formats = dict(zip((s.name for s in composer.sites), map(Format.parse, names), strict=True))
        assert judge("shared", case, composer=composer, formats=formats).problems == ()


@pytest.mark.parametrize("fmt", ["w8a8", "w4a8", "w4", "codebook3"])
def test_twins_are_merged_by_the_runtime_and_say_so(tmp_path: Path, fmt: str) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        node("Conv", ["x", "w"], ["b"], pads=[1] * 4),
        node("Concat", ["a", "b"], ["c"], axis=1),
        node("Conv", ["c", "v"], ["y"]),
    ]
    case = _case(tmp_path, nodes, [_floats("w", 4, 4, 3, 3), _floats("v", 2, 8, 1, 1)])
    composer = Composer(case.path, case.inputs)
    formats = {s.name: Format.parse(fmt) for s in composer.sites}
    made = composer.compose(formats)
    executed = executed_kernels(optimized_model(made.model_bytes), composer.sites)
    notes = {r.site: r.note for r in made.sites}
    first, second, last = (s.name for s in composer.sites)
    assert last in executed
    assert {first, second} & executed.keys()
    assert all(s in executed or "computes it once" in notes[s] for s in (first, second))
    assert judge("twins", case, composer=composer, formats=formats).problems == ()


def test_what_depends_on_constants_alone_is_no_site(tmp_path: Path) -> None:
    nodes = [
        node("Sin", ["k"], ["waves"]),  # what the preparation does not fold, the runtime does
        node("Conv", ["waves", "w"], ["position"], pads=[1] * 4),
        node("Add", ["x", "position"], ["a"]),
        node("Conv", ["a", "v"], ["y"]),
    ]
    tensors = [_floats("k", 1, 4, 8, 8), _floats("w", 4, 4, 3, 3), _floats("v", 2, 4, 1, 1)]
    case = _case(tmp_path, nodes, tensors)
    composer = Composer(case.path, case.inputs)
    assert [s.name for s in composer.sites] == ["v"]
    assert [(u.op_type, u.reason) for u in composer.unsupported] == [
        ("Conv", "it depends on constants alone: the runtime computes it once, while it loads")
    ]
    assert judge("constant", case, composer=composer, formats={"v": Format.parse("w4a8")}).problems == ()


def test_what_stays_fp32_is_listed_with_the_reason(tmp_path: Path) -> None:
    body = helper.make_graph(
        [node("Conv", ["p", "w"], ["deep"]), node("Identity", ["deep"], ["out"])], "body", [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )  # fmt: skip
    other = helper.make_graph(
        [node("Identity", ["p"], ["same"])], "other", [],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [
        node("Conv", ["x", "w"], ["p"], name="site"),
        node("If", ["yes"], ["i"], then_branch=body, else_branch=other, name="choice"),
        node("MatMul", ["i", "i"], ["attention"], name="scores"),
        node("MatMul", ["left", "attention"], ["turned"], name="mixed"),
        node("MatMul", ["turned", "cube"], ["y"], name="batched"),
    ]
    tensors = [_floats("w", 4, 4, 1, 1), _floats("left", 8, 8), _floats("cube", 1, 8, 8)]
    tensors.append(numpy_helper.from_array(np.array(True), "yes"))
    case = _case(tmp_path, nodes, tensors)
    composer = Composer(case.path, case.inputs)
    reasons = {u.name: u.reason for u in composer.unsupported}
    assert "lies in the body of If" in reasons.pop("deep")
    assert "two activations" in reasons["scores"]
    assert "first operand" in reasons["mixed"]
    assert "3 dimensions" in reasons["batched"]
    assert len(composer.sites) == 1
    formats = {composer.sites[0].name: Format.parse("w8a8")}
    assert judge("unsupported", case, composer=composer, formats=formats).problems == ()


@pytest.mark.parametrize(
    ("fmt", "group"),
    [
        *((fmt, group) for group in (1, 2) for fmt in ("w8", "w3", "codebook4", "fp16", "w8a16")),
        *((fmt, 1) for fmt in ("w8a8", "w3a8", "codebook4a8")),
    ],
)
def test_transposed_convolutions(tmp_path: Path, fmt: str, group: int) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        node(
            "ConvTranspose",
            ["a", "up", "bias"],
            ["b"],
            strides=[2, 2],
            group=group,
            output_padding=[1, 1],
            pads=[1] * 4,
        ),
        node("Conv", ["b", "v"], ["y"], auto_pad="SAME_LOWER", strides=[2, 2]),
    ]
    tensors = [_floats("w", 4, 4, 3, 3), _floats("up", 4, 6 // group, 3, 3), _floats("bias", 6)]
    case = _case(tmp_path, nodes, [*tensors, _floats("v", 2, 6, 3, 3)])
    composer = Composer(case.path, case.inputs)
    kinds = {s.kind: s.name for s in composer.sites}
    formats = {s.name: Format.parse("w8a8") for s in composer.sites} | {kinds["conv-transpose"]: Format.parse(fmt)}
    verdict = judge("transposed", case, composer=composer, formats=formats)
    assert verdict.problems == ()
    assert verdict.quantized == 3


@pytest.mark.parametrize("transposed", [0, 1])
def test_shared_values_on_the_integer_kernels_of_products(tmp_path: Path, transposed: int) -> None:
    nodes = [
        node("GlobalAveragePool", ["x"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w", "bias"], ["a"], transB=transposed),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "v"], ["y"]),
    ]
    shape = (16, 4) if transposed else (4, 16)
    case = _case(tmp_path, nodes, [_floats("w", *shape), _floats("bias", 16), _floats("v", 16, 8)])
    composer = Composer(case.path, case.inputs)
    formats = {s.name: Format.parse("codebook3a8") for s in composer.sites}
    verdict = judge("shared", case, composer=composer, formats=formats)
    assert verdict.problems == ()
    assert verdict.quantized == 2
    made = composer.compose(formats)
    assert [r.kernel for r in made.sites] == ["QGemm", "MatMulIntegerToFloat"]


@pytest.mark.parametrize("ir_version", [3, 8])
def test_old_graphs_are_upgraded(tmp_path: Path, ir_version: int) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        node("Unsqueeze", ["k"], ["k4"], axes=[1, 2]),
        node("Mul", ["a", "k4"], ["b"]),
        node("Dropout", ["b"], ["c"], ratio=0.5),
        node("ReduceSum", ["c"], ["y"], axes=[2, 3]),
    ]
    tensors = [_floats("w", 64, 4, 9, 9), _floats("k", 64)]  # large enough to pass by the converter
    case = _case(tmp_path, nodes, tensors, opset=9, ir_version=ir_version)
    verdict = judge("old", case)
    assert verdict.problems == ()
    assert verdict.opset == 13


@pytest.mark.parametrize("opset", range(13, NEWEST_OPSET + 1))
def test_every_opset(tmp_path: Path, opset: int) -> None:
    nodes = [
        node("Conv", ["x", "w", "bias"], ["a"], pads=[1] * 4),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "v"], ["c"], pads=[1] * 4, group=4),
        node("Add", ["b", "c"], ["d"]),
        node("GlobalAveragePool", ["d"], ["e"]),
        node("Flatten", ["e"], ["f"]),
        node("Gemm", ["f", "g"], ["y"], transB=1),
    ]
    tensors = [_floats("w", 4, 4, 3, 3), _floats("bias", 4), _floats("v", 4, 1, 3, 3), _floats("g", 32, 4)]
    case = _case(tmp_path, nodes, tensors, opset=opset)
    composer = Composer(case.path, case.inputs)
    for names in (("w5a8", "w4a8", "w8a8"), ("w4", "w8a16", "w8a8-dynamic")):
        formats = dict(zip((s.name for s in composer.sites), map(Format.parse, names), strict=True))
        verdict = judge("opset", case, composer=composer, formats=formats)
        assert verdict.problems == ()
        assert verdict.opset == opset


@pytest.mark.parametrize("seed", range(16))
def test_random_graph_in_a_random_recipe(tmp_path: Path, seed: int) -> None:
    assert judge(f"random {seed}", random_case(seed, tmp_path), seed=seed).problems == ()


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 2000, 50))
def test_many_random_graphs(tmp_path: Path, start: int) -> None:
    for seed in range(start, start + 50):
        assert judge(f"random {seed}", random_case(seed, tmp_path), seed=seed).problems == (), seed
