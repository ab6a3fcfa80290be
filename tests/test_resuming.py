"""A run that goes on: with more time, with more trials, after any reason to stop; and not with other data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import modeltailor
from modeltailor.errors import CandidateError, ModelError, StudyConflict
from modeltailor.search import RunFolder, structures
from modeltailor.search.course import Course
from modeltailor.targets import FakeDevice


def tailor(root: Path, out: Path, *assignments: str, resume: bool = False) -> modeltailor.Run:
    job = modeltailor.load_job(root / "job.yaml", assignments)
    device = FakeDevice(latency=lambda path: 0.2 + path.stat().st_size / 100_000, noise=0.0, seed=0)
    return modeltailor.tailor(job, out=out, root=root, cache=out.parent / "cache", device=device, resume=resume)


@pytest.fixture(scope="module", autouse=True)
def slow_training() -> Iterator[None]:
    """Training is planned as if a core did little: how many structures there is time for depends on the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structures, "_NOMINAL_MACS_PER_S", 2e7)
        yield


@pytest.fixture(scope="module")
def begun(trained_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The workload, and a finished run on it that could afford few structures; copy the run before going on with it."""
    folder = tmp_path_factory.mktemp("resuming")
    shutil.copytree(trained_digits, folder / "digits")
    tailor(folder / "digits", folder / "run", "search.trials=10", "search.time=900s")
    return folder / "digits", folder / "run"


def test_more_time_offers_the_same_structures_and_keeps_start_and_notes(
    begun: tuple[Path, Path], tmp_path: Path
) -> None:
    root, first = begun
    before = RunFolder(first).read()
    out = Path(shutil.copytree(first, tmp_path / "run"))
    study = RunFolder(out).study()
    study.set_user_attr(
        "run", before.run.model_copy(update={"notes": (*before.run.notes, "seen once")}).model_dump_json()
    )
    run = tailor(root, out, "search.trials=13", "search.time=7200s", resume=True)
    assert len(run.history.trials) == 13
    assert [t.key for t in run.history.trials[:10]] == [t.key for t in before.trials]
    assert run.history.run.started_at == before.run.started_at
    assert "seen once" in run.history.run.notes


@pytest.mark.parametrize(
    "reason", ["the budget is met, and no recipe is expected to move the front any more", "all done"]
)
def test_more_trials_go_on_whatever_it_had_stopped_for(begun: tuple[Path, Path], tmp_path: Path, reason: str) -> None:
    root, first = begun
    out = Path(shutil.copytree(first, tmp_path / "run"))
    RunFolder(out).study().set_user_attr("stopped", json.dumps(reason))
    same = tailor(root, out, "search.trials=10", "search.time=900s", resume=True)
    assert (len(same.history.trials), same.history.stopped) == (10, reason)
    more = tailor(root, out, "search.trials=12", "search.time=900s", resume=True)
    assert len(more.history.trials) == 12
    assert more.history.stopped == "all 12 trials are done"


def test_other_data_is_refused_and_nothing_is_lost(begun: tuple[Path, Path], tmp_path: Path) -> None:
    root, first = begun
    out = Path(shutil.copytree(first, tmp_path / "run"))
    changed = Path(shutil.copytree(root, tmp_path / "digits"))
    data = (changed / "data.py").read_text()
    assert data.count("digits.target.astype(np.int64)") == 1
    (changed / "data.py").write_text(data.replace("digits.target.astype", "digits.target[::-1].astype"))
    with pytest.raises(StudyConflict, match="the search split changed"):
        tailor(changed, out, "search.trials=12", "search.time=900s", resume=True)
    assert len(RunFolder(out).read().trials) == 10


def test_what_was_certified_before_stays_when_others_are_certified(begun: tuple[Path, Path], tmp_path: Path) -> None:
    root, first = begun
    out = Path(shutil.copytree(first, tmp_path / "run"))
    study = RunFolder(out).study()
    *rest, last = json.loads(study.user_attrs["finals"])
    stays = next(
        t for t in RunFolder(out).read().trials if t.is_measured and t.key not in {f["key"] for f in [*rest, last]}
    )
    slow = {**last["speedup"], "value": 0.5, "low": 0.49, "high": 0.51}  # nobody would certify it again
    study.set_user_attr("finals", json.dumps([*rest, {**last, "key": stays.key, "speedup": slow}]))
    run = tailor(root, out, "search.trials=10", "search.time=900s", resume=True)
    assert {*(f["key"] for f in rest), stays.key, last["key"]} <= {f.key for f in run.history.finals}  # last: once more


def test_another_machine_or_runtime_is_refused_and_nothing_is_lost(begun: tuple[Path, Path], tmp_path: Path) -> None:
    """Its times would stand beside those of the first one, under one name."""
    root, first = begun
    out = Path(shutil.copytree(first, tmp_path / "run"))
    job = modeltailor.load_job(root / "job.yaml", ("search.trials=12", "search.time=900s"))
    other = FakeDevice(latency=lambda path: 0.1, seed=7)  # another fingerprint
    with pytest.raises(StudyConflict, match="fake is another machine, runtime or profile"):
        modeltailor.tailor(job, out=out, root=root, cache=tmp_path / "cache", device=other, resume=True)
    assert len(RunFolder(out).read().trials) == 10


@pytest.mark.slow
def test_baselines_that_use_up_the_time_end_the_search_and_more_time_goes_on(
    begun: tuple[Path, Path], tmp_path: Path
) -> None:
    root, _ = begun
    with pytest.MonkeyPatch.context() as patch:
        clock = Course.elapsed
        patch.setattr(Course, "elapsed", lambda self: 100.0 * clock(self))
        short = tailor(root, tmp_path / "run", "search.trials=8", "search.time=60s")
    assert short.history.stopped == "the time of 60 s is used up"
    assert all(t.role in ("fp32", "baseline") for t in short.history.trials)
    assert not {"settings", "sensitivity", "profile"} & set(dict(short.history.seconds))
    RunFolder(tmp_path / "run").study().set_user_attr("elapsed", "60.0")  # of the clock that ran ahead
    longer = tailor(root, tmp_path / "run", "search.trials=8", "search.time=9000s", resume=True)
    assert longer.history.stopped == "all 8 trials are done"
    assert len(longer.history.trials) == 8


def largest(folder: Path) -> int:
    """Bytes of the largest built file: the original."""
    return max(f.stat().st_size for f in folder.glob("*.onnx"))


class Impatient(FakeDevice):
    """Times out on some files until it has patience."""

    patience_s = 1.0

    def __init__(self, slow: Callable[[Path], bool]) -> None:
        super().__init__(latency=lambda path: 0.2 + path.stat().st_size / 100_000)
        self.slow = slow

    def time(self, artifacts, inputs, plan):  # type: ignore[no-untyped-def]
        slow = [p for p in artifacts if self.slow(p)]
        if slow and self.patience_s < 2.0:
            raise CandidateError("TIMEOUT", slow[-1].name, "took longer than 1 s", "")
        return super().time(artifacts, inputs, plan)


def resumed(root: Path, out: Path, device: Impatient, *more: str) -> modeltailor.Run:
    job = modeltailor.load_job(
        root / "job.yaml", ("search.trials=7", "search.time=900s", "search.axes=[formats]", *more)
    )
    return modeltailor.tailor(job, out=out, root=root, cache=out.parent / "cache", device=device, resume=True)


@pytest.mark.slow
def test_an_original_that_failed_is_tried_again(begun: tuple[Path, Path], tmp_path: Path) -> None:
    root, out = begun[0], tmp_path / "run"
    device = Impatient(lambda path: path.parent.name == "artifacts")
    with pytest.raises(ModelError, match="TIMEOUT while latency"):
        resumed(root, out, device)
    device.patience_s = 5.0
    run = resumed(root, out, device)
    assert [t.number for t in run.history.trials if t.role == "fp32"] == [1]
    assert run.history.baseline is not None
    assert len(run.history.hypervolume) == len(run.history.trials) == 7


@pytest.mark.slow
def test_baselines_that_ran_out_of_time_are_tried_again_with_more_of_it(
    begun: tuple[Path, Path], tmp_path: Path
) -> None:
    root, out = begun[0], tmp_path / "run"
    device = Impatient(
        lambda path: path.parent.name == "artifacts" and path.stat().st_size < 0.6 * largest(path.parent)
    )
    short = resumed(root, out, device, "search.trials=6")
    assert {t.outcome for t in short.history.trials if t.label == "int8 static"} == {"TIMEOUT"}
    device.patience_s = 5.0
    run = resumed(root, out, device, "search.trials=12", "search.trial_timeout=20m")
    (static,) = (t for t in run.history.trials if t.label == "int8 static")
    assert static.is_measured
    assert run.history.stopped == "all 12 trials are done"
