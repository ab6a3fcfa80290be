"""The knapsack against enumeration of all choices."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeltailor.search.sampler.knapsack import PairCosts, front_choices, solve, sweep


def _all(s: int, k: int) -> np.ndarray:
    return np.array(list(itertools.product(range(k), repeat=s)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 4))
def test_exact_solution_is_the_best_of_all_choices(seed: int, s: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    loss, weights = rng.random((s, k)), rng.random((2, s, k)) * [[[1e6]], [[1.0]]]
    choices = _all(s, k)
    sites = np.arange(s)
    totals = weights[:, sites, choices].sum(axis=2)
    limits = np.quantile(totals, 0.4, axis=1)
    feasible = (totals <= limits[:, None]).all(axis=0)
    found = solve(loss, weights, limits.tolist(), gap=0.0)
    if not feasible.any():
        assert found is None
        return
    assert found is not None
    losses = loss[sites, choices].sum(axis=1)
    assert (weights[:, sites, found].sum(axis=1) <= limits * (1 + 1e-6)).all()
    assert loss[sites, found].sum() == pytest.approx(losses[feasible].min(), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_sweep_follows_costs_between_consecutive_sites_exactly(seed: int, gapped: bool) -> None:
    rng = np.random.default_rng(seed)
    s, k, m = 5, 3, 2
    costs = rng.random((m, s, k))
    edges = np.array([(i, i + 1) for i in range(s - 1) if not (gapped and i == 2)])
    pairs = PairCosts(edges=edges, costs=rng.random((m, len(edges), k, k)))
    weightings = rng.random((4, m))
    allowed = np.ones((s, k), dtype=bool)
    allowed[1, 2] = False
    choices = _all(s, k)
    choices = choices[choices[:, 1] != 2]
    totals = costs[:, np.arange(s), choices].sum(axis=2).T + pairs.total(choices)
    found = sweep(costs, weightings, allowed, pairs)
    reached = costs[:, np.arange(s), found].sum(axis=2).T + pairs.total(found)
    np.testing.assert_allclose((weightings * reached).sum(axis=1), (weightings @ totals.T).min(axis=1))


def test_other_edges_are_improved_and_never_worsened() -> None:
    rng = np.random.default_rng(3)
    s, k = 6, 3
    costs = rng.random((1, s, k))
    chain = [(i, i + 1) for i in range(s - 1)]
    pairs = PairCosts(edges=np.array([*chain, (0, 3), (1, 5)]), costs=rng.random((1, s + 1, k, k)))
    allowed = np.ones((s, k), dtype=bool)
    one = np.ones((1, 1))

    def value(choice: np.ndarray) -> float:
        return float(costs[0, np.arange(s), choice[0]].sum() + pairs.total(choice)[0, 0])

    only_chain = sweep(costs, one, allowed, PairCosts(edges=pairs.edges[: s - 1], costs=pairs.costs[:, : s - 1]))
    assert value(sweep(costs, one, allowed, pairs)) <= value(only_chain) + 1e-12


def test_front_holds_the_best_of_each_objective() -> None:
    rng = np.random.default_rng(1)
    costs = rng.random((3, 8, 4))
    allowed = np.ones((8, 4), dtype=bool)
    found = front_choices(costs, allowed, np.random.default_rng(0))
    totals = costs[:, np.arange(8), found].sum(axis=2)
    np.testing.assert_allclose(totals.min(axis=1), costs.min(axis=2).sum(axis=1))
    assert len(np.unique(found, axis=0)) == len(found)


def test_a_thousand_sites_are_solved_at_once() -> None:
    rng = np.random.default_rng(0)
    loss = np.sort(rng.lognormal(size=(1000, 6)), axis=1)
    weights = -np.sort(-rng.random((2, 1000, 6)), axis=2)
    started = time.process_time()
    found = solve(loss, weights, (0.5 * weights.max(axis=2).sum(axis=1)).tolist(), gap=1e-3)
    assert found is not None
    assert (weights[:, np.arange(1000), found].sum(axis=1) <= 0.5 * weights.max(axis=2).sum(axis=1) * (1 + 1e-6)).all()
    assert time.process_time() - started < 5.0
    started = time.process_time()
    front_choices(np.concatenate([loss[None], weights]), np.ones((1000, 6), dtype=bool), rng)
    print("sweep s", time.process_time() - started)
