"""Parts of small ONNX models for tests: random weights, integers, the model around the nodes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def random_tensor(rng: np.random.Generator, name: str, *shape: int, gain: float = 1.0) -> onnx.TensorProto:
    """Weights as a network begins with: normal, scaled by the inputs of an output."""
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    return numpy_helper.from_array((rng.normal(size=shape) * gain / np.sqrt(fan_in)).astype(np.float32), name)


def ints(name: str, *values: int) -> onnx.TensorProto:
    """Integers of 64 bits: shapes, axes, indices."""
    return numpy_helper.from_array(np.array(values, np.int64), name)


def checked_model(nodes, inputs, outputs, tensors, opset=18) -> onnx.ModelProto:  # type: ignore[no-untyped-def]
    """A model of these nodes that the checker accepts."""
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model
