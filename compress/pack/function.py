"""The local ONNX function that unpacks bit planes; one a file serves every layer and every bit-width.

ONNX Runtime inlines it and folds it on initializers once, while loading: what runs is the plain int8 weight. Only
operators that exist since opset 13 are used, so the model keeps the opset that it came with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

__all__ = ["DOMAIN", "LOWEST_OPSET", "UNPACK", "unpack_function", "unpack_node"]

DOMAIN = "m"
UNPACK = "u"
LOWEST_OPSET = 13


def _constant(name: str, value: NDArray[np.generic]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def unpack_function(opset: int) -> FunctionProto:
    """Return the function ``(planes [bits, m], worth [1, bits] int8, shape [r] int64) -> int8`` of that shape.

    Args:
        opset: the model's opset; a function must be compatible with the model around it.

    Raises:
        ValueError: the opset is older than 13.
    """
    if opset < LOWEST_OPSET:
        raise ValueError(f"packed weights need opset {LOWEST_OPSET} or newer; got {opset}")
    n = helper.make_node
    nodes = [
        _constant("c", np.arange(7, -1, -1).astype(np.uint8)),
        _constant("t", np.array([2], np.uint8)),
        _constant("l", np.array([-1], np.int64)),
        _constant("z", np.array([0], np.int64)),
        _constant("o", np.array([1], np.int64)),
        n("Unsqueeze", ["p", "l"], ["a"]),
        n("BitShift", ["a", "c"], ["b"], direction="RIGHT"),
        n("Mod", ["b", "t"], ["d"]),  # BitwiseAnd came with opset 18
        n("Flatten", ["d"], ["e"], axis=1),
        n("MatMulInteger", ["w", "e"], ["f"]),  # the sum over planes, exact in int32
        n("Cast", ["f"], ["g"], to=TensorProto.INT8),  # at once: what follows is copied while loading
        n("ReduceProd", ["s"], ["n"], keepdims=1),
        n("Slice", ["g", "z", "n", "o"], ["i"]),  # drops what fills up the last byte
        n("Reshape", ["i", "s"], ["y"]),
    ]
    return helper.make_function(DOMAIN, UNPACK, ["p", "w", "s"], ["y"], nodes, [helper.make_opsetid("", opset)])


def unpack_node(planes: str, worth: str, shape: str, output: str) -> NodeProto:
    """Return the call that unpacks ``planes`` into ``output``."""
    return helper.make_node(UNPACK, [planes, worth, shape], [output], domain=DOMAIN)
