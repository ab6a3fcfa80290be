from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modeltailor.estimators.accuracy import Accuracy
from modeltailor.search.front import Figures
from modeltailor.search.racing import Race
from modeltailor.search.records import AccuracyRecord, IntervalRecord
from modeltailor.search.stages import scoring
from modeltailor.search.stages.scoring import is_hopeless
from modeltailor.targets import Budget, RuntimeOptions
from modeltailor.workloads import Metric, MetricSpec, Outputs, Split


def model(key: str, difference: float, speedup: float, size: int, *, half: float = 0.001) -> Figures:
    value = 0.9 + difference
    accuracy = AccuracyRecord(
        value=value, low=value - half, high=value + half, difference=difference,
        difference_low=difference - half, difference_high=difference + half, n_samples=1000,
    )  # fmt: skip
    fast = IntervalRecord(value=speedup, low=speedup, high=speedup, evidence="measured-here")
    slow = IntervalRecord(value=1 / speedup, low=1 / speedup, high=1 / speedup, evidence="measured-here")
    return Figures(key=key, accuracy=accuracy, latency_ms=slow, speedup=fast, size_bytes=size)


ORIGINAL = model("fp32", 0.0, 1.0, 1000)
GOOD = model("good", -0.004, 2.0, 200)


def test_only_what_is_no_larger_and_no_slower_sets_the_bar() -> None:
    race = Race(rivals=(ORIGINAL, GOOD), budget=Budget())
    assert race.bar(size_bytes=250, speedup=1.9) == pytest.approx(-0.004)
    assert race.bar(size_bytes=150, speedup=1.9) is None  # smaller than anything: any accuracy is news
    assert race.bar(size_bytes=250, speedup=2.5) is None


def test_under_a_limit_on_memory_a_leaner_candidate_is_not_measured_by_fatter_rivals() -> None:
    fat = replace(GOOD, memory_bytes=80)
    race = Race(rivals=(replace(ORIGINAL, memory_bytes=70), fat), budget=Budget(memory_bytes=60))
    assert race.bar(size_bytes=250, speedup=1.9, memory_bytes=50) is None
    assert race.bar(size_bytes=250, speedup=1.9) is None
    assert race.bar(size_bytes=250, speedup=1.9, memory_bytes=85) == pytest.approx(-0.004)


def test_the_budget_sets_a_bar_once_something_keeps_it() -> None:
    budget = Budget(max_drop=1.0, size_bytes=300)
    assert Race(rivals=(ORIGINAL, GOOD), budget=budget).bar(size_bytes=50, speedup=3.0) == pytest.approx(-0.01)
    assert Race(rivals=(ORIGINAL,), budget=budget).bar(size_bytes=50, speedup=3.0) is None
    floor = Budget(min_accuracy=0.89)
    assert Race(rivals=(ORIGINAL, GOOD), budget=floor).bar(size_bytes=50, speedup=3.0) == pytest.approx(-0.01)


def test_a_metric_that_is_minimised_has_its_bar_on_the_other_side() -> None:
    worse = model("worse", 0.02, 2.0, 200)
    bar = Race(rivals=(ORIGINAL, worse), budget=Budget(), minimize=True).bar(size_bytes=300, speedup=1.5)
    assert bar == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("difference", "bar", "minimize", "hopeless"),
    [(-0.05, -0.01, False, True), (-0.02, -0.01, False, False), (0.05, 0.01, True, True), (-0.05, 0.01, True, False)],
)
def test_scoring_is_given_up_only_when_it_is_clear(
    difference: float, bar: float, minimize: bool, hopeless: bool
) -> None:
    half = 0.02
    seen = Accuracy(
        value=0.9, low=0.88, high=0.92, difference=difference, difference_low=difference - half,
        difference_high=difference + half, n_samples=256,
    )  # fmt: skip
    assert is_hopeless(seen, bar, minimize=minimize) is hopeless


def test_a_metric_that_a_part_of_the_samples_leaves_undefined_is_looked_at_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 400
    y = np.zeros(n, dtype=np.int64)
    y[np.random.default_rng(0).permutation(n)[50:70]] = 1  # none of them among the first samples that are looked at
    x = (y + np.linspace(0.0, 0.5, n)).astype(np.float32)[:, None]
    looked_at: list[int] = []

    def positives(outputs: Outputs, targets: np.ndarray) -> float:
        looked_at.append(len(targets))
        if not targets.any():
            raise ValueError("no positive sample")
        return float(outputs["y"][targets == 1].mean())

    metric = Metric(name="positives", minimize=False, unit="", rows_per_sample=1, value=positives)
    split = Split(name="search", inputs={"x": x}, targets=y)
    data = tmp_path / "data" / "search"
    data.mkdir(parents=True)
    np.save(data / "x.x.npy", x)
    np.save(data / "y.npy", y)
    np.savez(tmp_path / "outputs-search.npz", y=x)
    monkeypatch.setattr(scoring, "_FIRST_SAMPLES", 50)
    monkeypatch.setattr(scoring, "resolve_metric", lambda spec, root: metric)
    monkeypatch.setattr(scoring, "run_split", lambda model, part, options, batch_size: {"y": part.inputs["x"]})
    found = scoring.score(
        tmp_path, tmp_path / "m.onnx", split.name, MetricSpec(name="metric.py:f"), tmp_path, RuntimeOptions(),
        fixed_batch=None, is_reference=False, bar=-1.0,
    )  # fmt: skip
    assert found.complete
    assert found.accuracy.n_samples == n
    assert looked_at[0] == 50
