"""Random crops, flips and mixtures of images, each step's draw fixed by seed and step number."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["mix", "vary"]


def vary(images: Tensor, generator: torch.Generator, *, mirror: bool) -> Tensor:
    """Shift each image by up to an eighth of its side, and mirror half of them if asked to.

    Args:
        images: [n, channels, height, width], normalised so that 0 is a plain colour; borders are filled by reflection.
        generator: source of the draws.
        mirror: left and right may be exchanged.
    """
    n, _, height, width = images.shape
    pad = max(1, min(height, width) // 8)
    padded = functional.pad(images, (pad, pad, pad, pad), mode="reflect")
    top = torch.randint(0, 2 * pad + 1, (n, 1), generator=generator)
    left = torch.randint(0, 2 * pad + 1, (n, 1), generator=generator)
    mirrored = torch.rand(n, 1, generator=generator) < (0.5 if mirror else 0.0)
    rows = top + torch.arange(height)
    columns = torch.arange(width).expand(n, width)
    columns = left + torch.where(mirrored, columns.flip(1), columns)
    taken = padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return taken.permute(0, 3, 1, 2)  # a channels-last tensor: what the convolutions like


def mix(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Blend each image with another one of the batch by one weight drawn from 0..``share`` (Zhang et al. 2018)."""
    weight = float(torch.rand(1, generator=generator)) * share
    return torch.lerp(images, images[torch.randperm(len(images), generator=generator)], weight)
