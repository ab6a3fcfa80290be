"""The run folder: where a run keeps everything, so that nothing that finished is ever lost.

``docs/run-folder.md`` is the contract. The Optuna study in ``study.db`` is the one place where results are stored: a
trial's record is written there, after its artifact, in the same order always; all other files can be made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from modeltailor.durable import sha256_bytes, sha256_file, write_bytes, write_text
from modeltailor.errors import EnvironmentFault, ModelTailorError, StudyConflict
from modeltailor.search.records import FinalRecord, PredictedRecord, RunHistory, RunRecord, TrialRecord

if TYPE_CHECKING:
    import optuna

__all__ = ["STUDY_NAME", "RunFolder", "disk_faults"]

STUDY_NAME = "modeltailor"
SUPERSEDED = "superseded"
"""Attribute of a study: numbers of failed trials whose recipe was evaluated again."""
FINALS_AMONG = "finals_among"
"""Attribute of a study: numbers of the trials that the finalists were chosen among."""


@contextlib.contextmanager
def disk_faults(where: object, *, run: Path | None = None) -> Iterator[None]:
    """Turn a full or broken disk into one line with a next step.

    Args:
        where: what is written, for the line.
        run: the run folder that it belongs to; ``where`` itself if that is one. A run that is being written is resumed,
            anything else is written by the same command again.

    Raises:
        EnvironmentFault: an ``OSError`` or a storage error came up inside.
    """
    try:
        yield
    except ModelTailorError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if run is None and isinstance(where, Path):
            with contextlib.suppress(OSError):  # the disk that cannot be written may not be readable either
                run = where if RunFolder(where).exists() else None
        again = _go_on(run) if run is not None else "run the same command again"
        raise EnvironmentFault(
            "DISK-01",
            where,
            f"cannot write ({reason})",
            f"free some space or mend the permissions, then {again}",
        ) from error
    except Exception as error:
        if _is_storage_error(error):
            raise EnvironmentFault(
                "DISK-02", where, f"the study cannot be stored ({type(error).__name__}: {error})",
                f"free some space, then {_go_on(run)}",
            ) from error  # fmt: skip
        raise


def _go_on(run: Path | None) -> str:
    """How a run goes on that was stopped; the second way needs nothing but the study in its folder."""
    name = run if run is not None else "RUN"
    return f"go on with `modeltailor resume {name}`, or with the job: `modeltailor search JOB --resume --out {name}`"


def _is_storage_error(error: Exception) -> bool:
    # Optuna masks a full disk behind an AssertionError("Should not reach.") at tell.
    names = {c.__module__.split(".")[0] for c in type(error).__mro__}
    return "sqlalchemy" in names or "optuna" in names or "sqlite3" in names or str(error) == "Should not reach."


class RunFolder:
    """A run folder on disk.

    Args:
        path: the folder; made by :meth:`create`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        self._placed: dict[Path, str] = {}  # public files by content, so that large ones are not read after every trial

    # -- places ---------------------------------------------------------------------------------------------------

    @property
    def artifacts(self) -> Path:
        """Built files by content hash."""
        return self.path / "artifacts"

    @property
    def work(self) -> Path:
        """Scratch of the run: stored splits, exported networks; removed when the run has finished."""
        return self.path / "work"

    def artifact(self, sha256: str) -> Path:
        """Where the built file with that content lies."""
        return self.artifacts / f"{sha256[:16]}.onnx"

    # -- opening --------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self.path / "study.db").exists()

    def create(self) -> None:
        """Make the folder.

        Raises:
            EnvironmentFault: it cannot be made or written.
            StudyConflict: there is something else under that name.
        """
        if self.path.exists() and not self.path.is_dir():
            raise StudyConflict("RUN-01", self.path, "is a file, not a run folder", "choose another --out")
        if self.path.is_dir() and any(self.path.iterdir()) and not self.exists() and not (self.path / ".lock").exists():
            raise StudyConflict("RUN-01", self.path, "is not empty and is not a run folder", "choose another --out")
        with disk_faults(self.path, run=self.path):
            for folder in (self.path, self.artifacts, self.path / "front", self.work):
                folder.mkdir(parents=True, exist_ok=True)

    def lock(self) -> None:
        """Take the folder for this process until :meth:`unlock` or the end of the process.

        Raises:
            StudyConflict: another process works in it.
        """
        with disk_faults(self.path, run=self.path):
            handle = (self.path / ".lock").open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.close()
            raise StudyConflict(
                "RUN-02",
                self.path,
                "another process is working in this run folder",
                "wait for it, or choose another --out",
            ) from error
        self._lock = handle

    def unlock(self) -> None:
        """Give the folder free. Safe to call twice."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def study(self, *, create: bool = False, n_objectives: int = 3, sampler: Any = None) -> optuna.Study:
        """Open the Optuna study.

        Raises:
            StudyConflict: there is none, or it cannot be read.
            EnvironmentFault: the disk does not allow it.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        database = self.path / "study.db"
        if not create and (not database.exists() or database.stat().st_size == 0):
            raise StudyConflict("RUN-03", self.path, "holds no run", "name a folder that `modeltailor search` made")
        with disk_faults(database, run=self.path):
            try:
                storage = optuna.storages.RDBStorage(
                    f"sqlite:///{database}", engine_kwargs={"connect_args": {"timeout": 60}}
                )
                if create:
                    return optuna.create_study(
                        study_name=STUDY_NAME,
                        storage=storage,
                        directions=["minimize"] * n_objectives,
                        sampler=sampler,
                        load_if_exists=True,
                    )
                return optuna.load_study(study_name=STUDY_NAME, storage=storage, sampler=sampler)
            except (KeyError, RuntimeError, ValueError) as error:
                raise StudyConflict(
                    "RUN-03", database, f"is not a study of ours ({error})", "choose another folder"
                ) from error

    # -- writing --------------------------------------------------------------------------------------------------

    def event(self, kind: str, **fields: object) -> None:
        """Append one line to ``events.jsonl``."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **fields}, default=str)
        with disk_faults(self.path / "events.jsonl", run=self.path), (self.path / "events.jsonl").open("a") as file:
            file.write(line + "\n")

    def keep_artifact(self, data: bytes) -> str:
        """Write a built file under its content hash. Returns the full SHA-256.

        Raises:
            EnvironmentFault: the disk is full; no partial file stays.
        """
        digest = sha256_bytes(data)
        place = self.artifact(digest)
        if not place.exists():
            with disk_faults(place, run=self.path):
                write_bytes(place, data)
        return digest

    def publish(self, best: TrialRecord | None, front: Sequence[TrialRecord], *, device: str = "") -> None:
        """Put the recommended model and the front under their public names; what fell off the front goes.

        A file is replaced as a whole, so a reader sees the old model or the new one.

        Args:
            best: the recommended model, if there is one.
            front: fastest first.
            device: a further device of the study, whose files have its name; empty for the first one.
        """
        tail = f"-{device}" if device else ""
        place = self.path / f"front{tail}"
        with disk_faults(place, run=self.path):
            place.mkdir(exist_ok=True)
            wanted = {f"{i:02d}-{t.key[:8]}.onnx": t for i, t in enumerate(front)}
            for name, trial in wanted.items():
                before = next((f for f in place.glob(f"*-{trial.key[:8]}.onnx") if f.name not in wanted), None)
                if before is not None:  # another place on the front: the same file
                    os.replace(before, place / name)
                    self._placed[place / name] = self._placed.pop(before, "")
                self._place(trial.sha256, place / name)
            for file in place.glob("*.onnx"):
                if file.name not in wanted:
                    file.unlink()
        self.publish_best(best, f"best{tail}.onnx")

    def publish_best(self, best: TrialRecord | None, name: str) -> None:
        """Put a model under a public name, or take the file away if there is none."""
        target = self.path / name
        with disk_faults(target, run=self.path):
            if best is not None:
                self._place(best.sha256, target)
            elif target.exists():
                target.unlink()

    def _place(self, sha256: str, target: Path) -> None:
        """Copy a built file to its public name, if it does not lie there."""
        source = self.artifact(sha256)
        is_there = target.exists() and target.stat().st_size == source.stat().st_size
        if is_there and (self._placed.get(target) == sha256 or sha256_file(target) == sha256):
            self._placed[target] = sha256
            return
        _copy(source, target)
        self._placed[target] = sha256

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the run folder as a whole."""
        with disk_faults(self.path / name, run=self.path):
            write_text(self.path / name, text)

    def drop_work(self) -> None:
        """Remove the scratch of a finished run."""
        shutil.rmtree(self.work, ignore_errors=True)

    # -- reading --------------------------------------------------------------------------------------------------

    def read(self, study: optuna.Study | None = None) -> RunHistory:
        """Read back everything that finished.

        Raises:
            StudyConflict: this is no run folder.
        """
        found = study if study is not None else self.study()
        attributes = found.user_attrs
        if "run" not in attributes:
            raise StudyConflict(
                "RUN-03", self.path, "the run stopped before anything was known", f"{_go_on(self.path)}"
            )
        superseded = set(json.loads(attributes.get(SUPERSEDED, "[]")))
        trials = [
            TrialRecord.model_validate_json(t.user_attrs["record"])
            for t in found.get_trials(deepcopy=False)
            if "record" in t.user_attrs and t.number not in superseded
        ]
        among = json.loads(attributes.get(FINALS_AMONG, "null"))
        return RunHistory(
            run=RunRecord.model_validate_json(attributes["run"]),
            trials=tuple(sorted(trials, key=lambda t: t.number)),
            finals=tuple(FinalRecord.model_validate(f) for f in json.loads(attributes.get("finals", "[]"))),
            finals_among=None if among is None else frozenset(int(n) for n in among),
            stopped=str(json.loads(attributes.get("stopped", '""'))),
            hypervolume=tuple((float(s), float(v)) for s, v in json.loads(attributes.get("hypervolume", "[]"))),
            seconds=tuple((str(k), float(v)) for k, v in json.loads(attributes.get("seconds", "{}")).items()),
            sensitivities=tuple(
                (str(s), str(f), float(v)) for s, f, v in json.loads(attributes.get("sensitivities", "[]"))
            ),
            predicted=tuple(PredictedRecord.model_validate(p) for p in json.loads(attributes.get("predicted", "[]"))),
        )

    def lost_artifacts(self, trials: Sequence[TrialRecord]) -> list[str]:
        """Keys of measured trials whose file is gone or changed."""
        return [
            t.key
            for t in trials
            if t.is_measured
            and (not self.artifact(t.sha256).exists() or sha256_file(self.artifact(t.sha256)) != t.sha256)
        ]


def _copy(source: Path, target: Path) -> None:
    beside = target.with_name(f".{target.name}.tmp")
    beside.unlink(missing_ok=True)
    try:
        shutil.copyfile(source, beside)
        os.replace(beside, target)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
