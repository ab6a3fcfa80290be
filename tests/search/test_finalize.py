"""The end of a run: slow models still get a certificate, and one that hangs does not cost the others theirs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from modeltailor.compress import Format, Recipe
from modeltailor.errors import CandidateError
from modeltailor.search.finalize import choose_finalists, fitting, least_seconds, measure_finalists
from modeltailor.search.records import AccuracyRecord, IntervalRecord, RunHistory, RunRecord, TrialRecord
from modeltailor.targets import Budget, FakeDevice


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


class Slow(FakeDevice):
    """Is through with so many artifacts in the time of a call and no more; ``broken`` ends every call with it."""

    most = 99
    broken = ""

    def time(self, artifacts, inputs, plan):
        self.asked = getattr(self, "asked", [])
        self.asked.append((len(artifacts), plan.timeout_s))
        if any(self.broken and p.name.startswith(self.broken) for p in artifacts):
            raise CandidateError("CRASH", f"{self.broken * 8}.onnx", "died", "")
        if len(artifacts) > self.most:
            raise CandidateError("TIMEOUT", artifacts[self.most].name, "took longer than 240 s", "")
        return super().time(artifacts, inputs, plan)


class Folder:
    """Where the built files lie."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def artifact(self, sha256: str) -> Path:
        path = self.path / f"{sha256[:16]}.onnx"
        path.write_bytes(b"x" * 100)
        return path


@dataclass
class Executor:
    """What the measuring of finalists needs of one."""

    folder: Folder
    device: FakeDevice

    @property
    def baseline(self) -> Path:
        return self.folder.artifact("00" * 32)

    def inputs(self) -> dict[str, object]:
        return {}


def measured(device: FakeDevice, folder: Path, trials: list[TrialRecord], seconds: float) -> set[str]:
    return set(measure_finalists(Executor(Folder(folder), device), trials, seconds=seconds))  # type: ignore[arg-type]


def test_a_pair_of_slow_models_may_take_as_long_as_it_must(tmp_path: Path) -> None:
    trials = [trial(0, 2000.0, role="fp32"), trial(1, 1000.0), trial(2, 900.0)]
    device = Slow(latency=lambda _: 1.0)
    found = measured(device, tmp_path, trials, seconds=1.0)
    assert found == {t.key for t in trials}
    assert device.asked[0][1] >= 2 * least_seconds(trials) > 240.0


def test_of_many_slow_models_the_first_are_certified() -> None:
    trials = [trial(0, 400.0, role="fp32"), *(trial(i, 300.0) for i in range(1, 14))]
    few = fitting(trials, 300.0)
    assert 3 <= len(few) < 14
    assert few == trials[: len(few)]
    assert least_seconds(few) <= 300.0 < least_seconds(trials)
    assert fitting(trials, 1e6) == trials
    assert fitting(trials, 0.0) == trials[:3]


@pytest.mark.parametrize("most", [3, 5, 9])
def test_when_the_time_of_a_call_is_over_fewer_are_measured_not_none(tmp_path: Path, most: int) -> None:
    trials = [trial(0, 1.0, role="fp32"), *(trial(i, 0.5) for i in range(1, 12))]
    device = Slow(latency=lambda _: 1.0)
    device.most = most
    found = measured(device, tmp_path, trials, seconds=1e3)
    assert trials[0].key in found
    assert 2 <= len(found) < most


def test_one_that_crashes_costs_the_others_nothing(tmp_path: Path) -> None:
    trials = [trial(0, 1.0, role="fp32"), *(trial(i, 0.5) for i in range(1, 5))]
    device = Slow(latency=lambda _: 1.0)
    device.broken = "03"
    assert measured(device, tmp_path, trials, seconds=1e3) == {t.key for t in trials if t.number != 3}


def test_what_was_scored_on_a_part_of_the_samples_is_neither_chosen_nor_certified() -> None:
    lucky = trial(3, 500.0, loss=-0.05, size=600, fully=False)
    trials = (trial(0, 1000.0, role="fp32"), trial(1, 500.0, role="baseline", loss=0.01, size=500), lucky)
    run = RunRecord(
        job={}, budget={}, profile={}, device={}, metric={"name": "accuracy"}, model={}, splits={}, axes=("formats",),
        environment={}, seed=0, started_at="",
    )  # fmt: skip
    chosen = choose_finalists(
        RunHistory(run=run, trials=trials), Budget(), minimize=False, objectives=("accuracy", "latency", "size")
    )
    assert [t.number for t in chosen] == [0, 1]
