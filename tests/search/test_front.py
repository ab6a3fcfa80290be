from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltailor.errors import ConfigError
from modeltailor.search.front import Figures, front_under, margins, nearest, pareto_front, recommend, violations
from modeltailor.search.records import AccuracyRecord, IntervalRecord
from modeltailor.targets import Budget


def figures(key: str, loss: float, speed: float, size: int, *, half: float = 0.0, test: float | None = None) -> Figures:
    def interval(v: float) -> IntervalRecord:
        return IntervalRecord(value=v, low=v * 0.99, high=v * 1.01, evidence="measured-here")

    def accuracy(lost: float) -> AccuracyRecord:
        return AccuracyRecord(
            value=0.9 - lost, low=0.89 - lost, high=0.91 - lost, difference=-lost, difference_low=-lost - half,
            difference_high=-lost + half, n_samples=1000,
        )  # fmt: skip

    return Figures(
        key=key, accuracy=accuracy(loss), latency_ms=interval(2.0 / speed), speedup=interval(speed), size_bytes=size,
        test=None if test is None else accuracy(test),
    )  # fmt: skip


points = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=25).map(
    lambda rows: [figures(str(i), a / 100, float(b), c) for i, (a, b, c) in enumerate(rows)]
)


def cost(m: Figures) -> tuple[float, float, int]:
    return (-m.accuracy.value, 1 / m.speedup.value, m.size_bytes)


@given(points)
def test_the_front_is_what_nothing_dominates(models: list[Figures]) -> None:
    front = pareto_front(models)
    costs = {cost(m) for m in front}
    assert len(costs) == len(front)
    for m in models:
        beaten = any(o != cost(m) and all(np.less_equal(o, cost(m))) for o in map(cost, models))
        assert (cost(m) in costs) == (not beaten)


@given(points, st.permutations(range(25)))
def test_the_front_does_not_depend_on_the_order(models: list[Figures], order: list[int]) -> None:
    shuffled = [models[i] for i in order if i < len(models)]
    assert pareto_front(models) == pareto_front(shuffled)


@given(points, st.floats(0, 6), st.integers(1, 6))
def test_the_recommended_model_keeps_every_limit_and_none_that_does_is_clearly_faster(
    models: list[Figures], drop: float, size: int
) -> None:
    budget = Budget(max_drop=drop, size_bytes=size)
    feasible = [m for m in models if not violations(m, budget)]
    best = recommend(models, budget)
    assert (best is None) == (not feasible)
    if best is not None:
        assert best in feasible
        assert best.speedup.value >= 0.98 * max(m.speedup.value for m in feasible)


def test_limits_are_judged_on_the_unfavourable_end() -> None:
    model = figures("a", 0.008, 2.0, 100, half=0.004)
    assert [m.limit for m in violations(model, Budget(max_drop=1.0))] == ["drop"]
    assert not violations(model, Budget(max_drop=1.3))
    assert [m.limit for m in violations(model, Budget(latency_ms=1.005))] == ["latency"]
    assert not violations(model, Budget(latency_ms=1.02))


def test_a_finalist_must_keep_the_accuracy_on_test_too() -> None:
    assert not violations(figures("a", 0.005, 2.0, 100, test=0.008), Budget(min_accuracy=0.88))
    (missed,) = violations(figures("a", 0.005, 2.0, 100, test=0.03), Budget(min_accuracy=0.88))
    assert (missed.limit, missed.value, missed.excess) == ("accuracy", pytest.approx(0.87), pytest.approx(1.0))
    lucky = figures("a", 0.02, 2.0, 100, test=0.0)
    assert violations(lucky, Budget(min_accuracy=0.88))  # a good value there does not excuse the search split
    error = figures("a", -0.1, 2.0, 100, test=-0.15)  # an error of 1.0 to 1.01, and of 1.05 on ``test``
    assert violations(error, Budget(min_accuracy=1.02), minimize=True)
    assert not violations(error, Budget(min_accuracy=1.06), minimize=True)


def test_memory_counts_on_a_front_if_it_has_a_limit_and_was_measured() -> None:
    fast, lean = (
        replace(figures("fast", 0.0, 2.0, 100), memory_bytes=90),
        replace(figures("lean", 0.01, 1.5, 110), memory_bytes=50),
    )
    assert [m.key for m in front_under([fast, lean], Budget(memory_bytes=60))] == ["fast", "lean"]
    assert [m.key for m in front_under([fast, lean], Budget())] == ["fast"]
    assert [m.key for m in front_under([fast, replace(lean, memory_bytes=None)], Budget(memory_bytes=60))] == ["fast"]


def test_a_finalist_must_keep_the_drop_on_test_too() -> None:
    assert not violations(figures("a", 0.005, 2.0, 100, test=0.008), Budget(max_drop=1.0))
    assert violations(figures("a", 0.005, 2.0, 100, test=0.012), Budget(max_drop=1.0))


def test_memory_that_was_not_measured_keeps_no_limit() -> None:
    (margin,) = margins(figures("a", 0.0, 1.0, 1), Budget(memory_bytes=10**9))
    assert margin.value is None
    assert not margin.kept


def test_without_a_limit_on_accuracy_the_most_accurate_is_recommended() -> None:
    models = [figures("slow", 0.0, 1.5, 9), figures("fast", 0.02, 3.0, 9)]
    assert getattr(recommend(models, Budget(size_bytes=10)), "key", "") == "slow"
    assert getattr(recommend(models, Budget(size_bytes=10, max_drop=5.0)), "key", "") == "fast"


def test_a_difference_in_speed_that_was_not_measured_decides_nothing() -> None:
    def timed(key: str, low: float, value: float, high: float, *, loss: float, size: int) -> Figures:
        speedup = IntervalRecord(value=value, low=low, high=high, evidence="measured-here")
        return replace(figures(key, loss, value, size), speedup=speedup)

    budget = Budget(max_drop=2.0)
    noisy = [timed("fast", 1.5, 1.8, 2.1, loss=0.0, size=175), timed("small", 1.4, 1.7, 2.0, loss=0.0, size=60)]
    assert getattr(recommend(noisy, budget), "key", "") == "small"
    quiet = [timed("fast", 1.79, 1.8, 1.81, loss=0.0, size=175), timed("small", 1.69, 1.7, 1.71, loss=0.0, size=60)]
    assert getattr(recommend(quiet, budget), "key", "") == "fast"


def test_of_files_of_about_the_same_size_the_most_accurate_is_recommended() -> None:
    models = [
        figures("smallest", 0.01, 2.0, 1000),
        figures("accurate", 0.0, 2.0, 1015),
        figures("large", -0.01, 2.0, 1030),
    ]
    assert getattr(recommend(models, Budget(max_drop=2.0)), "key", "") == "accurate"


def test_the_nearest_model_misses_least() -> None:
    models = [figures("a", 0.05, 2.0, 1), figures("b", 0.012, 1.0, 1)]
    found = nearest(models, Budget(max_drop=1.0))
    assert found is not None
    assert found.key == "b"


@pytest.mark.parametrize(
    "bad", [{"latency_ms": 0.0}, {"size_bytes": -1}, {"max_drop": float("nan")}, {"memory_bytes": float("inf")}]
)
def test_impossible_budgets_cannot_be_made(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Budget(**bad)  # type: ignore[arg-type]
