"""A device's roofline with its doubts: rates from the profile, corrected by a few measurements.

Every kernel takes ``max(work / rate, bytes / bandwidth) + node overhead``, a network the sum of its kernels and a fixed
cost; conversions between formats are kernels of their own. Each constant has a log-normal prior around the profile's
figure, as wide as the figure's origin deserves (measured < inferred < spec); measurements move them by maximum a
posteriori. What the constants cannot explain is carried on by a Gaussian process around the roofline, in two parts: each
kind of kernel deviates alike wherever it occurs, so that a network deviates by its kernels' shares of its time, and a
network deviates as a whole, half of it as similar ones do. How strong both are is mixed by how well it foretells every
measurement from the others, where of its own trace only the shape counts: its level is that measurement. Reference:
Rasmussen & Williams, "Gaussian Processes for Machine Learning" (2006), chapters 2.7 and 5.4.2.

One deviation is neither the kernel's nor alike in all networks: weights are read once an inference, and the more there are,
the farther from the core they have gone until then. How much slower they come back is learned like all else.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from modeltailor.estimators.predict.kernel_kinds import KernelKinds
from modeltailor.estimators.predict.likeness import near
from modeltailor.estimators.predict.mixture import Mixture
from modeltailor.estimators.predict.priors import guessed
from modeltailor.estimators.predict.traces import KernelPoints
from modeltailor.estimators.predict.work import GraphWork, KernelWork
from modeltailor.targets.profile import Profile, list_profiles

__all__ = ["Constants", "DeviceModel", "Joint", "constants_of"]

Floats = NDArray[np.float64]

_CLASSES = ("conv", "pointwise", "depthwise", "matmul", "blocks")
_FORMATS = ("fp32", "fp16", "int8")
_REACHED = {
    "conv": 1.0,
    "pointwise": 1.0,
    "depthwise": 0.25,
    "matmul": 1.0,
    "blocks": 0.7,
}  # of the rate of a dense convolution
_CLASS_DOUBT = {"conv": 0.0, "pointwise": 0.1, "depthwise": 0.4, "matmul": 0.2, "blocks": 0.5}
_OVERHEAD_US = 3.0
_MOVED_SLOWER, _CONVERTED_SLOWER = 0.7, 1.1  # log of the time of a byte against one that is only copied
_OWN_DOUBT = 0.3
_UNKNOWN_DOUBT = 1.0
_BARE_DOUBT = 1.5  # more of it, alike for all constants, where a profile states no figure: devices differ that much
_DOUBT = {"measured": 0.2, "inferred": 0.5, "spec": 0.7}  # standard deviation of the log, by origin
_BYTES = {"move": 3, "convert": 4}  # place of the constant of a byte; 2 for all others
_RATES = 5  # place of the first rate among the constants
_SHARPNESS = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Residual:
    """How far times may lie off the roofline: standard deviations of the log of a network and of a kernel."""

    network: float
    kernel: float


_RESIDUALS = tuple(
    _Residual(network=network, kernel=kernel)
    for network, kernel in itertools.product((0.005, 0.015, 0.045, 0.135), (0.3, 0.6))
)
_SIMILAR, _SAME = 0.5, 0.02
"""How far apart networks may lie to deviate alike, and to be one and the same; by their parts' shares of the time."""
_OWN_SHARE = 0.5  # of a network's deviation that no other has


@dataclass(frozen=True, slots=True, kw_only=True)
class _Farther:
    """By how much the log time of reading weights grows with the log of all weights, and how sure that is."""

    usual: float
    doubt: float


_FARTHER = _Farther(usual=0.1, doubt=0.1)
_NEAR_BYTES = 1e6  # of weights that stay in the caches next to a core
_LEAST_NOISE, _USUAL_NOISE = 0.01, 0.02
_TRACED_NOISE = 0.1  # of one kernel's log time in a trace
_PROFILER_MS = 0.002  # by which the profiler may be off at each kernel
_TRACE_SPREAD = 0.2  # of the log of all kernels of a trace: the profiler takes time itself
_KNOWN_SPREAD = 0.02  # the same where they add up to a measured latency
_ROUNDS = 40


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Constants:
    """Log constants of a device: fixed ms; ms a node; three of ms a byte; then ms a MAC by class and format.

    The bytes are those that products and convolutions read and write, those of elements moved, of elements converted.

    Attributes:
        log_mean: ``[n]``.
        covariance: ``[n, n]``.
    """

    log_mean: Floats
    covariance: Floats


def constants_of(profile: Profile, pool: Sequence[Profile] | None = None, *, bare: bool = False) -> Constants | None:
    """Return the prior constants, or ``None`` if the profile has neither a rate nor a bandwidth.

    Args:
        profile: the device.
        pool: profiles of other devices, for figures that this one does not state; those that ship by default.
        bare: also where it states none at all: everything is guessed then, and the level of all is in great doubt.
            Worth something only where a measurement will tell that level.
    """
    stated = profile.peak_gops or profile.effective_gops or profile.bandwidth_gbps is not None
    if not stated and not bare:
        return None
    figures = guessed(profile, list_profiles() if pool is None else pool)
    overhead = profile.per_operator_overhead_us
    node_ms = (overhead.value if overhead else _OVERHEAD_US) / 1e3
    node_doubt = _DOUBT[overhead.origin] if overhead else _UNKNOWN_DOUBT
    byte, byte_doubt = np.log(1e-6) - figures["bandwidth"].log, figures["bandwidth"].doubt
    means = [np.log(5.0 * node_ms), np.log(node_ms), byte, byte + _MOVED_SLOWER, byte + _CONVERTED_SLOWER]
    doubts = [_UNKNOWN_DOUBT, node_doubt, byte_doubt, byte_doubt + _OWN_DOUBT, byte_doubt + _OWN_DOUBT]
    for kind in _CLASSES:
        for number_format in _FORMATS:
            means.append(np.log(2e-6) - figures[number_format].log - np.log(_REACHED[kind]))
            doubts.append(figures[number_format].doubt + _CLASS_DOUBT[kind])
    covariance = np.diag(np.square(doubts)) * 0.5
    level = np.array([0.3, 0.3, 0.5, 0.5, 0.5, *[1.0] * (len(doubts) - _RATES)])
    shared = level * np.array(doubts) * np.sqrt(0.5)
    covariance = covariance + np.outer(shared, shared)
    if not stated:
        covariance = covariance + _BARE_DOUBT**2 * np.outer(level, level)
    return Constants(log_mean=np.array(means), covariance=covariance)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Joint:
    """Log milliseconds of several networks together: what moves all of them alike does not blur how they compare.

    Attributes:
        centres: ``[n_parts, n]``.
        covariances: ``[n_parts, n, n]``.
        weights: ``[n_parts]``, sum 1.
        noise: standard deviation of the log of one measurement around its truth.
    """

    centres: Floats
    covariances: Floats
    weights: Floats
    noise: float

    def each(self) -> Mixture:
        """Return every network by itself, as a measurement would find it."""
        variances = np.maximum(np.diagonal(self.covariances, axis1=1, axis2=2), 0.0)
        return Mixture(centres=self.centres, spreads=np.sqrt(variances + self.noise**2), weights=self.weights)

    def over(self, reference: int) -> Mixture:
        """Return the log ratio of every network to one of them; that one's own is 0 but for noise."""
        covariance = self.covariances
        own = np.diagonal(covariance, axis1=1, axis2=2)
        variances = np.maximum(own + own[:, [reference]] - 2 * covariance[:, :, reference], 0.0)
        centres = self.centres - self.centres[:, [reference]]
        return Mixture(centres=centres, spreads=np.sqrt(variances + 2 * self.noise**2), weights=self.weights)

    def chance_of_slower(self, reference: int) -> Floats:
        """Return the probability that each network takes longer than the reference, ``[n]``."""
        ratio = self.over(reference)
        found: Floats = ratio.weights @ ndtr(ratio.centres / ratio.spreads)
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceModel:
    """A device of which something is known before measuring.

    Attributes:
        constants: the prior.
    """

    constants: Constants

    def posterior(
        self,
        measured: Sequence[GraphWork],
        log_ms: Floats,
        noise: Floats,
        targets: Sequence[GraphWork],
        points: KernelPoints | None = None,
    ) -> Joint:
        """Return log milliseconds of the targets.

        Args:
            measured: work of the measured networks, ``k`` of them, may be none.
            log_ms: ``[k]``.
            noise: ``[k]`` standard deviation of each log measurement.
            targets: work of the networks to predict.
            points: times of single kernels, from profiles of runs.
        """
        seen = _Seen.of(measured, log_ms, noise, targets, points)
        n = len(seen.values)
        own = [points.of(network) if points else np.zeros(0, dtype=np.bool_) for network in measured]
        centres, covariances, scores = [], [], []
        for residual in _RESIDUALS:
            theta, shift = self._fitted(seen, residual)
            there = seen.outlook(theta, shift)
            prior = there.slope @ self.constants.covariance @ there.slope.T + seen.deviation(there, residual)
            mean = there.log_ms + there.slope @ (self.constants.log_mean - theta) - there.shares @ shift
            inverse: Floats = np.linalg.inv(prior[:n, :n] + seen.noise).astype(np.float64)
            error = seen.values - mean[:n]
            gain = prior[n:, :n] @ inverse
            centres.append(mean[n:] + gain @ error)
            covariances.append(prior[n:, n:] - gain @ prior[:n, n:])
            scores.append(_held_out_log_density(inverse, error, own))
        weights = np.exp(np.array(scores) - max(scores))
        return Joint(
            centres=np.array(centres),
            covariances=np.array(covariances),
            weights=weights / weights.sum(),
            noise=max(_LEAST_NOISE, float(np.median(noise)) if len(noise) else _USUAL_NOISE),
        )

    def held_out(
        self,
        measured: Sequence[GraphWork],
        log_ms: Floats,
        noise: Floats,
        points: KernelPoints | None = None,
    ) -> list[Mixture]:
        """Return each measured network as predicted from the others, without its own trace.

        Args:
            measured: as for :meth:`posterior`.
            log_ms: as there.
            noise: as there.
            points: as there.
        """
        found = []
        for i in range(len(measured)):
            rest = [j for j in range(len(measured)) if j != i]
            others = points.without(measured[i]) if points else None
            joint = self.posterior([measured[j] for j in rest], log_ms[rest], noise[rest], [measured[i]], others)
            found.append(joint.each())
        return found

    def choose(
        self,
        k: int,
        networks: Sequence[GraphWork],
        given: Sequence[int] = (),
        barred: Sequence[int] = (),
        wanted: int | None = None,
    ) -> tuple[list[int], list[float]]:
        """Return which networks to measure so that the others are known best.

        Each takes most variance out of all of them, as their logs are before any measurement: the first tells the
        device's speed, the next ones what its constants do to small and large networks, formats and operator classes.
        No latency is looked at.

        Args:
            k: how many, those given among them; fewer come back only if there are fewer networks.
            networks: the candidates.
            given: measured in any case, and first.
            barred: not to be chosen.
            wanted: how many of the networks, from the first on, are to be known; all if ``None``.

        Returns:
            the networks, and the median standard deviation of the wanted logs before the first, and after each.
        """
        unseen = _Seen.of((), np.zeros(0), np.zeros(0), networks)
        there = unseen.outlook(self.constants.log_mean)
        covariance = there.slope @ self.constants.covariance @ there.slope.T
        covariance = covariance + sum(unseen.deviation(there, r) for r in _RESIDUALS) / len(_RESIDUALS)
        chosen: list[int] = []
        spreads = [_median_spread(covariance[:wanted, :wanted])]
        while len(chosen) < min(k, len(networks) - len(barred)):
            left = np.maximum(np.diag(covariance), 0.0) + _LEAST_NOISE**2
            gain = (covariance[:wanted] ** 2).sum(axis=0) / left
            gain[[*chosen, *barred]] = -1.0
            best = given[len(chosen)] if len(chosen) < len(given) else int(np.argmax(gain))
            chosen.append(best)
            covariance = covariance - np.outer(covariance[:, best], covariance[best]) / left[best]
            spreads.append(_median_spread(covariance[:wanted, :wanted]))
        return chosen, spreads

    def _fitted(self, seen: _Seen, residual: _Residual) -> tuple[Floats, Floats]:
        """Return the most probable constants, and by how much the log of each kind's time lies off the roofline.

        A network's time is a sum, its log is not: a kernel that takes thrice what the roofline says has thrice the share.
        So the sum is taken to be linear around these two, not around the roofline (Gauss-Newton).
        """
        prior, precision = self.constants.log_mean, np.linalg.inv(self.constants.covariance)
        theta, shift, n = prior.copy(), np.zeros(len(seen.alike)), len(seen.values)
        for turn in range(_ROUNDS if n else 0):
            pace = 1.0 if turn < _ROUNDS // 4 else 0.5  # at a ridge of the roofline whole steps may go to and fro
            there = seen.outlook(theta, shift)
            slope, shares = there.slope[:n], there.shares[:n]
            inverse = np.linalg.inv(seen.noise + seen.deviation(there, residual)[:n, :n])
            error = seen.values - there.log_ms[:n] + shares @ shift
            curvature = slope.T @ inverse @ slope + precision
            pull = slope.T @ inverse @ error - precision @ (theta - prior)
            step = np.clip(np.linalg.solve(curvature, pull), -1.0, 1.0)
            deviating = residual.kernel**2 * (seen.alike @ (shares.T @ (inverse @ (error - slope @ step))))
            drift = np.clip(deviating - shift, -1.0, 1.0)
            theta, shift = theta + pace * step, shift + pace * drift
            if max(np.abs(step).max(), np.abs(drift).max(initial=0.0)) < 1e-3:
                break
        return theta, shift


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Outlook:
    """Times by certain constants: of networks that were measured, of traced kernels, of networks to predict; ``n`` in all.

    Attributes:
        log_ms: ``[n]``.
        slope: of it by the constants, ``[n, n_constants]``.
        shares: of each kind of kernel in the time, ``[n, n_kinds]``.
        likeness: a description of each, ``[n, n_constants + 1]``.
        farther: how much later weights come in each where they come from one unit farther, ``[n]``.
    """

    log_ms: Floats
    slope: Floats
    shares: Floats
    likeness: Floats
    farther: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Seen:
    """What was measured, ``k`` networks first, then single kernels; then what is to be predicted: ``n`` in all.

    Attributes:
        values: log milliseconds of all that was measured.
        noise: covariance of them around the truth.
        is_network: ``[n]``, of what is no single kernel.
        owner: which of all each kernel belongs to, ``[n_kernels]``.
        work: of each kernel.
        kinds: of each kernel, ``[n_kernels]``.
        alike: how the kinds go together, ``[n_kinds, n_kinds]``.
        far: log of one and the weights of the network in units of a cache, ``[n]``; of a single kernel that which it ran in.
    """

    values: Floats
    noise: Floats
    is_network: NDArray[np.bool_]
    owner: NDArray[np.intp]
    work: _Work
    kinds: NDArray[np.intp]
    alike: Floats
    far: Floats

    @classmethod
    def of(
        cls,
        measured: Sequence[GraphWork],
        log_ms: Floats,
        noise: Floats,
        targets: Sequence[GraphWork],
        points: KernelPoints | None = None,
    ) -> _Seen:
        """Sort all kernels by what they belong to, and by kind."""
        single = points.kernels if points else ()
        owners = [*(n.kernels for n in measured), *((k,) for k in single), *(n.kernels for n in targets)]
        kernels = [k for owner in owners for k in owner]
        kinds = KernelKinds.of(kernels)
        k, n = len(measured), len(measured) + len(single)
        spread = np.zeros((n, n))
        spread[:k, :k] = np.diag(np.square(np.maximum(noise, _LEAST_NOISE)))
        if points:
            together = points.trace[:, None] == points.trace[None, :]
            common = np.where(points.adds_up, _KNOWN_SPREAD, _TRACE_SPREAD) ** 2
            own = _TRACED_NOISE**2 / points.repeats + np.square(_PROFILER_MS / np.exp(points.log_ms))
            spread[k:, k:] = common[:, None] * together + np.diag(own)
        is_network = np.ones(len(owners), dtype=np.bool_)
        is_network[k:n] = False
        return cls(
            values=np.concatenate([log_ms, points.log_ms]) if points else log_ms,
            noise=spread,
            is_network=is_network,
            owner=np.repeat(np.arange(len(owners)), [len(o) for o in owners]),
            work=_Work.of(kernels),
            kinds=np.array([kinds.place(kernel) for kernel in kernels], dtype=np.intp),
            alike=kinds.covariance(),
            far=np.log1p(np.concatenate([
                [n.weight_bytes for n in measured], points.beside if points else [], [n.weight_bytes for n in targets],
            ]) / _NEAR_BYTES),
        )  # fmt: skip

    def outlook(self, theta: Floats, shift: Floats | None = None) -> _Outlook:
        """Times of all by certain constants, where the log of each kind's time lies off them by ``shift``, if given."""
        parts = self.work.parts(theta) * np.exp(_FARTHER.usual * self.far[self.owner] * self.work.of_weights)[:, None]
        if shift is not None:
            parts *= np.exp(shift[self.kinds])[:, None]
        n = len(self.is_network)
        owed, kinds = np.zeros((n, len(theta))), np.zeros((n, len(self.alike)))
        np.add.at(owed, self.owner, parts)
        np.add.at(kinds, (self.owner, self.kinds), parts.sum(axis=1))
        reading = np.bincount(self.owner, parts.sum(axis=1) * self.work.of_weights, n)
        owed[:, 0] = np.where(self.is_network, np.exp(theta[0]), 0.0)
        total = owed.sum(axis=1)
        slope = owed / total[:, None]
        return _Outlook(
            log_ms=np.log(total), slope=slope, shares=kinds / total[:, None],
            likeness=np.concatenate([np.sqrt(slope), 0.2 * np.log(total)[:, None]], axis=1),
            farther=self.far * reading / total,
        )  # fmt: skip

    def deviation(self, there: _Outlook, residual: _Residual) -> Floats:
        """Covariance of the true log milliseconds around the roofline: by kernels, by the way of weights, of similar networks."""
        found: Floats = residual.kernel**2 * (there.shares @ self.alike @ there.shares.T)
        found += _FARTHER.doubt**2 * np.outer(there.farther, there.farther)
        of_networks = near(there.likeness / _SIMILAR, (1.0 - _OWN_SHARE) * residual.network**2)
        of_networks += near(there.likeness / _SAME, _OWN_SHARE * residual.network**2)
        return found + of_networks * np.outer(self.is_network, self.is_network)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Work:
    """Work of kernels, ``[n_kernels]`` each.

    Attributes:
        macs: multiply-accumulates, filled up to the vector width.
        moved: bytes.
        rate: place of the constant of a multiply-accumulate; 0 for none.
        byte: place of the constant of a byte.
        gathered: bytes that are collected before.
        of_weights: share of the bytes that are weights.
    """

    macs: Floats
    moved: Floats
    rate: NDArray[np.intp]
    byte: NDArray[np.intp]
    gathered: Floats
    of_weights: Floats

    @classmethod
    def of(cls, kernels: Sequence[KernelWork]) -> _Work:
        """Read the work of kernels."""
        return cls(
            macs=np.array([k.rated_macs for k in kernels], dtype=np.float64),
            moved=np.array([k.moved_bytes for k in kernels], dtype=np.float64),
            rate=np.array([_constant(k.operator_class, k.number_format) for k in kernels], dtype=np.intp),
            byte=np.array([_BYTES.get(k.operator_class, 2) for k in kernels], dtype=np.intp),
            gathered=np.array([k.gathered_bytes for k in kernels], dtype=np.float64),
            of_weights=np.array([k.weight_bytes / max(k.moved_bytes, 1) for k in kernels], dtype=np.float64),
        )

    def parts(self, theta: Floats) -> Floats:
        """Return what each kernel takes, in milliseconds by the constant that it is owed to, ``[n_kernels, n_constants]``.

        ``max(work / rate, bytes / bandwidth)`` is smooth at the ridge: each side has its share there.
        """
        cost = np.exp(theta)
        found = np.zeros((len(self.macs), len(theta)))
        found[:, 1] = cost[1]
        compute, memory = self.macs * cost[self.rate] * (self.rate > 0), self.moved * cost[self.byte]
        slower = np.maximum(np.maximum(compute, memory), 1e-12)
        a, b = (compute / slower) ** _SHARPNESS, (memory / slower) ** _SHARPNESS
        time = slower * (a + b) ** (1 / _SHARPNESS)
        found[:, 2] = self.gathered * cost[2]
        rows = np.arange(len(self.macs))
        found[rows, self.rate] += np.where(self.rate > 0, time * a / (a + b), 0.0)
        found[rows, self.byte] += time * b / (a + b)
        return found


def _constant(operator_class: str, number_format: str) -> int:
    """Return the place of a class and format among the constants; 0 for kernels without multiply-accumulates."""
    if operator_class not in _CLASSES:
        return 0
    return _RATES + _CLASSES.index(operator_class) * len(_FORMATS) + _FORMATS.index(number_format)


def _median_spread(covariance: Floats) -> float:
    return float(np.median(np.sqrt(np.maximum(np.diag(covariance), 0.0) + _LEAST_NOISE**2)))


def _held_out_log_density(inverse: Floats, error: Floats, own: Sequence[NDArray[np.bool_]]) -> float:
    """Sum of log densities of each measured network given all else (Rasmussen & Williams, equations 5.10-5.12).

    Times of a trace were made to add up to what is to be foretold. So its level is set free before (Sherman & Morrison).

    Args:
        inverse: of the covariance of all that was measured, networks first, ``[n, n]``.
        error: of the same, ``[n]``.
        own: by network, which of the kernels behind the networks come from its own trace.
    """
    total = 0.0
    for i, of_trace in enumerate(own):
        pulled = inverse[:, len(own) :][:, of_trace].sum(axis=1)
        freed = _TRACE_SPREAD**2 / (1.0 + _TRACE_SPREAD**2 * float(pulled[len(own) :][of_trace].sum()))
        row = inverse[i] - freed * pulled[i] * pulled
        variance = 1.0 / row[i]
        total -= 0.5 * float(np.log(variance) + (row @ error) ** 2 * variance)
    return total
