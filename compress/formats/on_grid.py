"""Weights that lie on a grid already, as quantization-aware training leaves them: scales are read off, not searched."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modeltailor.compress.formats.grid import Grid

__all__ = ["read_scale"]

_AT_ONCE = 1 << 18  # weights that are looked at together
_TOLERANCE = 1e-3  # of a step; folding a normalisation into the weight moves it by 1e-6 of one


def read_scale(weight: NDArray[np.float32], grid: Grid) -> NDArray[np.float32] | None:
    """Return the scale of each channel at which every weight is an admissible integer; ``None`` if there is none.

    Args:
        weight: ``[groups, out, K]``.
        grid: a short interval of integers.

    Returns:
        Positive scales, ``[groups, out]``.
    """
    if grid.levels is not None or grid.high - grid.low > 127:
        return None
    at_once = max(1, _AT_ONCE // max(weight.shape[2] * weight.shape[0], 1))
    parts = []
    for start in range(0, weight.shape[1], at_once):  # rows do not depend on each other, and the first mostly says no
        found = _read_rows(weight[:, start : start + at_once].astype(np.float64), grid)
        if found is None:
            return None
        parts.append(found)
    return np.concatenate(parts, axis=1) if parts else None


def _read_rows(rows: NDArray[np.float64], grid: Grid) -> NDArray[np.float32] | None:
    reach = np.abs(rows).max(axis=2)
    found = np.where(reach == 0, 1.0, 0.0)
    for steps in range(1, max(-grid.low, grid.high) + 1):  # the longest weight is so many steps long
        scale = np.where(reach > 0, reach / steps, 1.0)
        units = rows / scale[:, :, None]
        nearest = np.rint(units)
        fits = (np.abs(units - nearest) < _TOLERANCE) & (nearest >= grid.low) & (nearest <= grid.high)
        found = np.where((found == 0) & fits.all(axis=2), scale, found)
    return found.astype(np.float32) if bool((found > 0).all()) else None
