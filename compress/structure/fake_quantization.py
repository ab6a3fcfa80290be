"""Weights that are rounded in the forward pass and learn through it, on the very grid that the files store.

Learned step sizes after Esser et al. 2020 (LSQ, arXiv:1902.08153): straight-through gradients for the weights, and for
the scale the gradient of the rounding error.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["RoundedWeight", "grid_limits", "round_weights", "settle_weights"]

_STEPS = 60


def grid_limits(bits: int) -> tuple[int, int]:
    """Smallest and largest stored integer: two's complement, without -128 at 8 bits as integer kernels want it."""
    return (-127, 127) if bits == 8 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


class RoundedWeight(nn.Module):
    """Parametrization ``scale * clamp(round(weight / scale))``, one scale an output channel (axis 0).

    Args:
        weight: what the scales are fitted to, [out, ...].
        bits: 2 to 8.
    """

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.low, self.high = grid_limits(bits)
        self.scale = nn.Parameter(_fitted_scale(weight.detach().flatten(1), self.low, self.high))
        self._share = float((weight[0].numel() * self.high) ** -0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight as the file will hold it."""
        scale = self.scale.abs().clamp_min(1e-8)
        scale = (scale - scale * self._share).detach() + scale * self._share  # the gradient alone is scaled
        scale = scale.view(-1, *[1] * (weight.ndim - 1))
        steps = (weight / scale).clamp(self.low, self.high)
        return (steps + (steps.round() - steps).detach()) * scale


class _Positive(nn.Module):
    """Keeps the scales of a normalisation above zero: folding it must not mirror the grid."""

    def forward(self, scale: Tensor) -> Tensor:
        return scale.abs().clamp_min(1e-5)


def _fitted_scale(rows: Tensor, low: int, high: int) -> Tensor:
    """The step of least squared error, searched a row at a time on a grid of fractions of the reach."""
    reach = torch.maximum(rows.amax(1) / max(high, 1), rows.amin(1) / low).clamp_min(1e-8)
    best, chosen = torch.full_like(reach, torch.inf), reach.clone()
    for factor in torch.linspace(0.25, 1.05, _STEPS).tolist():
        scale = (reach * factor)[:, None]
        error = ((rows / scale).round().clamp(low, high) * scale - rows).square().sum(1)
        better = error < best
        best, chosen = torch.where(better, error, best), torch.where(better, reach * factor, chosen)
    return chosen


def round_weights(module: nn.Module, bits: dict[str, int], followers: dict[str, str]) -> None:
    """Put :class:`RoundedWeight` on those layers, in place.

    Args:
        module: changed in place; it computes what it did, but for the rounding.
        bits: stored bits by layer name.
        followers: the batch normalisation behind a layer, by layer name.
    """
    for name, count in bits.items():
        layer = module.get_submodule(name)
        if name in followers:
            _unmirror(layer, module.get_submodule(followers[name]))
        weight = layer.weight
        assert isinstance(weight, Tensor)
        parametrize.register_parametrization(layer, "weight", RoundedWeight(weight, count))


def settle_weights(module: nn.Module) -> None:
    """Replace, in place, every parametrization by the values it gives: the weights are then on their grid."""
    for layer in list(module.modules()):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def _unmirror(layer: nn.Module, norm: nn.Module) -> None:
    """Make the normalisation's scales positive by mirroring the channels in front of it; exact."""
    scales = norm.weight
    if not isinstance(scales, Tensor):
        return  # a normalisation without scales mirrors nothing
    with torch.no_grad():
        sign = torch.where(scales < 0, -1.0, 1.0)
        weight = layer.weight
        assert isinstance(weight, Tensor)
        weight.mul_(sign.view(-1, *[1] * (weight.ndim - 1)))
        for part in (layer.bias, scales, norm.running_mean):
            if isinstance(part, Tensor):
                part.mul_(sign)
    parametrize.register_parametrization(norm, "weight", _Positive())
