"""The optimizer of a training and its learning rate: one cycle (Smith and Topin 2018, arXiv:1708.07120)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from modeltailor.compress.training import Training

__all__ = ["make_optimizer", "optimizer_of", "rate_at"]

_WARM_UP_SHARE = 0.15
_LAST_RATE_SHARE = 0.002
_PEAKS = {"sgd": 0.05, "adamw": 1e-3}


def rate_at(position: float) -> float:
    """One-cycle learning rate as a share of its peak: linear up, then half a cosine down to nearly zero.

    Args:
        position: 0..1.
    """
    if position < _WARM_UP_SHARE:
        return max(position / _WARM_UP_SHARE, 0.04)
    down = (position - _WARM_UP_SHARE) / (1 - _WARM_UP_SHARE)
    return _LAST_RATE_SHARE + (1 - _LAST_RATE_SHARE) * 0.5 * (1 + math.cos(math.pi * down))


def optimizer_of(student: nn.Module, training: Training) -> tuple[Literal["sgd", "adamw"], float]:
    """Return the optimizer that ``training`` means for this network, and its peak learning rate."""
    kind: Literal["sgd", "adamw"]
    if training.optimizer == "auto":
        has_norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in student.modules())
        kind = "sgd" if has_norms else "adamw"
    else:
        kind = training.optimizer
    return kind, _PEAKS[kind] if training.learning_rate is None else training.learning_rate


def make_optimizer(
    student: nn.Module, training: Training, beside: Iterable[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """Return the optimizer; each group keeps its highest rate under ``peak``.

    Args:
        student: what learns.
        training: says which optimizer and how fast.
        beside: parameters that learn along and are not handed back.
    """
    parameters = [*student.parameters(), *beside]
    matrices = [p for p in parameters if p.requires_grad and p.ndim > 1]
    vectors = [p for p in parameters if p.requires_grad and p.ndim <= 1]
    kind, peak = optimizer_of(student, training)
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay, "peak": peak},
        {"params": vectors, "weight_decay": 0.0, "peak": peak},
    ]
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.99))
    return torch.optim.SGD(groups, lr=peak, momentum=0.9, nesterov=True)
