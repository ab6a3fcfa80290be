"""Toy problems with a known front: for tests of samplers, and for anyone who wants to compare theirs.

A landscape prices six formats at each of ``n`` sites. Size and latency are whole numbers of units, so that the least
loss under every pair of limits, and with it the whole front, follows from dynamic programming, exactly. Where the table
would be too large the true hypervolume is enclosed between that of real recipes and a Lagrangian bound.

The figures imitate what was measured on real networks: losses spread over two decades between sites, grow by a factor
of twenty from 8 to 4 bits and of thirty from 4 to 2, and saturate; int8 kernels take 35-95 % of the float time;
sub-8-bit storage saves bytes only; neighbours in different domains pay a conversion. What a search is told beforehand
is off in the way real tables are: losses too low and blind to neighbours, latencies by a tenth, sizes not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modeltailor.search.hypervolume import hypervolume, non_dominated
from modeltailor.search.sampler.costs import Conversion, CostTable, OptionCost, SiteCosts
from modeltailor.search.sampler.knapsack import PairCosts, sweep
from modeltailor.search.sampler.space import Decision, Encoding, SearchSpace

__all__ = ["OPTIONS", "Interval", "Landscape", "make_landscape", "true_front", "true_hypervolume"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Told = Literal["exact", "scan", "guess", "sizes"]
"""What a search knows beforehand; see :func:`make_landscape`."""

OPTIONS = ("fp32", "w8a8", "w4a8", "w2a8", "w8", "w4")
_HALF_BYTES = np.array([16, 4, 2, 1, 4, 2])  # storage of one weight in units of two bits
_IS_INT8 = np.array([False, True, True, True, False, False])
_SENSITIVITY = np.array([0.0, 0.001, 0.02, 0.6, 0.0006, 0.015])  # of the whole network with one format everywhere
_CEILING = 0.8
_LARGEST_TABLE = 3.0e9  # steps of dynamic programming that are worth waiting for (some ten seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A number known to lie between two others; equal where it is exact."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Landscape:
    """A toy problem: loss, latency and size of every recipe, and what a search is told of them.

    Values are ``(loss, latency, size)``, all minimised; latency and size as shares of the all-``fp32`` network.

    Attributes:
        space: the decisions.
        told: the cost table that a search is given.
        reference: corner of the hypervolume: a loss of 0.1, and what fp32 costs.
        loss: of each option at each site, before saturation, ``(S, K)``.
        latency_units: of each option at each site, ``(S, K)``.
        size_units: of each option at each site, ``(S, K)``.
        crossing_units: latency of a change of domain between consecutive sites, ``(S - 1,)``.
        interplay: extra loss of pairs of options at consecutive sites, ``(S - 1, K, K)``.
        fixed_units: latency and size outside the sites.
    """

    space: SearchSpace
    told: CostTable
    reference: tuple[float, float, float]
    loss: Floats
    latency_units: Indices
    size_units: Indices
    crossing_units: Indices
    interplay: Floats
    fixed_units: tuple[int, int]

    @property
    def totals(self) -> tuple[int, int]:
        """Latency and size of the all-``fp32`` network in units."""
        fixed = self.fixed_units
        return int(self.latency_units[:, 0].sum()) + fixed[0], int(self.size_units[:, 0].sum()) + fixed[1]

    @property
    def has_interactions(self) -> bool:
        """Whether neighbours influence each other."""
        return bool(self.crossing_units.any() or self.interplay.any())

    def crossings(self) -> NDArray[np.bool_]:
        """Which pairs of options lie in different domains, ``(K, K)``."""
        out: NDArray[np.bool_] = _IS_INT8[:, None] != _IS_INT8[None, :]
        return out

    def values(self, choices: Indices) -> Floats:
        """Values of recipes given as indices ``(n, S)``; shape ``(n, 3)``."""
        sites = np.arange(self.space.n_sites)
        a, b, e = choices[:, :-1], choices[:, 1:], sites[:-1]
        loss = self.loss[sites, choices].sum(axis=1) + self.interplay[e, a, b].sum(axis=1)
        latency = self.latency_units[sites, choices].sum(axis=1) + self.fixed_units[0]
        latency = latency + (self.crossing_units * self.crossings()[a, b]).sum(axis=1)
        size = self.size_units[sites, choices].sum(axis=1) + self.fixed_units[1]
        whole = self.totals
        return np.stack([saturate(loss), latency / whole[0], size / whole[1]], axis=1)

    def evaluate(self, assignment: Mapping[str, str]) -> tuple[float, float, float]:
        """Values of a recipe given as option by site name."""
        _, vector = self.space.indices_of(self.space.structures[0], assignment)
        loss, latency, size = self.values(vector[None])[0].tolist()
        return loss, latency, size


def saturate(loss: Floats) -> Floats:
    """A network cannot be worse than guessing."""
    out: Floats = -_CEILING * np.expm1(-np.maximum(loss, 0.0) / _CEILING)
    return out


def make_landscape(
    n_sites: int, *, interactions: bool = False, seed: int = 0, told: Told = "scan", encoding: Encoding = "name"
) -> Landscape:
    """Make a landscape.

    Args:
        n_sites: how many sites, 2 or more.
        interactions: whether changes of domain between neighbours take time, and losses of neighbours influence each
            other (by -30 % to +90 % of their geometric mean).
        seed: of all its figures.
        told: what a search knows. ``exact``: everything but the interplay of losses. ``scan``: what changing one site
            at a time shows (losses a third too low as a whole and 10 % off each, latencies 10 % and conversions 30 %
            off). ``guess``: as ``scan``, but each loss is off by half. ``sizes``: no losses, and no format is faster.
        encoding: how the space writes its choices as Optuna parameters.
    """
    rng = np.random.default_rng([seed, n_sites, int(interactions)])
    k = len(OPTIONS)
    sensitivity = rng.lognormal(0.0, 1.0, size=(n_sites, 1))
    loss = sensitivity / sensitivity.sum() * _SENSITIVITY * rng.lognormal(0.0, 0.3, size=(n_sites, k))
    float_units = rng.integers(2, 9, size=n_sites)
    int8_units = np.maximum(1, np.round(float_units * rng.uniform(0.35, 0.95, size=n_sites))).astype(np.int64)
    latency = np.where(_IS_INT8, int8_units[:, None], float_units[:, None])
    size = rng.integers(1, 9, size=n_sites)[:, None] * _HALF_BYTES
    edges = n_sites - 1
    crossing, interplay = np.zeros(edges, dtype=np.int64), np.zeros((edges, k, k))
    if interactions:
        crossing = rng.integers(0, 3, size=edges)
        strength = rng.uniform(-0.3, 0.9, size=edges)
        interplay = strength[:, None, None] * np.sqrt(loss[:-1, :, None] * loss[1:, None, :])
    fixed = (max(1, n_sites // 5), 2 * n_sites)
    space = SearchSpace(
        decisions=tuple(Decision(name=f"site{i}", options=OPTIONS) for i in range(n_sites)), encoding=encoding
    )
    whole = int(latency[:, 0].sum()) + fixed[0], int(size[:, 0].sum()) + fixed[1]
    return Landscape(
        space=space,
        told=_tell(rng, told, loss, latency / whole[0], size / whole[1], crossing / whole[0], fixed, whole),
        reference=(0.1, 1.0, 1.0),
        loss=loss,
        latency_units=latency,
        size_units=size,
        crossing_units=crossing,
        interplay=interplay,
        fixed_units=fixed,
    )


def _tell(
    rng: np.random.Generator,
    told: Told,
    loss: Floats,
    latency: Floats,
    size: Floats,
    crossing: Floats,
    fixed: tuple[int, int],
    whole: tuple[int, int],
) -> CostTable:
    """The cost table that a search is given."""
    if told in ("scan", "guess"):
        # Half of a guess's error is the site's own, and shared by its options.
        own, each = (0.0, 0.1) if told == "scan" else (0.35, 0.35)
        loss = loss * rng.lognormal(0.0, each, size=loss.shape) * rng.lognormal(-0.4, own, size=(len(loss), 1))
        # Formats that run on the same kernel are told the same time.
        latency = latency * rng.lognormal(0.0, 0.1, size=(len(latency), 2))[:, _IS_INT8.astype(np.int64)]
        crossing = crossing * rng.lognormal(0.0, 0.3, size=crossing.shape)
    elif told == "sizes":
        loss, latency, crossing = np.zeros_like(loss), np.repeat(latency[:, :1], len(OPTIONS), axis=1), 0.0 * crossing
    sites = tuple(
        SiteCosts(
            site=f"site{i}",
            options=tuple(
                OptionCost(
                    loss=float(loss[i, j]),
                    latency_ms=float(latency[i, j]),
                    size_bytes=float(size[i, j]),
                    domain="int8" if _IS_INT8[j] else "float",
                )
                for j in range(len(OPTIONS))
            ),
        )
        for i in range(len(loss))
    )
    conversions = tuple(
        Conversion(first=f"site{i}", second=f"site{i + 1}", latency_ms=float(c))
        for i, c in enumerate(crossing)
        if c > 0
    )
    return CostTable(
        sites=sites,
        fixed_latency_ms=fixed[0] / whole[0],
        fixed_size_bytes=fixed[1] / whole[1],
        conversions=conversions,
    )


# --- the truth ------------------------------------------------------------------------------------------------------


def least_losses(landscape: Landscape) -> Floats:
    """Least loss under every pair of limits, by dynamic programming over the sites.

    Returns:
        Entry ``[i, j]``: least loss, before saturation, of recipes whose sites and crossings take at most ``i`` units
        of latency and ``j`` of size; infinite where there is none.
    """
    n_latency, n_size = (int(u.max(axis=1).sum()) + 1 for u in (landscape.latency_units, landscape.size_units))
    top_latency, top_size = (t - f for t, f in zip(landscape.totals, landscape.fixed_units, strict=True))
    shape = (min(n_latency, top_latency) + 1, min(n_size, top_size) + 1)
    k = len(OPTIONS)
    differ = landscape.crossings()
    paired = landscape.has_interactions
    tables = np.full((k if paired else 1, *shape), np.inf)
    tables[0, 0, 0] = 0.0
    for i in range(landscape.space.n_sites):
        fresh = np.full_like(tables, np.inf)
        for option in range(k):
            target = fresh[option if paired else 0]
            sources = range(k) if paired and i else range(1)
            for before in sources:
                latency, loss = int(landscape.latency_units[i, option]), float(landscape.loss[i, option])
                if paired and i:
                    latency += int(landscape.crossing_units[i - 1] * differ[before, option])
                    loss += float(landscape.interplay[i - 1, before, option])
                size = int(landscape.size_units[i, option])
                if latency < shape[0] and size < shape[1]:
                    moved = tables[before, : shape[0] - latency, : shape[1] - size] + loss
                    np.minimum(target[latency:, size:], moved, out=target[latency:, size:])
        tables = fresh
    best: Floats = tables.min(axis=0)
    return np.minimum.accumulate(np.minimum.accumulate(best, axis=0), axis=1)


def _fits_a_table(landscape: Landscape) -> bool:
    n, k = landscape.space.n_sites, len(OPTIONS)
    cells = float(landscape.totals[0]) * float(landscape.totals[1])
    return cells * n * k * (k if landscape.has_interactions else 1) <= _LARGEST_TABLE


def true_front(landscape: Landscape) -> Floats:
    """All points of the front, exactly, shape ``(n, 3)``; only for landscapes whose table of limits is small enough.

    Raises:
        ValueError: the table would be too large.
    """
    if not _fits_a_table(landscape):
        raise ValueError("the table of all limits would be too large; use true_hypervolume for its bounds")
    table = least_losses(landscape)
    padded = np.pad(table, ((1, 0), (1, 0)), constant_values=np.inf)
    # A limit is on the front where both a tighter latency and a tighter size cost more.
    corner = (table < padded[:-1, 1:]) & (table < padded[1:, :-1])
    latency, size = np.nonzero(corner)
    whole, fixed = landscape.totals, landscape.fixed_units
    points = np.stack([saturate(table[corner]), (latency + fixed[0]) / whole[0], (size + fixed[1]) / whole[1]], axis=1)
    return points[non_dominated(points)] if len(points) < 20_000 else points


def true_hypervolume(landscape: Landscape, *, seed: int = 0) -> Interval:
    """The hypervolume of the whole front: exact if the table of limits is small enough, else enclosed.

    Args:
        landscape: the problem.
        seed: of the weightings that give the bounds.
    """
    whole, fixed = landscape.totals, landscape.fixed_units
    if _fits_a_table(landscape):
        table = least_losses(landscape)
        inside = table[: whole[0] - fixed[0], : whole[1] - fixed[1]]
        gain = np.maximum(landscape.reference[0] - saturate(inside), 0.0)
        exact = float(gain.sum()) / (whole[0] * whole[1])
        return Interval(low=exact, high=exact)
    return _enclosed(landscape, seed)


def _enclosed(landscape: Landscape, seed: int, n_weightings: int = 3000, n_cells: int = 1200) -> Interval:
    """Between the hypervolume of supported recipes and that of the Lagrangian bound on a fine grid of limits."""
    rng = np.random.default_rng(seed)
    whole, fixed = landscape.totals, landscape.fixed_units
    costs = np.stack([landscape.loss, landscape.latency_units / whole[0], landscape.size_units / whole[1]])
    crossing = landscape.crossing_units[:, None, None] * landscape.crossings() / whole[0]
    n = landscape.space.n_sites
    chain = np.stack([np.arange(n - 1), np.arange(1, n)], axis=1)
    pairs = PairCosts(edges=chain, costs=np.stack([landscape.interplay, crossing, np.zeros_like(crossing)]))
    allowed = np.ones(landscape.loss.shape, dtype=np.bool_)
    prices = np.column_stack([np.ones(n_weightings), 10.0 ** rng.uniform(-4.5, 1.0, size=(n_weightings, 2))])
    prices[: n_weightings // 10, 1] = 0.0
    prices[n_weightings // 10 : n_weightings // 5, 2] = 0.0
    found, least = [], []
    for part in np.array_split(prices, max(1, n_weightings * n // 100_000)):
        choices = sweep(costs, part, allowed, pairs)
        sums = costs[:, np.arange(n), choices].sum(axis=2).T + pairs.total(choices)
        least.append((part * sums).sum(axis=1))
        found.append(landscape.values(choices))
    points = np.concatenate(found)
    # Finer where limits are tight, because there the losses change most.
    units = (landscape.latency_units, landscape.size_units)
    tightest = [(u.min(axis=1).sum() + f) / w for u, f, w in zip(units, fixed, whole, strict=True)]
    limits = [np.geomspace(t, 1.0, n_cells + 1) for t in tightest]
    # Within a cell nothing loses less than the bound at its looser corner.
    latency, size = limits[0][1:] - fixed[0] / whole[0], limits[1][1:] - fixed[1] / whole[1]
    bound = np.zeros((n_cells, n_cells))
    for price, value in zip(prices, np.concatenate(least), strict=True):
        np.maximum(bound, (value - price[1] * latency)[:, None] - (price[2] * size)[None, :], out=bound)
    gain = np.maximum(landscape.reference[0] - saturate(bound), 0.0)
    high = float(np.diff(limits[0]) @ gain @ np.diff(limits[1]))
    return Interval(low=hypervolume(points[non_dominated(points)], landscape.reference), high=high)
