"""A field of log latencies over items, conditioned on the few that were measured.

An *item* is anything that has a latency on a device: a network, a network in a number format, a run setting. Before any
measurement the log latencies of all items on the unseen device are jointly Gaussian under each of a few hypotheses:

    log t = level + mean shape + sum_c weight_c * (component c) + noise

where a component is either the deviations of the pooled devices from their mean (its kernel is their empirical
covariance, so an unseen device that resembles a pooled one is recognised after few measurements) or a kernel over
features of the items (what no pooled device shows). The hypotheses differ in the weights and in the noise; after ``k``
measurements they are weighted by how well they foretell each measurement from the others, and their predictions
are mixed. References: Rasmussen & Williams, "Gaussian Processes for Machine Learning" (2006), chapters 2 and 5.4.2;
Krause, Singh & Guestrin, "Near-Optimal Sensor Placements in Gaussian Processes" (2008) for the greedy choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modeltailor.estimators.predict.mixture import Mixture

__all__ = ["Component", "Hypothesis", "LatencyField"]

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Component:
    """One source of covariance between items.

    Attributes:
        features: ``[n_items, n_features]``.
        kind: ``linear`` is ``f(i) . f(j)``; ``smooth`` is ``exp(-|f(i) - f(j)|^2 / 2)``, so its features come divided by
            the length over which latency may change.
    """

    features: Floats
    kind: Literal["linear", "smooth"] = "linear"

    def between(self, rows: Indices, columns: Indices) -> Floats:
        """Return the kernel between two sets of items, ``[n_rows, n_columns]``."""
        a, b = self.features[rows], self.features[columns]
        product = a @ b.T
        if self.kind == "linear":
            return product
        distance = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2.0 * product
        kernel: Floats = np.exp(-0.5 * np.maximum(distance, 0.0))
        return kernel

    def diagonal(self) -> Floats:
        """Return the kernel of each item with itself, ``[n_items]``."""
        if self.kind == "linear":
            squared: Floats = np.einsum("ij,ij->i", self.features, self.features)
            return squared
        return np.ones(len(self.features))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """One way in which the unseen device may behave.

    Attributes:
        shape: which of the field's mean shapes holds.
        weights: variance given to each component, in squared log milliseconds.
        noise: standard deviation of one measurement around the model, in log milliseconds.
        prior: how probable it is before any measurement, up to a common factor.
    """

    shape: int
    weights: tuple[float, ...]
    noise: float
    prior: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyField:
    """Log latencies of all items on an unseen device.

    Attributes:
        shapes: ``[n_shapes, n_items]`` mean log latencies up to a level.
        components: where covariance comes from.
        hypotheses: what is mixed.
        level_log_ms: mean of the level.
        level_sd: standard deviation of the level: wide, since devices differ by orders of magnitude.
    """

    shapes: Floats
    components: tuple[Component, ...]
    hypotheses: tuple[Hypothesis, ...]
    level_log_ms: float
    level_sd: float

    def posterior(self, measured: Indices, log_ms: Floats, targets: Indices) -> Mixture:
        """Return the log latencies of ``targets`` given the measured ones.

        Args:
            measured: items with a measurement, ``[k]``; ``k`` may be zero.
            log_ms: their natural log milliseconds, ``[k]``.
            targets: items to predict, ``[n]``.
        """
        inside = [c.between(measured, measured) for c in self.components]
        across = [c.between(targets, measured) for c in self.components]
        diagonal = [c.diagonal()[targets] for c in self.components]
        centres, spreads, scores = [], [], []
        for h in self.hypotheses:
            shape = self.shapes[h.shape]
            centre: Floats = self.level_log_ms + shape[targets]
            variance: Floats = np.full(len(targets), self.level_sd**2)
            for weight, part in zip(h.weights, diagonal, strict=True):
                variance += weight * part
            score = float(np.log(h.prior))
            if len(measured):
                gram = self.level_sd**2 + sum(w * m for w, m in zip(h.weights, inside, strict=True))
                inverse = np.asarray(np.linalg.inv(gram + h.noise**2 * np.eye(len(measured))), dtype=np.float64)
                residual = log_ms - self.level_log_ms - shape[measured]
                cross = self.level_sd**2 + sum(w * m for w, m in zip(h.weights, across, strict=True))
                gain = cross @ inverse
                centre = centre + gain @ residual
                variance = variance - np.einsum("ij,ij->i", gain, cross)
                score += _held_out_log_density(inverse, residual)
            centres.append(centre)
            spreads.append(np.sqrt(np.maximum(variance, 0.0) + h.noise**2))
            scores.append(score)
        weights = np.exp(np.array(scores) - max(scores))
        return Mixture(centres=np.array(centres), spreads=np.array(spreads), weights=weights / weights.sum())

    def choose(self, k: int, candidates: Indices, targets: Indices, given: Sequence[int] = ()) -> list[int]:
        """Return ``k`` items whose measurement takes most variance out of ``targets``, one after the other.

        No latency of the device is looked at: under a Gaussian the variance left does not depend on the values.

        Args:
            k: how many to choose.
            candidates: items that may be measured.
            targets: items to be known.
            given: items that are measured anyway, for instance the user's own float model.
        """
        items = np.concatenate([candidates, targets])
        n = len(candidates)
        total = sum(h.prior for h in self.hypotheses)
        weights = np.array([[h.prior / total * w for w in h.weights] for h in self.hypotheses]).sum(axis=0)
        noise = sum(h.prior / total * h.noise**2 for h in self.hypotheses)
        covariance: Floats = np.full((len(items), n), self.level_sd**2)
        for weight, component in zip(weights, self.components, strict=True):
            covariance += weight * component.between(items, candidates)
        chosen: list[int] = []
        position = {int(item): i for i, item in enumerate(candidates)}
        queue = [position[item] for item in given if item in position]
        while len(chosen) < k + len(queue) and len(chosen) < n:
            left = np.maximum(np.diag(covariance[:n]), 0.0) + noise
            if len(chosen) < len(queue):
                best = queue[len(chosen)]
            else:
                gain = (covariance[n:] ** 2).sum(axis=0) / left
                gain[chosen] = -1.0
                best = int(np.argmax(gain))
            chosen.append(best)
            covariance = covariance - np.outer(covariance[:, best], covariance[best]) / left[best]
        return [int(candidates[i]) for i in chosen]


def _held_out_log_density(inverse: Floats, residual: Floats) -> float:
    """Sum of log densities of each measurement given all others (Rasmussen & Williams, equations 5.10-5.12)."""
    variance = 1.0 / np.diag(inverse)
    error = (inverse @ residual) * variance
    return float(-0.5 * (np.log(variance) + error**2 / variance).sum())
