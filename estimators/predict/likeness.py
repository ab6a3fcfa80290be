"""Covariances over what is known of items, to be added up: the same group, a trend, nearness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["near", "same", "trend"]

Floats = NDArray[np.float64]


def same(labels: Sequence[str], variance: float) -> Floats:
    """Items of one group (a network, a number format, a runtime) move together: ``[n_items, n_items]``."""
    _, code = np.unique(np.asarray(labels), return_inverse=True)
    kernel: Floats = variance * (code[:, None] == code[None, :]).astype(np.float64)
    return kernel


def trend(values: Floats, variance: float, within: Sequence[str] | None = None) -> Floats:
    """Latency drifts along a quantity (log work, log nodes), by a slope of its own in each group of ``within``."""
    scaled = (values - values.mean()) / max(float(values.std()), 1e-9)
    kernel = variance * np.outer(scaled, scaled)
    return kernel if within is None else kernel * same(within, 1.0)


def near(features: Floats, variance: float) -> Floats:
    """Items with near features (already divided by the length over which latency changes) behave alike."""
    squared = (features**2).sum(axis=1)
    distance = squared[:, None] + squared[None, :] - 2 * features @ features.T
    kernel: Floats = variance * np.exp(-0.5 * np.maximum(distance, 0.0))
    return kernel
