"""How important each channel of a group is: the higher, the rather it stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from modeltailor.compress.structure.calling import call, first_tensor
from modeltailor.compress.structure.pruning_graph import Coupling, Member

__all__ = ["Score", "channel_scores", "gradients"]

Score = Literal["magnitude", "bn-scale", "taylor"]


def channel_scores(
    module: nn.Module, coupling: Coupling, score: Score, slopes: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Score the channels of a group.

    ``magnitude`` is the mean over the members of the squared norm of a channel's weights, relative to that member's
    mean (Li et al. 2017, over groups as Fang et al. 2023). ``bn-scale`` is the mean absolute scale of the
    normalisations behind the channel (Liu et al. 2017); ``magnitude`` where there are none. ``taylor`` is the mean
    absolute first-order change of the loss when a channel's weights vanish (Molchanov et al. 2019).

    Args:
        module: what the group belongs to.
        coupling: the group.
        score: which of them.
        slopes: gradient by parameter name, from :func:`gradients`; needed by ``taylor``.

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
        weight = layer.weight.detach()
        value = weight.square()
        if score == "taylor" and slopes is not None:
            value = weight * slopes[f"{member.name}.weight"]
        per_entry = value.flatten(1).sum(1) if _along_rows(layer, member) else value.transpose(0, 1).flatten(1).sum(1)
        if len(per_entry) <= max(member.indices):
            continue  # grouped and depthwise inputs have no axis of their own
        part = _gathered(per_entry, member, coupling.channels)
        parts.append(part.abs() if score == "taylor" else part / part.mean().clamp_min(1e-12))
    return torch.stack(parts).mean(0) if parts else torch.ones(coupling.channels)


def gradients(module: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor | None) -> dict[str, Tensor]:
    """Return the gradient of the loss by parameter name: cross-entropy with integer labels, else output energy.

    Args:
        module: in ``eval`` mode; its own gradients stay untouched.
        inputs: one batch.
        labels: [n] integer classes, or ``None``.
    """
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    with torch.enable_grad():
        output = first_tensor(call(module, inputs)).float()
        if labels is not None and not labels.is_floating_point() and output.ndim == 2:
            loss = functional.cross_entropy(output, labels)
        else:
            loss = 0.5 * output.square().mean()
        found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named, found, strict=True)}


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
