"""How important each channel of a group is: the higher, the rather it stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from modeltailor.compress.structure.calling import call, first_tensor
from modeltailor.compress.structure.pruning_graph import Coupling, Member
from modeltailor.compress.structure.thawing import thawed
from modeltailor.compress.structure.training_data import TrainingData
from modeltailor.compress.structures import ChannelScore
from modeltailor.errors import ConfigError

__all__ = ["NEEDS_DATA", "Figures", "channel_scores", "figures_for", "gradients"]

NEEDS_DATA = frozenset[ChannelScore](("taylor", "fisher", "activation"))
_ROWS = 256
_BATCH = 32
_FISHER_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Figures:
    """What a network showed on calibration data; each score reads its own part.

    Attributes:
        slopes: mean gradient of the loss by parameter name (``taylor``).
        curvature: mean squared gradient of single samples, the diagonal of the empirical Fisher information (``fisher``).
        energies: mean square of each input of a layer, by layer name (``activation``).
    """

    slopes: Mapping[str, Tensor] = field(default_factory=dict)
    curvature: Mapping[str, Tensor] = field(default_factory=dict)
    energies: Mapping[str, Tensor] = field(default_factory=dict)


def figures_for(module: nn.Module, score: ChannelScore, calibration: TrainingData | None) -> Figures:
    """Run calibration data through a network as far as a score needs it.

    Args:
        module: in ``eval`` mode; not changed.
        score: which.
        calibration: the first 256 rows are used, 64 for ``fisher``; labels sharpen ``taylor`` and ``fisher``.

    Raises:
        ConfigError: the score needs data and there is none.
    """
    if score not in NEEDS_DATA:
        return Figures()
    if calibration is None:
        raise ConfigError("CFG-11", "structure.score", f"{score} needs calibration data", "give it, or use magnitude")
    n, size = (_FISHER_ROWS, 1) if score == "fisher" else (_ROWS, _BATCH)
    n = min(n, len(calibration))
    total: dict[str, Tensor] = {}
    for start in range(0, n, size):
        inputs, labels = calibration.batch(np.arange(start, min(start + size, n)))
        share = min(size, n - start) / n
        found = _energies(module, inputs) if score == "activation" else gradients(module, inputs, labels)
        for name, value in found.items():
            total[name] = total.get(name, 0) + share * (value.square() if score == "fisher" else value)
    match score:
        case "taylor":
            return Figures(slopes=total)
        case "fisher":
            return Figures(curvature=total)
        case _:
            return Figures(energies=total)


def channel_scores(
    module: nn.Module, coupling: Coupling, score: ChannelScore, figures: Figures | None = None
) -> Tensor:
    """Score the channels of a group.

    ``magnitude`` is the mean over the members of the squared norm of a channel's weights, relative to that member's
    mean (Li et al. 2017, over groups as Fang et al. 2023). ``bn-scale`` is the mean absolute scale of the
    normalisations behind the channel (Liu et al. 2017); ``magnitude`` where there are none. ``taylor`` is the mean
    absolute first-order change of the loss when a channel's weights vanish (Molchanov et al. 2019). ``fisher`` is its
    second-order change, with the empirical Fisher information for the Hessian's diagonal (LeCun et al. 1990; Theis et
    al. 2018). ``activation`` is the energy that the channel brings to the layers that read it: mean square of the input
    times squared norm of the weights (as An et al. 2024, FLAP, without its centring).

    Args:
        module: what the group belongs to.
        coupling: the group.
        score: which of them.
        figures: from :func:`figures_for`, for the scores that need data.

    Returns:
        float32 [channels].
    """
    if score == "bn-scale":
        scales = [
            _gathered(layer.weight.detach().abs(), m, coupling.channels)
            for m in coupling.members
            if m.side == "entry" and isinstance(layer := _layer(module, m.name), _NORMS) and layer.weight is not None
        ]
        if scales:
            return torch.stack(scales).mean(0)
    parts: list[Tensor] = []
    for member in coupling.members:
        layer = _layer(module, member.name)
        if member.side == "entry" or not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            continue
        if score == "activation" and (member.side == "out" or member.name not in (figures or Figures()).energies):
            continue
        value = weight_values(member.name, layer.weight.detach(), score, figures)
        per_entry = value.flatten(1).sum(1) if _along_rows(layer, member) else value.transpose(0, 1).flatten(1).sum(1)
        if len(per_entry) <= max(member.indices):
            continue  # grouped and depthwise inputs have no axis of their own
        if score == "activation":
            assert figures is not None
            per_entry = per_entry * figures.energies[member.name]
        part = _gathered(per_entry, member, coupling.channels)
        parts.append(part / part.mean().clamp_min(1e-12) if score in ("magnitude", "bn-scale") else part.abs())
    if parts:
        return torch.stack(parts).mean(0)
    return torch.ones(coupling.channels) if score == "magnitude" else channel_scores(module, coupling, "magnitude")


def weight_values(name: str, weight: Tensor, score: ChannelScore, figures: Figures | None) -> Tensor:
    """What each weight of a layer counts in a score, before it is summed over a channel."""
    if figures is not None and score == "taylor":
        return weight * figures.slopes[f"{name}.weight"]
    if figures is not None and score == "fisher":
        return weight.square() * figures.curvature[f"{name}.weight"]
    return weight.square()


def gradients(module: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor | None) -> dict[str, Tensor]:
    """Return the gradient of the loss by parameter name: cross-entropy with integer labels, else output energy.

    Args:
        module: in ``eval`` mode; its own gradients stay untouched; frozen parameters count as others do.
        inputs: one batch.
        labels: [n] integer classes, or ``None``.
    """
    with thawed(module), torch.enable_grad():
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        output = first_tensor(call(module, inputs)).float()
        if labels is not None and not labels.is_floating_point() and output.ndim == 2:
            loss = functional.cross_entropy(output, labels)
        else:
            loss = 0.5 * output.square().mean()
        found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named, found, strict=True)}


def _energies(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def note(name: str, layer: nn.Module, given: tuple[object, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            axis = given[0].ndim - 1 if isinstance(layer, nn.Linear) else 1
            found[name] = given[0].detach().float().square().movedim(axis, -1).flatten(0, -2).mean(0)

    hooks = [
        layer.register_forward_pre_hook(lambda m, given, n=name: note(n, m, given))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and getattr(layer, "groups", 1) == 1
    ]
    try:
        with torch.no_grad():
            call(module, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def _layer(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:  # a bare parameter
        return None


def _along_rows(layer: nn.Module, member: Member) -> bool:
    transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    return (member.side == "out") != transposed


def _gathered(per_entry: Tensor, member: Member, channels: int) -> Tensor:
    total = torch.zeros(channels)
    indices, roots = torch.tensor(member.indices), torch.tensor(member.channels)
    return total.index_add(0, roots, per_entry[indices].float())
