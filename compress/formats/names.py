"""Short names: what nobody outside asks for by name is called by one or two letters, which saves kilobytes."""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Iterator, Mapping

from onnx import ModelProto

from modeltailor.compress.formats.nodes import has_subgraph

__all__ = ["label_of", "shorten", "site_label"]

_FIRST = string.ascii_letters
_NEXT = string.ascii_letters + string.digits


def site_label(position: int) -> str:
    """Return the node name of a site: ``s`` and its position in base 36."""
    digits = string.digits + string.ascii_lowercase
    text = ""
    while True:
        position, rest = divmod(position, 36)
        text = digits[rest] + text
        if not position:
            return f"s{text}"


def label_of(node_name: str) -> str:
    """Return the label that a node's name bears after the runtime's fusions, which add to it in front and behind."""
    return re.split(r"[_/]", node_name.removeprefix("fused "), maxsplit=1)[0]


def _short_names() -> Iterator[str]:
    yield from _FIRST
    width = 1
    while True:
        for first in _FIRST:
            for tail in itertools.product(_NEXT, repeat=width):
                yield first + "".join(tail)
        width += 1


def shorten(model: ModelProto, labels: Mapping[str, str]) -> None:
    """Give all inner tensors of a model short names, in place. Inputs and outputs keep theirs, nested graphs all.

    Args:
        model: what is changed.
        labels: tensors that get a certain name: what leaves a site is called like the site's node, because the
            runtime names some rewritten nodes after their output.
    """
    graph = model.graph
    if any(has_subgraph(n) for n in graph.node):
        return
    kept = {v.name for v in (*graph.input, *graph.output)}
    labels = {name: label for name, label in labels.items() if name not in kept and label not in kept}
    taken = kept | set(labels.values())
    fresh = (n for n in _short_names() if n not in taken)
    counts: dict[str, int] = {}
    for node in graph.node:
        for name in (*node.input, *node.output):
            counts[name] = counts.get(name, 0) + 1
    for tensor in graph.initializer:
        counts[tensor.name] = counts.get(tensor.name, 0) + 1
    order = sorted((n for n in counts if n and n not in kept and n not in labels), key=lambda n: -counts[n])
    short = dict(labels) | {name: next(fresh) for name in order}
    for node in graph.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                if name in short:
                    names[k] = short[name]
    for tensor in graph.initializer:
        tensor.name = short.get(tensor.name, tensor.name)
