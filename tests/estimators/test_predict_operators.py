"""The work of operators that compute without being a plain convolution or product, and what a device's trace says of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modeltailor.compress import Format
from modeltailor.compress.formats import Composer
from modeltailor.estimators import audit
from modeltailor.estimators.predict import executed_files
from modeltailor.estimators.predict.amounts import is_heavy
from modeltailor.estimators.predict.executed import ExecutedFile
from modeltailor.estimators.predict.graph import read_model
from modeltailor.estimators.predict.traces import Trace, TracedKernel, placed_operators, points_of
from modeltailor.estimators.predict.work import GraphWork, KernelWork, graph_work, work_of
from modeltailor.targets import RuntimeOptions, load_profile
from modeltailor.targets.session import optimized_model

FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64
RUNTIME = "com.microsoft"
T4, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
Shapes = Mapping[str, Sequence[int | str]]


def model(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Shapes,
    weights: Mapping[str, np.ndarray] | None = None,
    types: Mapping[str, int] | None = None,
    out: str = "y",
    opset: int = 21,
) -> Path:
    types = types or {}
    given = [helper.make_tensor_value_info(n, types.get(n, FLOAT), s) for n, s in inputs.items()]
    made = [helper.make_tensor_value_info(out, types.get(out, FLOAT), None)]
    kept = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", given, made, kept)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(RUNTIME, 1), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, outputs, name=operator, **attributes)


def zeros(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def executed(path: Path, device: str = "raspberry-pi-5") -> ExecutedFile:
    return executed_files([path], load_profile(device))[0]


def counted(work: GraphWork) -> list[tuple[str, str, int]]:
    assert not work.uncounted
    return [(k.operator, k.number_format, k.macs) for k in work.kernels if k.macs]


@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_count_all_gates_in_both_directions(tmp_path: Path, operator: str, gates: int) -> None:
    weights = {"w": zeros(2, gates * 16, 8), "r": zeros(2, gates * 16, 16)}
    layer = node(operator, ["x", "w", "r"], hidden_size=16, direction="bidirectional")
    path = model(tmp_path / "m.onnx", [layer], {"x": [10, 3, 8]}, weights)
    assert counted(graph_work(path)) == [(operator, "fp32", 10 * 3 * 2 * gates * 16 * (8 + 16))]


def test_a_quantized_recurrent_layer_computes_in_integers(tmp_path: Path) -> None:
    weights = {
        "w": zeros(1, 8, 64, dtype=np.int8), "r": zeros(1, 16, 64, dtype=np.int8),
        "s": np.ones(1, np.float32), "z": zeros(1, dtype=np.int8),
    }  # fmt: skip
    inputs = ["x", "w", "r", "", "", "", "", "", "s", "z", "s", "z"]
    nodes = [
        node("DynamicQuantizeLSTM", inputs, ["all", "last", ""], hidden_size=16, domain=RUNTIME),
        node("Relu", ["all"], ["a"]), node("Softmax", ["last"], ["b"], axis=-1), node("Mul", ["a", "b"]),
    ]  # fmt: skip
    path = model(tmp_path / "m.onnx", nodes, {"x": [10, "batch", 8]}, weights)
    for work in (
        graph_work(path, {"batch": 1}),
        executed_files([path], load_profile("raspberry-pi-5"), {"x": (10, 1, 8)})[0].work,
    ):
        assert counted(work) == [("DynamicQuantizeLSTM", "int8", 10 * 64 * (8 + 16))]
        assert [k.written_bytes for k in work.kernels][1:3] == [4 * 10 * 16, 4 * 16]


def attention(operator: str, weight: str, past: Sequence[str] = ()) -> onnx.NodeProto:
    first = ["x", weight, "bias"] if operator == "Attention" else ["x", weight, "bias", "s", "s", "", "", ""]
    return node(operator, [*first, *past], domain=RUNTIME, num_heads=4)


def test_attention_that_projects_counts_projection_and_heads_in_its_own_format(tmp_path: Path) -> None:
    macs = 2 * 10 * (24 * 3 * 32 + 10 * 2 * 32)
    weights = {"w": zeros(24, 96), "bias": zeros(96), "q": zeros(24, 96, dtype=np.int8), "s": np.float32(1.0)}
    path = model(tmp_path / "f.onnx", [attention("Attention", "w")], {"x": [2, 10, 24]}, weights)
    assert counted(graph_work(path)) == [("Attention", "fp32", macs)]
    assert graph_work(path).kernels[0].written_bytes == 4 * 2 * 10 * 32  # as wide as the values, not as the input
    path = model(
        tmp_path / "q.onnx", [attention("QAttention", "q")], {"x": [2, 10, 24]}, weights, {"x": TensorProto.UINT8}
    )
    assert counted(graph_work(path)) == [("QAttention", "int8", macs)]
    nodes = [attention("Attention", "w", ["", "past"])]
    path = model(tmp_path / "p.onnx", nodes, {"x": [2, 10, 24], "past": [2, 2, 4, 6, 8]}, weights)
    assert counted(graph_work(path)) == [("Attention", "fp32", macs + 2 * 10 * 6 * 2 * 32)]


CASES: dict[str, tuple[onnx.NodeProto, Shapes, int]] = {
    "of itself": (
        node("MultiHeadAttention", ["q", "k", "v"], domain=RUNTIME, num_heads=4),
        {"q": [2, 10, 32], "k": [2, 10, 32], "v": [2, 10, 32]}, 2 * (2 * 4 * 10 * 10 * 8),
    ),
    "of others, in other widths": (
        node("MultiHeadAttention", ["q", "k", "v"], domain=RUNTIME, num_heads=4),
        {"q": [2, 10, 32], "k": [2, 6, 32], "v": [2, 6, 64]}, 2 * 4 * 10 * 6 * (8 + 16),
    ),
    "packed": (
        node("MultiHeadAttention", ["q"], domain=RUNTIME, num_heads=4),
        {"q": [2, 10, 4, 3, 8]}, 2 * (2 * 4 * 10 * 10 * 8),
    ),
    "behind earlier keys": (
        node("MultiHeadAttention", ["q", "k", "v", "", "", "", "pk", "pv"], domain=RUNTIME, num_heads=4),
        {"q": [2, 1, 32], "k": [2, 1, 32], "v": [2, 1, 32], "pk": [2, 4, 9, 8], "pv": [2, 4, 9, 8]},
        2 * (2 * 4 * 1 * 10 * 8),
    ),
    "grouped": (
        node("GroupQueryAttention", ["q", "k", "v", "pk", "pv", "n", "all"], ["y", "a", "b"], domain=RUNTIME,
             num_heads=4, kv_num_heads=2),
        {"q": [1, 10, 32], "k": [1, 10, 16], "v": [1, 10, 16], "pk": [1, 2, 5, 8], "pv": [1, 2, 5, 8]},
        2 * (4 * 10 * 15 * 8),
    ),
    "grouped and packed": (
        node("GroupQueryAttention", ["q", "", "", "pk", "pv", "n", "all"], ["y", "a", "b"], domain=RUNTIME,
             num_heads=4, kv_num_heads=2),
        {"q": [1, 10, 64], "pk": [1, 2, 5, 8], "pv": [1, 2, 5, 8]}, 2 * (4 * 10 * 15 * 8),
    ),
    "of the standard": (
        node("Attention", ["q", "k", "v"], q_num_heads=4, kv_num_heads=2),
        {"q": [2, 10, 32], "k": [2, 6, 16], "v": [2, 6, 16]}, 2 * (2 * 4 * 10 * 6 * 8),
    ),
    "of the standard, heads apart": (
        node("Attention", ["q", "k", "v"]),
        {"q": [2, 4, 10, 8], "k": [2, 2, 6, 8], "v": [2, 2, 6, 8]}, 2 * (2 * 4 * 10 * 6 * 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_attention_counts_queries_times_keys_and_shares_times_values(tmp_path: Path, name: str) -> None:
    layer, inputs, macs = CASES[name]
    weights = {"n": zeros(1, dtype=np.int32), "all": np.int32(15)} if "n" in layer.input else {}
    nodes = [layer, node("Relu", ["y"], ["z"])]
    path = model(tmp_path / "m.onnx", nodes, inputs, weights, out="z", opset=23)
    assert counted(graph_work(path)) == [(layer.op_type, "fp32", macs)]
    free = {n: ["batch", *s[1:]] for n, s in inputs.items()}
    path = model(tmp_path / "free.onnx", nodes, free, weights, out="z", opset=23)
    run = executed_files([path], load_profile("raspberry-pi-5"), inputs)[
        0
    ].work  # loaded by the runtime, shapes given later
    assert counted(run) == [(layer.op_type, "fp32", macs)]


def test_of_half_floats_masks_and_lengths_change_nothing(tmp_path: Path) -> None:
    inputs = {"q": [2, 4, 10, 8], "k": [2, 4, 6, 8], "v": [2, 4, 6, 8], "mask": [10, 6]}
    types = {**dict.fromkeys("qkvy", HALF), "mask": TensorProto.BOOL}
    path = model(tmp_path / "m.onnx", [node("Attention", ["q", "k", "v", "mask"])], inputs, types=types, opset=23)
    assert counted(graph_work(path)) == [("Attention", "fp16", 2 * (2 * 4 * 10 * 6 * 8))]


@pytest.mark.parametrize(
    ("equation", "inputs", "macs"),
    [
        ("bhid,bhjd->bhij", {"a": [2, 4, 10, 8], "b": [2, 4, 6, 8]}, 2 * 4 * 10 * 6 * 8),
        ("bhid, bhjd", {"a": [2, 4, 10, 8], "b": [2, 4, 6, 8]}, 2 * 4 * 10 * 6 * 8),
        ("...ij,...jk->...ik", {"a": [2, 3, 10, 8], "b": [1, 3, 8, 6]}, 2 * 3 * 10 * 6 * 8),
        ("ij,jk,kl->il", {"a": [10, 8], "b": [8, 6], "c": [6, 4]}, 10 * 8 * 6 + 10 * 6 * 4),
        ("bij->bji", {"a": [2, 10, 8]}, 0),
    ],
)
def test_a_sum_of_products_by_labels_is_counted(tmp_path: Path, equation: str, inputs: Shapes, macs: int) -> None:
    path = model(tmp_path / "m.onnx", [node("Einsum", list(inputs), equation=equation)], inputs)
    for work in (graph_work(path), executed(path).work):
        assert counted(work) == ([("Einsum", "fp32", macs)] if macs else [])


def test_a_product_of_a_transposed_matrix_sums_over_its_rows(tmp_path: Path) -> None:
    product = node("FusedMatMul", ["a", "b"], domain=RUNTIME, transA=1)
    path = model(tmp_path / "m.onnx", [product, node("Relu", ["y"], ["z"])], {"a": [3, 8, 10], "b": [3, 8, 6]}, out="z")
    work = graph_work(path)
    assert counted(work) == [("FusedMatMul", "fp32", 3 * 10 * 6 * 8)]
    assert work.kernels[1].read_bytes == 4 * 3 * 10 * 6
    path = model(tmp_path / "v.onnx", [node("MatMul", ["a", "b"])], {"a": [8], "b": [8]})
    assert counted(graph_work(path)) == [("MatMul", "fp32", 8)]  # of two vectors, a number


def test_the_added_part_of_a_product_is_no_weight(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", [node("Gemm", ["a", "b", "c"])], {"a": [4, 8], "b": [8, 6]}, {"c": zeros(1, 6)})
    assert counted(graph_work(path)) == [("Gemm", "fp32", 4 * 6 * 8)]


def body(*nodes: onnx.NodeProto, weights: Mapping[str, np.ndarray] | None = None) -> onnx.GraphProto:
    given = [
        helper.make_tensor_value_info(n, t, s)
        for n, t, s in (("i", INT64, []), ("on", TensorProto.BOOL, []), ("v", FLOAT, [4, 8]))
    ]
    made = [
        helper.make_tensor_value_info("on2", TensorProto.BOOL, []),
        helper.make_tensor_value_info("v2", FLOAT, [4, 8]),
    ]
    kept = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    return helper.make_graph([node("Identity", ["on"], ["on2"]), *nodes], "body", given, made, kept)


def test_a_loop_around_products_has_no_confident_number(tmp_path: Path) -> None:
    """How often a body runs, no file says; one that only moves a little is of no account."""
    product = body(node("MatMul", ["v", "w"], ["v2"]), weights={"w": zeros(8, 8)})
    choice = node("If", ["on"], ["v2"], then_branch=_branch("MatMul"), else_branch=_branch("Add"))
    nested = body(choice, weights={"w": zeros(8, 8)})
    light = body(node("Relu", ["v"], ["v2"]))
    for name, inner, unknown in (("p", product, {"Loop"}), ("n", nested, {"Loop"}), ("l", light, set())):
        loop = node("Loop", ["n", "", "x"], body=inner)
        path = model(
            tmp_path / f"{name}.onnx",
            [loop, node("Relu", ["y"], ["z"])],
            {"n": [], "x": [4, 8]},
            out="z",
            types={"n": INT64},
        )
        for work in (graph_work(path), executed(path).work):
            assert work.uncounted == unknown
            assert work.macs == 0


def _branch(operator: str) -> onnx.GraphProto:
    right = "w" if operator == "MatMul" else "v"
    return helper.make_graph(
        [node(operator, ["v", right], [operator])],
        operator,
        [],
        [helper.make_tensor_value_info(operator, FLOAT, [4, 8])],
    )


def test_what_computes_in_an_unknown_amount_is_named(tmp_path: Path) -> None:
    weights = {"w": zeros(8, 4, 3, 3), "offset": zeros(1, 18, 6, 6)}
    nodes = [node("DeformConv", ["x", "w", "offset"]), node("Softmax", ["y"], ["z"])]
    work = graph_work(model(tmp_path / "d.onnx", nodes, {"x": [1, 4, 8, 8]}, weights, out="z"))
    assert work.uncounted == {"DeformConv"}
    assert work.operators == {"DeformConv", "Softmax"}
    path = model(
        tmp_path / "a.onnx", [attention("Attention", "w")], {"x": [2, 10, 24]}, {"w": zeros(24, 96), "bias": zeros(96)}
    )
    assert not graph_work(path).uncounted


def test_operators_of_foreign_domains_may_compute() -> None:
    assert is_heavy("own", "Relu")
    assert is_heavy("own", "Attention")
    assert not any(is_heavy(d, "Softmax") for d in ("", "ai.onnx", RUNTIME, "com.microsoft.nchwc"))


def test_every_operator_that_the_audit_calls_computing_is_counted_or_named() -> None:
    assert all(is_heavy("", operator) for operator in audit._HEAVY)


def halves(path: Path, source: Path, *, ends: bool) -> Path:
    """The same network in half floats, inputs and outputs too if ``ends``, else with conversions in front and behind."""
    made = onnx.load(source)
    for weight in made.graph.initializer:
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name))
    if ends:
        for value in (*made.graph.input, *made.graph.output):
            value.type.tensor_type.elem_type = HALF
    else:
        first, last = made.graph.node[0], made.graph.node[-1]
        first.input[0], last.output[0] = "half", "half_out"
        made.graph.node.insert(0, node("Cast", ["x"], ["half"], to=HALF))
        made.graph.node.append(
            helper.make_node("Cast", ["half_out"], [made.graph.output[0].name], name="back", to=FLOAT)
        )
    onnx.save(made, path)
    return path


def test_half_floats_are_what_an_accelerator_computes_in(tmp_path: Path, chain: Callable[..., Path]) -> None:
    """The runtime here has no such kernels on its CPU, and converts in front of each and behind."""
    source = chain(tmp_path / "full.onnx", [3, 16, 16])
    full = executed(source, "nvidia-t4")
    half = executed(halves(tmp_path / "half.onnx", source, ends=True), "nvidia-t4")
    assert half.work.operators == full.work.operators == {"Conv"}
    assert [(k.number_format, k.macs) for k in half.work.kernels] == [("fp16", k.macs) for k in full.work.kernels]
    assert [k.moved_bytes for k in half.work.kernels] == [k.moved_bytes // 2 for k in full.work.kernels]
    assert half.graph.stored_bytes * 2 == full.graph.stored_bytes
    here = executed(tmp_path / "half.onnx")
    assert "Cast" in here.work.operators  # a CPU really does that
    ends = executed(halves(tmp_path / "ends.onnx", source, ends=False), "nvidia-t4")
    assert [k.number_format for k in ends.work.kernels if k.macs] == ["fp16", "fp16"]
    assert [k.operator for k in ends.work.kernels][:3] == ["Cast", "Conv", "Conv"]


def test_conversions_that_the_runtime_here_inserted_are_none_elsewhere(
    tmp_path: Path, chain: Callable[..., Path]
) -> None:
    source = halves(tmp_path / "half.onnx", chain(tmp_path / "full.onnx", [3, 16, 16]), ends=True)

    def optimized() -> onnx.ModelProto:
        return optimized_model(source, RuntimeOptions(optimization="basic"))

    assert "Cast" in work_of(read_model(optimized(), "m")).operators
    found = work_of(read_model(optimized(), "m", elsewhere=True))
    assert [(k.operator, k.number_format) for k in found.kernels] == [("Conv", "fp16"), ("Conv", "fp16")]
    assert found.weight_bytes == 2 * 9 * (3 * 16 + 16 * 16)


def test_operators_in_half_floats_stay_whole(tmp_path: Path) -> None:
    """The runtime here takes a softmax to pieces that it has kernels for; an accelerator does not."""
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Softmax", ["a"], ["b"]), node("Cast", ["b"], to=FLOAT)]
    weights = {"w": zeros(64, 80, dtype=np.float16)}
    path = model(tmp_path / "m.onnx", nodes, {"x": ["batch", 64]}, weights, {"x": HALF})
    found = executed(path, "nvidia-t4").work
    assert [(k.operator, k.number_format) for k in found.kernels] == [
        ("MatMul", "fp16"),
        ("Softmax", "fp16"),
        ("Cast", "fp16"),
    ]


def test_packed_weights_beside_half_floats_are_weights(tmp_path: Path, chain: Callable[..., Path]) -> None:
    """What is stored in half floats or packed is unpacked while the file is loaded, and computes in floats or integers."""
    composer = Composer(chain(tmp_path / "full.onnx", [3, 64, 64]), {"x": np.ones((2, 3, 16, 16), np.float32)})
    first, second = (s.name for s in composer.sites)
    built = composer.compose({first: Format.parse("fp16"), second: Format.parse("w4a8")})
    (tmp_path / "m.onnx").write_bytes(built.model_bytes)
    full, found = (executed(tmp_path / f"{n}.onnx", "nvidia-t4").work for n in ("full", "m"))
    assert [(k.number_format, k.macs) for k in found.kernels if k.macs] == [
        (number_format, k.macs) for number_format, k in zip(("fp32", "int8"), full.kernels, strict=True)
    ]


def test_half_floats_that_the_runtime_here_cannot_load_are_read_from_the_file(
    tmp_path: Path, chain: Callable[..., Path]
) -> None:
    made = onnx.load(chain(tmp_path / "full.onnx", [3, 16, 16]))
    for weight in made.graph.initializer:
        weight.data_type = TensorProto.BFLOAT16
        weight.raw_data = bytes(2 * math.prod(weight.dims))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    onnx.save(made, tmp_path / "m.onnx")
    found = executed(tmp_path / "m.onnx", "nvidia-t4")
    assert [(k.operator, k.number_format) for k in found.work.kernels] == [("Conv", "fp16"), ("Conv", "fp16")]
    assert found.graph.stored_bytes == 2 * 9 * (3 * 16 + 16 * 16)


@pytest.mark.parametrize("name", ["w8a8", "w4a8", "w4"])
def test_quantized_files_are_read_for_an_accelerator_as_before(
    tmp_path: Path, chain: Callable[..., Path], name: str
) -> None:
    composer = Composer(chain(tmp_path / "full.onnx", [3, 64, 64]), {"x": np.ones((2, 3, 16, 16), np.float32)})
    built = composer.compose({s.name: Format.parse(name) for s in composer.sites})
    (tmp_path / "m.onnx").write_bytes(built.model_bytes)
    full, found = (executed(tmp_path / f"{n}.onnx", "nvidia-t4") for n in ("full", "m"))
    expected = "int8" if name.endswith("a8") else "fp32"
    assert {k.number_format for k in found.work.kernels if k.macs} == {expected}
    assert found.work.macs == full.work.macs
    assert not found.work.uncounted
    assert found.graph.stored_bytes < (0.3 if name == "w8a8" else 0.16) * full.graph.stored_bytes


def kernel(operator: str, written: int = 8192) -> KernelWork:
    return KernelWork(
        name=operator, operator=operator, operator_class="conv", number_format="fp32", macs=1000, padded_macs=1000,
        read_bytes=4096, written_bytes=written,
    )  # fmt: skip


def trace(*kernels: tuple[str, str], adds_up: bool = False, written: int = 8192) -> Trace:
    timed = tuple(
        TracedKernel(name=o, operator=o, provider=provider, ms=0.5, written_bytes=written) for o, provider in kernels
    )
    return Trace(model=Path("m.onnx"), kernels=timed, adds_up=adds_up)


def test_a_queue_tells_no_times_of_kernels() -> None:
    work = GraphWork(kernels=(kernel("Conv"), kernel("Resize")))
    mixed = (("Conv", T4), ("Resize", CPU))
    assert [k.operator for k in points_of([(trace(*mixed), work)]).kernels] == ["Resize"]
    assert [k.operator for k in points_of([(trace(*mixed, adds_up=True), work)]).kernels] == ["Conv", "Resize"]
    loop = GraphWork(kernels=(dataclasses.replace(kernel("Loop"), counted=False), kernel("Resize")))
    assert [k.operator for k in points_of([(trace(("Loop", CPU), ("Resize", CPU)), loop)]).kernels] == ["Resize"]
    nothing = points_of([(trace(("Conv", T4), ("Resize", T4)), work)])
    assert len(nothing.log_ms) == len(nothing.beside) == 0


def test_operators_in_a_fused_part_are_placed_where_it_ran() -> None:
    work = GraphWork(kernels=(kernel("Conv"), kernel("Resize")))
    fused = ("TRTKernel_graph_main_1", T4)
    assert placed_operators(trace(fused), work, T4) >= {"Conv", "Resize"}
    assert "Conv" not in placed_operators(trace(fused, ("Resize", CPU)), work, T4)
    assert placed_operators(trace(("Conv", T4), ("Resize", CPU)), work, T4) == {"Conv"}
    assert placed_operators(trace(("Conv", CPU), ("Resize", CPU)), work, T4) == frozenset()
    both = Trace(model=Path("m.onnx"), kernels=(*trace(("Conv", T4)).kernels, *trace(("Conv", CPU)).kernels))
    assert placed_operators(both, work, T4) == frozenset()
    shapes = trace(("Gather", CPU), written=8).kernels
    assert placed_operators(Trace(model=Path("m.onnx"), kernels=(*trace(fused).kernels, *shapes)), work, T4) >= {"Conv"}
