"""Scaling of input channels: what makes a matrix product hard to quantize moves to where it does less harm.

Xiao et al. 2022, "SmoothQuant" (outlying activations move into the weights, equation 4 with alpha 0.5), and Lin et al.
2023, "AWQ: Activation-aware Weight Quantization" (input channels that carry much are scaled up before rounding; the
exponent is searched on calibration data, here by the exact output error that the second moments give). The inverse
factor is taken up by the operator in front, so the float network computes the same. Where nothing in front can take it
up the product is left as it is, with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from modeltailor.compress.formats.calibrate import Calibration
from modeltailor.compress.formats.gptq import rounding_loss
from modeltailor.compress.formats.graph import PreparedGraph, SiteNode
from modeltailor.compress.formats.grid import Grid
from modeltailor.compress.formats.nearest import rounded
from modeltailor.compress.formats.nodes import attribute_ints
from modeltailor.compress.vocabulary import Smoothing

__all__ = ["Smoothed", "smoothed"]

_ALPHA = 0.5
_AWQ_BITS = 4
_AWQ_STEPS = 11  # exponents from 0 (nothing changes) to 1
_LIMIT = 100.0
_HEADS = (0, 2, 1, 3)  # the transposition that splits heads off, and its inverse

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothed:
    """A graph with scaled channels.

    Attributes:
        graph: computes the same as before.
        left_out: why a matrix product was left as it is, by site.
    """

    graph: PreparedGraph
    left_out: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fold:
    """What takes up the factor: constants whose last axis, or whose ``axis``, counts the channels."""

    constants: tuple[tuple[str, int], ...]


def smoothed(graph: PreparedGraph, calibration: Calibration, kind: Smoothing) -> Smoothed:
    """Scale the input channels of matrix products where the operator in front can take up the inverse.

    Args:
        graph: a prepared float model; not changed.
        calibration: its figures.
        kind: which rule gives the factors.
    """
    values: dict[str, Floats] = {}
    left_out: dict[str, str] = {}
    groups: list[tuple[str, list[SiteNode], _Fold]] = []
    by_input: dict[str, list[SiteNode]] = {}
    for site in graph.sites:
        if site.site.kind in ("matmul", "gemm"):
            by_input.setdefault(site.input, []).append(site)
    for tensor, readers in by_input.items():
        found = _fold_of(graph, tensor, readers)
        if isinstance(found, str):
            left_out.update(dict.fromkeys((s.site.name for s in readers), found))
        else:
            groups.append((tensor, readers, found))
    reach = calibration.channel_reach(t for t, _, _ in groups) if kind == "smoothquant" else {}
    for tensor, readers, fold in groups:
        matrices = [np.moveaxis(graph.weight(s), s.out_axis, 0) for s in readers]
        if kind == "smoothquant":
            factor = _smooth_factor(reach[tensor], matrices)
        else:
            moments = calibration.moments(readers[0])
            factor = np.ones(matrices[0].shape[1], np.float32)
            if moments is not None:
                factor = _awq_factor(moments.second[0], matrices)
        for site in readers:
            old = values.get(site.weight, graph.weight(site))
            values[site.weight] = old * factor.reshape((1, -1) if site.out_axis == 0 else (-1, 1))
        for name, axis in fold.constants:
            old = values.get(name, np.asarray(graph.constants[name], np.float32))
            shape = [-1 if k == axis % old.ndim else 1 for k in range(old.ndim)]
            values[name] = old / factor.reshape(shape)
    return Smoothed(graph=_with_values(graph, values), left_out=left_out)


def _with_values(graph: PreparedGraph, values: Mapping[str, Floats]) -> PreparedGraph:
    model = ModelProto()
    model.CopyFrom(graph.model)
    constants = dict(graph.constants)
    for tensor in model.graph.initializer:
        if tensor.name in values:
            constants[tensor.name] = np.ascontiguousarray(values[tensor.name], np.float32)
            tensor.CopyFrom(numpy_helper.from_array(constants[tensor.name], tensor.name))
    return PreparedGraph(model, graph.sites, graph.shapes, graph.types, graph.consumers, constants)


def _smooth_factor(reach: Floats, matrices: list[Floats]) -> Floats:
    """Factor of each input channel, ``max|x|^alpha / max|w|^(1-alpha)``; 1 where a channel is silent."""
    weight = np.max([np.abs(m).max(axis=0) for m in matrices], axis=0)
    good = (reach > 1e-8) & (weight > 1e-8)
    factor = np.where(good, np.where(good, reach, 1) ** _ALPHA / np.where(good, weight, 1) ** (1 - _ALPHA), 1)
    return np.clip(factor, 1 / _LIMIT, _LIMIT).astype(np.float32)


def _awq_factor(second: Floats, matrices: list[Floats]) -> Floats:
    """Factor of each input channel, its root mean square to the power that loses least at 4 bits, never above none."""
    carried = np.sqrt(np.maximum(np.diagonal(second), 0)).astype(np.float32)
    carried = np.maximum(carried, max(float(carried.max()) * 1e-4, 1e-12))
    best, chosen = np.inf, np.ones_like(carried)
    grid = Grid.of_bits(_AWQ_BITS)
    for power in np.linspace(0, 1, _AWQ_STEPS):
        factor = carried**power
        factor = np.clip(factor / np.sqrt(factor.max() * factor.min()), 1 / _LIMIT, _LIMIT).astype(np.float32)
        loss = 0.0
        for matrix in matrices:
            scaled = (matrix * factor)[None]
            scale = np.maximum(np.abs(scaled).max(axis=2) / -grid.low, np.float32(1e-12))
            back = rounded(scaled, scale, grid) * scale[:, :, None] / factor
            loss += float(rounding_loss(matrix[None], back, second[None]).sum())
        if loss < best:
            best, chosen = loss, factor
    return chosen


def _fold_of(graph: PreparedGraph, tensor: str, readers: list[SiteNode]) -> _Fold | str:
    """Return what takes up the factor of a tensor's channels, or why nothing does."""
    at = {s.node for s in readers}
    others = [graph.model.graph.node[k].op_type for k in graph.consumers.get(tensor, ()) if k not in at]
    if others:
        return f"its input is also read by {', '.join(sorted(set(others)))}"
    if tensor in {o.name for o in graph.model.graph.output}:
        return "its input is an output of the model"
    if any(len(graph.consumers.get(s.weight, ())) != 1 for s in readers):
        return "its weight is shared"
    makers = {o: n for n in graph.model.graph.node for o in n.output}
    width = readers[0].site.weight_shape[1 - readers[0].out_axis]
    maker = makers.get(tensor)
    if maker is None:
        return "its input is an input of the model"
    fold = _norm(graph, maker, makers, width) or _linear(graph, tensor, makers, width)
    if fold is None:
        return f"its input comes from {maker.op_type}, which cannot take up a factor"
    if any(len(graph.consumers.get(name, ())) != 1 for name, _ in fold.constants):
        return "what is in front of it shares its constants"
    return fold


def _vector(graph: PreparedGraph, name: str, width: int) -> bool:
    value = graph.constants.get(name)
    return value is not None and value.dtype == np.float32 and value.size == width == value.shape[-1]


def _norm(graph: PreparedGraph, maker: NodeProto, makers: Mapping[str, NodeProto], width: int) -> _Fold | None:
    """A layer normalization with its factor and offset, as one operator or as ``Mul`` and ``Add``."""
    if maker.op_type == "LayerNormalization":
        names = [n for n in list(maker.input)[1:] if n]
        return _Fold(constants=tuple((n, -1) for n in names)) if all(_vector(graph, n, width) for n in names) else None
    constants: list[tuple[str, int]] = []
    node: NodeProto | None = maker
    if maker.op_type == "Add":
        offset = next((n for n in maker.input if _vector(graph, n, width)), None)
        inner = next((n for n in maker.input if n not in graph.constants), "")
        if offset is None or len(graph.consumers.get(inner, ())) != 1:
            return None
        constants.append((offset, -1))
        node = makers.get(inner)
    if node is None or node.op_type != "Mul":
        return None
    factor = next((n for n in node.input if _vector(graph, n, width)), None)
    return None if factor is None else _Fold(constants=(*constants, (factor, -1)))


def _linear(graph: PreparedGraph, tensor: str, makers: Mapping[str, NodeProto], width: int) -> _Fold | None:
    """A matrix product in front, directly, behind a ``Relu``, or as the values of an attention."""
    sites = {s.output: s for s in graph.sites if s.site.kind in ("matmul", "gemm")}
    inner = tensor
    maker = makers[inner]
    if maker.op_type == "Relu":
        inner = maker.input[0]
    elif maker.op_type == "Reshape":
        inner = _attended(graph, tensor, makers)
    site = sites.get(inner)
    alone = inner == tensor or len(graph.consumers.get(inner, ())) == 1
    if site is None or not alone or site.site.weight_shape[site.out_axis] != width:
        return None
    bias = () if site.bias is None else ((site.bias, -1),)
    return _Fold(constants=((site.weight, site.out_axis), *bias))


def _attended(graph: PreparedGraph, tensor: str, makers: Mapping[str, NodeProto]) -> str:
    """Follow merged heads back through ``softmax @ values`` to the tensor that was split into heads; "" if none was."""
    name = tensor
    for op, which in (("Reshape", 0), ("Transpose", 0), ("MatMul", 1), ("Transpose", 0), ("Reshape", 0)):
        node = makers.get(name)
        if node is None or node.op_type != op:
            return ""
        if op == "Transpose" and attribute_ints(node, "perm", ()) != _HEADS:
            return ""
        if name != tensor and len(graph.consumers.get(name, ())) != 1:
            return ""
        name = node.input[which]
    return name
