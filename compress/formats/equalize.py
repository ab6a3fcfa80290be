"""Cross-layer equalization: channels that two neighbouring layers scale very differently are brought to one range.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction". A positive factor passes
through ``Relu``, pooling and identity, so dividing a channel of the first layer and multiplying the matching inputs of
the second changes nothing in float, but leaves weights that one scale a tensor fits better.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from modeltailor.compress.formats.graph import PreparedGraph, SiteNode

__all__ = ["equalized"]

_TRANSPARENT = frozenset(("Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "LeakyRelu", "PRelu"))
_LONGEST = 6


def _follower(graph: PreparedGraph, first: SiteNode) -> SiteNode | None:
    """The one site that reads the output of ``first`` through operators that a positive factor passes through."""
    outputs = {o.name for o in graph.model.graph.output}
    at = {s.node: s for s in graph.sites}
    tensor = first.output
    for _ in range(_LONGEST):
        readers = graph.consumers.get(tensor, ())
        if len(readers) != 1 or tensor in outputs:
            return None
        node = graph.model.graph.node[readers[0]]
        if readers[0] in at:
            return at[readers[0]] if at[readers[0]].input == tensor else None
        if node.op_type not in _TRANSPARENT:
            return None
        tensor = node.output[0]
    return None


def _outputs_first(weight: NDArray[np.float32], site: SiteNode) -> NDArray[np.float32]:
    return np.moveaxis(weight, site.out_axis, 0)


def _factors(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Factor of each channel from the ranges of both sides, ``sqrt(r1 / r2)`` (equation 11 of the paper), tamed."""
    r1 = np.abs(first.reshape(len(first), -1)).max(axis=1)
    r2 = np.abs(second.reshape(len(second), -1)).max(axis=1)
    good = (r1 > 1e-8) & (r2 > 1e-8)
    factor = np.where(good, np.sqrt(np.where(good, r1, 1.0) / np.where(good, r2, 1.0)), 1.0)
    factor /= np.exp(np.mean(np.log(factor)))  # the tensor's own range stays about where it was
    return np.clip(factor, 1 / 32, 32).astype(np.float32)


def equalized(graph: PreparedGraph, *, rounds: int = 3) -> PreparedGraph:
    """Return the graph with the weights of neighbouring sites equalized; its function is the same.

    Args:
        graph: a prepared float model; not changed.
        rounds: passes over all pairs.
    """
    model = ModelProto()
    model.CopyFrom(graph.model)
    values = {s.weight: graph.weight(s).copy() for s in graph.sites}
    biases = {s.bias: np.asarray(graph.constants[s.bias], np.float32).copy() for s in graph.sites if s.bias}
    uses: dict[str, int] = {}
    for site in graph.sites:
        for name in (site.weight, site.bias):
            if name:
                uses[name] = max(uses.get(name, 0), len(graph.consumers.get(name, ())))
    pairs = []
    for first in graph.sites:
        second = _follower(graph, first) if first.site.kind in ("conv", "depthwise", "gemm") else None
        if second is None or second.site.kind not in ("conv", "depthwise", "gemm"):
            continue
        if any(uses[n] != 1 for n in (first.weight, second.weight, first.bias) if n):
            continue
        channels = first.site.weight_shape[first.out_axis]
        inputs = (
            second.site.weight_shape[0]
            if second.site.kind == "depthwise"
            else second.site.weight_shape[1 - second.out_axis]
        )
        if inputs == channels and (second.group == 1 or second.site.kind == "depthwise"):
            pairs.append((first, second))
    for _ in range(rounds):
        for first, second in pairs:
            out = _outputs_first(values[first.weight], first)
            axis = 0 if second.site.kind == "depthwise" else 1 - second.out_axis
            entering = np.moveaxis(values[second.weight], axis, 0)
            factor = _factors(out, entering)
            spread = factor.reshape(-1, *([1] * (out.ndim - 1)))
            out /= spread
            entering *= factor.reshape(-1, *([1] * (entering.ndim - 1)))
            if first.bias:
                biases[first.bias] /= factor.reshape(biases[first.bias].shape)
    constants = dict(graph.constants)
    for tensor in model.graph.initializer:
        changed = values.get(tensor.name, biases.get(tensor.name))
        if changed is not None:
            constants[tensor.name] = np.ascontiguousarray(changed)
            tensor.CopyFrom(numpy_helper.from_array(constants[tensor.name], tensor.name))
    return PreparedGraph(model, graph.sites, graph.shapes, graph.types, graph.consumers, constants)
