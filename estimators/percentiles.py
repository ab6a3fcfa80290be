"""Percentiles of single inferences, claimed only where the sample allows.

The interval of a percentile comes from order statistics, without any assumption on the distribution (Hahn and Meeker,
"Statistical Intervals", 1991, section 5.2). Single inferences of one process are not independent, so it is a lower bound
of what is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["LEAST_FOR", "Percentile", "percentiles"]

LEAST_FOR: dict[float, int] = {0.5: 20, 0.9: 1_024, 0.99: 20_000}
"""Inferences that a percentile needs to be claimed, by share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """A percentile with its 95 % interval.

    Attributes:
        share: which one, 0.9 for p90.
        ms: milliseconds.
        low: lower end of the interval.
        high: upper end of the interval.
        samples: inferences that it rests on.
    """

    share: float
    ms: float
    low: float
    high: float
    samples: int


def percentiles(times_ms: Sequence[float]) -> dict[float, Percentile]:
    """Return the percentiles that so many single inferences allow, by share: 0.5, 0.9 and 0.99 at most.

    Args:
        times_ms: milliseconds of single inferences.
    """
    ordered = np.sort(np.asarray(times_ms, dtype=np.float64))
    n = len(ordered)
    found = {}
    for share, least in LEAST_FOR.items():
        if n < least:
            continue
        spread = 1.96 * math.sqrt(n * share * (1.0 - share))
        low = max(0, math.floor(n * share - spread) - 1)
        high = min(n - 1, math.ceil(n * share + spread))
        middle = float(np.quantile(ordered, share))
        found[share] = Percentile(
            share=share,
            ms=middle,
            low=min(float(ordered[low]), middle),
            high=max(float(ordered[high]), middle),
            samples=n,
        )
    return found
