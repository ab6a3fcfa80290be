"""Bands that keep their promise: widened or narrowed by how often they held on devices whose truth is known.

Conformal prediction: on each known device, held out in turn, every truth gets a score, the share of the mixture's
probability that a central band needs to reach it. The quantile of those scores is the nominal share to ask for on a new
device. Reference: Romano, Patterson & Candes, "Conformalized Quantile Regression" (2019); Vovk, Gammerman & Shafer (2005).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeltailor.estimators.predict.mixture import Mixture

__all__ = ["Band", "band_factor", "checked_factor", "needed_factors", "widened"]

Floats = NDArray[np.float64]

BAND_SHARE = 0.8
_LEAST_DEVICES = 4
_NOMINAL = tuple(n / 100 for n in range(60, 96))


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
    """Return the one factor with which bands hold a ``share`` of the truths of a device that is none of the known ones.

    A quantile of what the known devices need is too small for an unknown one when there are few of them. So each is held
    out of the known ones in turn, and the quantile is the one that would have held the share on those held out.

    Args:
        needed: the result of :func:`needed_factors` for each known device, held out in turn; each counts the same.
        share: what share of truths a band has to hold.
    """
    if not needed:
        return 1.0
    if len(needed) < _LEAST_DEVICES:
        return _quantile(needed, share)
    nominal = min(_NOMINAL, key=lambda s: (abs(_held_out_share(needed, s) - share), abs(s - share)))
    return _quantile(needed, nominal)


def _held_out_share(needed: Sequence[Floats], nominal: float) -> float:
    """Return the mean share of truths held on each device by the factor that the other devices ask for."""
    held = []
    for i, own in enumerate(needed):
        held.append(float((own <= _quantile([n for j, n in enumerate(needed) if j != i], nominal)).mean()))
    return float(np.mean(held))


def _quantile(needed: Sequence[Floats], share: float) -> float:
    """Return a quantile of all values, each device counting the same."""
    values = np.concatenate(list(needed))
    weights = np.concatenate([np.full(len(n), 1.0 / len(n)) for n in needed])
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order]) / len(needed)
    position = min(int(np.searchsorted(cumulated, share)), len(values) - 1)
    return float(values[order][position])


def checked_factor(held_out: Sequence[Mixture], log_ms: Floats, wanted: Floats, share: float = BAND_SHARE) -> float:
    """Return by which factor bands grow because measurements of a device, each predicted from the others, ask for it.

    What is measured is chosen because it tells most, so some of it lies far from all else: without the one large network,
    it is an extrapolation that no prediction asks for. Only held-out measurements that are known as well as what is wanted
    have a say.

    Args:
        held_out: each measurement as predicted from the others.
        log_ms: what was measured, ``[k]``; with fewer than four that count nothing can be said.
        wanted: standard deviations of the log milliseconds that the bands are for, ``[n]``.
        share: what share of truths a band has to hold.
    """
    widest = float(wanted.max(initial=0.0))
    alike = [i for i, m in enumerate(held_out) if float(m.spread()[0]) <= widest]
    k = len(alike)
    if k < _LEAST_DEVICES:
        return 1.0
    needed = sorted(float(needed_factors(held_out[i], log_ms[i : i + 1])[0]) for i in alike)
    return max(1.0, needed[min(math.ceil(share * (k + 1)), k) - 1])


def widened(mixture: Mixture, factor: float, share: float = BAND_SHARE) -> Band:
    """Return the central bands of a mixture, both halves grown by ``factor``."""
    low, middle, high = (mixture.quantile(q) for q in ((1 - share) / 2, 0.5, (1 + share) / 2))
    return Band(low=middle - factor * (middle - low), middle=middle, high=middle + factor * (high - middle))
