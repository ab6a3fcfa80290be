"""Sites that compute the very same: the runtime merges them, so that only one kernel executes for several sites.

ONNX Runtime eliminates common subexpressions while it loads: nodes with the same operator, attributes and inputs become
one. Layers with shared weights that read the same activation end like that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onnx import NodeProto

from modeltailor.compress.formats.nodes import RANDOM_OPS, has_subgraph

__all__ = ["twins"]


def twins(nodes: Sequence[NodeProto], labels: Collection[str]) -> dict[str, str]:
    """Return which labelled nodes compute the same as an earlier labelled node.

    Args:
        nodes: in the order of execution; constants with equal content have one name.
        labels: names of the nodes that are asked about.

    Returns:
        Name of the first one, by the name of each later one.
    """
    numbers: dict[str, int] = {}
    seen: dict[tuple[object, ...], int] = {}
    firsts: dict[int, str] = {}
    found: dict[str, str] = {}

    def number(tensor: str) -> int:
        return numbers.setdefault(tensor, len(numbers)) if tensor else -1

    count = 1 << 32  # numbers of computed values; those of graph inputs and constants lie below
    for node in nodes:
        attributes = tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))
        key = (node.op_type, node.domain, attributes, tuple(number(i) for i in node.input), len(node.output))
        if node.op_type in RANDOM_OPS or has_subgraph(node) or key not in seen:
            seen[key] = count
            count += max(len(node.output), 1)
        base = seen[key]
        for k, output in enumerate(node.output):
            if output:
                numbers[output] = base + k
        if node.name in labels:
            first = firsts.setdefault(base, node.name)
            if first != node.name:
                found[node.name] = first
    return found
