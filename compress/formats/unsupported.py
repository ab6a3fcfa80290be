"""What stays fp32 whatever a recipe says, and why: heavy operators that are no site, and sites without a format."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from modeltailor.compress.formats.graph import PreparedGraph
from modeltailor.compress.formats.nodes import attribute_int, constants_alone

__all__ = ["Unsupported", "list_unsupported"]

_HEAVY = frozenset(("Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "ConvInteger", "MatMulInteger", "Attention"))
_QUANTIZED = frozenset(("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm", "QAttention"))
_RECURRENT = frozenset(("LSTM", "GRU", "RNN"))
_WEIGHT_AT = {"Conv": 1, "ConvTranspose": 1, "MatMul": 1, "Gemm": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """One operator that stays as it is.

    Attributes:
        name: of the site if it is one, else of the node or of what it gives.
        op_type: operator.
        reason: why no format can be built there, as half a sentence.
    """

    name: str
    op_type: str
    reason: str


def list_unsupported(graph: PreparedGraph) -> tuple[Unsupported, ...]:
    """Return the heavy operators of a prepared float model that every recipe leaves in fp32, in the order of execution."""
    site_at = {s.node: s for s in graph.sites}
    settled = constants_alone(graph.model.graph.node, graph.constants)
    found = []
    for index, node in enumerate(graph.model.graph.node):
        site = site_at.get(index)
        if site is not None:
            if site.site.kind == "recurrent":
                reason = f"the runtime computes {node.op_type} in float; no format is built there"
                found.append(Unsupported(name=site.site.name, op_type=node.op_type, reason=reason))
            continue
        reason = _reason(node, graph, settled)
        if reason:
            found.append(Unsupported(name=_name(node), op_type=node.op_type, reason=reason))
        for inner in _nested(node):
            if inner.op_type in _HEAVY or inner.op_type in _RECURRENT:
                reason = f"it lies in the body of {node.op_type}, which is copied as it is"
                found.append(Unsupported(name=_name(inner), op_type=inner.op_type, reason=reason))
    return tuple(found)


def _name(node: NodeProto) -> str:
    return node.name or next((o for o in node.output if o), node.op_type)


def _nested(node: NodeProto) -> Iterator[NodeProto]:
    for attribute in node.attribute:
        for body in [attribute.g, *attribute.graphs] if attribute.HasField("g") else list(attribute.graphs):
            for inner in body.node:
                yield inner
                yield from _nested(inner)


def _reason(node: NodeProto, graph: PreparedGraph, settled: Container[str]) -> str:
    """Why a heavy node is no site; empty if it is not heavy."""
    op = node.op_type
    if op in _QUANTIZED:
        return "it is quantized already"
    if op in _RECURRENT:
        return "its weight is computed at run time or is no float32 tensor"
    if op not in _HEAVY:
        return ""
    if all(i in settled for i in node.input if i):
        return "it depends on constants alone: the runtime computes it once, while it loads"
    if node.domain not in ("", "ai.onnx"):
        return f"it is an operator of the domain '{node.domain}'"
    if op not in _WEIGHT_AT:
        return f"the formats know no {op}"
    constants = [i in graph.constants for i in node.input]
    if len(constants) < 2 or not any(constants[:2]):
        return "it multiplies two activations; there is no weight to store"
    if not constants[1]:
        return "its weight is the first operand; the kernels take it as the second"
    return _reason_of_weight(node, graph)


def _reason_of_weight(node: NodeProto, graph: PreparedGraph) -> str:
    weight = graph.constants[node.input[1]]
    if weight.dtype != np.float32:
        return f"its weight is {weight.dtype}, not float32"
    if not weight.size:
        return "its weight is empty"
    if node.op_type in ("MatMul", "Gemm") and weight.ndim != 2:
        return f"its weight has {weight.ndim} dimensions; the kernels take matrices"
    if node.op_type in ("Conv", "ConvTranspose") and weight.ndim not in (3, 4, 5):
        return f"its weight has {weight.ndim} dimensions"
    if node.op_type == "Gemm":
        if attribute_int(node, "transA", 0):
            return "its input is transposed (transA)"
        if any(a.name in ("alpha", "beta") and a.f != 1.0 for a in node.attribute):
            return "it scales its product or its bias (alpha, beta)"
    if len(node.input) > 2 and node.input[2] not in graph.constants:
        return "its bias is computed at run time"
    return "its bias has another length than its outputs"
