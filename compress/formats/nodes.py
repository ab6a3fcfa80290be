"""Reading of ONNX nodes: attributes and the names that nodes use."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto

__all__ = [
    "RANDOM_OPS",
    "attribute_int",
    "attribute_ints",
    "attribute_text",
    "constants_alone",
    "has_subgraph",
    "names_used",
]

RANDOM_OPS = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)


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


def constants_alone(nodes: Iterable[NodeProto], constants: Iterable[str]) -> frozenset[str]:
    """Return the tensors that depend on constants alone, the constants themselves included.

    The runtime computes them once, while it loads a model: no kernel of theirs executes afterwards.

    Args:
        nodes: of a graph, in the order of execution.
        constants: names of its initializers.
    """
    known = set(constants)
    for node in nodes:
        used = names_used([node])
        if node.op_type not in RANDOM_OPS and (used or node.op_type == "Constant") and used <= known:
            known.update(o for o in node.output if o)
    return frozenset(known)
