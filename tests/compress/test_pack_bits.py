import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from modeltailor.compress.pack import (
    DOMAIN,
    pack_planes,
    packed_bytes,
    plane_weights,
    unpack_function,
    unpack_model,
    unpack_node,
    unpack_planes,
)
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session, optimized_model

SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


def _values(bits: int, shape: tuple[int, ...], seed: int, *, signed: bool) -> np.ndarray:
    low = -(1 << (bits - 1)) if signed else 0
    return np.random.default_rng(seed).integers(low, low + (1 << bits), shape)


def _model(values: np.ndarray, bits: int, *, signed: bool, opset: int) -> onnx.ModelProto:
    """Adds nothing to the unpacked integers, cast to int32, so that they can be read from outside."""
    tensors = [
        numpy_helper.from_array(pack_planes(values, bits, signed=signed), "p"),
        numpy_helper.from_array(plane_weights(bits, signed=signed), "w"),
        numpy_helper.from_array(np.array(values.shape, np.int64), "s"),
    ]
    nodes = [
        unpack_node("p", "w", "s", "v"),
        helper.make_node("Cast", ["v"], ["c"], to=TensorProto.INT32),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT32, [1])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        tensors,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[unpack_function(opset)], ir_version=8)


def _run(model: onnx.ModelProto) -> np.ndarray:
    session = open_session(model.SerializeToString(), RuntimeOptions())
    return session.run(None, {"x": np.zeros(1, np.int32)})[0]


@given(st.integers(1, 8), SHAPES, st.integers(0, 1000), st.booleans())
@settings(max_examples=60, deadline=None)
def test_planes_hold_every_value(bits: int, shape: tuple[int, ...], seed: int, signed: bool) -> None:
    values = _values(bits, shape, seed, signed=signed)
    planes = pack_planes(values, bits, signed=signed)
    assert planes.nbytes == packed_bytes(values.size, bits)
    np.testing.assert_array_equal(unpack_planes(planes, shape, signed=signed), values)


@given(st.integers(1, 8), SHAPES, st.integers(0, 1000), st.sampled_from([13, 17, 18, 21]))
@settings(max_examples=40, deadline=None)
def test_onnx_runtime_unpacks_signed_values_exactly(bits: int, shape: tuple[int, ...], seed: int, opset: int) -> None:
    values = _values(bits, shape, seed, signed=True)
    np.testing.assert_array_equal(_run(_model(values, bits, signed=True, opset=opset)), values)


@given(st.integers(1, 7), SHAPES, st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_onnx_runtime_unpacks_indices_exactly(bits: int, shape: tuple[int, ...], seed: int) -> None:
    values = _values(bits, shape, seed, signed=False)
    np.testing.assert_array_equal(_run(_model(values, bits, signed=False, opset=18)), values)


def test_unpacking_is_folded_while_loading() -> None:
    model = _model(_values(3, (5, 7), 0, signed=True), 3, signed=True, opset=18)
    kept = [n.op_type for n in optimized_model(model.SerializeToString()).graph.node]
    assert kept == ["Add"]


@pytest.mark.parametrize("bits", [2, 3, 7])
def test_unpacked_model_is_plain_and_equal(bits: int) -> None:
    model = _model(_values(bits, (3, 11), 1, signed=True), bits, signed=True, opset=18)
    before = model.SerializeToString()
    plain = unpack_model(model)
    assert model.SerializeToString() == before
    assert not plain.functions
    assert {n.domain for n in plain.graph.node} <= {""}
    np.testing.assert_array_equal(_run(plain), _run(model))


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="hold -4"):
        pack_planes(np.array([4]), 3, signed=True)
    with pytest.raises(ValueError, match="1 to 8 bits"):
        pack_planes(np.array([0]), 9, signed=True)
    with pytest.raises(ValueError, match="opset 13"):
        unpack_function(12)
