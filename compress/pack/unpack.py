"""The same model with plain int8 weights, for providers and runtimes that do not fold local functions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from modeltailor.compress.pack.bits import unpack_planes
from modeltailor.compress.pack.coded import JOIN, SHAPE, join
from modeltailor.compress.pack.function import DOMAIN, UNPACK

__all__ = ["unpack_model"]

_FOLDED = ("Cast", "Gather", "Mul", "Reshape", "Transpose")


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _folded(node: NodeProto, values: list[NDArray[np.generic]]) -> NDArray[np.generic]:
    match node.op_type:
        case "Cast":
            return values[0].astype(helper.tensor_dtype_to_np_dtype(_attribute(node, "to", 1)))
        case "Gather":
            return np.take(values[0], values[1].astype(np.int64), axis=_attribute(node, "axis", 0))
        case "Mul":
            return np.asarray(np.multiply(values[0], values[1]))
        case "Reshape":
            return values[0].reshape([int(v) for v in values[1]])
        case _:
            perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            return np.transpose(values[0], perm)


def _names_used(nodes: Iterable[NodeProto]) -> set[str]:
    """Names that the nodes read, nested graphs included."""
    used: set[str] = set()
    for node in nodes:
        used.update(node.input)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                used |= _names_used(graph.node) | {o.name for o in graph.output}
    return used


def unpack_model(model: ModelProto) -> ModelProto:
    """Return ``model`` with every packed weight unpacked into an initializer and the local function removed.

    Only weights that leave the function as integers for an integer kernel become int8 initializers; weights that are
    cast and scaled to float (weight-only formats, codebooks) are folded to the float weight that ONNX Runtime folds
    them to. Outputs are equal bit for bit. The input model is not changed.
    """
    out = ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    known = {t.name: t for t in graph.initializer}
    unpacked: dict[str, NDArray[np.generic]] = {}
    nodes: list[NodeProto] = []

    def value(name: str) -> NDArray[np.generic]:
        return unpacked[name] if name in unpacked else numpy_helper.to_array(known[name])

    for node in graph.node:
        if node.domain == DOMAIN and node.op_type == UNPACK:
            planes, worth, shape = (value(i) for i in node.input)
            signed = int(worth.reshape(-1)[0]) < 0
            ints = unpack_planes(planes.astype(np.uint8), tuple(int(d) for d in shape), signed=signed)
            unpacked[node.output[0]] = ints.astype(np.int8)
        elif node.domain == DOMAIN and node.op_type == JOIN:
            bits, left, right = (value(i) for i in node.input)
            unpacked[node.output[0]] = join(bits.astype(np.uint8), left.astype(np.int32), right.astype(np.int32))
        elif node.domain == DOMAIN and node.op_type == SHAPE:
            flat, dims = value(node.input[0]), tuple(int(d) for d in value(node.input[1]))
            count = int(np.prod(dims, dtype=np.int64))
            unpacked[node.output[0]] = flat[:count].reshape(dims).astype(np.int8)
        elif (
            node.op_type in _FOLDED
            and any(i in unpacked for i in node.input)
            and all(i in unpacked or i in known for i in node.input)
        ):
            unpacked[node.output[0]] = _folded(node, [value(i) for i in node.input])
        else:
            nodes.append(node)
    used = _names_used(nodes) | {o.name for o in graph.output}
    kept: list[TensorProto] = [t for t in graph.initializer if t.name in used]
    kept += [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in unpacked.items() if name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    functions = [f for f in out.functions if f.domain != DOMAIN]
    opsets = [o for o in out.opset_import if o.domain != DOMAIN]
    del out.functions[:], out.opset_import[:]
    out.functions.extend(functions)
    out.opset_import.extend(opsets)
    return out
