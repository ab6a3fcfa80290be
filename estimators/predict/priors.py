"""What a profile does not state, guessed from the profiles of other devices.

Three guesses are made of a figure: a fixed one of the roofline, that of all pooled profiles, and that of the nearest ones
(same sort of device and provider, similar speed). Each guesses every pooled figure in turn from the other profiles; the
guesses are averaged by the inverse of the squared errors that they made there, and those errors say how sure the
average is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modeltailor.targets.profile import Figure, Profile

__all__ = ["Guess", "figures_of", "guessed"]

_REACHED = 0.4  # share of the peak that a dense convolution reaches
_DOUBT = {"measured": 0.2, "inferred": 0.5, "spec": 0.7}  # standard deviation of the log, by origin
_PEAK_DOUBT, _PART_DOUBT = 0.4, 0.2  # more of it, for a peak, and for a share of the cores
_FIXED = {"fp32": 0.0, "fp16": 0.2, "int8": 0.7}  # log of the rate over that in fp32
_FIXED_BANDWIDTH = 10.0  # 1e9 bytes a second
_FIXED_ERROR = 0.8
_LEAST_ERROR = 0.3
_LEAST_POOLED = 3
_SAME_KIND, _SPEED_REACH = 1.0, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """A figure of a device as a log-normal variable.

    Attributes:
        log: mean of its log.
        doubt: standard deviation of its log.
    """

    log: float
    doubt: float


def figures_of(profile: Profile) -> dict[str, Guess]:
    """Return what a profile states: the rate that a dense convolution reaches by format, and ``bandwidth``.

    Rates in 1e9 operations a second, one of all cores taken down to the profile's threads; bandwidth in 1e9 bytes.
    """
    found: dict[str, Guess] = {}
    for table, share, more in ((profile.effective_gops, 1.0, 0.1), (profile.peak_gops, _REACHED, _PEAK_DOUBT)):
        for name in _FIXED:
            figure = table.get(name)  # type: ignore[call-overload]
            if figure is not None and name not in found:
                part = _part_of_cores(profile, figure)
                doubt = _DOUBT[figure.origin] + more + (_PART_DOUBT if part < 1.0 else 0.0)
                found[name] = Guess(log=float(np.log(figure.value * share * part)), doubt=doubt)
    if profile.bandwidth_gbps is not None:
        bandwidth = profile.bandwidth_gbps
        found["bandwidth"] = Guess(log=float(np.log(bandwidth.value)), doubt=_DOUBT[bandwidth.origin])
    return found


def guessed(profile: Profile, pool: Sequence[Profile]) -> dict[str, Guess]:
    """Return all figures of a device: those that its profile states, and guesses at the others from the pool."""
    stated = figures_of(profile)
    others = [(p, figures_of(p)) for p in pool if p.name != profile.name]
    return {name: stated.get(name) or _guess(name, profile, stated, others) for name in (*_FIXED, "bandwidth")}


def _guess(
    name: str, profile: Profile, stated: Mapping[str, Guess], others: Sequence[tuple[Profile, Mapping[str, Guess]]]
) -> Guess:
    known = [(p, f) for p, f in others if name in f and (set(f) & set(_FIXED)) - {name}]
    errors: list[list[float]] = []
    for i, (p, f) in enumerate(known):
        rest = known[:i] + known[i + 1 :]
        errors.append([g - f[name].log for g in _guesses(name, p, {k: v for k, v in f.items() if k != name}, rest)])
    guesses = _guesses(name, profile, stated, known)
    squared = np.full(len(guesses), _FIXED_ERROR**2)
    if len(known) >= _LEAST_POOLED:
        squared = np.maximum(np.mean(np.square(errors), axis=0), _LEAST_ERROR**2)
    weights = 1.0 / squared
    weights /= weights.sum()
    doubt = float(np.hypot(np.sqrt(weights @ squared), _base(stated)[1]))
    return Guess(log=float(weights @ np.array(guesses)), doubt=doubt)


def _base(figures: Mapping[str, Guess]) -> tuple[float, float]:
    """Return the log rate in fp32, worked out from another format if need be, and its doubt."""
    for name, ratio in _FIXED.items():
        if name in figures:
            return figures[name].log - ratio, figures[name].doubt
    return float(np.log(20.0)), 1.0


def _guesses(
    name: str, profile: Profile, figures: Mapping[str, Guess], others: Sequence[tuple[Profile, Mapping[str, Guess]]]
) -> list[float]:
    """Return the fixed guess at a log figure, that of all others, and that of the nearest ones."""
    base = _base(figures)[0]
    fixed = float(np.log(_FIXED_BANDWIDTH)) if name == "bandwidth" else base + _FIXED[name]
    if len(others) < _LEAST_POOLED:
        return [fixed, fixed, fixed]
    bases = np.array([_base({k: v for k, v in f.items() if k != name})[0] for _, f in others])
    over = np.array([f[name].log for _, f in others]) - bases
    unlike = np.array([(p.kind != profile.kind) + (p.provider != profile.provider) for p, _ in others]) / _SAME_KIND
    near = np.exp(-0.5 * (unlike**2 + ((bases - base) / _SPEED_REACH) ** 2)) + 1e-6
    return [fixed, base + float(np.median(over)), base + float(near @ over / near.sum())]


def _part_of_cores(profile: Profile, figure: Figure) -> float:
    """Return which part of a rate the profile's threads get, where the rate counts all cores of the processor."""
    cores = sum(int(n) for n in re.findall(r"\b(\d+)x ", profile.processor))
    counts_one = re.search(r"\b(one|single|a|1) (core|thread)", figure.source)
    if profile.kind == "gpu" or cores <= profile.threads or counts_one:
        return 1.0
    return profile.threads / cores
