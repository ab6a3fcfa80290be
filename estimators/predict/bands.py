"""Bands that keep their promise: widened or narrowed by how often they held on devices whose truth is known.

Conformal prediction: on each known device, held out in turn, every truth gets a score, the share of the mixture's
probability that a central band needs to reach it. The quantile of those scores is the nominal share to ask for on a new
device. Reference: Romano, Patterson & Candes, "Conformalized Quantile Regression" (2019); Vovk, Gammerman & Shafer (2005).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeltailor.estimators.predict.mixture import Mixture

__all__ = ["Band", "band_factor", "needed_factors", "widened"]

Floats = NDArray[np.float64]

BAND_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Band:
    """Central bands, ``[n_items]`` each, in natural log milliseconds."""

    low: Floats
    middle: Floats
    high: Floats

    def holds(self, truth: Floats) -> NDArray[np.bool_]:
        """Say for each item whether the truth lies inside."""
        return (truth >= self.low) & (truth <= self.high)


def needed_factors(mixture: Mixture, truth: Floats, share: float = BAND_SHARE) -> Floats:
    """Return by which factor the nominal band of each item must grow to just hold the truth, ``[n_items]``."""
    low, middle, high = (mixture.quantile(q) for q in ((1 - share) / 2, 0.5, (1 + share) / 2))
    half = np.where(truth < middle, middle - low, high - middle)
    return np.abs(truth - middle) / np.maximum(half, 1e-9)


def band_factor(needed: Sequence[Floats], share: float = BAND_SHARE) -> float:
    """Return the one factor with which bands hold a ``share`` of the truths, each known device counting the same.

    Args:
        needed: the result of :func:`needed_factors` for each known device, held out in turn.
        share: what share of truths a band has to hold.
    """
    if not needed:
        return 1.0
    values = np.concatenate(list(needed))
    weights = np.concatenate([np.full(len(n), 1.0 / len(n)) for n in needed])
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order]) / len(needed)
    position = min(int(np.searchsorted(cumulated, share)), len(values) - 1)
    return float(values[order][position])


def widened(mixture: Mixture, factor: float, share: float = BAND_SHARE) -> Band:
    """Return the central bands of a mixture, both halves grown by ``factor``."""
    low, middle, high = (mixture.quantile(q) for q in ((1 - share) / 2, 0.5, (1 + share) / 2))
    return Band(low=middle - factor * (middle - low), middle=middle, high=middle + factor * (high - middle))
