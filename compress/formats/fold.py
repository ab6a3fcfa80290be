"""What is folded before anything is quantized: constants, identities, batch normalization, neighbouring slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from modeltailor.compress.formats.nodes import attribute_int, has_subgraph, names_used

__all__ = ["fold_affine", "fold_batch_norm", "fold_constants", "merge_slices", "remove_identities"]

_FOLDABLE = frozenset(
    (
        "Add",
        "Cast",
        "Ceil",
        "Concat",
        "ConstantOfShape",
        "DequantizeLinear",
        "Div",
        "Equal",
        "Exp",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "Identity",
        "Mul",
        "Neg",
        "Pow",
        "Range",
        "Reciprocal",
        "ReduceProd",
        "ReduceSum",
        "Reshape",
        "Shape",
        "Slice",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
        "Where",
    )
)
_MOST_ELEMENTS = 1 << 26


def _replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)


def _rename_reads(nodes: list[NodeProto], renamed: dict[str, str]) -> None:
    for node in nodes:
        for i, name in enumerate(node.input):
            if name in renamed:
                node.input[i] = renamed[name]
        for attribute in node.attribute:
            for graph in [attribute.g, *attribute.graphs] if attribute.HasField("g") else list(attribute.graphs):
                _rename_reads(list(graph.node), renamed)


def remove_identities(graph: GraphProto) -> None:
    """Remove ``Identity`` and inference-time ``Dropout`` nodes that no graph output needs."""
    outputs = {o.name for o in graph.output}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        is_identity = node.op_type == "Identity" or (node.op_type == "Dropout" and len(node.input) < 3)
        extra = {o for o in node.output[1:] if o}
        if is_identity and node.output[0] not in outputs and not extra & names_used(graph.node):
            renamed[node.output[0]] = renamed.get(node.input[0], node.input[0])
        else:
            kept.append(node)
    _rename_reads(kept, renamed)
    _replace_nodes(graph, kept)


def fold_constants(model: ModelProto) -> None:
    """Compute what depends on constants alone, by onnx's reference implementation."""
    graph = model.graph
    known: dict[str, NDArray[np.generic]] = {}
    tensors = {t.name: t for t in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            value = next((a for a in node.attribute if a.name == "value"), None)
            if value is not None:
                tensor = TensorProto()
                tensor.CopyFrom(value.t)
                tensor.name = node.output[0]
                tensors[tensor.name] = tensor
                graph.initializer.append(tensor)
                continue
        foldable = node.op_type in _FOLDABLE and node.domain in ("", "ai.onnx") and not has_subgraph(node)
        inputs = [i for i in node.input if i]
        if not (foldable and inputs and all(i in tensors for i in inputs)) or any(
            np.prod(tensors[i].dims, dtype=np.int64) > _MOST_ELEMENTS or tensors[i].data_type == TensorProto.STRING
            for i in inputs
        ):
            kept.append(node)
            continue
        for i in inputs:
            known.setdefault(i, numpy_helper.to_array(tensors[i]))
        try:
            results = _evaluate(node, {i: known[i] for i in inputs}, model)
        except Exception:  # what the reference cannot compute stays in the graph
            kept.append(node)
            continue
        for name, array in zip(node.output, results, strict=True):
            tensors[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
            graph.initializer.append(tensors[name])
    outputs = {o.name for o in graph.output}
    for name in outputs & tensors.keys():  # an output must be made by a node
        if all(name not in n.output for n in kept):
            source = TensorProto()
            source.CopyFrom(tensors[name])
            source.name = f"{name}/constant"
            graph.initializer.append(source)
            kept.append(helper.make_node("Identity", [source.name], [name]))
            tensors.pop(name)
    _replace_nodes(graph, kept)
    made = {o for n in kept for o in n.output}
    initializers = [t for t in graph.initializer if t.name not in made]
    del graph.initializer[:]
    graph.initializer.extend(initializers)


def _evaluate(node: NodeProto, feeds: dict[str, NDArray[np.generic]], model: ModelProto) -> list[NDArray[np.generic]]:
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(o) for o in node.output]
    graph = helper.make_graph([node], "g", inputs, outputs)
    opsets = [o for o in model.opset_import if o.domain in ("", "ai.onnx")]
    small = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return [np.asarray(r) for r in ReferenceEvaluator(small).run(None, feeds)]


def fold_batch_norm(graph: GraphProto) -> None:
    """Fold inference-time ``BatchNormalization`` into the convolution (or Gemm) in front of it."""
    tensors = {t.name: t for t in graph.initializer}
    makers = {o: n for n in graph.node for o in n.output}
    reads: dict[str, int] = {}
    for node in graph.node:
        for name in names_used([node]):
            reads[name] = reads.get(name, 0) + 1
    outputs = {o.name for o in graph.output}
    dropped: set[int] = set()
    for at, node in enumerate(graph.node):
        if node.op_type != "BatchNormalization" or attribute_int(node, "training_mode", 0):
            continue
        conv = makers.get(node.input[0])
        if (
            conv is None
            or conv.op_type not in ("Conv", "ConvTranspose", "Gemm")
            or reads[node.input[0]] != 1
            or node.input[0] in outputs
            or any(i not in tensors for i in (*node.input[1:5], *conv.input[1:]))
            or any(tensors[i].data_type != TensorProto.FLOAT for i in (*node.input[1:5], *conv.input[1:]))
            or (conv.op_type == "ConvTranspose" and attribute_int(conv, "group", 1) != 1)
            or (conv.op_type == "Gemm" and any(a.name in ("alpha", "beta") and a.f != 1.0 for a in conv.attribute))
        ):
            continue
        gamma, beta, mean, var = (numpy_helper.to_array(tensors[i]).astype(np.float64) for i in node.input[1:5])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        factor = gamma / np.sqrt(var + epsilon)
        weight = numpy_helper.to_array(tensors[conv.input[1]]).astype(np.float64)
        axis = 0 if conv.op_type == "Conv" or (conv.op_type == "Gemm" and attribute_int(conv, "transB", 0)) else 1
        shape = [-1 if k == axis else 1 for k in range(weight.ndim)]
        bias = numpy_helper.to_array(tensors[conv.input[2]]).astype(np.float64) if len(conv.input) > 2 else 0.0
        stem = conv.input[1].removesuffix(".weight")
        shared = reads[conv.input[1]] > 1
        weight_name = f"{stem}/{at}.weight" if shared else conv.input[1]
        bias_name = f"{stem}/{at}.bias"
        for name, value in ((weight_name, weight * factor.reshape(shape)), (bias_name, beta + (bias - mean) * factor)):
            made = numpy_helper.from_array(np.ascontiguousarray(value.astype(np.float32)), name)
            if name in tensors:
                tensors[name].CopyFrom(made)
            else:
                graph.initializer.append(made)
                tensors[name] = graph.initializer[-1]
        rest = [conv.input[0], weight_name, bias_name]
        del conv.input[:]
        conv.input.extend(rest)
        conv.output[0] = node.output[0]
        makers[node.output[0]] = conv
        dropped.add(at)
    _replace_nodes(graph, [n for at, n in enumerate(graph.node) if at not in dropped])


def _channel_values(tensors: dict[str, TensorProto], name: str, channels: int) -> NDArray[np.float64] | None:
    """Value of a constant that scales or shifts the channels of a feature map, shape ``[channels]``; else ``None``."""
    if name not in tensors or tensors[name].data_type != TensorProto.FLOAT:
        return None
    dims = list(tensors[name].dims)
    if int(np.prod(dims, dtype=np.int64)) == 1:
        return np.full(channels, numpy_helper.to_array(tensors[name]).astype(np.float64).reshape(-1)[0])
    while dims and dims[0] == 1 and len(dims) > 3:
        dims = dims[1:]
    if dims != [channels, 1, 1]:
        return None
    return numpy_helper.to_array(tensors[name]).astype(np.float64).reshape(-1)


def fold_affine(graph: GraphProto) -> None:
    """Fold constant ``Mul`` and ``Add`` of the channels into the two-dimensional convolution in front of them."""
    tensors = {t.name: t for t in graph.initializer}
    reads: dict[str, int] = {}
    for node in graph.node:
        for name in names_used([node]):
            reads[name] = reads.get(name, 0) + 1
    outputs = {o.name for o in graph.output}
    makers: dict[str, NodeProto] = {}
    kept = []
    for node in graph.node:
        conv = next((makers[i] for i in node.input if i in makers), None) if node.op_type in ("Mul", "Add") else None
        if conv is not None and reads[conv.output[0]] == 1 and conv.output[0] not in outputs:
            other = next((i for i in node.input if i != conv.output[0]), "")
            weight = numpy_helper.to_array(tensors[conv.input[1]]).astype(np.float64)
            value = _channel_values(tensors, other, len(weight))
            if value is not None:
                factor, shift = (value, 0.0) if node.op_type == "Mul" else (1.0, value)
                has_bias = len(conv.input) > 2 and conv.input[2]
                bias = numpy_helper.to_array(tensors[conv.input[2]]).astype(np.float64) if has_bias else 0.0
                fresh = [conv.input[1], f"{conv.input[1]}/bias"]
                if node.op_type == "Mul":
                    fresh[0] = conv.input[1] if reads[conv.input[1]] == 1 else f"{conv.input[1]}/{node.output[0]}"
                    weight = weight * value.reshape(-1, *([1] * (weight.ndim - 1)))
                moved = np.broadcast_to(np.asarray(bias * factor + shift), (len(weight),))
                fresh[1] = f"{fresh[0]}/{node.output[0]}/bias"
                for name, array in zip(fresh, (weight, moved), strict=True):
                    made = numpy_helper.from_array(np.ascontiguousarray(array.astype(np.float32)), name)
                    if name in tensors:
                        tensors[name].CopyFrom(made)
                    else:
                        graph.initializer.append(made)
                        tensors[name] = graph.initializer[-1]
                        reads[name] = 1
                rest = [conv.input[0], *fresh]
                del conv.input[:]
                conv.input.extend(rest)
                makers.pop(conv.output[0])
                conv.output[0] = node.output[0]
                makers[node.output[0]] = conv
                continue
        if (
            node.op_type == "Conv"
            and all(i in tensors for i in node.input[1:] if i)
            and len(tensors[node.input[1]].dims) == 4
            and tensors[node.input[1]].data_type == TensorProto.FLOAT
        ):
            makers[node.output[0]] = node
        kept.append(node)
    _replace_nodes(graph, kept)


def merge_slices(graph: GraphProto) -> None:
    """Make one ``Slice`` of two that follow each other on different axes, as strided subsampling is exported."""
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer if np.prod(t.dims) <= 8}
    makers = {o: n for n in graph.node for o in n.output}
    outputs = {o.name for o in graph.output}
    reads: dict[str, int] = {}
    for node in graph.node:
        for name in names_used([node]):
            reads[name] = reads.get(name, 0) + 1
    gone: set[str] = set()
    for node in graph.node:
        first = makers.get(node.input[0]) if node.op_type == "Slice" else None
        if first is None or first.op_type != "Slice" or reads[node.input[0]] != 1 or node.input[0] in outputs:
            continue
        if any(len(n.input) != 5 or any(i not in values for i in n.input[1:]) for n in (first, node)):
            continue
        axes = [values[n.input[3]].tolist() for n in (first, node)]
        if set(axes[0]) & set(axes[1]) or any(a < 0 for a in (*axes[0], *axes[1])):
            continue
        names = [first.input[0]]
        for k in range(1, 5):
            joined = np.concatenate([values[first.input[k]].reshape(-1), values[node.input[k]].reshape(-1)])
            name = f"{node.output[0]}/slice{k}"
            graph.initializer.append(numpy_helper.from_array(joined.astype(np.int64), name))
            values[name] = joined
            names.append(name)
        gone.add(first.output[0])
        del node.input[:]
        node.input.extend(names)
    _replace_nodes(graph, [n for n in graph.node if n.output[0] not in gone])
