"""Intervals of a metric: those of a share stay a share, and hold the truth as often as they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from modeltailor.errors import DataError
from modeltailor.estimators.accuracy import judge
from modeltailor.workloads.metric import Metric, MetricSpec, built_in


def _judged(hits: int, n: int) -> tuple[float, float, float]:
    targets = np.zeros(n, dtype=np.int64)
    logits = np.zeros((n, 2), dtype=np.float32)
    logits[:hits, 0] = 1.0
    logits[hits:, 1] = 1.0
    found = judge(built_in(MetricSpec(name="accuracy")), {"y": logits}, targets)
    return found.value, found.low, found.high


@pytest.mark.parametrize("hits", [0, 1, 315, 316, 317])
def test_the_interval_of_a_share_stays_within_0_and_1(hits: int) -> None:
    value, low, high = _judged(hits, 317)
    assert value == hits / 317
    assert 0.0 <= low <= value <= high <= 1.0
    assert high - low > 0.005  # all hits, or none, of a few hundred samples are no certainty


def test_wilson_by_hand() -> None:
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662; 15 of 148 gives 0.0624 to 0.1605
    assert _judged(81, 263)[1:] == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert _judged(15, 148)[1:] == pytest.approx((0.0624, 0.1605), abs=5e-5)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    kept = 0
    for _ in range(600):
        _, low, high = _judged(int(rng.binomial(200, 0.97)), 200)
        kept += low <= 0.97 <= high
    assert 0.92 <= kept / 600 <= 0.98


def _auc(outputs: dict[str, np.ndarray], y: np.ndarray) -> float:
    scores = outputs["y"][:, 0]
    above, below = scores[y == 1], scores[y == 0]
    if not len(above) or not len(below):
        raise ValueError("only one class present")
    return float((above[:, None] > below).mean())


AUC = Metric(name="auc", minimize=False, unit="", rows_per_sample=1, value=_auc)


def test_draws_on_which_a_metric_is_undefined_are_left_out() -> None:
    rng = np.random.default_rng(0)
    y = np.zeros(60, dtype=np.int64)
    y[:3] = 1  # one draw in twenty has none of them
    scores = (y + rng.normal(0, 0.7, 60)).astype(np.float32)[:, None]
    found = judge(AUC, {"y": scores}, y, {"y": scores})
    assert found.low <= found.value <= found.high
    assert (found.difference, found.difference_low, found.difference_high) == (0.0, 0.0, 0.0)


def test_a_metric_that_most_draws_leave_undefined_says_so() -> None:
    y = np.zeros(60, dtype=np.int64)
    y[0] = 1
    scores = np.arange(60, dtype=np.float32)[:, None]
    flaky = replace(AUC, value=lambda o, t: _auc(o, t) if len(np.unique(o["y"])) == len(o["y"]) else float("nan"))
    with pytest.raises(DataError, match="undefined for most draws of 60 samples"):
        judge(flaky, {"y": scores}, y)


def _compared(n: int, won: int, lost: int, *, same: bool = False) -> tuple[float, float, float]:
    """A model against the original on ``n`` samples: ``won`` that only it gets right, ``lost`` that only the original does."""
    targets = np.zeros(n, dtype=np.int64)
    right, wrong = np.float32([1, 0]), np.float32([0, 1])
    original = np.tile(right, (n, 1))
    original[:won] = wrong
    candidate = original.copy()
    candidate[:won] = right
    candidate[won : won + lost] = wrong
    if not same:
        candidate *= 1.5  # other numbers, the same decisions
    found = judge(built_in(MetricSpec(name="accuracy")), {"y": candidate}, targets, {"y": original})
    return found.difference, found.difference_low, found.difference_high


def test_a_few_samples_without_a_flip_are_no_certainty() -> None:
    difference, low, high = _compared(50, 0, 0)
    assert difference == 0.0
    assert low < -0.02
    assert high > 0.02
    assert _compared(50, 0, 0, same=True) == (0.0, 0.0, 0.0)  # the same outputs are
    difference, low, high = _compared(200, 0, 1)
    assert difference == pytest.approx(-0.005)
    assert low < -0.015
    assert difference < high


@pytest.mark.parametrize(("n", "flips"), [(60, 0.01), (60, 0.05), (300, 0.01), (1000, 0.05)])
def test_the_paired_interval_holds_the_truth_as_often_as_it_says(n: int, flips: float) -> None:
    rng = np.random.default_rng(0)
    truth = flips * (0.2 - 0.8)  # a fifth of the flips are for the better
    kept = 0
    for _ in range(500):
        won, lost, _ = rng.multinomial(n, [0.2 * flips, 0.8 * flips, 1.0 - flips])
        _, low, high = _compared(n, int(won), int(lost))
        kept += low <= truth <= high
    assert kept / 500 >= 0.93


def test_many_samples_give_the_usual_interval() -> None:
    _, low, high = _compared(20_000, 200, 300)
    half = 1.96 * np.sqrt(500 / 20_000 - (100 / 20_000) ** 2) / np.sqrt(20_000)
    assert (low, high) == pytest.approx((-0.005 - half, -0.005 + half), rel=0.02)
