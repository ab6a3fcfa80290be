"""Counting parameters and multiply-accumulate operations of a PyTorch module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modeltailor.compress.structure.calling import call, evaluating

__all__ = ["LayerCost", "count_parameters", "layer_costs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """What one convolution or linear layer costs.

    Attributes:
        name: of the layer.
        macs: multiply-accumulate operations of one sample; all calls together.
    """

    name: str
    macs: int


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable and frozen parameters, shared ones once."""
    return sum(p.numel() for p in module.parameters())


def layer_costs(module: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[LayerCost, ...]:
    """Return the cost of each convolution and linear layer in the order of execution.

    Products of two activations (attention scores) are not counted.
    """
    macs: dict[str, int] = {}
    n_samples = len(next(iter(inputs.values())))

    def note(name: str, layer: nn.Module, output: object) -> None:
        if isinstance(output, Tensor) and isinstance(layer.weight, Tensor):
            a_value = layer.weight[0].numel() if not isinstance(layer, _TRANSPOSED) else layer.weight[0, 0].numel()
            macs[name] = macs.get(name, 0) + output.numel() * a_value // max(1, n_samples)

    hooks = [
        layer.register_forward_hook(lambda m, _, out, name=name: note(name, m, out))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    ]
    try:
        with evaluating(module), torch.no_grad():
            call(module, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(LayerCost(name=n, macs=m) for n, m in macs.items())


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
