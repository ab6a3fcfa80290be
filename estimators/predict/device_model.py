"""A device's roofline with its doubts: rates from the profile, corrected by a few measurements.

Every kernel takes ``max(work / rate, bytes / bandwidth) + node overhead``, a network the sum of its kernels and a fixed
cost; conversions between formats are kernels of their own. Each constant has a log-normal prior around the profile's
figure, as wide as the figure's origin deserves (measured < inferred < spec); measurements move them by maximum a
posteriori. What the constants cannot explain is carried from measured networks to similar ones by a smooth residual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeltailor.estimators.predict.likeness import near
from modeltailor.estimators.predict.mixture import Mixture
from modeltailor.estimators.predict.work import GraphWork
from modeltailor.targets.profile import Figure, Profile

__all__ = ["Constants", "DeviceModel", "constants_of"]

Floats = NDArray[np.float64]

_CLASSES = ("conv", "pointwise", "depthwise", "matmul")
_FORMATS = ("fp32", "fp16", "int8")
_REACHED = {"conv": 0.4, "pointwise": 0.4, "depthwise": 0.1, "matmul": 0.4}  # share of the peak, before measuring
_DOUBT = {"measured": 0.2, "inferred": 0.5, "spec": 0.7}  # standard deviation of the log, by origin
_FASTER = {"fp32": 1.0, "fp16": 1.2, "int8": 2.0}  # than fp32, where the profile says nothing
_SHARPNESS = 8.0
_RESIDUAL_SPREAD = 0.06
_RESIDUAL_LENGTH = 0.25
_LEAST_NOISE = 0.02
_ROUNDS = 40


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Constants:
    """Log constants of a device: fixed ms, ms a node, ms a byte, then ms a MAC by class and format.

    Attributes:
        log_mean: ``[n]``.
        covariance: ``[n, n]``.
    """

    log_mean: Floats
    covariance: Floats


def constants_of(profile: Profile) -> Constants | None:
    """Return the prior constants, or ``None`` if the profile has neither a rate nor a bandwidth."""
    rates = {**profile.peak_gops, **profile.effective_gops}
    if not rates and profile.bandwidth_gbps is None:
        return None
    overhead = profile.per_operator_overhead_us
    node_ms = (overhead.value if overhead else 3.0) / 1e3
    bandwidth = profile.bandwidth_gbps.value if profile.bandwidth_gbps else 10.0
    means = [np.log(5.0 * node_ms), np.log(node_ms), np.log(1e-6 / bandwidth)]
    doubts = [1.0, _doubt(overhead), _doubt(profile.bandwidth_gbps)]
    plain = _reached(profile, "fp32") or next((r for f in _FORMATS if (r := _reached(profile, f))), (20.0, 1.0))
    for kind in _CLASSES:
        for number_format in _FORMATS:
            own = _reached(profile, number_format)
            gops, doubt = own or (plain[0] * _FASTER[number_format], plain[1] + 0.3)
            means.append(np.log(2e-6 / (gops * _REACHED[kind] / _REACHED["conv"])))
            doubts.append(doubt + (0.3 if kind == "depthwise" else 0.0))
    covariance = np.diag(np.square(doubts)) * 0.5
    shared = np.array([0.3, 0.3, 0.5, *[1.0] * (len(doubts) - 3)]) * np.array(doubts) * np.sqrt(0.5)
    return Constants(log_mean=np.array(means), covariance=covariance + np.outer(shared, shared))


def _doubt(figure: Figure | None) -> float:
    return 1.0 if figure is None else _DOUBT[figure.origin]


def _reached(profile: Profile, number_format: str) -> tuple[float, float] | None:
    """Return the rate that a dense convolution reaches, 1e9 operations a second, and the doubt of its log."""
    for table, share, more in ((profile.effective_gops, 1.0, 0.1), (profile.peak_gops, _REACHED["conv"], 0.4)):
        for name, figure in table.items():
            if name == number_format:
                return figure.value * share, _DOUBT[figure.origin] + more
    return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceModel:
    """A device of which something is known before measuring.

    Attributes:
        constants: the prior.
    """

    constants: Constants

    def posterior(
        self, measured: Sequence[GraphWork], log_ms: Floats, noise: Floats, targets: Sequence[GraphWork]
    ) -> Mixture:
        """Return log milliseconds of the targets.

        Args:
            measured: work of the measured networks, ``k`` of them, may be none.
            log_ms: ``[k]``.
            noise: ``[k]`` standard deviation of each log measurement.
            targets: work of the networks to predict.
        """
        prior, precision = self.constants.log_mean, np.linalg.inv(self.constants.covariance)
        theta, curvature = prior.copy(), precision
        centre, slope, likeness = self._times(theta, [*measured, *targets])
        k = len(measured)
        spread = np.square(np.maximum(noise, _LEAST_NOISE)) + _RESIDUAL_SPREAD**2
        for _ in range(_ROUNDS if k else 0):
            inner = slope[:k]
            curvature = inner.T @ (inner / spread[:, None]) + precision
            pull = inner.T @ ((log_ms - centre[:k]) / spread) - precision @ (theta - prior)
            step = np.clip(np.linalg.solve(curvature, pull), -1.0, 1.0)
            theta = theta + step
            centre, slope, likeness = self._times(theta, [*measured, *targets])
            if np.abs(step).max() < 1e-4:
                break
        outer = slope[k:]
        prediction = centre[k:]
        variance = np.einsum("ij,jk,ik->i", outer, np.linalg.inv(curvature), outer) + _RESIDUAL_SPREAD**2
        if k:
            kernel = near(likeness / _RESIDUAL_LENGTH, _RESIDUAL_SPREAD**2)
            gram = kernel[:k, :k] + np.diag(np.square(np.maximum(noise, _LEAST_NOISE)))
            gain = np.linalg.solve(gram, kernel[:k, k:]).T
            prediction = prediction + gain @ (log_ms - centre[:k])
            variance = variance - np.einsum("ij,ji->i", gain, kernel[:k, k:])
        spreads = np.sqrt(np.maximum(variance, 0.0) + _LEAST_NOISE**2)
        return Mixture(centres=prediction[None], spreads=spreads[None], weights=np.ones(1))

    def choose(self, k: int, networks: Sequence[GraphWork], given: Sequence[int] = ()) -> list[int]:
        """Return which networks to measure so that the others are known best; ``given`` come first.

        No latency is looked at. Fewer than ``k`` come back only if there are fewer networks.
        """
        _, slope, likeness = self._times(self.constants.log_mean, networks)
        covariance = slope @ self.constants.covariance @ slope.T
        covariance = covariance + near(likeness / _RESIDUAL_LENGTH, _RESIDUAL_SPREAD**2)
        chosen: list[int] = []
        while len(chosen) < min(k, len(networks)):
            left = np.maximum(np.diag(covariance), 0.0) + _LEAST_NOISE**2
            gain = (covariance**2).sum(axis=0) / left
            gain[chosen] = -1.0
            best = given[len(chosen)] if len(chosen) < len(given) else int(np.argmax(gain))
            chosen.append(best)
            covariance = covariance - np.outer(covariance[:, best], covariance[best]) / left[best]
        return chosen

    @staticmethod
    def _times(theta: Floats, networks: Sequence[GraphWork]) -> tuple[Floats, Floats, Floats]:
        """Return log milliseconds ``[n]``, their slope ``[n, n_constants]``, and a description ``[n, n_constants]``."""
        cost = np.exp(theta)
        centres, slopes = [], []
        for network in networks:
            share = np.zeros(len(theta))
            share[0] = cost[0]
            macs = np.array([k.padded_macs for k in network.kernels], dtype=np.float64)
            moved = np.array([k.moved_bytes for k in network.kernels], dtype=np.float64)
            index = np.array([_constant(k.operator_class, k.number_format) for k in network.kernels], dtype=np.intp)
            compute, memory = macs * cost[np.maximum(index, 0)] * (index > 0), moved * cost[2]
            slower = np.maximum(np.maximum(compute, memory), 1e-12)
            a, b = (compute / slower) ** _SHARPNESS, (memory / slower) ** _SHARPNESS
            time = slower * (a + b) ** (1 / _SHARPNESS)
            np.add.at(share, np.maximum(index, 0), np.where(index > 0, time * a / (a + b), 0.0))
            share[2] += float((time * b / (a + b)).sum())
            share[1] = cost[1] * len(network.kernels)
            total = share.sum()
            centres.append(np.log(total))
            slopes.append(share / total)
        slope = np.array(slopes)
        return np.array(centres), slope, np.concatenate([np.sqrt(slope), 0.2 * np.array(centres)[:, None]], axis=1)


def _constant(operator_class: str, number_format: str) -> int:
    """Return the place of a class and format among the constants; 0 for kernels without multiply-accumulates."""
    if operator_class not in _CLASSES:
        return 0
    return 3 + _CLASSES.index(operator_class) * len(_FORMATS) + _FORMATS.index(number_format)
