"""Whom a run certifies at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

from modeltailor.compress import Format, Recipe
from modeltailor.errors import CandidateError, DataError, ModelError, ModelTailorError
from modeltailor.estimators.accuracy import Accuracy
from modeltailor.search import finalize
from modeltailor.search.finalize import certify_finalists, choose_finalists
from modeltailor.search.records import AccuracyRecord, IntervalRecord, PlaceRecord, RunHistory, RunRecord, TrialRecord
from modeltailor.search.stages import ScoredModel
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


class Scorer:
    """Stands for the executor: scores on ``test``, some models too slowly or not at all."""

    def __init__(self, folder: Path, failing: Mapping[str, Exception], seconds: float = 0.0) -> None:
        self.folder = SimpleNamespace(artifact=lambda sha256: folder / f"{sha256[:2]}.onnx")
        self.elsewhere = SimpleNamespace(devices=())
        self.failing = failing
        self.seconds = seconds
        self.scored: list[str] = []

    def score(self, path: Path, split: str, *, is_reference: bool) -> ScoredModel:
        assert split == "test"
        assert is_reference == (path.stem == "00")
        self.scored.append(path.stem)
        time.sleep(self.seconds)
        if path.stem in self.failing:
            raise self.failing[path.stem]
        figure = Accuracy(
            value=0.9, low=0.8, high=1.0, difference=0.0, difference_low=0.0, difference_high=0.0, n_samples=9
        )
        return ScoredModel(accuracy=figure, complete=True, seconds=0.0)


def finalists(n: int) -> list[TrialRecord]:
    return [trial(0, 1000.0, role="fp32"), *(trial(i, 500.0 + i) for i in range(1, n))]


def test_without_the_original_on_test_nothing_is_certified(tmp_path: Path) -> None:
    """Its losses would be against nothing, and so none: every budget would be kept."""
    scorer = Scorer(tmp_path, {"00": CandidateError("TIMEOUT", "00.onnx", "took longer than 300 s", "")})
    assert certify_finalists(scorer, finalists(4), seconds=60.0) == ()  # type: ignore[arg-type]


def test_the_original_alone_is_no_certificate_of_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was certified decides what is shipped: with the original alone it would push out all that was found."""
    failing = {f"{i:02d}": CandidateError("CRASH", "x", "died", "") for i in range(1, 4)}
    monkeypatch.setattr(finalize, "_audits", lambda *_: {})
    monkeypatch.setattr(finalize, "certify_latency", lambda *_, **__: {finalists(1)[0].key: None})
    scorer = Scorer(tmp_path, failing)
    scorer.device = scorer.baseline = scorer.inputs = scorer.elsewhere = MagicMock()  # type: ignore[attr-defined]
    assert certify_finalists(scorer, finalists(4), seconds=60.0) == ()  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [CandidateError, DataError, ModelError])
def test_a_finalist_that_fails_on_test_costs_the_others_nothing(tmp_path: Path, error: type[ModelTailorError]) -> None:
    scorer = Scorer(tmp_path, {"02": error("EVAL", "02.onnx", "gives NaN", "")})
    found = finalize._scored_on_test(scorer, finalists(4), 60.0, lambda _: None)  # type: ignore[arg-type]
    assert list(found) == [t.key for t in finalists(4) if t.number != 2]


def test_scoring_on_test_ends_when_its_time_is_over_but_not_before_the_first_three(tmp_path: Path) -> None:
    scorer = Scorer(tmp_path, {}, seconds=0.05)
    found = finalize._scored_on_test(scorer, finalists(9), 0.01, lambda _: None)  # type: ignore[arg-type]
    assert (scorer.scored, len(found)) == (["00", "01", "02"], 3)


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


def there(of: TrialRecord, outcome: str = "MEASURED") -> TrialRecord:
    took = of.latency_ms if outcome == "MEASURED" else None
    return of.model_copy(update={"elsewhere": {"board": PlaceRecord(outcome=outcome, latency_ms=took, speedup=took)}})


def test_what_failed_on_a_further_device_is_not_certified_there(tmp_path: Path) -> None:
    """It would fail again, or hang, and cost others their figures there."""
    original, good, bad, unknown = finalists(4)
    scorer = Scorer(tmp_path, {})
    seen = [there(original), there(good), there(bad, "TIMEOUT"), unknown]
    assert [c.key for c in finalize._contenders(scorer, seen, "board")] == [original.key, good.key]  # type: ignore[arg-type]
    assert len(finalize._contenders(scorer, seen)) == 4  # type: ignore[arg-type]
    lost = [there(original, "OOM"), there(good)]
    assert [c.key for c in finalize._contenders(scorer, lost, "board")] == [original.key, good.key]  # type: ignore[arg-type]


def test_further_devices_get_what_is_left_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    asked: dict[str, float] = {}

    def certify_here(*_: object, longest_s: float, **__: object) -> dict[str, None]:
        asked["here"] = longest_s
        clock[0] += 70.0
        return {t.key: None for t in finalists(3)}

    def certify_there(*_: object, longest_s: float, **__: object) -> None:
        asked["there"] = longest_s
        raise KeyboardInterrupt

    scorer = Scorer(tmp_path, {})
    scorer.device = scorer.baseline = scorer.inputs = MagicMock()  # type: ignore[attr-defined]
    scorer.elsewhere = SimpleNamespace(devices=(None,), names=("board",), certify=certify_there)
    monkeypatch.setattr(finalize, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(finalize, "_scored_on_test", lambda _, trials, *__: dict.fromkeys(t.key for t in trials))
    monkeypatch.setattr(finalize, "_audits", lambda *_: {})
    monkeypatch.setattr(finalize, "certify_latency", certify_here)
    with pytest.raises(KeyboardInterrupt):
        certify_finalists(scorer, finalists(3), seconds=60.0, longest_s=100.0)  # type: ignore[arg-type]
    assert asked == {"here": 50.0, "there": 30.0}
