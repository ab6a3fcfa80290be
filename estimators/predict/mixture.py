"""Mixtures of normal distributions over log latency, and the bands read from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

__all__ = ["Mixture"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mixture:
    """For each item a mixture of normals over its natural log milliseconds.

    Attributes:
        centres: ``[n_parts, n_items]``.
        spreads: standard deviations, ``[n_parts, n_items]``.
        weights: ``[n_parts]``, sum 1.
    """

    centres: Floats
    spreads: Floats
    weights: Floats

    def mean(self) -> Floats:
        """Return the mean log milliseconds, ``[n_items]``."""
        return self.weights @ self.centres

    def spread(self) -> Floats:
        """Return the standard deviation of log milliseconds, ``[n_items]``."""
        second = self.weights @ (self.spreads**2 + self.centres**2)
        return np.sqrt(np.maximum(second - self.mean() ** 2, 1e-12))

    def below(self, log_ms: Floats) -> Floats:
        """Return the probability that each item takes less than ``log_ms``, ``[n_items]``."""
        share: Floats = self.weights @ ndtr((log_ms - self.centres) / self.spreads)
        return share

    def median(self) -> Floats:
        """Return the median log milliseconds, ``[n_items]``."""
        return self.quantile(0.5)

    def quantile(self, share: float) -> Floats:
        """Return the log milliseconds below which ``share`` of the probability lies, ``[n_items]``."""
        low = (self.centres - 8.0 * self.spreads).min(axis=0)
        high = (self.centres + 8.0 * self.spreads).max(axis=0)
        for _ in range(40):  # bisection: 40 halvings of at most some tens of log units
            middle = 0.5 * (low + high)
            under = self.below(middle) < share
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        found: Floats = 0.5 * (low + high)
        return found
