"""The ``Executor`` protocol: who builds and measures a recipe, and what it is asked to do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from modeltailor.compress import Recipe
from modeltailor.estimators.accuracy import Accuracy
from modeltailor.estimators.estimate import Estimate
from modeltailor.search.racing import Race
from modeltailor.search.records import AccuracyRecord, IntervalRecord, Role, TrialRecord

__all__ = ["Executor", "FakeExecutor", "Task", "accuracy_record", "interval_record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A recipe to evaluate.

    Attributes:
        number: of the trial.
        recipe: what to build.
        role: why it is evaluated.
        label: for people, for instance ``int8 static``.
        deadline_s: seconds that training may take, if the recipe needs any.
        race: what the candidate has to beat; without it all samples are scored.
    """

    number: int
    recipe: Recipe
    role: Role
    label: str = ""
    deadline_s: float | None = None
    race: Race | None = None


class Executor(Protocol):
    """Builds and measures recipes. A recipe that fails is a record with its outcome code, never an exception."""

    def submit(self, task: Task) -> Future[TrialRecord]:
        """Start evaluating a recipe."""
        ...

    def close(self) -> None:
        """Stop all work and release processes. Safe to call twice."""
        ...


class FakeExecutor:
    """An executor for tests: records come from a function; nothing is built.

    Args:
        outcome: called with each task.
    """

    def __init__(self, outcome: Callable[[Task], TrialRecord]) -> None:
        self.outcome = outcome
        self.tasks: list[Task] = []

    def submit(self, task: Task) -> Future[TrialRecord]:
        """Return the function's record as a finished future."""
        self.tasks.append(task)
        future: Future[TrialRecord] = Future()
        future.set_result(self.outcome(task))
        return future

    def close(self) -> None:
        """Nothing to release."""


def interval_record(estimate: Estimate) -> IntervalRecord:
    """Write an estimate down."""
    return IntervalRecord(value=estimate.value, low=estimate.low, high=estimate.high, evidence=estimate.evidence)


def accuracy_record(accuracy: Accuracy) -> AccuracyRecord:
    """Write an accuracy down."""
    return AccuracyRecord(
        value=accuracy.value,
        low=accuracy.low,
        high=accuracy.high,
        difference=accuracy.difference,
        difference_low=accuracy.difference_low,
        difference_high=accuracy.difference_high,
        n_samples=accuracy.n_samples,
    )
