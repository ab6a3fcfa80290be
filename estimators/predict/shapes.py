"""Shapes of all tensors of a graph, through the runtime's own operators too, which ONNX cannot infer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

__all__ = ["with_shapes"]

_LARGE = 4096  # elements; a shape never depends on a tensor that large
_SAME = frozenset({
    "BiasGelu", "FastGelu", "Gelu", "QuickGelu", "BiasSoftmax", "SkipLayerNormalization", "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax",
    "QuantizeLinear", "DequantizeLinear",
})  # fmt: skip
_BROADCAST = {"QLinearAdd": (0, 3), "QLinearMul": (0, 3)}
_PRODUCT = {
    "DynamicQuantizeMatMul": 1, "MatMulIntegerToFloat": 1, "QGemm": 3, "FusedMatMul": 1, "FusedGemm": 1, "QAttention": -1,
    "Attention": -1,
}  # fmt: skip
_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "QLinearConv": 3, "NhwcFusedConv": 1}  # place of the weight
_QUANTIZE = frozenset({"QuantizeLinear"})
_INTEGER_OUT = frozenset({"QuantizeLinear", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax",
                          "QGemm", "QLinearConv",
                          "QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearConcat"})  # fmt: skip
_ON_SHAPES = frozenset({
    "Gather", "Slice", "Squeeze", "Unsqueeze", "Concat", "Add", "Sub", "Mul", "Div", "Cast", "Reshape", "Range", "Max",
    "Min", "Equal", "Where", "ConstantOfShape", "Expand", "ReduceProd", "Mod", "Identity", "Less", "Greater",
    "GatherElements", "Tile",
})  # fmt: skip
Shape = tuple[int, ...]
Array = NDArray[np.generic]


def with_shapes(model: onnx.ModelProto, dimensions: Mapping[str, int]) -> onnx.ModelProto:
    """Return the model with the shape of every tensor that can be known; ``model`` is changed.

    Args:
        model: any model.
        dimensions: sizes of symbolic dimensions by name; a leading one that is not named is 1.
    """
    graph = model.graph
    for value in graph.input:
        for position, dimension in enumerate(value.type.tensor_type.shape.dim):
            if not dimension.HasField("dim_value") and (dimension.dim_param in dimensions or position == 0):
                dimension.dim_value = dimensions.get(dimension.dim_param, 1)
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    fixed = _static(graph)
    bound = any(d.dim_param in dimensions for v in graph.input for d in v.type.tensor_type.shape.dim)
    del graph.value_info[:]
    if not bound:
        graph.value_info.extend(fixed)
    light = _without_large(model)
    for _ in range(1 + len(graph.node)):
        static = _static(light.graph)
        del light.graph.value_info[:]  # what an earlier round could not infer would stay symbolic
        light.graph.value_info.extend(static)
        light = shape_inference.infer_shapes(light, data_prop=True)
        settled = _settle(light)
        if not _fill_in(light.graph) and not settled:
            break
    gone = {o for n in light.graph.node for o in n.output}
    settled_nodes = [n for n in graph.node if n.output[0] not in gone]
    values = {w.name: w for w in light.graph.initializer}
    for node in settled_nodes:
        graph.node.remove(node)
        graph.initializer.extend(values[o] for o in node.output if o in values)
    del graph.value_info[:]
    graph.value_info.extend(light.graph.value_info)
    for mine, inferred in zip(graph.output, light.graph.output, strict=True):
        mine.CopyFrom(inferred)
    return model


def _static(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the descriptions of tensors whose every dimension is a number."""
    return [
        v
        for v in graph.value_info
        if v.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in v.type.tensor_type.shape.dim)
    ]


def _without_large(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which large weights are inputs: shape inference serializes the whole model each time."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    kept = []
    inputs = {i.name for i in light.graph.input}
    for weight in light.graph.initializer:
        if np.prod(weight.dims, dtype=np.int64) <= _LARGE:
            kept.append(weight)
        elif weight.name not in inputs:
            light.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims)))
    small = [onnx.TensorProto.FromString(w.SerializeToString()) for w in kept]
    del light.graph.initializer[:]
    light.graph.initializer.extend(small)
    return light


def _settle(model: onnx.ModelProto) -> bool:
    """Replace arithmetic on shapes by its values; whether there was any. Only small integers are looked at."""
    graph = model.graph
    known = _known_shapes(graph)
    values = {w.name: numpy_helper.to_array(w) for w in graph.initializer}
    opsets = {o.domain: o.version for o in model.opset_import}
    done = []
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in known:
            first, last = (next((a.i for a in node.attribute if a.name == n), None) for n in ("start", "end"))
            result: list[Array] = [np.array(known[node.input[0]][first:last], dtype=np.int64)]
        elif node.op_type in _ON_SHAPES and any(i in values for i in node.input):
            if not all(i in values or not i for i in node.input):
                continue
            if any(values[i].dtype.kind not in "iub" or values[i].size > _LARGE for i in node.input if i):
                continue
            if node.op_type == "GatherElements":  # the reference implementation ignores the axis of broad indices
                axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
                result = [np.take_along_axis(values[node.input[0]], values[node.input[1]].astype(np.int64), axis)]
            else:
                evaluator = ReferenceEvaluator(_alone(node, values, opsets))
                result = [np.asarray(r) for r in evaluator.run(None, {i: values[i] for i in node.input if i})]
            if any(r.size > _LARGE for r in result):
                continue
        else:
            continue
        for name, value in zip(node.output, result, strict=True):
            values[name] = np.asarray(value)
            graph.initializer.append(numpy_helper.from_array(values[name], name))
        done.append(node)
    for node in done:
        graph.node.remove(node)
    return bool(done)


def _alone(node: onnx.NodeProto, values: Mapping[str, Array], opsets: Mapping[str, int]) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(i, helper.np_dtype_to_tensor_dtype(values[i].dtype), values[i].shape)
        for i in dict.fromkeys(node.input)
        if i
    ]
    outputs = [helper.make_tensor_value_info(o, TensorProto.UNDEFINED, None) for o in node.output]
    graph = helper.make_graph([node], "alone", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opsets.get("", 20))])


def _known_shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    known: dict[str, Shape] = {w.name: tuple(w.dims) for w in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            known[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    return known


def _fill_in(graph: onnx.GraphProto) -> bool:
    """Give shapes to outputs of the runtime's operators whose inputs are known; whether there was one."""
    known = _known_shapes(graph)
    types: dict[str, int] = {w.name: w.data_type for w in graph.initializer}
    types.update({v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)})
    outputs = {o.name: o for o in graph.output}
    changed = False
    for node in graph.node:
        if not node.output or node.output[0] in known:
            continue
        shape = _shape_of(node, known)
        if shape is None:
            continue
        name = node.output[0]
        first = types.get(node.input[0], TensorProto.FLOAT)
        if node.op_type in _QUANTIZE:
            first = types.get(node.input[2], TensorProto.UINT8) if len(node.input) > 2 else TensorProto.UINT8
        element = first if node.op_type in _INTEGER_OUT or first == TensorProto.FLOAT16 else TensorProto.FLOAT
        described = helper.make_tensor_value_info(name, element, shape)
        if name in outputs:
            outputs[name].CopyFrom(described)
        else:
            stale = [i for i, v in enumerate(graph.value_info) if v.name == name]
            for i in reversed(stale):
                del graph.value_info[i]
            graph.value_info.append(described)
        known[name], types[name] = tuple(shape), element
        changed = True
    return changed


def _shape_of(node: onnx.NodeProto, known: Mapping[str, Shape]) -> Shape | None:
    def of(position: int) -> Shape | None:
        return known.get(node.input[position]) if position < len(node.input) else None

    operator, first = node.op_type, of(0)
    attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if operator in _BROADCAST:
        second = of(_BROADCAST[operator][1])
        return tuple(np.broadcast_shapes(first, second)) if first is not None and second is not None else None
    if operator == "QLinearConcat":
        parts = [of(i) for i in range(2, len(node.input), 3)]
        shapes = [p for p in parts if p is not None]
        if len(shapes) != len(parts):
            return None
        axis = attributes["axis"] % len(shapes[0])
        return (*shapes[0][:axis], sum(s[axis] for s in shapes), *shapes[0][axis + 1 :])
    if first is None:
        return None
    if operator in _SAME:
        return first
    if operator == "QLinearGlobalAveragePool":
        return (first[0], 1, 1, first[3]) if attributes.get("channels_last") else (*first[:2], 1, 1)
    if operator == "GatherBlockQuantized":
        indices, scales = of(1), of(2)
        if indices is None or scales is None:
            return None
        packed = first[-1] * 8 // int(attributes.get("bits", 4))
        return (*indices, *scales[1:-1], min(packed, scales[-1] * int(attributes.get("block_size", 128))))
    if operator == "MatMulNBits":
        return (*first[:-1], attributes["N"])
    if operator in _PRODUCT:
        second = of(_PRODUCT[operator]) if _PRODUCT[operator] > 0 else None
        if second is None:
            return first if _PRODUCT[operator] < 0 else None
        return (*first[:-1], second[-2 if attributes.get("transB") else -1])
    if operator in _CONVOLUTIONS:
        weight = of(_CONVOLUTIONS[operator])
        return None if weight is None else _convolved(first, weight, attributes)
    if operator in ("MaxPool", "AveragePool"):
        return (*first[:2], *_sides(first[2:], tuple(int(k) for k in attributes["kernel_shape"]), attributes))
    if operator in ("GlobalMaxPool", "GlobalAveragePool"):
        return (*first[:2], *(1 for _ in first[2:]))
    if operator == "ReorderInput":  # into blocks of channels: the same elements, but for a last block that is filled up
        return (first[0], first[-1], *first[1:-1]) if attributes.get("channels_last") else first
    if operator == "ReorderOutput":
        channels = int(attributes["channels"])
        sides = first[2:]
        return (first[0], *sides, channels) if attributes.get("channels_last") else (first[0], channels, *sides)
    if operator == "QLinearAveragePool":
        window = tuple(int(k) for k in attributes["kernel_shape"])
        if attributes.get("channels_last"):
            return (first[0], *_sides(first[1:-1], window, attributes), first[-1])
        return (*first[:2], *_sides(first[2:], window, attributes))
    return None


def _convolved(first: Shape, weight: Shape, attributes: Mapping[str, Any]) -> Shape:
    if attributes.get("channels_last"):
        return (first[0], *_sides(first[1:-1], weight[2:], attributes), weight[0])
    return (first[0], weight[0], *_sides(first[2:], weight[2:], attributes))


def _sides(sides: Shape, window: Shape, attributes: Mapping[str, Any]) -> Shape:
    """Return the spatial sides after a window has moved over them."""
    rank = len(window)
    pads = attributes.get("pads") or [0] * (2 * rank)
    strides = attributes.get("strides") or [1] * rank
    dilations = attributes.get("dilations") or [1] * rank
    return tuple(
        (sides[i] + pads[i] + pads[rank + i] - dilations[i] * (window[i] - 1) - 1) // strides[i] + 1
        for i in range(rank)
    )
