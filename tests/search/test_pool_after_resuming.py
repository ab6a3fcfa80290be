"""What a run finds that went on after its finalists were chosen: it counts until finalists are chosen again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import modeltailor
from modeltailor.compress import Format, Recipe
from modeltailor.durable import sha256_bytes, sha256_file
from modeltailor.reports import RunSummary, pick, render_terminal, summarize, summary_json
from modeltailor.reports.choice import choosable
from modeltailor.reports.html import page_data
from modeltailor.reports.synthetic import synthetic_history
from modeltailor.search.course import Course
from modeltailor.search.devices import budget_on, found_since, history_on, pool_of
from modeltailor.search.front import front_under, recommend
from modeltailor.search.records import (
    AccuracyRecord,
    FinalPlaceRecord,
    FinalRecord,
    IntervalRecord,
    PlaceRecord,
    RunHistory,
    RunRecord,
    TrialRecord,
)
from modeltailor.search.request import Progress
from modeltailor.search.run_folder import FINALS_AMONG, RunFolder
from modeltailor.targets import Budget, FakeDevice

RUN = RunRecord(
    job={}, budget={"max_drop": 1.0}, profile={}, device={"name": "desk"}, metric={"name": "accuracy"}, model={}, splits={},
    axes=("formats",), environment={}, seed=0, started_at="",
)  # fmt: skip
SCORE = AccuracyRecord(value=0.9, low=0.89, high=0.91, n_samples=100)


def interval(value: float) -> IntervalRecord:
    return IntervalRecord(value=value, low=value, high=value, evidence="measured-here")


def net(number: int) -> bytes:
    return b"x" * (1000 - number)


def trial(number: int, speed: float, *, role: str = "search") -> TrialRecord:
    recipe = Recipe() if role == "fp32" else Recipe(formats=((f"layer{number}", Format.parse("w8a8")),))
    return TrialRecord(
        number=number, key=recipe.key, role=role, recipe=recipe.to_plain(), size_bytes=len(net(number)),  # type: ignore[arg-type]
        sha256=sha256_bytes(net(number)), latency_ms=interval(8.0 / speed), speedup=interval(speed), accuracy=SCORE,
    )  # fmt: skip


def final(of: TrialRecord, *, there: float = 0.0) -> FinalRecord:
    assert of.latency_ms is not None
    assert of.speedup is not None
    place = FinalPlaceRecord(latency_ms=interval(8.0 / there), speedup=interval(there)) if there else None
    return FinalRecord(
        key=of.key, latency_ms=of.latency_ms, speedup=of.speedup, test_accuracy=SCORE,
        elsewhere={"board": place} if place else {},
    )  # fmt: skip


TRIALS = (trial(0, 1.0, role="fp32"), trial(1, 2.0), trial(2, 9.0), trial(3, 4.0), trial(4, 3.0))
"""Of these 0 and 1 were certified, 2 was passed over, and 3 and 4 were found since."""


def gone_on(among: frozenset[int] | None = frozenset({0, 1, 2})) -> RunHistory:
    return RunHistory(run=RUN, trials=TRIALS, finals=(final(TRIALS[0]), final(TRIALS[1])), finals_among=among)


def numbers(history: RunHistory) -> list[int]:
    by_key = {t.key: t.number for t in history.trials}
    return sorted(by_key[k] for k in pool_of(history))


def test_what_was_found_since_counts_and_what_was_passed_over_does_not() -> None:
    assert numbers(gone_on()) == [0, 1, 3, 4]
    assert numbers(replace(gone_on(), finals=())) == [0, 1, 2, 3, 4]  # none could be certified


@pytest.mark.parametrize("among", [frozenset(range(5)), None])
def test_what_a_run_ended_with_is_its_finalists(among: frozenset[int] | None) -> None:
    """Also where nobody wrote down what they were chosen among."""
    assert numbers(gone_on(among)) == [0, 1]
    assert found_since(gone_on(among)) == frozenset()


def test_a_trial_that_waited_in_the_queue_while_finalists_were_chosen_was_found_since() -> None:
    """Its number is lower than that of others that were looked at."""
    assert numbers(gone_on(frozenset({0, 1, 2, 4}))) == [0, 1, 3]


def test_a_further_device_sees_what_was_found_since_and_ran_there() -> None:
    ran, failed = PlaceRecord(latency_ms=interval(1.0), speedup=interval(8.0)), PlaceRecord(outcome="OOM")
    trials = tuple(t.model_copy(update={"elsewhere": {"board": failed if t.number == 4 else ran}}) for t in TRIALS)
    device = {"name": "board", "device": {}, "profile": {}, "budget": {}}
    history = replace(
        gone_on(),
        run=RunRecord.model_validate(RUN.model_dump() | {"elsewhere": (device,)}),
        trials=trials,
        finals=tuple(final(t, there=8.0) for t in TRIALS[:2]),
    )
    assert numbers(history_on(history, "board")) == [0, 1, 3]
    assert numbers(history_on(history, "desk")) == [0, 1, 3, 4]


def test_what_was_found_since_is_put_under_the_public_names(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    for t in TRIALS:
        folder.keep_artifact(net(t.number))
    course = SimpleNamespace(
        metric=SimpleNamespace(minimize=False),
        request=SimpleNamespace(budget=Budget(max_drop=1.0), others=()),
        folder=folder,
    )
    Course.publish(course, gone_on())  # type: ignore[arg-type]
    assert sha256_file(folder.path / "best.onnx") == TRIALS[3].sha256
    Course.publish(course, gone_on(frozenset(range(5))))  # type: ignore[arg-type]
    assert sha256_file(folder.path / "best.onnx") == TRIALS[1].sha256


@pytest.fixture(scope="module")
def made_up() -> tuple[RunHistory, str]:
    """A run that went on and found something better than all its finalists, and the key of that."""
    history = synthetic_history(budget={"max_drop": 5.0})
    finals = {f.key for f in history.finals}
    by_key = {t.key: t for t in history.trials if t.is_measured}
    fast = max(f.speedup.value for f in history.finals)
    late = next(t for t in history.trials if t.is_measured and t.role == "search" and t.key not in finals)
    better = late.model_copy(update={"speedup": interval(3 * fast), "latency_ms": interval(0.01), "size_bytes": 9000,
                                     "accuracy": by_key[history.baseline.key].accuracy})  # type: ignore[union-attr]  # fmt: skip
    trials = tuple(better if t.number == late.number else t for t in history.trials if t.key != late.key or t == late)
    among = frozenset(t.number for t in trials) - {better.number}
    return replace(history, trials=trials, finals_among=among), better.key


def test_reports_and_picks_show_what_was_found_since(made_up: tuple[RunHistory, str]) -> None:
    history, key = made_up
    found = summarize(history)
    assert found.best == found.verdict.key == key
    assert key in found.front
    chosen = found.model_of(key)
    assert chosen is not None
    assert (chosen.found_since, chosen.finalist) == (True, False)
    assert "it has not been measured again yet" in render_terminal(found)
    assert {m.key for m in choosable(found.models)} == {m.key for m in found.models if m.finalist} | {key}
    picked = pick(found, Budget(max_drop=5.0))
    assert picked is not None
    assert picked.key == key
    assert summarize(history, Budget(max_drop=4.0)).best == key  # another budget forgets nothing of it
    on_page: Any = page_data(found)["models"]
    assert [m["key"] for m in on_page if m["eligible"]] == [m.key for m in choosable(found.models)]
    assert RunSummary.model_validate_json(summary_json(found)) == found


def test_reports_of_a_run_that_ended_show_its_finalists(made_up: tuple[RunHistory, str]) -> None:
    history, key = made_up
    for among in (None, frozenset(t.number for t in history.trials)):
        found = summarize(replace(history, finals_among=among))
        assert found.best != key
        assert key not in {m.key for m in found.models}
        assert "found_since" not in summary_json(found)


def tailor(root: Path, out: Path, trials: int, *, stop_when_found: frozenset[int] | None = None) -> modeltailor.Run:
    """Search, or go on; with ``stop_when_found`` until something came to those trials."""
    job = modeltailor.load_job(
        root / "job.yaml", ("search.axes=[formats]", f"search.trials={trials}", "search.time=900s")
    )

    def notify(progress: Progress) -> None:
        new = progress.trial
        if stop_when_found is None or new is None or new.number in stop_when_found:
            return
        if new.is_measured and new.scored_fully:
            raise KeyboardInterrupt

    device = FakeDevice(latency=lambda path: 0.2 + path.stat().st_size / 100_000, noise=0.0, seed=0)
    return modeltailor.tailor(
        job, out=out, root=root, cache=out.parent / "cache", device=device, resume=out.exists(), notify=notify
    )


@pytest.fixture(scope="module")
def ended(trained_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that certified its finalists; do not write into it."""
    out = tmp_path_factory.mktemp("ended") / "run"
    tailor(trained_digits, out, 7)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("is_written_down", [True, False], ids=["own", "of an older version"])
def test_a_run_that_is_stopped_while_it_goes_on_keeps_what_it_found(
    trained_digits: Path, ended: Path, tmp_path: Path, is_written_down: bool
) -> None:
    out = Path(shutil.copytree(ended, tmp_path / "run"))
    first = RunFolder(out).read()
    before = frozenset(t.number for t in first.trials)
    assert first.finals_among == before
    if not is_written_down:
        RunFolder(out).study().set_user_attr(FINALS_AMONG, json.dumps(None))
    with pytest.raises(KeyboardInterrupt):
        tailor(trained_digits, out, 14, stop_when_found=before)
    stopped = RunFolder(out).read()
    new = {t.key for t in stopped.trials if t.number not in before and t.is_measured and t.scored_fully}
    finals = {f.key for f in first.finals}
    assert new
    assert set(pool_of(stopped)) == finals | new
    sha256 = {t.key: t.sha256 for t in stopped.trials}
    front = front_under(pool_of(stopped).values(), budget_on(stopped))
    assert sorted(sha256_file(f) for f in (out / "front").glob("*.onnx")) == sorted(sha256[f.key] for f in front)
    best = recommend(pool_of(stopped).values(), budget_on(stopped))
    assert best is not None
    assert sha256_file(out / "best.onnx") == sha256[best.key]
    done = tailor(trained_digits, out, len(stopped.trials)).history
    assert done.finals_among == frozenset(t.number for t in done.trials)
    assert set(pool_of(done)) <= {f.key for f in done.finals}
