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
    "DynamicQuantizeMatMul": 1, "MatMulIntegerToFloat": 1, "QGemm": 3, "FusedMatMul": 1, "TransposeMatMul": 1, "FusedGemm": 1,
}  # fmt: skip
_BLOCKS = frozenset({"MatMulNBits", "MatMulBnb4"})
_SKIPPING = frozenset({"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
_PROJECTING = {"Attention": 4, "QAttention": 8}  # which input holds keys and values of earlier calls
_RUNTIME = "com.microsoft"
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
        if all(o in known for o in node.output if o):
            continue
        for place, (name, shape) in enumerate(zip(node.output, _shapes_of(node, known), strict=False)):
            if not name or name in known or shape is None:
                continue
            element = _element_of(node, place, types)
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


def _element_of(node: onnx.NodeProto, place: int, types: Mapping[str, int]) -> int:
    """Return the type of the elements of an output."""
    if node.op_type == "Loop":
        return types.get(node.input[2 + place], TensorProto.FLOAT)
    first = types.get(node.input[0], TensorProto.FLOAT)
    if node.op_type in _QUANTIZE:
        first = types.get(node.input[2], TensorProto.UINT8) if len(node.input) > 2 else TensorProto.UINT8
    return first if node.op_type in _INTEGER_OUT or first == TensorProto.FLOAT16 else TensorProto.FLOAT


def _shapes_of(node: onnx.NodeProto, known: Mapping[str, Shape]) -> tuple[Shape | None, ...]:
    """Return the shapes of the outputs, the first ones of them that are known by rule."""
    if node.op_type == "Loop":  # what a loop carries along keeps its shape, or nobody knows it
        return tuple(known.get(name) for name in node.input[2:])
    inputs = [known.get(name) for name in node.input]
    if not inputs or inputs[0] is None:
        return (_shape_of(node, known),)
    if node.op_type in _SKIPPING:
        return (inputs[0], None, None, inputs[0])
    usual = len(inputs[0]) == (5 if node.op_type == "MultiHeadAttention" and len(inputs[0]) == 5 else 3)
    if node.domain != _RUNTIME or not usual or any(i and i not in known for i in node.input):
        return (_shape_of(node, known),)
    attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    inputs += [None] * (9 - len(inputs))
    if node.op_type == "DynamicQuantizeLSTM" and inputs[1] is not None:
        (steps, batch, _), directions, hidden = inputs[0], inputs[1][0], int(attributes["hidden_size"])
        return ((steps, directions, batch, hidden), *[(directions, batch, hidden)] * 2)
    if node.op_type in _PROJECTING and inputs[1] is not None:
        return _projected_attention(inputs[0], inputs[1], inputs[_PROJECTING[node.op_type]], attributes)
    if node.op_type == "MultiHeadAttention":
        return _attention(inputs[0], inputs[1], inputs[2], inputs[6], int(attributes["num_heads"]))
    if node.op_type == "GroupQueryAttention":
        return _grouped_attention(inputs[0], inputs[1], inputs[3], attributes)
    return (_shape_of(node, known),)


def _projected_attention(
    first: Shape, weight: Shape, past: Shape | None, attributes: Mapping[str, Any]
) -> tuple[Shape, Shape]:
    """Output, and keys and values of this call behind those of earlier ones."""
    batch, length, _ = first
    heads = int(attributes["num_heads"])
    width = int(attributes["qkv_hidden_sizes"][2]) if "qkv_hidden_sizes" in attributes else weight[-1] // 3
    return (batch, length, width), (2, batch, heads, length + (past[-2] if past else 0), width // heads)


def _attention(
    query: Shape, key: Shape | None, value: Shape | None, past: Shape | None, heads: int
) -> tuple[Shape, Shape, Shape]:
    """Output, keys, values. Queries may hold all three, ``[batch, length, heads, 3, size]``, keys also the values."""
    size = query[4] if len(query) == 5 else query[2] // heads
    value_size = size if value is None else value[3] if len(value) == 4 else value[2] // heads
    length = query[1] if key is None else key[2] if len(key) == 4 else key[1]
    length += past[2] if past else 0
    batch = query[0]
    return (batch, query[1], heads * value_size), (batch, heads, length, size), (batch, heads, length, value_size)


def _grouped_attention(
    query: Shape, key: Shape | None, past: Shape | None, attributes: Mapping[str, Any]
) -> tuple[Shape, Shape, Shape]:
    """Output, keys, values. Without keys of their own the queries hold all three side by side."""
    batch, length, width = query
    heads, shared = int(attributes["num_heads"]), int(attributes["kv_num_heads"])
    size = width // (heads if key is not None else heads + 2 * shared)
    made = (batch, shared, (key[1] if key is not None else length) + (past[2] if past else 0), size)
    return (batch, length, heads * size), made, made


def _multiplied(first: Shape, second: Shape, attributes: Mapping[str, Any]) -> Shape:
    """Return the shape of a product, one of many matrices too; each may lie transposed, or with the batch in its middle."""
    if min(len(first), len(second)) < 2:
        return (*first[:-1], second[-1])
    left, right = _turned(first, attributes, "A"), _turned(second, attributes, "B")
    return (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])


def _turned(shape: Shape, attributes: Mapping[str, Any], which: str) -> Shape:
    if attributes.get(f"transBatch{which}"):
        shape = (*shape[1:-1], shape[0], shape[-1])
    return (*shape[:-2], shape[-1], shape[-2]) if attributes.get(f"trans{which}") else shape


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
    if operator in _BLOCKS:
        return (*first[:-1], attributes["N"])
    if operator in _PRODUCT:
        second = of(_PRODUCT[operator])
        return None if second is None else _multiplied(first, second, attributes)
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
