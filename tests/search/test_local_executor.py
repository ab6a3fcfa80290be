"""What a trial's record says of weights that had been trained before."""

from __future__ import annotations

from pathlib import Path

import pytest

from modeltailor.compress import Format, Recipe, Structure, Training
from modeltailor.errors import CandidateError
from modeltailor.search.executor import Task
from modeltailor.search.local_executor import LocalExecutor
from modeltailor.search.measurements import ScreeningRecord
from modeltailor.search.plan import SearchPlan
from modeltailor.search.records import AccuracyRecord, IntervalRecord, TrialRecord
from modeltailor.search.run_folder import RunFolder
from modeltailor.search.stages import BuiltModel, ExecutedGraph, RealizedFacts
from modeltailor.targets import FakeDevice
from modeltailor.workloads import DataSpec, MetricSpec, ModelSpec, WorkloadSpec

FAST = IntervalRecord(value=2.0, low=1.9, high=2.1, evidence="measured-here")
CUT = Recipe(structure=Structure(removed=("x",)), formats=(("a", Format.parse("w4a8")),))
LEARNED = Recipe(structure=CUT.structure, formats=CUT.formats, recovery=Training())


class Builder:
    """Stands in for the process that builds; ``known`` names the stages whose weights the cache has."""

    def __init__(self, *known: str, fails: bool = False) -> None:
        self.known = known
        self.fails = fails

    def call(self, function: str, /, *, timeout_s: float, **arguments: object) -> object:
        stage = function.rsplit(":", 1)[-1]
        if stage == "sites":
            return ()
        if stage == "compose":
            if self.fails:
                raise CandidateError("UNSUPPORTED", "compose", "cannot be built", "")
            return BuiltModel(data=b"model", sites=(), seconds=0.0)
        return RealizedFacts(
            key=stage, parameters=1, macs=1, seconds=6.0, from_cache=stage in self.known, trained=True
        )  # fmt: skip


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalExecutor:
    spec = WorkloadSpec(root=tmp_path, model=ModelSpec(source="m.pt"), data=DataSpec(), metric=MetricSpec())
    folder = RunFolder(tmp_path / "run")
    folder.create()
    made = LocalExecutor(
        spec=spec, folder=folder, device=FakeDevice(latency=lambda _: 1.0), plan=SearchPlan(), cache=None, cores=1,
        memory=False,
    )  # fmt: skip
    accuracy = AccuracyRecord(value=0.9, low=0.89, high=0.91, n_samples=100)
    monkeypatch.setattr(made, "_inspect", lambda *_: ExecutedGraph())
    monkeypatch.setattr(made, "_screen", lambda *_: (ScreeningRecord(latency_ms=FAST, speedup=FAST), False))
    monkeypatch.setattr(made, "_search_score", lambda *_: (accuracy, True, True))
    return made


def tried(executor: LocalExecutor, recipe: Recipe, builder: Builder) -> TrialRecord:
    executor._builder = builder  # type: ignore[assignment]
    return executor.submit(Task(number=3, recipe=recipe, role="search")).result()


@pytest.mark.parametrize(
    ("recipe", "known", "reused"),
    [
        (CUT, ("realize_structure",), ("structure", "accuracy")),
        (CUT, (), ("accuracy",)),
        (LEARNED, ("realize_structure",), ("structure", "accuracy")),
        (LEARNED, ("recover_formats",), ("recovery", "accuracy")),
        (LEARNED, ("realize_structure", "recover_formats"), ("structure", "recovery", "accuracy")),
        (Recipe(formats=CUT.formats), ("realize_structure",), ("accuracy",)),
    ],
)
def test_a_record_names_the_trainings_that_had_been_done_before(
    executor: LocalExecutor, recipe: Recipe, known: tuple[str, ...], reused: tuple[str, ...]
) -> None:
    assert tried(executor, recipe, Builder(*known)).reused == reused


def test_so_does_that_of_a_trial_that_failed_later(executor: LocalExecutor) -> None:
    record = tried(executor, CUT, Builder("realize_structure", fails=True))
    assert (record.outcome, record.stage, record.reused) == ("UNSUPPORTED", "build", ("structure",))


def test_what_an_earlier_trial_built_is_not_taken_from_anywhere(executor: LocalExecutor) -> None:
    assert "structure" in tried(executor, CUT, Builder("realize_structure")).reused
    assert "structure" not in tried(executor, LEARNED, Builder("realize_structure")).reused
