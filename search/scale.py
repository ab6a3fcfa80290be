"""What the figures of a metric are held against: those of a score between 0 and 1 against 1, any other against the original's.

A loss of 0.02 is two points of an accuracy, nothing of an error of 2,000 and five times an error of 0.004. So whatever
holds without a word from the user is a share of the metric's own scale.
"""

from __future__ import annotations

from dataclasses import replace

from modeltailor.targets import Budget

__all__ = ["DEFAULT_LOSS", "UNITS", "drop_points", "is_score", "scale_of", "settled", "usual_worthless_loss"]

UNITS = "units"
"""What a metric is counted in that is no share and was given no unit."""

DEFAULT_LOSS = 0.1
"""Losses of accuracy above it count for nothing, unless the goal says otherwise."""

_DEFAULT_RISE = 0.5
"""The same for errors and other metrics without a natural scale, as a share of the original's value."""


_ROUNDING = 1e-9
"""The original's value is also got as a difference, which may lie that much beyond an end."""


def is_score(original: float, *, minimize: bool = False) -> bool:
    """Whether a metric counts as a share: larger is better, and the original's value lies between 0 and 1."""
    return not minimize and -_ROUNDING <= original <= 1.0 + _ROUNDING


def scale_of(original: float, *, minimize: bool = False) -> float:
    """Return what shares of a metric are taken of, in its unit: 1 for a score, what the original has for anything else."""
    return 1.0 if is_score(original, minimize=minimize) else abs(original) or 1.0


def usual_worthless_loss(original: float, *, minimize: bool = False) -> float:
    """Return the loss from which on a model is worth nothing where no budget allows more, in the metric's unit."""
    if is_score(original, minimize=minimize):
        return DEFAULT_LOSS
    return _DEFAULT_RISE * abs(original) or DEFAULT_LOSS


def drop_points(budget: Budget, original: float, *, minimize: bool = False) -> float | None:
    """Return the largest loss that a budget allows, in points (hundredths of the metric's unit); ``None`` without a limit.

    Args:
        budget: the limits.
        original: the original's value of the metric.
        minimize: whether a smaller metric is better.
    """
    allowed = [] if budget.max_drop is None else [budget.max_drop]
    if budget.max_drop_share is not None:
        of_scale = 100.0 * budget.max_drop_share * scale_of(original, minimize=minimize)
        allowed.append(float(f"{of_scale:.6g}"))  # it is read, and given again: --max-drop
    return min(allowed, default=None)


def settled(budget: Budget, original: float, *, minimize: bool = False) -> Budget:
    """Return a budget whose limit on the loss is in points alone, now that the original was measured.

    Args:
        budget: the limits.
        original: the original's value of the metric.
        minimize: whether a smaller metric is better.
    """
    if budget.max_drop_share is None:
        return budget
    return replace(budget, max_drop=drop_points(budget, original, minimize=minimize), max_drop_share=None)
