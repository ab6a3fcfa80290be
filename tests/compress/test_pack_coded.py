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
    mapped,
    packed_bytes,
    shape_function,
    tree_bytes,
    unpack_model,
)
from modeltailor.errors import ModelError
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


@given(st.integers(1, 8), SHAPES, st.integers(0, 1000), st.sampled_from([0.0, 0.5, 0.95]))
@settings(max_examples=60, deadline=None)
def test_trees_hold_every_value(bits: int, shape: tuple[int, ...], seed: int, zeros: float) -> None:
    values = _values(bits, shape, seed, zeros)
    tree = encode(values)
    if tree is None:
        assert len(np.unique(values)) == 1
    else:
        np.testing.assert_array_equal(decode(tree, shape), values)


@given(st.integers(1, 7), SHAPES, st.integers(0, 1000), st.sampled_from([13, 18, 21]))
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


def test_zeros_of_eight_bit_weights_are_mapped() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(-127, 128, (32, 16, 3, 3)).astype(np.int8)
    values[rng.random(values.shape) < 0.75] = 0
    tree = mapped(values)
    assert tree is not None
    assert tree_bytes(tree) < 0.4 * values.nbytes
    assert np.array_equal(decode(tree, values.shape), values)
    assert mapped(np.zeros(9, np.int8)) is None
    assert mapped(np.ones(9, np.int8)) is None


@given(SHAPES, st.integers(0, 1000), st.floats(0.05, 0.95))
@settings(max_examples=30, deadline=None)
def test_a_map_of_bytes_unpacks_to_the_same(shape: tuple[int, ...], seed: int, zeros: float) -> None:
    values = _values(8, shape, seed, zeros).astype(np.int8)
    tree = mapped(values)
    if tree is None:
        return
    model = _mapped_model(tree, shape)
    plain = unpack_model(model)
    assert not plain.functions
    assert {n.op_type for n in plain.graph.node} == {"Add"}
    np.testing.assert_array_equal(_run(plain), values)
    np.testing.assert_array_equal(_run(model), values)


def _mapped_model(tree: Tree, shape: tuple[int, ...]) -> onnx.ModelProto:
    """As the composer writes it: the bytes that are no zeros are cast before they are joined."""
    stored = tree.right
    assert isinstance(stored, np.ndarray)
    model = _model(Tree(tree.bits, 0, 0), shape)
    model.graph.initializer.append(numpy_helper.from_array(stored, "stored"))
    model.graph.node.insert(0, helper.make_node("Cast", ["stored"], ["cast"], to=TensorProto.INT32))
    next(n for n in model.graph.node if n.op_type == JOIN).input[2] = "cast"
    return model


def test_what_no_constant_gives_cannot_be_unpacked() -> None:
    tree = encode(_values(3, (4, 4), 0, 0.2))
    assert tree is not None
    model = _model(tree, (4, 4))
    del model.graph.initializer[0]
    model.graph.input.append(helper.make_tensor_value_info("s", TensorProto.INT64, [2]))
    with pytest.raises(ModelError, match="no constants"):
        unpack_model(model)
