"""What a run says of itself while it goes on, for other processes: ``progress.json`` and ``origin.json`` in its folder.

No result stands there; results are in the study. Both files are whole or absent, like all files of a run.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from modeltailor.durable import write_text
from modeltailor.errors import ConfigError, StudyConflict

if TYPE_CHECKING:
    from modeltailor.search.request import Progress

__all__ = ["Origin", "RunState", "read_origin", "read_state", "root_of", "write_origin", "write_state"]

_STATE = "progress.json"
_ORIGIN = "origin.json"


class RunState(BaseModel):
    """The last step of a run's progress, and who made it.

    Attributes:
        phase: see :data:`modeltailor.search.request.Phase`.
        text: what is being tried.
        finished: trials finished.
        planned: trials planned in all.
        elapsed_s: seconds that the run had taken then.
        remaining_s: expected seconds to the end, then.
        written_at: seconds since 1970.
        pid: the process that works in the folder.
        process_started_at: when that process started, so that its number is not mistaken for another's.
        host: the machine.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    phase: str
    text: str
    finished: int
    planned: int
    elapsed_s: FiniteFloat
    remaining_s: FiniteFloat
    written_at: FiniteFloat
    pid: int
    process_started_at: FiniteFloat
    host: str

    @property
    def is_done(self) -> bool:
        """Whether the run has come to its end."""
        return self.phase == "done"

    @property
    def is_working(self) -> bool:
        """Whether the process is still there; on another machine it is believed for as long as it has not ended."""
        if self.is_done:
            return False
        if self.host != socket.gethostname():
            return True
        import psutil

        try:
            process = psutil.Process(self.pid)
            return bool(abs(process.create_time() - self.process_started_at) < 1.0 and process.status() != "zombie")
        except psutil.Error:
            return False


class Origin(BaseModel):
    """Where a run's inputs are.

    Attributes:
        root: folder that the relative paths of the job start from.
        relative: the same, seen from the run folder; holds when both were moved together.
        cache: where trained structures are kept; empty for none.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    root: str
    relative: str
    cache: str = ""


def write_state(folder: Path, progress: Progress) -> None:
    """Write down a step of progress.

    Raises:
        OSError: the folder is gone or full.
    """
    import psutil

    state = RunState(
        phase=progress.phase,
        text=progress.text,
        finished=progress.finished,
        planned=progress.planned,
        elapsed_s=progress.elapsed_s,
        remaining_s=progress.remaining_s,
        written_at=time.time(),
        pid=os.getpid(),
        process_started_at=psutil.Process().create_time(),
        host=socket.gethostname(),
    )
    write_text(folder / _STATE, state.model_dump_json(indent=1) + "\n")


def read_state(folder: Path) -> RunState | None:
    """Read the last step of progress; ``None`` for a run that wrote none."""
    try:
        return RunState.model_validate_json((folder / _STATE).read_bytes())
    except (OSError, ValidationError):
        return None


def write_origin(folder: Path, root: Path, cache: Path | None) -> None:
    """Write down where the job's relative paths start, so that the folder alone can be continued."""
    made = Origin(
        root=str(root.resolve()),
        relative=os.path.relpath(root.resolve(), folder.resolve()),
        cache=str(cache.resolve()) if cache is not None else "",
    )
    write_text(folder / _ORIGIN, made.model_dump_json(indent=1) + "\n")


def read_origin(folder: Path) -> Origin:
    """Read where a run's inputs are.

    Raises:
        StudyConflict: the folder does not say.
    """
    try:
        return Origin.model_validate_json((folder / _ORIGIN).read_bytes())
    except (OSError, ValidationError) as error:
        raise StudyConflict(
            "RUN-07", folder, f"does not say where its inputs are (no readable {_ORIGIN})",
            "continue it with `modeltailor search JOB --resume --out FOLDER`, or pass --root",
        ) from error  # fmt: skip


def root_of(folder: Path) -> Path:
    """Return the folder that a run's relative paths start from, where it was or moved along with the run.

    Raises:
        StudyConflict: the run folder does not say.
        ConfigError: neither place exists any more.
    """
    origin = read_origin(folder)
    for place in (Path(origin.root), (folder / origin.relative).resolve()):
        if place.is_dir():
            return place
    raise ConfigError(
        "CFG-01", folder, f"the inputs were in {origin.root}, which is gone", "pass their folder as --root"
    )
