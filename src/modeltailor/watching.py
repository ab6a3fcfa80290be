"""Following a run from another process, by reading its folder alone: no lock, no study, nothing written."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from modeltailor.errors import StudyConflict
from modeltailor.live_panel import Moment
from modeltailor.reports import RunSummary, read_summary
from modeltailor.run_state import RunState, read_state

__all__ = ["Watched", "look"]


class Watched:
    """A run folder that is looked at again and again; files that did not change are not read again.

    Args:
        folder: the run folder.

    Raises:
        StudyConflict: there is no run in it.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "study.db").exists():
            raise StudyConflict("RUN-03", folder, "holds no run", "name a folder that `modeltailor search` made")
        self.folder = folder
        self._summary: RunSummary | None = None
        self._stamp: tuple[int, int] | None = None

    def look(self) -> Moment:
        """Return what the folder says now."""
        state, summary = read_state(self.folder), self._read_summary()
        if state is None:
            state = _guessed(summary)
        working = state.is_working
        text = state.text if working or state.is_done else f"stopped while {state.text}"
        return Moment(
            title=str(self.folder),
            phase=state.phase,
            text=text,
            finished=state.finished,
            planned=state.planned,
            elapsed_s=state.elapsed_s,
            remaining_s=state.remaining_s,
            taken_at=state.written_at,
            working=working,
            last=_last(summary),
            summary=summary,
        )

    def _read_summary(self) -> RunSummary | None:
        path = self.folder / "summary.json"
        try:
            found = path.stat()
            stamp = (found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                self._summary, self._stamp = read_summary(path), stamp
        except (OSError, ValidationError):
            return self._summary
        return self._summary


def look(folder: Path) -> Moment:
    """Return what a run folder says now.

    Raises:
        StudyConflict: there is no run in it.
    """
    return Watched(folder).look()


def _guessed(summary: RunSummary | None) -> RunState:
    """The state of a run that wrote none: one of an earlier version, or one that only just started."""
    ended = summary is not None and bool(summary.search.stopped)
    return RunState(
        phase="done" if ended else "prepare",
        text="" if ended else "not known",
        finished=summary.search.n_trials if summary else 0,
        planned=summary.search.n_trials if summary else 0,
        elapsed_s=summary.search.seconds if summary else 0.0,
        remaining_s=0.0,
        written_at=0.0,
        pid=-1,
        process_started_at=0.0,
        host="",
    )


def _last(summary: RunSummary | None) -> str:
    if summary is None or not summary.trials:
        return ""
    trial = max(summary.trials, key=lambda t: t.number)
    if trial.speedup is None or trial.accuracy is None or trial.size_bytes is None:
        return f"{trial.name}: {trial.outcome} while {trial.stage}: {trial.error}"
    return f"{trial.name}: {trial.speedup.value:.2f}x, {trial.accuracy.value:.4f}, {trial.size_bytes / 1000:,.1f} KB"
