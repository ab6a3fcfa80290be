"""Networks that no device has run, on a device that is new too: costs of work learnt from a population of devices.

Every device pays for the work of a network by a sum of terms, ``t = sum_p exp(theta_p) amount_p`` (a fixed cost, layers,
multiply-accumulates by class and format, elements moved ...). Over devices the log costs are normal around a common mean:
devices are alike in what a depthwise MAC costs against a dense one. Mean and covariance are learnt from the devices given
(a hierarchical model, fitted by alternating the devices' maximum a posteriori and the population's moments), and a new
device is then fitted with few measurements, under Student-t noise. References: Gelman et al., "Bayesian Data Analysis"
(2013), chapter 15; Zhang et al., "nn-Meter" (2021) for kernels as terms.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeltailor.estimators.predict.mixture import Mixture

__all__ = ["CostPopulation", "learn_costs"]

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_FREEDOM = 4.0  # of Student's t
_LEAST_NOISE = 0.063
_LEVEL_VARIANCE = 9.0
_PSEUDO_DEVICES = 8.0
_SPREAD = 1.5  # of a log cost before any device is seen
_LIKENESS, _NOISES = (0.3, 1.0, 3.0), (0.5, 1.0, 2.0)  # by which factors the population's moments hold
_OFFSET_SPREAD = 0.15  # of what is peculiar to a network on all devices


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CostPopulation:
    """Log costs over devices.

    Attributes:
        mean: ``[n_terms]`` mean log cost, level taken out.
        covariance: ``[n_terms, n_terms]``.
        noise: standard deviation of log latency around the sum of terms.
    """

    mean: Floats
    covariance: Floats
    noise: float

    def choose(self, k: int, amounts: Floats, candidates: Indices, own: Floats | None = None) -> list[int]:
        """Return ``k`` of the candidate networks that tell the costs of all networks apart best.

        Args:
            k: how many.
            amounts: ``[n_networks, n_terms]``.
            candidates: networks that may be measured.
            own: as for :meth:`posterior`, of all networks, ``[n_networks, n_networks]``.
        """
        slope = _log_sum(self.mean[None], amounts)[1][0]
        covariance = slope @ (self.covariance + _LEVEL_VARIANCE) @ slope.T
        if own is not None:
            covariance = covariance + own
        chosen: list[int] = []
        for _ in range(min(k, len(candidates))):
            left = np.diag(covariance) + self.noise**2
            gain = (covariance[candidates] ** 2).sum(axis=0) / left
            allowed = [c for c in candidates if c not in chosen]
            best = int(max(allowed, key=gain.__getitem__))
            chosen.append(best)
            covariance = covariance - np.outer(covariance[:, best], covariance[best]) / left[best]
        return chosen

    def posterior(self, amounts: Floats, log_ms: Floats, targets: Floats, own: Floats | None = None) -> Mixture:
        """Return the log milliseconds of ``targets`` after measurements.

        The new device may be more or less like the others, and its networks nearer to or farther from a sum of terms, than
        the population's moments have it: each such hypothesis is weighted by how well it foretells every measurement from
        the others.

        Args:
            amounts: terms of the measured networks, ``[k, n_terms]``, ``k`` at least one.
            log_ms: their log milliseconds, ``[k]``.
            targets: terms of the networks to predict, ``[n, n_terms]``.
            own: how far networks that are alike stray together from a sum of terms, on this device alone: covariance of
                log milliseconds, the measured networks first, ``[k + n, k + n]``. Without it each strays by itself.
        """
        n = len(amounts) + len(targets)
        own = np.zeros((n, n)) if own is None else own
        parts = [
            self._posterior(
                amounts, log_ms, targets, own, likeness * self.covariance + _LEVEL_VARIANCE, factor * self.noise
            )
            for likeness, factor in itertools.product(_LIKENESS, _NOISES)
        ]
        scores = np.array([score for _, _, score in parts])
        weights = np.exp(scores - scores.max())
        return Mixture(
            centres=np.array([centre for centre, _, _ in parts]),
            spreads=np.array([spread for _, spread, _ in parts]),
            weights=weights / weights.sum(),
        )

    def _posterior(
        self, amounts: Floats, log_ms: Floats, targets: Floats, own: Floats, covariance: Floats, noise: float
    ) -> tuple[Floats, Floats, float]:
        """Return centres and spreads under one hypothesis, and the log density of what was held out."""
        k = len(log_ms)
        together, across = own[:k, :k], own[k:, :k]
        level = log_ms.mean() - float(_log_sum(self.mean[None], amounts)[0].mean())
        prior = self.mean + level
        precision = np.linalg.inv(covariance)
        theta, curvature = prior.copy(), precision
        trust = np.full(k, noise**-2)
        for _ in range(25):
            centre, slope = _log_sum(theta[None], amounts)
            error = log_ms - centre[0]
            stray = together @ np.linalg.solve(np.diag(1 / trust) + together, error)
            trust = (_FREEDOM + 1) / (_FREEDOM + ((error - stray) / noise) ** 2) / noise**2
            inverse = np.linalg.inv(np.diag(1 / trust) + together)
            curvature = slope[0].T @ inverse @ slope[0] + precision
            step = np.linalg.solve(curvature, slope[0].T @ inverse @ error - precision @ (theta - prior))
            theta = theta + np.clip(step, -1.0, 1.0)
            if np.abs(step).max() < 1e-3:
                break
        centre, slope = _log_sum(theta[None], amounts)
        error = log_ms - centre[0]
        around = slope[0] @ covariance @ slope[0].T + noise**2 * np.eye(k) + together
        score = _held_out_log_density(around, error - slope[0] @ (prior - theta))
        centre, slope = _log_sum(theta[None], targets)
        variance = np.einsum("ij,jk,ik->i", slope[0], np.linalg.inv(curvature), slope[0])
        left = np.diag(own)[k:] - np.einsum("ij,jk,ik->i", across, inverse, across)
        variance = np.minimum(variance, 4.0) + np.maximum(left, 0.0) + noise**2 + _OFFSET_SPREAD**2
        return centre[0] + across @ (inverse @ error), np.sqrt(variance), score


def learn_costs(log_ms: Floats, amounts: Floats, trust: Floats, guess: Floats, rounds: int = 6) -> CostPopulation:
    """Learn the population from devices and networks.

    Args:
        log_ms: ``[n_devices, n_networks]``, NaN where nothing was measured.
        amounts: ``[n_networks, n_terms]``, non-negative.
        trust: ``[n_devices]`` weight of each device.
        guess: ``[n_terms]`` log costs to start from, level aside; a term that no network has keeps its guess.
        rounds: of the alternation.
    """
    known = ~np.isnan(log_ms)
    values = np.where(known, log_ms, 0.0)
    level = (values.sum(axis=1) / known.sum(axis=1))[:, None]
    n_terms = amounts.shape[1]
    mean, covariance, noise2 = guess.astype(np.float64), np.eye(n_terms) * _SPREAD**2, 0.02
    theta = np.tile(mean, (len(log_ms), 1))
    offset = np.zeros(log_ms.shape[1])  # soaks up what is peculiar to a network; an unseen one has none
    share = trust / trust.sum()
    effective = float(1.0 / (share**2).sum())
    for turn in range(rounds):
        precision = np.linalg.inv(covariance)
        curvature = np.tile(precision, (len(log_ms), 1, 1))
        for _ in range(4 if turn else 12):
            centre, slope = _log_sum(theta + level, amounts)
            error = (values - offset - centre) * known
            weight = known * (_FREEDOM + 1) / (_FREEDOM + error**2 / noise2)
            curvature = np.einsum("rmp,rm,rmq->rpq", slope, weight, slope, optimize=True) / noise2 + precision
            pull = np.einsum("rmp,rm->rp", slope, weight * error) / noise2 - (theta - mean) @ precision
            theta = theta + np.clip(np.linalg.solve(curvature, pull[..., None])[..., 0], -1.0, 1.0)
        error = (values - offset - _log_sum(theta + level, amounts)[0]) * known
        mean = share @ theta
        centred = theta - mean
        moments = centred.T @ (share[:, None] * centred) + np.einsum("r,rpq->pq", share, np.linalg.inv(curvature))
        covariance = (effective * moments + 0.5 * _PSEUDO_DEVICES * np.eye(n_terms)) / (effective + _PSEUDO_DEVICES)
        counted = trust[:, None] * known
        shrink = 0.5 * noise2 / _OFFSET_SPREAD**2
        offset = (trust[:, None] * (error + offset * known)).sum(axis=0) / (counted.sum(axis=0) + shrink)
        noise2 = max(float((counted * error**2).sum() / counted.sum()), _LEAST_NOISE**2)
    return CostPopulation(mean=mean, covariance=covariance, noise=float(np.sqrt(noise2)))


def _log_sum(theta: Floats, amounts: Floats) -> tuple[Floats, Floats]:
    """Return log latencies ``[n_devices, n_networks]`` and the share of each term ``[.., n_terms]``."""
    parts = np.exp(theta)[:, None, :] * amounts[None]
    total = parts.sum(axis=-1)
    return np.log(total), parts / total[..., None]


def _held_out_log_density(covariance: Floats, residual: Floats) -> float:
    """Sum of log densities of each measurement given all others, under Student's t: one outlier must not decide."""
    inverse = np.linalg.inv(covariance)
    variance = 1.0 / np.diag(inverse)
    error = (inverse @ residual) * variance
    density = -0.5 * np.log(variance) - 0.5 * (_FREEDOM + 1) * np.log1p(error**2 / (_FREEDOM * variance))
    return float(density.sum())
