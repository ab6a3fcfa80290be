from __future__ import annotations

import optuna
import pytest

from modeltailor.search.ledger import Ledger
from modeltailor.search.records import AccuracyRecord, IntervalRecord, TrialRecord
from modeltailor.targets import Budget

optuna.logging.set_verbosity(optuna.logging.ERROR)
BUDGET = Budget(max_drop=1.0, latency_ms=1.0)


def record(
    number: int, *, loss: float = 0.0, speed: float = 2.0, size: int = 100, ok: bool = True, key: str = ""
) -> TrialRecord:
    if not ok:
        return TrialRecord(
            number=number, key=key or f"k{number}", role="search", recipe={}, outcome="TIMEOUT", stage="build"
        )

    def interval(v: float) -> IntervalRecord:
        return IntervalRecord(value=v, low=v, high=v, evidence="measured-here")

    accuracy = AccuracyRecord(
        value=0.9 - loss,
        low=0.9 - loss,
        high=0.9 - loss,
        difference=-loss,
        difference_low=-loss,
        difference_high=-loss,
        n_samples=9,
    )
    return TrialRecord(
        number=number, key=key or f"k{number}", role="search", recipe={}, sha256="0" * 64, size_bytes=size,
        latency_ms=interval(2.0 / speed), speedup=interval(speed), accuracy=accuracy,
    )  # fmt: skip


def ledger(study: optuna.Study | None = None) -> Ledger:
    made = study or optuna.create_study(directions=["minimize"] * 3, sampler=optuna.samplers.RandomSampler(seed=0))
    return Ledger(made, objectives=("accuracy", "latency", "size"), budget=BUDGET)


def test_finished_trials_read_back_in_order_with_values_and_constraints() -> None:
    book = ledger()
    book.add(record(0, loss=0.02, speed=1.5))
    trial = book.study.ask()
    trial.suggest_int("a", 0, 5)
    book.finish(trial, record(1, speed=4.0))
    assert [r.number for r in book.records()] == [0, 1]
    first, second = book.study.get_trials()
    assert first.values == pytest.approx([0.02, 1 / 1.5, 100.0])
    assert first.constraints["drop"] == pytest.approx(1.0)
    assert first.constraints["latency"] > 0
    assert max(second.constraints.values()) <= 0
    assert [t.number for t in book.study.best_trials] == [1]


def test_a_failed_trial_keeps_its_reason_and_is_never_best() -> None:
    book = ledger()
    book.add(record(0, ok=False))
    assert book.records()[0].outcome == "TIMEOUT"
    assert book.study.get_trials()[0].state == optuna.trial.TrialState.FAIL
    assert book.study.best_trials == []


def test_what_was_evaluated_again_is_none_of_the_runs_trials() -> None:
    """A failed one beside it would be found first, by label and by role, wherever somebody looks."""
    book = ledger()
    book.add(record(0))
    book.add(record(1, ok=False, key="slow"))
    book.keep("hypervolume", [[1.0, 0.1], [2.0, 0.1]])
    book.supersede(1)
    book.add(record(2, key="slow"))
    for read in (book, ledger(book.study)):
        assert [r.number for r in read.records()] == [0, 2]
        assert read.by_key()["slow"].is_measured
        assert read.attribute("hypervolume") == [[1.0, 0.1]]
    assert book.next_number() == 3


def test_a_copy_tells_the_sampler_but_is_not_counted() -> None:
    book = ledger()
    book.add(record(0))
    trial = book.study.ask()
    trial.suggest_int("a", 0, 5)
    book.finish(trial, record(0), copy_of=0)
    assert len(book.records()) == 1
    assert book.study.get_trials()[1].values == book.study.get_trials()[0].values


def test_a_trial_whose_record_was_stored_but_not_told_is_told_on_recovery() -> None:
    book = ledger()
    trial = book.study.ask()
    trial.suggest_int("a", 0, 5)
    trial.set_user_attr("record", record(0).model_dump_json())
    assert book.records() == ()
    again = ledger(book.study)
    assert again.recover() == 0
    assert [r.number for r in again.records()] == [0]
    assert again.study.get_trials()[0].state == optuna.trial.TrialState.COMPLETE


def test_a_trial_that_was_running_is_asked_for_again_once() -> None:
    book = ledger()
    for _ in range(3):
        trial = book.study.ask()
        value = trial.suggest_int("a", 0, 1000)
        trial.set_user_attr("seed_label", "half the channels")
        again = ledger(book.study).recover()
        if again == 0:
            break
        (waiting,) = book.study.get_trials(states=(optuna.trial.TrialState.WAITING,))
        assert waiting.system_attrs["fixed_params"] == {"a": value}
        assert waiting.user_attrs["seed_label"] == "half the channels"
    states = [t.state.name for t in book.study.get_trials()]
    assert states == ["FAIL", "FAIL"]


def test_values_kept_with_the_study_survive() -> None:
    book = ledger()
    assert book.attribute("finals", []) == []
    book.keep("finals", [{"key": "a"}])
    assert ledger(book.study).attribute("finals") == [{"key": "a"}]


def test_a_dashboard_finds_the_built_file_of_every_measured_trial() -> None:
    from optuna.artifacts import get_all_artifact_meta

    book = ledger()
    book.add(record(0))
    trial = book.study.ask()
    book.finish(trial, record(1))
    book.add(record(2, ok=False))
    found = [
        [m.artifact_id for m in get_all_artifact_meta(t, storage=book.study._storage)] for t in book.study.get_trials()
    ]
    assert found == [["0" * 16], ["0" * 16], []]
