"""The toy landscapes: their truth against enumeration and against bounds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from modeltailor.search.hypervolume import hypervolume, non_dominated
from modeltailor.search.landscapes import OPTIONS, Told, _enclosed, make_landscape, true_front, true_hypervolume


@pytest.mark.parametrize("interactions", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_truth_is_that_of_all_recipes(interactions: bool, seed: int) -> None:
    landscape = make_landscape(5, interactions=interactions, seed=seed)
    choices = np.array(list(itertools.product(range(len(OPTIONS)), repeat=5)))
    values = landscape.values(choices)
    front = values[non_dominated(values)]
    exact = true_hypervolume(landscape)
    assert exact.low == exact.high == pytest.approx(hypervolume(front, landscape.reference), rel=1e-9)
    inside = front[(front < landscape.reference).all(axis=1)]
    found = true_front(landscape)
    found = found[(found < landscape.reference).all(axis=1)]
    np.testing.assert_allclose(found[np.lexsort(found.T)], inside[np.lexsort(inside.T)], rtol=1e-9)


@pytest.mark.parametrize("interactions", [False, True])
def test_bounds_enclose_the_exact_volume(interactions: bool) -> None:
    landscape = make_landscape(20, interactions=interactions)
    exact = true_hypervolume(landscape).low
    bounds = _enclosed(landscape, seed=0, n_weightings=400, n_cells=400)
    assert bounds.low <= exact <= bounds.high
    assert bounds.high <= 1.02 * bounds.low


def test_a_recipe_is_worth_the_same_by_name_and_by_index() -> None:
    landscape = make_landscape(20, interactions=True, seed=2)
    vector = np.random.default_rng(0).integers(6, size=20)
    _, assignment = landscape.space.assignment_of(0, vector)
    assert landscape.evaluate(assignment) == tuple(landscape.values(vector[None])[0].tolist())
    fp32 = landscape.evaluate(landscape.space.uniform("fp32")[1])
    assert fp32 == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("told", ["exact", "scan", "guess", "sizes"])
def test_what_is_told_is_right_about_sizes_and_as_wrong_as_it_says_about_losses(told: Told) -> None:
    landscape = make_landscape(40, told=told)
    arrays = landscape.told.arrays(landscape.space)
    uniform = np.repeat(np.arange(6)[:, None], 40, axis=1)
    np.testing.assert_allclose(arrays.predict("size", 0, uniform), landscape.values(uniform)[:, 2])
    ratio = arrays.base[0][:, 1:] / landscape.loss[:, 1:]
    spread = float(np.log(ratio).std())
    low, high = {"exact": (0.0, 1e-9), "scan": (0.05, 0.15), "guess": (0.4, 0.65), "sizes": (0.5, 3.0)}[told]
    assert low <= spread <= high


def test_a_front_that_does_not_fit_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        true_front(make_landscape(1000))
