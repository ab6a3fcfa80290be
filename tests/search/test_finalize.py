"""Whom a run certifies at its end."""

from __future__ import annotations

import numpy as np
import pytest

from modeltailor.compress import Format, Recipe
from modeltailor.search.finalize import choose_finalists
from modeltailor.search.records import AccuracyRecord, IntervalRecord, RunHistory, RunRecord, TrialRecord
from modeltailor.targets import Budget

RUN = RunRecord(
    job={}, budget={}, profile={}, device={}, metric={"name": "accuracy"}, model={}, splits={}, axes=("formats",),
    environment={}, seed=0, started_at="",
)  # fmt: skip


def trial(
    number: int, ms: float, *, role: str = "search", loss: float = 0.0, size: int = 1000, fully: bool = True
) -> TrialRecord:
    names = () if role == "fp32" else ((f"layer{number}", Format.parse("w8a8")),)
    recipe = Recipe(formats=names)
    accuracy = AccuracyRecord(
        value=0.9 - loss,
        low=0.8,
        high=1.0,
        difference=-loss,
        difference_low=-loss,
        difference_high=-loss,
        n_samples=100,
    )
    took = IntervalRecord(value=ms, low=ms, high=ms, evidence="measured-here")
    speedup = IntervalRecord(value=1000.0 / ms, low=1000.0 / ms, high=1000.0 / ms, evidence="measured-here")
    return TrialRecord(
        number=number, key=recipe.key, role=role, recipe=recipe.to_plain(), size_bytes=size, scored_fully=fully,  # type: ignore[arg-type]
        sha256=f"{number:02d}" * 32, latency_ms=took, speedup=speedup, accuracy=accuracy,
    )  # fmt: skip


def test_what_was_scored_on_a_part_of_the_samples_is_neither_chosen_nor_certified() -> None:
    lucky = trial(3, 500.0, loss=-0.05, size=600, fully=False)
    trials = (trial(0, 1000.0, role="fp32"), trial(1, 500.0, role="baseline", loss=0.01, size=500), lucky)
    chosen = choose_finalists(RunHistory(run=RUN, trials=trials), Budget(), minimize=False)
    assert [t.number for t in chosen] == [0, 1]


def test_of_uniform_settings_that_all_miss_a_limit_the_nearest_is_certified() -> None:
    """It is the one that the report states the gain over; the fastest one may be off by far."""
    fast = trial(1, 200.0, role="baseline", loss=0.3, size=900)
    near = trial(2, 500.0, role="baseline", loss=0.012, size=800)
    better = [trial(i, 100.0 + i, loss=0.001, size=300) for i in range(3, 6)]
    trials = (trial(0, 1000.0, role="fp32"), fast, near, *better)
    chosen = choose_finalists(RunHistory(run=RUN, trials=trials), Budget(max_drop=1.0), minimize=False, most=3)
    assert 2 in {t.number for t in chosen}
    assert 1 not in {t.number for t in chosen}


@pytest.mark.parametrize("most", [3, 4, 6, 10, 30])
def test_however_many_are_taken_they_are_spread_along_the_front(most: int) -> None:
    # each a little slower, larger and more accurate than the one before: all of them are a front
    front = [trial(i, 100.0 + 10 * i, loss=0.05 - 0.002 * i, size=500 + i) for i in range(1, 21)]
    trials = (trial(0, 1000.0, role="fp32", size=2000), *front)
    chosen = choose_finalists(RunHistory(run=RUN, trials=trials), Budget(), minimize=False, most=most)
    places = sorted(t.number or 21 for t in chosen)  # the original is the slowest and most accurate of all
    assert chosen[0].role == "fp32"
    assert len(chosen) == min(most, 21)
    assert (places[0], places[-1]) == (1, 21)
    gaps = np.diff(places)
    assert gaps.max() <= 2 * gaps.min() + 1
