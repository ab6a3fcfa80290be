"""Adaptive rounding: whether each weight goes up or down is learned, so that the layer's output stays where it was.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization" (AdaRound). A layer's error is the
quadratic form of the rounding error and the second moments of its inputs (equation 13 there), so the moments that
calibration collected are all the data that is needed. The soft choice is a rectified sigmoid (equation 23), pulled to
its ends by an annealed regularizer (equation 24). Rows are independent; a row that learning does not improve keeps its
nearest integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modeltailor.compress.formats.gptq import rounding_loss
from modeltailor.compress.formats.grid import Grid

__all__ = ["adaptively_rounded"]

_STRETCH_LOW, _STRETCH_HIGH = np.float32(-0.1), np.float32(1.1)  # gamma and zeta of the paper
_REGULARIZER = np.float32(0.3)
_WARM_UP = 0.2  # share of the steps without regularizer
_BETA_START, _BETA_END = 20.0, 2.0
_MOST_STEPS, _LEAST_STEPS = 800, 100
_MOST_OPERATIONS = 2e11  # of one site: some seconds on one core
_TRAVEL = 80.0  # what the learning rates of all steps add up to


def steps_within(rows: int, width: int) -> int:
    """Return the number of optimizer steps that a weight of ``[rows, width]`` gets in bounded time."""
    operations = 2.0 * rows * width * width + 60.0 * rows * width
    return int(np.clip(_MOST_OPERATIONS / max(operations, 1.0), _LEAST_STEPS, _MOST_STEPS))


def adaptively_rounded(
    weight: NDArray[np.float32],
    second: NDArray[np.float32],
    grid: Grid,
    *,
    steps: NDArray[np.float32] | None = None,
    free: NDArray[np.bool_] | None = None,
    iterations: int | None = None,
) -> NDArray[np.float32]:
    """Return the integers below or above each weight that keep the layer's output best.

    Args:
        weight: ``[groups, out, K]``, already in steps of the grid unless ``steps`` is given.
        second: second moments of the inputs, ``[groups, K, K]``.
        grid: the admissible integers.
        steps: step of each weight, the same shape, where they differ within a row.
        free: weights that may differ from zero, the same shape; all if ``None``.
        iterations: optimizer steps; by default what bounded time allows, see :func:`steps_within`.

    Returns:
        Integers as floats, the same shape; :func:`~modeltailor.compress.formats.gptq.rounding_loss` of no row is above
        that of rounding to the nearest.
    """
    groups, rows, width = weight.shape
    count = iterations or steps_within(groups * rows, width)
    size = np.float32(1.0) if steps is None else steps
    units = (weight / size).astype(np.float32)
    nearest = np.asarray(grid.nearest(units), np.float32)
    low, gap = _neighbours(units, grid)
    if free is not None:
        nearest = np.where(free, nearest, np.float32(0))
        low, gap = np.where(free, low, np.float32(0)), np.where(free, gap, np.float32(0))
    scale = np.maximum(np.trace(second, axis1=1, axis2=2) / width, 1e-20)[:, None, None].astype(np.float32)
    # a common factor of a row changes nothing but its pace: half a gap of each row is brought to one half
    size_of_gap = (gap * size).mean(axis=2, keepdims=True)
    pace = np.broadcast_to(size / np.maximum(size_of_gap, np.float32(1e-30)), weight.shape).astype(np.float32)
    chosen = low + gap * (_learned(units, low, gap, second / scale, pace, count) >= 0.5)
    chosen = np.asarray(np.where(gap > 0, chosen, nearest), np.float32)
    before = rounding_loss(weight, nearest * size, second)
    after = rounding_loss(weight, chosen * size, second)
    return np.where((after < before)[:, :, None], chosen, nearest).astype(np.float32)


def _neighbours(units: NDArray[np.float32], grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the admissible integer at or below each value, and how far the next one is; 0 beyond the ends."""
    if grid.levels is None:
        low = np.clip(np.floor(units), grid.low, grid.high)
        high = np.clip(np.floor(units) + 1, grid.low, grid.high)
    else:
        table = np.asarray(grid.levels, np.float32)
        at = np.searchsorted(table, units, side="right") - 1
        low, high = table[np.clip(at, 0, len(table) - 1)], table[np.clip(at + 1, 0, len(table) - 1)]
    return low.astype(np.float32), (high - low).astype(np.float32)


def _learned(
    units: NDArray[np.float32],
    low: NDArray[np.float32],
    gap: NDArray[np.float32],
    second: NDArray[np.float32],
    pace: NDArray[np.float32],
    count: int,
) -> NDArray[np.float32]:
    """Return the share of ``gap`` above ``low`` that Adam ends at, 0..1; nearly all values lie at an end."""
    span = _STRETCH_HIGH - _STRETCH_LOW
    share = np.clip((units - low) / np.where(gap > 0, gap, 1), 0.01, 0.99)
    inner = (share - _STRETCH_LOW) / span
    logits = np.log(inner / (1 - inner)).astype(np.float32)
    mean, spread = np.zeros_like(logits), np.zeros_like(logits)
    rate, warm = np.float32(_TRAVEL / count), int(_WARM_UP * count)
    for step in range(count):
        sigmoid = 1 / (1 + np.exp(-logits))
        stretched = sigmoid * span + _STRETCH_LOW
        h = np.clip(stretched, 0, 1)
        error = (low + h * gap - units) * pace
        slope = 2 * (error @ second) * (gap * pace)
        if step >= warm:
            done = (step - warm) / max(count - warm, 1)
            beta = np.float32(_BETA_END + (_BETA_START - _BETA_END) * 0.5 * (1 + np.cos(np.pi * done)))
            away = 2 * h - 1
            slope -= _REGULARIZER * 2 * beta * np.sign(away) * np.abs(away) ** (beta - 1)
        slope *= span * sigmoid * (1 - sigmoid) * ((stretched > 0) & (stretched < 1))
        mean += np.float32(0.1) * (slope - mean)
        spread += np.float32(0.001) * (slope * slope - spread)
        corrected = mean / np.float32(1 - 0.9 ** (step + 1))
        logits -= rate * corrected / (np.sqrt(spread / np.float32(1 - 0.999 ** (step + 1))) + np.float32(1e-8))
    return np.asarray(np.clip(span / (1 + np.exp(-logits)) + _STRETCH_LOW, 0, 1), np.float32)
