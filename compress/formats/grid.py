"""The values that a stored weight can take before its scale: an interval of integers, or a table of integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grid"]


@dataclass(frozen=True, slots=True)
class Grid:
    """Admissible integers.

    Attributes:
        low: smallest.
        high: largest.
        levels: all of them in ascending order, where they are not simply all from ``low`` to ``high``.
    """

    low: int
    high: int
    levels: tuple[int, ...] | None = None

    @staticmethod
    def of_bits(bits: int, *, reach: int = 127) -> Grid:
        """Two's complement of ``bits`` bits; 8 bits go from ``-reach`` to ``reach``: no integer kernel wants -128."""
        return Grid(-reach, reach) if bits == 8 else Grid(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)

    @staticmethod
    def of_levels(levels: NDArray[np.integer]) -> Grid:
        """A table of integers."""
        ordered = tuple(sorted({int(v) for v in levels}))
        return Grid(ordered[0], ordered[-1], ordered)

    def nearest(self, x: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the admissible integer next to each value, as floats."""
        if self.levels is None:
            return np.asarray(np.clip(np.rint(x), self.low, self.high))
        table = np.asarray(self.levels, x.dtype)
        return np.asarray(table[np.searchsorted((table[1:] + table[:-1]) / 2, x)])
