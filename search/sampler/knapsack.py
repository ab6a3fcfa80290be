"""One option a site, costs that add up: the multiple-choice knapsack, solved exactly or along the whole front.

:func:`solve` finds the least loss under limits with HiGHS. :func:`sweep` minimises weighted sums of the objectives
(Lagrange multipliers) for many weightings at once, which gives the supported points of the front; costs between
neighbours are followed exactly along the chain of sites by dynamic programming. :func:`front` spreads a given number of
solutions along size, latency and loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack

from modeltailor.search.front import Objective
from modeltailor.search.hypervolume import non_dominated, spread_out
from modeltailor.search.sampler.costs import CostTable
from modeltailor.search.sampler.space import Assignment, SearchSpace

__all__ = ["PairCosts", "cheapest", "front", "front_choices", "multipliers", "solve", "sweep"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_FORBIDDEN = 1e30  # dearer than anything real: an option that does not exist is never chosen


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairCosts:
    """Costs of pairs of choices at neighbouring sites.

    Attributes:
        edges: pairs of sites, ``(E, 2)``, each with the smaller index first.
        costs: by objective, edge and the two options, ``(M, E, K, K)``.
    """

    edges: Indices
    costs: Floats

    def total(self, choices: Indices) -> Floats:
        """Sum over the edges for ``choices`` of shape ``(n, S)``; shape ``(n, M)``."""
        if not len(self.edges):
            return np.zeros((len(choices), len(self.costs)))
        a, b = choices[:, self.edges[:, 0]], choices[:, self.edges[:, 1]]
        out: Floats = self.costs[:, np.arange(len(self.edges)), a, b].sum(axis=2).T
        return out


def solve(
    loss: Floats,
    weights: Floats,
    limits: Sequence[float],
    *,
    allowed: NDArray[np.bool_] | None = None,
    gap: float = 1e-4,
    time_limit_s: float = 10.0,
) -> Indices | None:
    """Return the choice of least total loss whose total weights keep the limits.

    Args:
        loss: of each option, ``(S, K)``.
        weights: for instance bytes and milliseconds of each option, ``(R, S, K)``.
        limits: one a weight, ``(R,)``.
        allowed: which options exist, ``(S, K)``; all by default.
        gap: relative distance to the optimum at which the solver may stop.
        time_limit_s: seconds after which the best choice found so far is returned.

    Returns:
        Option by site, ``(S,)``, or ``None`` if no choice keeps the limits (or none was found in time).
    """
    s, k = loss.shape
    mask = np.ones((s, k), dtype=np.bool_) if allowed is None else allowed
    columns = np.flatnonzero(mask.ravel())
    n = len(columns)
    one_each = csr_array((np.ones(n), (columns // k, np.arange(n))), shape=(s, n))
    # Each row is scaled to a limit of order 1, or HiGHS's absolute tolerances would mean bytes here and days there.
    flat = weights.reshape(len(weights), -1)[:, columns]
    scale = np.maximum(np.abs(flat).sum(axis=1) / max(1, s), 1e-300)
    rows = csr_array(flat / scale[:, None])
    low = np.concatenate([np.ones(s), np.full(len(weights), -np.inf)])
    high = np.concatenate([np.ones(s), np.asarray(limits, dtype=np.float64) / scale])
    objective = loss.ravel()[columns]
    found = milp(
        objective / max(float(np.abs(objective).max(initial=0.0)), 1e-300),
        integrality=np.ones(n),
        bounds=Bounds(0.0, 1.0),
        constraints=LinearConstraint(vstack([one_each, rows], format="csr"), low, high),
        options={"mip_rel_gap": gap, "time_limit": time_limit_s},
    )
    if found.x is None:
        return None
    values = np.full((s, k), -1.0)
    values.ravel()[columns] = found.x
    choice: Indices = values.argmax(axis=1)
    return choice


def cheapest(cost: Floats, allowed: NDArray[np.bool_]) -> Indices:
    """Return the option of least cost at each site; of equals the first."""
    choice: Indices = np.where(allowed, cost, _FORBIDDEN).argmin(axis=-1)
    return choice


def multipliers(rng: np.random.Generator, scales: Floats, n: int) -> Floats:
    """Draw ``n`` weightings of the objectives, each log-uniform over four decades around the inverse of its scale.

    Args:
        rng: source of randomness.
        scales: what one unit of each objective is, ``(M,)``; 0 leaves an objective out.
        n: how many.

    Returns:
        Shape ``(n, M)``.
    """
    exponent = rng.uniform(-2.0, 2.0, size=(n, len(scales)))
    out: Floats = np.where(scales > 0, 10.0**exponent / np.maximum(scales, 1e-300), 0.0)
    return out


def sweep(costs: Floats, weightings: Floats, allowed: NDArray[np.bool_], pairs: PairCosts | None = None) -> Indices:
    """Minimise weighted sums of the objectives.

    Args:
        costs: by objective, site and option, ``(M, S, K)``.
        weightings: ``(B, M)``.
        allowed: which options exist, ``(S, K)``.
        pairs: costs between neighbours. Edges between consecutive sites are followed exactly; for the others each
            choice is improved site by site until nothing is gained, or three times.

    Returns:
        Choices, ``(B, S)``.
    """
    own = np.tensordot(weightings, costs, axes=1)
    own = np.where(allowed, own, _FORBIDDEN)
    if pairs is None or not len(pairs.edges) or not pairs.costs.any():
        return cheapest(own, allowed)
    consecutive = pairs.edges[:, 1] == pairs.edges[:, 0] + 1
    choice = _along_chain(own, weightings, PairCosts(edges=pairs.edges[consecutive], costs=pairs.costs[:, consecutive]))
    if not consecutive.all():
        choice = _improve(choice, own, weightings, pairs)
    return choice


def _along_chain(own: Floats, weightings: Floats, pairs: PairCosts) -> Indices:
    """Exact minimum of site costs ``(B, S, K)`` plus costs of consecutive sites (Viterbi)."""
    b, s, k = own.shape
    edge_at = np.full(s, -1)
    edge_at[pairs.edges[:, 1]] = np.arange(len(pairs.edges))
    back = np.zeros((s, b, k), dtype=np.int64)
    value = own[:, 0]
    flat = pairs.costs.reshape(len(pairs.costs), -1, k * k)
    for i in range(1, s):
        if edge_at[i] < 0:
            back[i] = value.argmin(axis=1)[:, None]
            value = value.min(axis=1)[:, None] + own[:, i]
            continue
        # axes: weighting, option here, option before
        step = (weightings @ flat[:, edge_at[i]]).reshape(b, k, k).transpose(0, 2, 1) + value[:, None, :]
        back[i] = step.argmin(axis=2)
        value = step.min(axis=2) + own[:, i]
    choice = np.empty((b, s), dtype=np.int64)
    choice[:, -1] = value.argmin(axis=1)
    rows = np.arange(b)
    for i in range(s - 1, 0, -1):
        choice[:, i - 1] = back[i, rows, choice[:, i]]
    return choice


def _improve(choice: Indices, own: Floats, weightings: Floats, pairs: PairCosts, rounds: int = 3) -> Indices:
    """Change one site at a time to its best option given its neighbours."""
    b, s, _ = own.shape
    touching: list[list[tuple[int, int, bool]]] = [[] for _ in range(s)]
    for e, (i, j) in enumerate(pairs.edges.tolist()):
        touching[i].append((e, j, True))
        touching[j].append((e, i, False))
    weighted = np.tensordot(weightings, pairs.costs, axes=1)
    rows = np.arange(b)
    for _ in range(rounds):
        before = choice.copy()
        for i in range(s):
            total = own[:, i].copy()
            for e, other, leads in touching[i]:
                table = weighted[:, e] if leads else weighted[:, e].transpose(0, 2, 1)
                total += table[rows, :, choice[:, other]]
            choice[:, i] = total.argmin(axis=1)
        if (choice == before).all():
            break
    return choice


def front_choices(
    costs: Floats,
    allowed: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    n_weightings: int = 256,
    pairs: PairCosts | None = None,
) -> Indices:
    """Return distinct supported solutions along the front, the best of each objective first.

    Args:
        costs: by objective, site and option, ``(M, S, K)``.
        allowed: which options exist, ``(S, K)``.
        rng: source of the weightings.
        n_weightings: how many weighted sums are minimised.
        pairs: costs between neighbours.

    Returns:
        Choices, ``(n, S)``.
    """
    m = len(costs)
    low = np.where(allowed, costs, np.inf).min(axis=2).sum(axis=1)
    high = np.where(allowed, costs, -np.inf).max(axis=2).sum(axis=1)
    scales = high - low
    corners = np.where(scales > 0, 1.0 / np.maximum(scales, 1e-300), 0.0) * (np.eye(m) + 1e-6)
    weightings = np.vstack([corners, multipliers(rng, scales, n_weightings)])
    found = sweep(costs, weightings, allowed, pairs)
    return distinct(found)


def distinct(choices: Indices) -> Indices:
    """Return the rows of ``choices`` without repetitions, in the order of their first appearance."""
    packed = choices.astype(np.int16)
    return choices[list({row.tobytes(): i for i, row in reversed(list(enumerate(packed)))}.values())[::-1]]


def front(
    space: SearchSpace,
    costs: CostTable,
    n: int,
    *,
    structure: str | None = None,
    objectives: Sequence[Objective] = ("accuracy", "latency", "size"),
    seed: int = 0,
) -> list[Mapping[str, str]]:
    """Return up to ``n`` recipes of one structure spread along the whole predicted front, the most useful first.

    Args:
        space: what can be decided.
        costs: the additive prior.
        n: how many at most.
        structure: its name; the first one by default.
        objectives: what spans the front.
        seed: of the weightings.

    Returns:
        Option by site name, each.
    """
    arrays = costs.arrays(space)
    t = 0 if structure is None else space.structures.index(structure)
    tensor = np.stack([arrays.of(o, t) for o in objectives])
    pairs = conversion_pairs(arrays.edges, np.stack([arrays.conversion(o, t) for o in objectives]), arrays.domain)
    found = front_choices(tensor, arrays.allowed, np.random.default_rng([seed, t]), pairs=pairs)
    found[:, ~arrays.present[t]] = 0
    points = np.stack([arrays.predict(o, t, found) for o in objectives], axis=1)
    keep = np.flatnonzero(non_dominated(points))
    reference = points.max(axis=0) + 1e-9 + 0.01 * np.ptp(points, axis=0)
    order = spread_out(points[keep], reference, n) if len(objectives) > 1 else list(range(min(n, len(keep))))
    out: list[Assignment] = [space.assignment_of(t, found[keep[i]])[1] for i in order]
    return list(out)


def conversion_pairs(edges: Indices, costs: Floats, domain: Indices) -> PairCosts:
    """Spread costs of differing domains ``(M, E)`` over the options that lie in them."""
    first, second = np.minimum(edges[:, 0], edges[:, 1]), np.maximum(edges[:, 0], edges[:, 1])
    differ = domain[first][:, :, None] != domain[second][:, None, :]
    return PairCosts(edges=np.stack([first, second], axis=1), costs=costs[:, :, None, None] * differ)
