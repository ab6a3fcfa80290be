"""One version of an objective's costs, as the knapsack and the expected gains take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_LEVEL", "Draw", "Floats", "Indices"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

LEAST_LEVEL = 1e-3
"""Sums below this share of the typical one grow no slower."""

_LEVELS = (0.2, 1.0, 4.0)  # sums, as shares of the typical one, at which a value's growth is taken for its costs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draw:
    """One version of an objective's costs: the expected one, or a sample.

    Attributes:
        growing: cost of each option at each site by the prior and its deviations, ``(S, K)``.
        signed: effect of either sign of each option at each site, ``(S, K)``.
        pairs: costs between neighbours, ``(E, K, K)``.
        fixed: what is paid anyway.
        told: what the prior expects of each option, of which ``growing`` is a correction, ``(S, K)``.
        power: with which values grow with the sum of what was told.
        typical: sum at which that growth is in proportion.
    """

    growing: Floats
    signed: Floats
    pairs: Floats
    fixed: float
    told: Floats
    power: float = 1.0
    typical: float = 1.0

    @property
    def own(self) -> Floats:
        """Cost of each option at each site around the typical sum, ``(S, K)``."""
        return self.growing + self.signed

    def linear(self) -> list[tuple[Floats, Floats]]:
        """Costs of options and pairs as they add up around small, typical and large sums; one entry if it is all the same."""
        if self.power == 1.0:
            return [(self.own, self.pairs)]
        slopes = [self.power * level ** (self.power - 1.0) for level in _LEVELS]
        return [(slope * self.growing + self.signed, slope * self.pairs) for slope in slopes]

    def total(self, edges: Indices, choices: Indices) -> Floats:
        """Value of choices ``(n, S)``; shape ``(n,)``."""
        sites = np.arange(choices.shape[1])
        grown: Floats = self.growing[sites, choices].sum(axis=1)
        if len(edges):
            a, b = choices[:, edges[:, 0]], choices[:, edges[:, 1]]
            grown = grown + self.pairs[np.arange(len(edges)), a, b].sum(axis=1)
        if self.power != 1.0:
            told = self.told[sites, choices].sum(axis=1)
            level = np.maximum(told / self.typical, LEAST_LEVEL)
            grown = level ** (self.power - 1.0) * (told + self.power * (grown - told))
        out: Floats = self.fixed + grown + self.signed[sites, choices].sum(axis=1)
        return out
