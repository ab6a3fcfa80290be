"""A run while it goes on: what all its phases share. Clock, book, folder, executor, and the word to the listener."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from modeltailor.compress import Recipe
from modeltailor.search.devices import pool_of
from modeltailor.search.executor import Task
from modeltailor.search.fleet import device_views, publish_elsewhere, study_objectives
from modeltailor.search.front import Objective, front_under, history_figures, recommend
from modeltailor.search.hypervolume import hypervolume
from modeltailor.search.ledger import Ledger
from modeltailor.search.local_executor import LocalExecutor
from modeltailor.search.records import Role, RunHistory, RunRecord, TrialRecord
from modeltailor.search.request import Phase, Progress, RunRequest
from modeltailor.search.run_folder import RunFolder
from modeltailor.search.sampler.goal import worthless_loss
from modeltailor.workloads import resolve_metric

if TYPE_CHECKING:
    from optuna import Study

__all__ = ["REFERENCE", "Course", "front_objectives"]

T = TypeVar("T")

REFERENCE = 1.1
"""Latency and bytes over the original's from which on a model is worth nothing in a hypervolume."""

_FINAL_SHARE = 0.2


class Course:
    """A run in this process.

    Args:
        request: what was asked for.
        notify: told what is going on.
        folder: of the run, locked.
        study: opened.
        executor: which evaluates recipes.

    Attributes:
        metric: resolved.
        objectives: of a front.
        ledger: the book of the study.
        phase: what is being done.
    """

    def __init__(
        self,
        request: RunRequest,
        notify: Callable[[Progress], None],
        *,
        folder: RunFolder,
        study: Study,
        executor: LocalExecutor,
    ) -> None:
        self.request = request
        self.plan = request.plan
        self.folder = folder
        self.study = study
        self.executor = executor
        self.metric = resolve_metric(request.spec.metric, request.spec.root)
        self.objectives = front_objectives(request)
        self.ledger = Ledger(
            study,
            objectives=study_objectives(self.objectives, request.others),
            budget=request.budget,
            minimize=self.metric.minimize,
            elsewhere=executor.elsewhere.budgets,
        )
        self.phase: Phase = "prepare"
        self._notify = notify
        self._started = time.monotonic()
        self._spent_before = float(self.ledger.attribute("elapsed", 0.0))
        self._seconds: dict[str, float] = dict(self.ledger.attribute("seconds", {}))
        self._first_number = self.ledger.next_number()  # trials before it are of earlier parts of the run
        self._patience_before = float(self.ledger.attribute("trial_timeout_s", 0.0))

    def evaluate(self, recipe: Recipe, role: Role, label: str, *, deadline_s: float | None = None) -> TrialRecord:
        """Evaluate a recipe that no sampler asked for, unless that was done before; its record is on disk at once."""
        known = self.ledger.by_key().get(recipe.key)
        if known is not None and not self._deserves_another_try(known):
            return known
        self.say(f"training {label}" if recipe.recovery is not None else f"measuring {label}")
        number = self.ledger.next_number()
        task = Task(number=number, recipe=recipe, role=role, label=label, deadline_s=deadline_s)
        record = self.stamp(self.executor.submit(task).result())
        if known is not None:
            self.ledger.supersede(known.number)
        self.ledger.add(record)
        self.after(record)
        return record

    def _deserves_another_try(self, record: TrialRecord) -> bool:
        """Whether a part of the run that is over ended with a failure that need not be one now."""
        if record.number >= self._first_number:
            return False
        if record.role == "fp32" and not record.is_measured_everywhere:
            return True  # without the original there is no run
        return record.outcome == "TIMEOUT" and self.plan.trial_timeout_s > self._patience_before

    def after(self, record: TrialRecord) -> None:
        """What is due after each finished trial: the event, the curve, the public files, the word to the listener."""
        self.folder.event(
            "trial",
            number=record.number,
            key=record.key,
            outcome=record.outcome,
            label=record.label,
            error=record.error,
        )
        for stage, seconds in record.seconds.items():
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
        self.keep_times()
        history = self.history()
        self._curve(history)
        self.publish(history)
        self.say(record.label or record.key[:8], record)

    def keep_times(self) -> None:
        """Write down how long the run took so far, and what for."""
        self.ledger.keep("elapsed", round(self.elapsed(), 3))
        known = sum(self._seconds.values())
        other = max(0.0, self.elapsed() - known)
        self.ledger.keep("seconds", {k: round(v, 3) for k, v in self._seconds.items() if k != "other"})
        self.ledger.keep("other_seconds", round(other, 3))

    def _curve(self, history: RunHistory) -> None:
        fp32 = history.baseline
        if fp32 is None:
            return
        scale = self.worthless_loss(fp32)
        sign = 1.0 if self.metric.minimize else -1.0
        views = device_views(history)
        value = 0.0
        for view in views:  # of several devices the mean
            points = [
                (sign * f.accuracy.difference / scale, 1.0 / f.speedup.value, f.size_bytes / fp32.size_bytes)
                for f in history_figures(view).values()
            ]
            value += hypervolume(points, (1.0, REFERENCE, REFERENCE)) / len(views)
        curve = self.ledger.attribute("hypervolume", [])
        self.ledger.keep("hypervolume", [*curve, [round(self.elapsed(), 2), round(value, 6)]])

    def worthless_loss(self, fp32: TrialRecord) -> float:
        """The loss from which on a model is worth nothing to this user; see :func:`~sampler.goal.worthless_loss`."""
        assert fp32.accuracy is not None
        return worthless_loss(self.request.budget, fp32.accuracy.value, minimize=self.metric.minimize)

    def publish(self, history: RunHistory) -> None:
        """Bring ``best.onnx``, the front and their companions up to date."""
        by_key = {t.key: t for t in reversed(history.trials) if t.is_measured}
        chosen = pool_of(history).values()
        front = front_under(chosen, self.request.budget, minimize=self.metric.minimize)
        best = recommend(chosen, self.request.budget, minimize=self.metric.minimize)
        self.folder.publish(by_key[best.key] if best else None, [by_key[f.key] for f in front])
        if self.request.others:
            publish_elsewhere(self.folder, history, minimize=self.metric.minimize)

    def history(self) -> RunHistory:
        """Everything that finished so far."""
        return self.folder.read(self.study)

    def stamp(self, record: TrialRecord) -> TrialRecord:
        """The record with the time at which it was finished."""
        return record.model_copy(update={"finished_at_s": round(self.elapsed(), 3)})

    def elapsed(self) -> float:
        """Seconds since the run started, earlier parts of a resumed run included."""
        return self._spent_before + time.monotonic() - self._started

    def reserve(self) -> float:
        """Seconds that are set aside for the finalists."""
        return _FINAL_SHARE * self.plan.time_s

    def time_left(self, *, reserve: bool) -> bool:
        """Whether there is time; with ``reserve``, beside what is set aside for the finalists."""
        return self.elapsed() < self.plan.time_s - (self.reserve() if reserve else 0.0)

    def used_up(self) -> str:
        """The limit that ends the search now, in words; empty while there is none."""
        if len(self.ledger.records()) >= self.plan.trials:
            return f"all {self.plan.trials} trials are done"
        if not self.time_left(reserve=True):
            return f"the time of {self.plan.time_s:.0f} s is used up"
        return ""

    def timed(self, stage: str, function: Callable[[], T]) -> T:
        """Call a function on the account of a stage."""
        started = time.monotonic()
        try:
            return function()
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + time.monotonic() - started

    def say(self, text: str, trial: TrialRecord | None = None) -> None:
        """Tell the listener what is going on."""
        history = self.history() if self.phase != "prepare" else None
        finished = len(history.trials) if history else 0
        elapsed = self.elapsed()
        rest = self.plan.trials - finished
        by_trials = elapsed / finished * rest + self.reserve() if finished else self.plan.time_s
        self._notify(
            Progress(
                phase=self.phase,
                text=text,
                trial=trial,
                finished=finished,
                planned=self.plan.trials,
                elapsed_s=elapsed,
                remaining_s=max(0.0, min(self.plan.time_s - elapsed, by_trials)),
                history=history,
            )
        )

    def add_notes(self, *notes: str) -> None:
        """Add notes for people to the run's record, each once."""
        record = RunRecord.model_validate_json(self.study.user_attrs["run"])
        kept = tuple(dict.fromkeys((*record.notes, *notes)))
        self.study.set_user_attr("run", record.model_copy(update={"notes": kept}).model_dump_json())

    def drop_note(self, note: str) -> None:
        """Take back a note of the run's record that does not hold any more."""
        record = RunRecord.model_validate_json(self.study.user_attrs["run"])
        kept = tuple(n for n in record.notes if n != note)
        self.study.set_user_attr("run", record.model_copy(update={"notes": kept}).model_dump_json())


def front_objectives(request: RunRequest) -> tuple[Objective, ...]:
    """Return what a front of this run is judged by; memory only where the budget limits it."""
    asked: tuple[Objective, ...] = ("memory",) if request.budget.memory_bytes is not None else ()
    return ("accuracy", "latency", "size", *asked)
