"""The same model with plain int8 weights, for providers and runtimes that do not fold local functions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from modeltailor.compress.pack.bits import unpack_planes
from modeltailor.compress.pack.coded import JOIN, SHAPE, join
from modeltailor.compress.pack.function import DOMAIN, UNPACK
from modeltailor.errors import ModelError

__all__ = ["unpack_model"]

_FOLDED = ("Cast", "Gather", "Mul", "Pad", "Reshape", "Transpose")


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
        case "Pad":
            ends = [int(v) for v in values[1]]
            return np.pad(values[0], list(zip(ends[: len(ends) // 2], ends[len(ends) // 2 :], strict=True)))
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
    """Return ``model`` as plain ONNX: each packed or coded weight is an initializer, no function of ours is left.

    Weights that an integer kernel reads become int8 initializers; those of weight-only formats and codebooks become the
    float (or int8) weight that ONNX Runtime folds them to. All forms are undone: bit planes, Huffman-coded and sparse
    weights, and tables whose indices lie in the file as they are. Outputs are equal bit for bit. What is standard ONNX
    anyhow stays: a weight stored as float16 keeps its ``Cast``. Block-wise weights keep ``MatMulNBits``, their kernel.

    Args:
        model: a model that :class:`~modeltailor.compress.formats.Composer` built, or any other; not changed.

    Raises:
        ModelError: a packed weight depends on something that is no constant, so it cannot be unpacked.
    """
    out = ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    folding = _Folding(graph)
    nodes = [made for node in graph.node if not folding.takes(node) for made in folding.plain(node)]
    for node in nodes:
        if node.domain == DOMAIN:
            raise ModelError(
                "MODEL-08", node.output[0], "a packed weight depends on values that are no constants",
                "build the model again",
            )  # fmt: skip
    used = _names_used(nodes) | {o.name for o in graph.output}
    kept: list[TensorProto] = [t for t in graph.initializer if t.name in used]
    kept += [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in folding.made.items() if n in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    functions = [f for f in out.functions if f.domain != DOMAIN]
    opsets = [o for o in out.opset_import if o.domain != DOMAIN]
    del out.functions[:], out.opset_import[:]
    out.functions.extend(functions)
    out.opset_import.extend(opsets)
    return out


class _Folding:
    """Computes what unpacks weights, node by node in the order of the graph."""

    def __init__(self, graph: GraphProto) -> None:
        self._known = {t.name: t for t in graph.initializer}
        self.made: dict[str, NDArray[np.generic]] = {}

    def _value(self, name: str) -> NDArray[np.generic]:
        return self.made[name] if name in self.made else numpy_helper.to_array(self._known[name])

    def takes(self, node: NodeProto) -> bool:
        """Whether the node only unpacks weights; what it gives is then in ``made``."""
        names = [i for i in node.input if i]
        if not names or any(i not in self.made and i not in self._known for i in names):
            return False
        if node.domain == DOMAIN:
            self.made[node.output[0]] = self._unpacked(node)
            return True
        if node.domain not in ("", "ai.onnx") or node.op_type not in _FOLDED or not self._is_ours(node, names):
            return False
        self.made[node.output[0]] = _folded(node, [self._value(i) for i in node.input])
        return True

    def plain(self, node: NodeProto) -> list[NodeProto]:
        """The node itself; a table of 4 bits with one scale a row as gathering, casting and scaling of int8 rows."""
        if node.op_type != "GatherBlockQuantized" or len(node.input) != 3 or _attribute(node, "bits", 4) != 4:
            return [node]
        table, ids, scale = node.input
        if any(i not in self._known for i in (table, scale)) or self._known[scale].dims[-1] != 1:
            return [node]
        packed, out = self._value(table), node.output[0]
        halves = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)  # type: ignore[operator]
        self.made[f"{table}/8"] = (halves.astype(np.int8) - np.int8(8)).astype(np.int8)
        rows, steps, cast = (f"{out}/{k}" for k in "rsc")
        return [
            helper.make_node("Gather", [f"{table}/8", ids], [rows], name=node.name),
            helper.make_node("Gather", [scale, ids], [steps]),
            helper.make_node("Cast", [rows], [cast], to=TensorProto.FLOAT),
            helper.make_node("Mul", [cast, steps], [out]),
        ]

    def _is_ours(self, node: NodeProto, names: list[str]) -> bool:
        """Whether a standard node unpacks something: it reads what was unpacked, or indices and bytes of the file."""
        if any(i in self.made for i in names):
            return True
        return node.op_type == "Cast" and self._known[names[0]].data_type in (TensorProto.INT8, TensorProto.UINT8)

    def _unpacked(self, node: NodeProto) -> NDArray[np.generic]:
        values = [self._value(i) for i in node.input]
        match node.op_type:
            case op if op == UNPACK:
                planes, worth, shape = values
                signed = int(worth.reshape(-1)[0]) < 0
                ints = unpack_planes(planes.astype(np.uint8), tuple(int(d) for d in shape), signed=signed)
                return ints.astype(np.int8)
            case op if op == JOIN:
                bits, left, right = values
                return join(bits.astype(np.uint8), left.astype(np.int32), right.astype(np.int32))
            case op if op == SHAPE:
                flat, dims = values[0], tuple(int(d) for d in values[1])
                return flat[: int(np.prod(dims, dtype=np.int64))].reshape(dims).astype(np.int8)
        raise ModelError("MODEL-08", node.output[0], f"no packed form is called '{node.op_type}'", "update modeltailor")
