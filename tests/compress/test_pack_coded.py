import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from modeltailor.compress.pack import (
    DOMAIN,
    JOIN,
    SHAPE,
    Tree,
    decode,
    encode,
    join_function,
    packed_bytes,
    shape_function,
    tree_bytes,
    unpack_model,
)
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session, optimized_model

SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


def _model(tree: Tree, shape: tuple[int, ...], opset: int = 18) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.array(shape, np.int64), "s")]
    nodes = []

    def emit(node: Tree | int) -> str:
        name = f"n{len(tensors)}"
        if isinstance(node, int):
            tensors.append(numpy_helper.from_array(np.array([node], np.int32), name))
            return name
        tensors.append(numpy_helper.from_array(node.bits, name))
        ends = [name, emit(node.left), emit(node.right)]
        nodes.append(helper.make_node(JOIN, ends, [f"{name}o"], domain=DOMAIN))
        return f"{name}o"

    nodes.append(helper.make_node(SHAPE, [emit(tree), "s"], ["v"], domain=DOMAIN))
    nodes.append(helper.make_node("Cast", ["v"], ["c"], to=TensorProto.INT32))
    nodes.append(helper.make_node("Add", ["x", "c"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT32, [1])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        tensors,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    functions = [join_function(opset), shape_function(opset)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)


def _run(model: onnx.ModelProto) -> np.ndarray:
    return open_session(model.SerializeToString(), RuntimeOptions()).run(None, {"x": np.zeros(1, np.int32)})[0]


def _values(bits: int, shape: tuple[int, ...], seed: int, zeros: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape)
    return np.where(rng.random(shape) < zeros, 0, values)


@given(st.integers(2, 8), SHAPES, st.integers(0, 1000), st.sampled_from([0.0, 0.5, 0.95]))
@settings(max_examples=60, deadline=None)
def test_trees_hold_every_value(bits: int, shape: tuple[int, ...], seed: int, zeros: float) -> None:
    values = _values(bits, shape, seed, zeros)
    tree = encode(values)
    if tree is None:
        assert len(np.unique(values)) == 1
    else:
        np.testing.assert_array_equal(decode(tree, shape), values)


@given(st.integers(2, 5), SHAPES, st.integers(0, 1000), st.sampled_from([13, 18, 21]))
@settings(max_examples=30, deadline=None)
def test_onnx_runtime_decodes_exactly(bits: int, shape: tuple[int, ...], seed: int, opset: int) -> None:
    values = _values(bits, shape, seed, 0.4)
    tree = encode(values)
    if tree is not None:
        np.testing.assert_array_equal(_run(_model(tree, shape, opset)), values)


def test_decoding_is_folded_while_loading_and_unpacks_to_the_same() -> None:
    values = _values(3, (40, 9), 0, 0.3)
    tree = encode(values)
    assert tree is not None
    model = _model(tree, values.shape)
    assert [n.op_type for n in optimized_model(model.SerializeToString()).graph.node] == ["Add"]
    plain = unpack_model(model)
    assert not plain.functions
    np.testing.assert_array_equal(_run(plain), values)


@pytest.mark.parametrize(("zeros", "share"), [(0.9, 0.4), (0.5, 0.75)])
def test_sparse_weights_take_fewer_bytes(zeros: float, share: float) -> None:
    values = _values(4, (64, 576), 0, zeros)
    tree = encode(values)
    assert tree is not None
    assert tree_bytes(tree) < share * packed_bytes(values.size, 4)
