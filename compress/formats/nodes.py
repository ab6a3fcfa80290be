"""Reading of ONNX nodes: attributes and the names that nodes use."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto

__all__ = ["attribute_int", "attribute_ints", "attribute_text", "has_subgraph", "names_used"]


def attribute_int(node: NodeProto, name: str, default: int) -> int:
    """Return an integer attribute of a node."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def attribute_ints(node: NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Return an integer list attribute of a node."""
    return next((tuple(int(i) for i in a.ints) for a in node.attribute if a.name == name), default)


def attribute_text(node: NodeProto, name: str, default: str) -> str:
    """Return a text attribute of a node."""
    return next((a.s.decode() for a in node.attribute if a.name == name), default)


def has_subgraph(node: NodeProto) -> bool:
    """Whether the node holds a nested graph (``If``, ``Loop``, ``Scan`` ...)."""
    return any(a.HasField("g") or a.graphs for a in node.attribute)


def names_used(nodes: Iterable[NodeProto]) -> set[str]:
    """Return the names that the nodes read, those that nested graphs capture included."""
    used: set[str] = set()
    for node in nodes:
        used.update(i for i in node.input if i)
        for attribute in node.attribute:
            graphs = [attribute.g, *attribute.graphs] if attribute.HasField("g") else list(attribute.graphs)
            for graph in graphs:
                used |= names_used(graph.node) | {o.name for o in graph.output}
    return used
