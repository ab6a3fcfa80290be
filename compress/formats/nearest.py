"""Rounding each weight to the nearest grid point: needs no data, and is the yardstick of all other techniques."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modeltailor.compress.formats.grid import Grid

__all__ = ["rounded"]


def rounded(weight: NDArray[np.float32], scale: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Return the integers next to ``weight / scale``.

    Args:
        weight: ``[groups, out, K]``.
        scale: ``[groups, out]``.
        grid: the admissible integers.
    """
    return np.asarray(grid.nearest(weight / scale[:, :, None]), np.float32)
