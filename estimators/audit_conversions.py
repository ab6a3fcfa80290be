"""Conversions between number formats that execute: where they stand, who put them there, what they cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from modeltailor.estimators.audit_data import Conversion, ConversionPair

if TYPE_CHECKING:
    import onnx

    from modeltailor.targets.session import NodeTime

__all__ = ["CONVERSIONS", "conversion_pairs", "conversions"]

_INSERTED = "Inserted"  # how the runtime names the casts it puts around what it cannot compute
CONVERSIONS = frozenset(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"))


def conversions(
    optimized: onnx.ModelProto, times: Sequence[NodeTime], tensors_of_file: Collection[str]
) -> tuple[Conversion, ...]:
    """Return the executed conversions, by share.

    Args:
        optimized: the graph that the runtime wrote.
        times: of all executed nodes.
        tensors_of_file: names of the tensors that nodes of the file give; a conversion that gives any other is one that
            the runtime inserted. Empty if the file is not known: then nothing counts as inserted.
    """
    total = sum(t.ms for t in times)
    graph = optimized.graph
    made_by, read_by = _neighbours(graph)
    node_of = {(n.name, n.op_type): n for n in graph.node}
    found = []
    for time in times:
        if time.op_type not in CONVERSIONS:
            continue
        node = node_of.get((time.name, time.op_type))
        enters = node.input[0] if node is not None and node.input else ""
        leaves = node.output[0] if node is not None else ""
        readers = {n.op_type for n in read_by.get(leaves, ())}
        if leaves in {o.name for o in graph.output}:
            readers.add("output")
        maker = made_by.get(enters)
        found.append(
            Conversion(
                name=time.name,
                op_type=time.op_type,
                source=time.input_types[0] if time.input_types else "",
                target=time.output_types[0] if time.output_types else "",
                after=maker.op_type if maker is not None else "input",
                before=tuple(sorted(readers)),
                is_inserted=time.name.startswith(_INSERTED)
                or (bool(tensors_of_file) and leaves not in tensors_of_file),
                ms=time.ms,
                share=time.ms / total if total else 0.0,
            )
        )
    return tuple(sorted(found, key=lambda c: -c.share))


def conversion_pairs(optimized: onnx.ModelProto, converting: Sequence[Conversion]) -> tuple[ConversionPair, ...]:
    """Return conversions that directly follow one another: float to integer and back, or integer to float and back."""
    by_name: Mapping[tuple[str, str], Conversion] = {(c.name, c.op_type): c for c in converting}
    _, read_by = _neighbours(optimized.graph)
    found = []
    for node in optimized.graph.node:
        first = by_name.get((node.name, node.op_type))
        if first is None:
            continue
        for reader in read_by.get(node.output[0], ()):
            second = by_name.get((reader.name, reader.op_type))
            if second is not None and reader.input[0] == node.output[0] and second.target == first.source:
                found.append(ConversionPair(first=first.name, second=second.name, share=first.share + second.share))
    return tuple(sorted(found, key=lambda p: -p.share))


def _neighbours(graph: onnx.GraphProto) -> tuple[dict[str, onnx.NodeProto], dict[str, list[onnx.NodeProto]]]:
    """Return the node that makes each tensor, and those that read it."""
    made_by = {out: n for n in graph.node for out in n.output if out}
    read_by: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            read_by.setdefault(name, []).append(node)
    return made_by, read_by
