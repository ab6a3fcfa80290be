"""Does the measuring keep its promises? On a synthetic device of known truth, and with a model against itself here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeltailor.estimators.latency import Measurement, Verdict, compare
from modeltailor.targets import Device, Inputs

__all__ = ["NOMINAL_ALARMS", "RealCheck", "SyntheticCheck", "chance_allows", "check_real", "check_synthetic"]

_A, _B = Path("a.onnx"), Path("b.onnx")
_ENOUGH = 100
NOMINAL_ALARMS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticCheck:
    """What comparisons on the synthetic device showed.

    Attributes:
        comparisons: of each sort.
        false_alarms: of identical models, how often the interval left out 1.
        power: share of comparisons in which a true difference of 3 % was seen.
        coverage: share of intervals that held the true ratio, over ratios from 0.5 to 2.
        mean_half_width: of the intervals, as a share.
        mean_pairs: process pairs a comparison.
    """

    comparisons: int
    false_alarms: int
    power: float
    coverage: float
    mean_half_width: float
    mean_pairs: float

    @property
    def passed(self) -> bool:
        """At most 9 % false alarms (nominal 5 %), 90 % power, coverage of 92 to 98 %.

        Fewer than a hundred comparisons cannot show that: they fail only where chance would in 1 of 100 cases.
        """
        n = self.comparisons
        if n >= _ENOUGH:
            return self.false_alarms <= 0.09 * n and self.power >= 0.9 and 0.92 <= self.coverage <= 0.98
        most_wrong, most_unseen = (chance_allows(n, rate) for rate in (NOMINAL_ALARMS, 0.1))
        unseen, missed = round(n * (1.0 - self.power)), round(n * (1.0 - self.coverage))
        return self.false_alarms <= most_wrong and missed <= most_wrong and unseen <= most_unseen


@dataclass(frozen=True, slots=True, kw_only=True)
class RealCheck:
    """What comparing one model with itself showed on a real device.

    Attributes:
        comparisons: how many.
        false_alarms: how often the interval left out 1.
        speedups: value, lower and upper end of each.
        verdicts: of each.
    """

    comparisons: int
    false_alarms: int
    speedups: tuple[tuple[float, float, float], ...]
    verdicts: tuple[Verdict, ...]


def chance_allows(n: int, rate: float) -> int:
    """Return the number of ``n`` cases that chance exceeds in fewer than 1 of 100 times, if each happens at ``rate``."""
    total, k = 0.0, -1
    while total < 0.99:
        k += 1
        total += math.comb(n, k) * rate**k * (1 - rate) ** (n - k)
    return k


def _differs(measured: Measurement) -> bool:
    return not measured.speedup.low <= 1.0 <= measured.speedup.high


def check_synthetic(*, comparisons: int = 200, seed: int = 0) -> SyntheticCheck:
    """Compare models of known latency on the synthetic device with :func:`~modeltailor.estimators.latency.compare`.

    Args:
        comparisons: of each of three sorts: identical, 3 % apart, any ratio.
        seed: of all randomness.
    """
    from modeltailor.targets.synthetic import synthetic_device

    rng = np.random.default_rng(seed)
    every: list[Measurement] = []

    def one(ratio: float, number: int) -> Measurement:
        device = synthetic_device({_A.name: 2.0, _B.name: 2.0 / ratio}, seed=seed * 1_000_003 + number)
        measured = compare(device, (_A, _B), {})[0]
        every.append(measured)
        return measured

    alarms = sum(_differs(one(1.0, i)) for i in range(comparisons))
    seen = sum(one(1.03, comparisons + i).speedup.low > 1.0 for i in range(comparisons))
    held = 0
    for i in range(comparisons):
        ratio = math.exp(float(rng.uniform(math.log(0.5), math.log(2.0))))
        measured = one(ratio, 2 * comparisons + i)
        held += measured.speedup.low <= ratio <= measured.speedup.high
    return SyntheticCheck(
        comparisons=comparisons,
        false_alarms=alarms,
        power=seen / comparisons,
        coverage=held / comparisons,
        mean_half_width=float(np.mean([m.speedup.half_width for m in every])),
        mean_pairs=float(np.mean([m.pairs for m in every])),
    )


def check_real(
    device: Device,
    model: Path,
    inputs: Inputs,
    *,
    comparisons: int = 20,
    notify: Callable[[Measurement], None] = lambda _: None,
) -> RealCheck:
    """Compare one model with itself on a real device, again and again.

    Args:
        device: where.
        model: any model that runs there.
        inputs: one batch by input name.
        comparisons: how many.
        notify: told each result as it comes.
    """
    found: list[Measurement] = []
    for _ in range(comparisons):
        found.append(compare(device, (model, model), inputs)[0])
        notify(found[-1])
    return RealCheck(
        comparisons=comparisons,
        false_alarms=sum(_differs(m) for m in found),
        speedups=tuple((m.speedup.value, m.speedup.low, m.speedup.high) for m in found),
        verdicts=tuple(m.verdict for m in found),
    )
