"""Latency of variants of one network on a device of which nothing else is known: a roofline with two paths.

A network waits for the slower of two paths: the host that launches its kernels (a fixed cost, a cost for each node) and
the device that computes them (a fixed cost, a cost for each unit of work of each class). Both paths are sums of
non-negative terms, so

    t(item) = ( (launch . a)^p + (work . b)^p )^(1/p)

with a large ``p``: nearly the maximum, and smooth. The coefficients have log-normal priors around even shares of the
path; with ``k`` measurements they are fitted by maximum a posteriori under Student-t noise, and the band comes from
the curvature there (Laplace) plus the noise. Reference: Williams, Waterman & Patterson, "Roofline" (2009).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeltailor.estimators.predict.mixture import Mixture

__all__ = ["PathTerms", "TwoPathRoofline"]

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_SHARPNESS = 10.0
_FREEDOM = 3.0  # of Student's t: one outlier in ten measurements must not move the fit
_NOISES = (0.02, 0.045, 0.1)
_STARTS = ((0.0, -1.0), (-1.0, 0.0), (0.0, 0.0))  # launch-bound, compute-bound, both
_ENSEMBLE = 300


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PathTerms:
    """The terms of one path.

    Attributes:
        amounts: ``[n_items, n_terms]``, non-negative; any unit, since each term is divided by its mean.
        shares: how much of the path each term takes on an average item, a guess; sums to about 1.
        spreads: standard deviation of the log of each share.
    """

    amounts: Floats
    shares: tuple[float, ...]
    spreads: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TwoPathRoofline:
    """The model over all items; see the module.

    Attributes:
        launch: what the host spends.
        work: what the device spends.
        level_spread: standard deviation of the log of each path's level around the measured latencies.
    """

    launch: PathTerms
    work: PathTerms
    level_spread: float = 1.2

    def choose(self, k: int, candidates: Indices, targets: Indices, seed: int) -> list[int]:
        """Return ``k`` items to measure: each takes most prior variance out of ``targets``. No latency is looked at."""
        rng = np.random.default_rng(seed)
        spread = self._spread_matrix()
        items = np.concatenate([candidates, targets])
        draws = np.stack(
            [self._log_time(spread @ rng.standard_normal(spread.shape[1]), items)[0] for _ in range(_ENSEMBLE)]
        )
        draws = draws - draws.mean(axis=1, keepdims=True)  # the level is learnt from any measurement
        draws = draws - draws.mean(axis=0)
        n = len(candidates)
        covariance = draws.T @ draws[:, :n] / _ENSEMBLE + 1.0
        chosen: list[int] = []
        for _ in range(min(k, n)):
            left = np.diag(covariance[:n]) + _NOISES[1] ** 2
            gain = (covariance[n:] ** 2).sum(axis=0) / left
            gain[chosen] = -1.0
            best = int(np.argmax(gain))
            chosen.append(best)
            covariance = covariance - np.outer(covariance[:, best], covariance[best]) / left[best]
        return [int(candidates[i]) for i in chosen]

    def posterior(self, measured: Indices, log_ms: Floats, targets: Indices) -> Mixture:
        """Return the log milliseconds of ``targets``; ``measured`` has at least one item."""
        spread = self._spread_matrix()
        level = float(np.median(log_ms))
        centres, spreads, scores = [], [], []
        for noise in _NOISES:
            for start in _STARTS:
                point = np.zeros(spread.shape[1])
                point[:2] = start
                point, curvature, score = self._fit(point, measured, log_ms - level, noise, spread)
                centre, slope = self._log_time(spread @ point, targets)
                slope = slope @ spread
                variance = np.einsum("ij,ij->i", slope @ np.linalg.inv(curvature), slope)
                centres.append(level + centre)
                spreads.append(np.sqrt(np.minimum(variance, 1.0) + noise**2))
                scores.append(score)
        weights = np.exp(np.array(scores) - max(scores))
        return Mixture(centres=np.array(centres), spreads=np.array(spreads), weights=weights / weights.sum())

    def _spread_matrix(self) -> Floats:
        """Return what maps standard normal variables (two levels, then terms) to log coefficients."""
        path = [0] * len(self.launch.shares) + [1] * len(self.work.shares)
        matrix = np.zeros((len(path), 2 + len(path)))
        matrix[np.arange(len(path)), path] = self.level_spread
        matrix[:, 2:] = np.diag(self.launch.spreads + self.work.spreads)
        return matrix

    def _log_time(self, shift: Floats, items: Indices) -> tuple[Floats, Floats]:
        """Return log times ``[n]`` and their slope by log coefficient ``[n, n_terms]``."""
        cut = len(self.launch.shares)
        parts = []
        for terms, part in ((self.launch, shift[:cut]), (self.work, shift[cut:])):
            amounts = terms.amounts / terms.amounts.mean(axis=0)
            parts.append(amounts[items] * np.array(terms.shares) * np.exp(part))
        first, second = parts[0].sum(axis=1), parts[1].sum(axis=1)
        top = np.maximum(first, second)
        a, b = (first / top) ** _SHARPNESS, (second / top) ** _SHARPNESS
        part = (a / (a + b))[:, None]
        slope = np.concatenate([part * parts[0] / first[:, None], (1 - part) * parts[1] / second[:, None]], axis=1)
        return np.log(top) + np.log(a + b) / _SHARPNESS, slope

    def _fit(
        self, point: Floats, measured: Indices, log_ms: Floats, noise: float, spread: Floats
    ) -> tuple[Floats, Floats, float]:
        """Return the best point, the curvature there, and the log evidence up to a constant (Laplace)."""
        identity = np.eye(len(point))
        curvature = identity
        for _ in range(40):
            centre, slope = self._log_time(spread @ point, measured)
            error = (log_ms - centre) / noise
            trust = (_FREEDOM + 1) / (_FREEDOM + error**2)
            slope = slope @ spread / noise
            curvature = slope.T @ (trust[:, None] * slope) + identity
            step = np.linalg.solve(curvature + 0.1 * np.diag(np.diag(curvature)), slope.T @ (trust * error) - point)
            point = point + np.clip(step, -1.0, 1.0)
            if np.abs(step).max() < 1e-3:
                break
        error = (log_ms - self._log_time(spread @ point, measured)[0]) / noise
        cost = (_FREEDOM + 1) / 2 * np.log1p(error**2 / _FREEDOM).sum() + 0.5 * point @ point
        determinant = np.linalg.slogdet(curvature)[1]
        return point, curvature, float(-cost - 0.5 * determinant - len(log_ms) * np.log(noise))
