"""Weight scales by search: the step that leaves the smallest squared error, weighted by how much each input matters.

As in Nagel et al. 2021, "A White Paper on Neural Network Quantization" (MSE range setting); the weights are the
second moments of the inputs, the diagonal of the layer's Hessian (Frantar et al. 2022).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modeltailor.compress.formats.grid import Grid

__all__ = ["dead_rows", "refit_scale", "search_offset_scale", "search_scale"]

_TINY = 1e-12
_DEAD = np.float32(2.0**-20)
_AT_ONCE = 1 << 22  # weights whose errors are held at a time; rows do not depend on each other


def search_scale(
    weight: NDArray[np.float32], importance: NDArray[np.float32], grid: Grid, *, per_channel: bool
) -> NDArray[np.float32]:
    """Return the scale of each output channel.

    Args:
        weight: ``[groups, out, K]``.
        importance: ``[groups, K]``, not negative.
        grid: the admissible integers.
        per_channel: one scale a channel; otherwise all are equal.

    Returns:
        Positive scales, ``[groups, out]``.
    """
    wide = grid.high - grid.low >= 126
    steps = 12 if wide else (24 if weight.size > 1 << 17 else 48)
    factors = np.linspace(0.8 if wide else 0.25, 1.05, steps, dtype=np.float32)
    largest = np.abs(weight).max(initial=0.0) or 1.0
    floor = np.where(dead_rows(weight), largest / max(grid.high, 1), 0.0).astype(np.float32)
    rows = max(1, _AT_ONCE // max(weight.shape[2] * weight.shape[0], 1))
    if not per_channel or weight.shape[1] <= rows:
        return _searched(weight, importance, grid, factors, floor, per_channel=per_channel)
    parts = [
        _searched(weight[:, k : k + rows], importance, grid, factors, floor[:, k : k + rows], per_channel=True)
        for k in range(0, weight.shape[1], rows)
    ]
    return np.concatenate(parts, axis=1)


def dead_rows(weight: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Say which rows do nothing beside the largest weight of their layer, ``[groups, out]``.

    They get a step like the others', with which their integers are zeros. One that fits them would be so small that their
    bias, whole multiples of step times input scale, ends at the largest 32-bit integer.

    Args:
        weight: ``[groups, out, K]``.
    """
    reach = np.abs(weight).max(axis=2, initial=0.0)
    return np.asarray(reach <= _DEAD * reach.max(initial=0.0))


def _searched(
    weight: NDArray[np.float32],
    importance: NDArray[np.float32],
    grid: Grid,
    factors: NDArray[np.float32],
    floor: NDArray[np.float32],
    *,
    per_channel: bool,
) -> NDArray[np.float32]:
    reach = np.maximum(weight.max(axis=2) / max(grid.high, 1), weight.min(axis=2) / min(grid.low, -1))
    reach = np.maximum(reach, floor)
    if not per_channel:
        reach = np.full_like(reach, reach.max())
    best = np.full(reach.shape, np.inf, np.float32)
    chosen = reach.copy()
    root = np.sqrt(importance)[:, None, :]
    scaled = weight * root
    for factor in factors:
        scale = reach * factor
        error = grid.nearest(weight / scale[:, :, None])
        error *= scale[:, :, None] * root
        error -= scaled
        loss = np.einsum("gok,gok->go", error, error)
        if not per_channel:
            loss = np.full_like(loss, loss.sum())
        better = loss < best
        best = np.where(better, loss, best)
        chosen = np.where(better, scale, chosen)
    return np.asarray(chosen, np.float32)


def search_offset_scale(weight: NDArray[np.float32], grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return scale and zero point of each row that leave the smallest squared error.

    Args:
        weight: ``[groups, rows, K]``.
        grid: an interval of integers; zero points lie in it, too.

    Returns:
        Positive scales and whole zero points, ``[groups, rows]`` each; ``weight`` is about
        ``scale * (integer - zero_point)``.
    """
    low, high = np.minimum(weight.min(axis=2), 0), np.maximum(weight.max(axis=2), 0)
    best = np.full(low.shape, np.inf, np.float32)
    chosen, zeros = np.ones_like(low), np.zeros_like(low)
    for below in np.linspace(0.6, 1.0, 6, dtype=np.float32):
        for above in np.linspace(0.6, 1.0, 6, dtype=np.float32):
            span = np.maximum(high * above - low * below, np.float32(_TINY))
            scale = (span / (grid.high - grid.low)).astype(np.float32)
            zero = np.clip(np.rint(grid.low - low * below / scale), grid.low, grid.high).astype(np.float32)
            integers = np.clip(np.rint(weight / scale[:, :, None]) + zero[:, :, None], grid.low, grid.high)
            error = (integers - zero[:, :, None]) * scale[:, :, None] - weight
            loss = np.einsum("gok,gok->go", error, error)
            better = loss < best
            best = np.where(better, loss, best)
            chosen, zeros = np.where(better, scale, chosen), np.where(better, zero, zeros)
    return np.asarray(chosen, np.float32), np.asarray(zeros, np.float32)


def refit_scale(
    weight: NDArray[np.float32],
    integers: NDArray[np.float32],
    second: NDArray[np.float32],
    scale: NDArray[np.float32],
    *,
    per_channel: bool,
) -> NDArray[np.float32]:
    """Return the scales that fit given integers best: the least squares solution under the Hessian ``second``.

    Args:
        weight: ``[groups, out, K]``.
        integers: the same shape.
        second: ``[groups, K, K]``.
        scale: what is kept where the solution is not positive.
        per_channel: as in :func:`search_scale`.
    """
    reached = integers @ second
    above = np.einsum("gok,gok->go", reached, weight)
    below = np.einsum("gok,gok->go", reached, integers)
    if not per_channel:
        # all rows share one scale, which the rows must be weighted with
        above, below = np.full_like(above, above.sum()), np.full_like(below, below.sum())
    good = (below > 0) & (above > 0)
    return np.where(good, above / np.where(good, below, 1), scale).astype(np.float32)
