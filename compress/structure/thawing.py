"""Parameters that were frozen, while a copy learns, is scored, or is traced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["thawed"]


@contextmanager
def thawed(module: nn.Module) -> Iterator[None]:
    """Let all floating-point parameters have gradients inside; those that were frozen are frozen again afterwards.

    A mask of minus infinity has nothing to learn, and no gradient that is a number: it stays frozen.

    Args:
        module: its weights are not changed by this.
    """
    frozen = [
        p for p in module.parameters()
        if p.is_floating_point() and not p.requires_grad and not bool(p.isneginf().any())
    ]  # fmt: skip
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
