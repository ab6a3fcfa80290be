"""Hypervolume and dominance against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeltailor.search.hypervolume import cut_boxes, hypervolume, non_dominated, spread_out


@st.composite
def grids(draw: st.DrawFn) -> np.ndarray:
    """Points on a small integer grid, so that ties are the rule."""
    m = draw(st.integers(2, 4))
    n = draw(st.integers(0, 9))
    return np.array(draw(st.lists(st.lists(st.integers(0, 6), min_size=m, max_size=m), min_size=n, max_size=n)),
                    dtype=float).reshape(n, m)  # fmt: skip


def _cells(points: np.ndarray, top: int) -> float:
    m = points.shape[1]
    return float(
        sum(
            any((p <= corner).all() for p in points)
            for corner in map(np.array, itertools.product(range(top), repeat=m))
        )
    )


@settings(max_examples=150, deadline=None)
@given(grids())
def test_volume_is_the_count_of_dominated_cells(points: np.ndarray) -> None:
    m = points.shape[1]
    assert hypervolume(points, [5.0] * m) == pytest.approx(_cells(points, 5))


@settings(max_examples=150, deadline=None)
@given(grids())
def test_a_point_is_kept_exactly_if_nothing_beats_it(points: np.ndarray) -> None:
    mask = non_dominated(points)
    for i, p in enumerate(points):
        beaten = any((q <= p).all() and ((q < p).any() or j < i) for j, q in enumerate(points) if j != i)
        assert mask[i] == (not beaten)


@settings(max_examples=100, deadline=None)
@given(grids(), st.integers(0, 10_000))
def test_gain_is_the_difference_of_two_volumes(points: np.ndarray, seed: int) -> None:
    m = points.shape[1]
    rng = np.random.default_rng(seed)
    new = rng.integers(0, 7, size=(4, m)) + rng.choice([0.0, 0.5])
    reference = np.full(m, 6.0)
    gains = cut_boxes(points, reference).gains(new)
    for gain, point in zip(gains, new, strict=True):
        expected = hypervolume(np.vstack([points, point]), reference) - hypervolume(points, reference)
        assert gain == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_expected_gain_agrees_with_sampling(m: int) -> None:
    rng = np.random.default_rng(m)
    boxes = cut_boxes(rng.random((12, m)), np.ones(m))
    mean, std = np.full(m, 0.35), np.linspace(0.05, 0.2, m)
    sampled = boxes.gains(rng.normal(mean, std, size=(40_000, m)))
    exact = boxes.expected_gains(mean, std)[0]
    assert exact == pytest.approx(sampled.mean(), abs=5 * sampled.std() / 200)


def test_expected_gain_of_a_sure_point_is_its_gain() -> None:
    rng = np.random.default_rng(0)
    boxes = cut_boxes(rng.random((20, 3)), np.ones(3))
    points = rng.random((50, 3)) * 0.8
    np.testing.assert_allclose(boxes.expected_gains(points, np.full_like(points, 1e-9)), boxes.gains(points), atol=1e-7)


def test_known_volume_of_a_simplex_front() -> None:
    # The cube minus the corner below x + y + z = 1 has volume 5/6; a fine front comes close from below.
    grid = np.linspace(0, 1, 41)
    front = np.array([(x, y, 1 - x - y) for x in grid for y in grid if x + y <= 1])
    value = hypervolume(front, [1, 1, 1])
    assert 5 / 6 - 0.03 < value < 5 / 6


def test_points_outside_the_reference_count_for_nothing() -> None:
    assert hypervolume([[2.0, 0.0], [0.5, 1.0]], [1.0, 1.0]) == 0.0
    assert hypervolume(np.zeros((0, 3)), [1.0, 1.0, 1.0]) == 0.0


def test_greedy_choice_starts_with_the_largest_box_and_never_repeats() -> None:
    points = np.array([[0.1, 0.9], [0.5, 0.5], [0.9, 0.1], [0.6, 0.6]])
    chosen = spread_out(points, [1.0, 1.0], 10)
    assert chosen[0] == 1
    assert sorted(chosen) == [0, 1, 2]


def test_wrong_number_of_objectives_is_refused() -> None:
    with pytest.raises(ValueError, match="2 to 4 objectives"):
        cut_boxes(np.zeros((1, 5)), np.ones(5))
