"""A figure with its interval and how it was got."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modeltailor.targets import Evidence

__all__ = ["Estimate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A positive figure with a 95 % interval.

    Attributes:
        value: best guess.
        low: lower end of the interval.
        high: upper end of the interval.
        evidence: how it was got.
        screening: whether it rests on fewer than four process pairs; good for steering, not for a claim.

    Raises:
        ValueError: not finite and positive, or not ordered.
    """

    value: float
    low: float
    high: float
    evidence: Evidence
    screening: bool = False

    def __post_init__(self) -> None:
        if not (0.0 < self.low <= self.value <= self.high < math.inf):
            raise ValueError(
                f"must be finite, positive and low <= value <= high; got {self.low}, {self.value}, {self.high}"
            )

    @property
    def half_width(self) -> float:
        """Half of the interval as a share of the value (0.02 = plus or minus 2 %)."""
        return math.expm1(0.5 * math.log(self.high / self.low))
