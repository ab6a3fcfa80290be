"""Layers whose sums of 8-bit products do not fit where the processor adds them in pairs; see ``targets/saturation.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["saturating_nodes"]

_WEIGHT_AND_ZERO: Mapping[str, tuple[int, int]] = {
    "QLinearConv": (3, 2),
    "QLinearMatMul": (3, 2),
    "QGemm": (3, 2),
    "ConvInteger": (1, 2),
    "MatMulInteger": (1, 2),
    "MatMulIntegerToFloat": (1, 4),
    "DynamicQuantizeMatMul": (1, 6),  # quantizes to unsigned bytes itself
    "QAttention": (1, 6),
}
"""Kernel -> which inputs are its weight and the zero point of what it reads."""

_LARGEST_SAFE = 64  # 2 * 255 * 64 < 2 ** 15


def saturating_nodes(optimized: onnx.ModelProto) -> tuple[str, ...]:
    """Name the nodes that multiply unsigned activations by signed weights of more than 7 bits.

    Depthwise convolutions are left out: their kernels widen before they add.

    Args:
        optimized: the graph that the runtime executes, with its weights.
    """
    from onnx import TensorProto, numpy_helper

    tensors = {t.name: t for t in optimized.graph.initializer}
    found = []
    for node in optimized.graph.node:
        weight_at, zero_at = _WEIGHT_AND_ZERO.get(node.op_type, (-1, -1))
        if not 0 <= weight_at < len(node.input):
            continue
        weight = tensors.get(node.input[weight_at])
        if weight is None or weight.data_type != TensorProto.INT8:
            continue
        zero = tensors.get(node.input[zero_at]) if zero_at < len(node.input) else None
        if zero is not None and zero.data_type == TensorProto.INT8:
            continue
        is_depthwise = len(weight.dims) > 2 and weight.dims[1] == 1 and weight.dims[0] > 1
        if not is_depthwise and np.abs(numpy_helper.to_array(weight).astype(np.int16)).max(initial=0) > _LARGEST_SAFE:
            found.append(node.name)
    return tuple(found)
