"""The whole-model graphs inside the ``onnx`` package: networks of 2012 to 2017 in opset 9, weights made in the graph.

Their weights are all alike (``ConstantOfShape``), which makes everything downstream degenerate. Matrices and kernels
get random values here, scaled so that the signal keeps its size; the graphs stay what they are.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from architectures.case import Architecture, Case, pictures

__all__ = ["LIGHT"]

_FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
_NAMES = (
    "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "bvlc_alexnet", "zfnet512",
    "vgg19",
)  # fmt: skip
_LARGE = {"bvlc_alexnet": 244_000_000, "zfnet512": 349_000_000, "vgg19": 575_000_000}


def _weights_made_in_the_graph(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of what ``ConstantOfShape`` makes, by name."""
    shapes = {t.name: tuple(int(v) for v in numpy_helper.to_array(t).reshape(-1)) for t in model.graph.initializer}
    return {n.output[0]: shapes[n.input[0]] for n in model.graph.node if n.op_type == "ConstantOfShape"}


def _make(name: str, folder: Path) -> Case:
    model = onnx.load(_FOLDER / f"light_{name}.onnx")
    made = _weights_made_in_the_graph(model)
    rng = np.random.default_rng(0)
    tensors = []
    kept = []
    for node in model.graph.node:
        shape = made.get(node.output[0], ())
        if node.op_type == "ConstantOfShape" and len(shape) in (2, 4):
            fan_in = int(np.prod(shape[1:]))
            value = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2.0 / fan_in))
            tensors.append(numpy_helper.from_array(value, node.output[0]))
        elif node.op_type == "ConstantOfShape" and len(shape) == 1:
            low, high = (0.6, 1.4) if _is_scale(model, node.output[0]) else (-0.2, 0.2)
            tensors.append(numpy_helper.from_array(rng.uniform(low, high, shape).astype(np.float32), node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(tensors)
    last = next((n for n in model.graph.node if n.op_type == "Softmax"), None)
    if last is not None:  # probabilities of a random network are zeros and ones: the logits say more
        model.graph.output.append(helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, None))
    path = folder / f"light_{name}.onnx"
    onnx.save(model, path)
    picture = next(i for i in model.graph.input if len(i.type.tensor_type.shape.dim) == 4)
    count = 1 if name in _LARGE else 3
    return Case(path, {picture.name: pictures(count, 224)}, "random in place of constant weights")


def _is_scale(model: onnx.ModelProto, name: str) -> bool:
    """Whether a vector multiplies (or is a variance), read off its reader: such a one must not be about zero."""
    values = {name}
    for node in model.graph.node:
        if node.op_type == "Unsqueeze" and node.input[0] in values:
            values.add(node.output[0])
        if node.op_type == "BatchNormalization" and set(node.input) & values:
            return any(node.input[k] in values for k in (1, 4))
        if node.op_type == "Mul" and set(node.input) & values:
            return True
    return False


LIGHT = tuple(
    Architecture(
        name=f"onnx/{name}", make=partial(_make, name), is_quick=name == "squeezenet", most_bytes=_LARGE.get(name, 0)
    )
    for name in _NAMES
)
