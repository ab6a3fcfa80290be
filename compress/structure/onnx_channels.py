"""Channel and neuron pruning of an ONNX file without PyTorch: groups, scores and removal on the graph itself.

The counterpart of :mod:`modeltailor.compress.structure.groups` for models that come as a file. What is removed cannot
learn here: small shares cost little, larger ones need training data and the PyTorch model. The mean of what a removed
channel gave is put into the bias of the layers that read it (as An et al. 2024, FLAP, arXiv:2312.11983), if calibration
data is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from modeltailor.compress.formats.calibrate import Calibration
from modeltailor.compress.formats.graph import PreparedGraph, SiteNode, prepare
from modeltailor.compress.formats.store import Store
from modeltailor.compress.structure.onnx_dependencies import Dependencies
from modeltailor.compress.structure.onnx_layouts import Layout
from modeltailor.compress.structure.reshaping import kept_channels
from modeltailor.errors import CandidateError
from modeltailor.targets import Inputs, RuntimeOptions

__all__ = ["OnnxGroup", "Refusal", "onnx_groups", "prune_onnx"]

_SMALLEST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxGroup:
    """Channels of a graph that can only be removed together.

    Attributes:
        name: the first site, in the order of execution, that produces them.
        channels: how many there are.
        producers: all sites that produce them.
        members: the initializers that change.
        coupled: several sites produce them.
        macs_share: share of the multiply-accumulates that lies in layers that produce or read them, 0..1.
    """

    name: str
    channels: int
    producers: tuple[str, ...]
    members: tuple[str, ...]
    coupled: bool
    macs_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Channels that must stay, and why.

    Attributes:
        name: the site that produces them.
        reason: one sentence without its full stop.
    """

    name: str
    reason: str


def onnx_groups(
    model: Path | bytes | ModelProto, *, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[tuple[OnnxGroup, ...], tuple[Refusal, ...]]:
    """List the channel groups of a float ONNX model, and what cannot be cut.

    Args:
        model: not changed.
        input_shapes: shape of each input, where the file leaves dimensions free.

    Raises:
        ModelError: the model cannot be read.
    """
    graph = prepare(model, input_shapes=input_shapes)
    found = Dependencies(graph)
    groups, refused = [], []
    macs = {s.weight: s.site.macs for s in graph.sites}
    total = max(1, sum(macs.values()))
    for root in found.groups.roots():
        name = found.groups.producers[root][0]
        reason = found.groups.reason(root)
        if reason is None and found.groups.channels[root] < _SMALLEST:
            reason = "it has a single channel"
        if reason is not None:
            refused.append(Refusal(name=name, reason=reason))
            continue
        members = tuple(dict.fromkeys(e.tensor for e in found.groups.entries(root)))
        producers = tuple(dict.fromkeys(found.groups.producers[root]))
        groups.append(
            OnnxGroup(
                name=name, channels=found.groups.channels[root], producers=producers, members=members,
                coupled=len(producers) > 1, macs_share=sum(macs.get(m, 0) for m in members) / total,
            )
        )  # fmt: skip
    return tuple(groups), tuple(refused)


def prune_onnx(
    model: Path | bytes | ModelProto,
    keep: Mapping[str, float],
    *,
    multiple: int = 8,
    calibration: Inputs | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> ModelProto:
    """Return the model with the weakest channels of the named groups taken out.

    Channels are ranked by the norm of the weights that make and read them; with calibration data, by the energy that
    they bring to their readers.

    Args:
        model: a float model; not changed.
        keep: kept share (0..1] by group name.
        multiple: kept channels are rounded to it.
        calibration: inputs by name, each ``[n, ...]``; sharpens the ranking and corrects biases.
        input_shapes: shape of each input, where the file leaves dimensions free.

    Raises:
        CandidateError: a group is unknown or cannot be cut; the message says why.
        ModelError: the model cannot be read.
    """
    shapes = input_shapes or (None if calibration is None else {k: v.shape for k, v in calibration.items()})
    graph = prepare(model, input_shapes=shapes)
    found = Dependencies(graph)
    figures = None
    if calibration is not None:
        figures = Calibration(graph, calibration, options=RuntimeOptions(), store=Store(None, ""), seed=0)
    cuts = _Cuts(graph, found, figures)
    removed: dict[int, NDArray[np.int64]] = {}
    for name, share in keep.items():
        root = _root(found, name)
        scores = cuts.scores(root)
        stays = kept_channels(len(scores), share, multiple)
        order = np.argsort(scores, kind="stable")
        removed[root] = np.sort(order[: len(scores) - stays])
    return _written(graph, found, cuts.corrected(removed), removed)


def _root(found: Dependencies, name: str) -> int:
    for root in found.groups.roots():
        if found.groups.producers[root][0] == name:
            reason = found.groups.reason(root)
            if reason is not None:
                raise CandidateError("UNSUPPORTED", name, reason, "keep this group whole")
            return root
    raise CandidateError("UNSUPPORTED", name, "is not a channel group of this model", "list onnx_groups()")


class _Cuts:
    """Scores of channels, and weights as they are before channels go."""

    def __init__(self, graph: PreparedGraph, found: Dependencies, figures: Calibration | None) -> None:
        self._graph = graph
        self._found = found
        self._figures = figures
        self._site = {s.weight: s for s in graph.sites}

    def scores(self, root: int) -> NDArray[np.float64]:
        """One a channel; the higher, the rather it stays."""
        channels = self._found.groups.channels[root]
        seen: list[NDArray[np.float64]] = []
        unseen: list[NDArray[np.float64]] = []
        for entry in self._found.groups.entries(root):
            if entry.side == "entry":
                continue
            value = np.square(np.asarray(self._graph.constants[entry.tensor], np.float64))
            moments = self._moments(entry.tensor) if entry.side == "in" else None
            if moments is not None:
                value = value * moments[1]
            per_entry = np.moveaxis(value, entry.axis, 0).reshape(value.shape[entry.axis], -1).sum(axis=1)
            mine = (
                per_entry[entry.offset : entry.offset + channels * entry.repeat].reshape(channels, entry.repeat).sum(1)
            )
            (unseen if moments is None else seen).append(mine / max(float(mine.mean()), 1e-12))
        return np.mean(seen or unseen, axis=0) if seen or unseen else np.ones(channels)

    def corrected(self, removed: Mapping[int, NDArray[np.int64]]) -> dict[str, NDArray[np.generic]]:
        """All constants, biases moved by the mean of what the removed channels gave to their readers."""
        values = {k: np.array(v) for k, v in self._graph.constants.items()}
        for root, gone in removed.items():
            for entry in self._found.groups.entries(root):
                site, moments = self._site.get(entry.tensor), self._moments(entry.tensor)
                if (
                    entry.side != "in"
                    or site is None
                    or site.bias is None
                    or moments is None
                    or self._is_shared(site.bias)
                ):
                    continue
                lost = np.asarray(self._graph.constants[entry.tensor], np.float64) * moments[0]
                lost = np.take(lost, _places(gone, entry.offset, entry.repeat), axis=entry.axis)
                shift = np.moveaxis(lost, site.out_axis, 0).reshape(lost.shape[site.out_axis], -1).sum(axis=1)
                bias = values[site.bias]
                values[site.bias] = (bias.astype(np.float64) + shift.reshape(bias.shape)).astype(bias.dtype)
        return values

    def _is_shared(self, tensor: str) -> bool:
        """Whether several nodes read a constant: what is added for one of them would reach the others."""
        return sum(list(n.input).count(tensor) for n in self._graph.model.graph.node) > 1

    def _moments(self, weight: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Mean and mean square of what each weight is multiplied with, to be broadcast against the weight."""
        site = self._site.get(weight)
        found = None if site is None or self._figures is None or site.group != 1 else self._figures.moments(site)
        if found is None or site is None:
            return None
        second = np.diagonal(found.second[0]).astype(np.float64)
        return _as_weight(found.first.reshape(-1), site), _as_weight(second, site)


def _as_weight(row: NDArray[np.floating], site: SiteNode) -> NDArray[np.float64]:
    shape = list(site.site.weight_shape)
    del shape[site.out_axis]
    return np.expand_dims(row.astype(np.float64).reshape(shape), site.out_axis)


def _places(gone: NDArray[np.int64], offset: int, repeat: int) -> NDArray[np.int64]:
    return (offset + gone[:, None] * repeat + np.arange(repeat)[None]).reshape(-1)


def _written(
    graph: PreparedGraph,
    found: Dependencies,
    values: dict[str, NDArray[np.generic]],
    removed: Mapping[int, NDArray[np.int64]],
) -> ModelProto:
    cut: dict[tuple[str, int], list[NDArray[np.int64]]] = {}
    for root, gone in removed.items():
        for entry in found.groups.entries(root):
            cut.setdefault((entry.tensor, entry.axis), []).append(_places(gone, entry.offset, entry.repeat))
    for (tensor, axis), places in cut.items():
        values[tensor] = np.delete(values[tensor], np.concatenate(places), axis=axis)
    made = ModelProto()
    made.CopyFrom(graph.model)
    fresh = []
    for index, (position, layout) in found.reshapes.items():
        node = made.graph.node[index]
        shape = np.array(graph.constants[node.input[1]])
        if shape[position] != _left(found, layout, removed):
            shape[position] = _left(found, layout, removed)
            node.input[1] = f"{node.output[0]}/shape"
            fresh.append(numpy_helper.from_array(shape, node.input[1]))
    for index, layout in found.depthwise.items():
        for attribute in made.graph.node[index].attribute:
            if attribute.name == "group":
                attribute.i = _left(found, layout, removed)
    del made.graph.value_info[:]
    for initializer in made.graph.initializer:
        if (initializer.name in values and tuple(initializer.dims) != values[initializer.name].shape) or (
            initializer.name in values and initializer.data_type == 1
        ):
            initializer.CopyFrom(numpy_helper.from_array(values[initializer.name], initializer.name))
    made.graph.initializer.extend(fresh)
    return made


def _left(found: Dependencies, layout: Layout, removed: Mapping[int, NDArray[np.int64]]) -> int:
    """How long a channel axis is afterwards."""
    return sum(s.repeat * (s.channels - len(removed.get(found.groups.root(s.group), ()))) for s in layout.segments)
