"""Running a search in the foreground: live view, signals, result, exit code. Shared by ``demo``, ``search``, ``resume``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modeltailor.errors import NoFeasibleModel

if TYPE_CHECKING:
    from modeltailor.api import Run
    from modeltailor.job import Job
    from modeltailor.reports import RunSummary

__all__ = ["SIGNAL_CODES", "give_result", "require_best", "run_job", "search_in_view", "show_run"]

SIGNAL_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


class _Stopped(BaseException):
    """A signal asked the run to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_job(
    job: Job | Mapping[str, Any],
    *,
    out: Path,
    root: Path,
    resume: bool,
    quiet: bool,
    as_json: bool,
    cache: Path | None = None,
) -> None:
    """Search, show what happens, and end the process as the result demands.

    Raises:
        NoFeasibleModel: no model keeps the budget; reports are written all the same.
        ModelTailorError: what :func:`modeltailor.tailor` raises.
        SystemExit: a signal stopped the run (129, 130, 143).
    """
    run = search_in_view(job, out=out, root=root, resume=resume, quiet=quiet, cache=cache)
    give_result(run, as_json=as_json)


def give_result(run: Run, *, as_json: bool) -> None:
    """Print what a search found, and end as the result demands.

    Raises:
        NoFeasibleModel: no model keeps the budget.
    """
    if as_json:
        click.echo((run.folder / "summary.json").read_text())
    else:
        show_run(run)
    require_best(run.folder, run.summary)


def search_in_view(
    job: Job | Mapping[str, Any], *, out: Path, root: Path, resume: bool, quiet: bool, cache: Path | None = None
) -> Run:
    """Search with the live view on stderr; a signal ends the process with its code and says how to go on.

    Raises:
        ModelTailorError: what :func:`modeltailor.tailor` raises.
        SystemExit: a signal stopped the run (129, 130, 143).
    """
    from rich.console import Console

    from modeltailor.api import tailor
    from modeltailor.live import LiveView

    def stop(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one is immediate
        raise _Stopped(number)

    for number in SIGNAL_CODES:
        signal.signal(number, stop)
    try:
        with LiveView(Console(stderr=True), title=str(out), quiet=quiet) as view:
            return tailor(job, out=out, root=root, resume=resume, cache=cache, notify=view)
    except _Stopped as stopped:
        kept = (out / "study.db").exists()
        says = f"finished trials are kept. Continue: modeltailor resume {out}" if kept else "nothing was finished yet"
        click.echo(f"stopped by {signal.Signals(stopped.number).name}; {says}", err=True)
        sys.exit(SIGNAL_CODES[signal.Signals(stopped.number)])


def require_best(folder: Path, summary: RunSummary) -> None:
    """Do nothing if a model keeps the budget, on each device of the study one.

    Raises:
        NoFeasibleModel: none does, or none on one of the devices.
    """
    if not summary.best:
        raise NoFeasibleModel(
            "GOAL-01", folder, summary.verdict.headline.rstrip("."), "loosen that limit, or search longer"
        )
    without = [d.name for d in summary.devices if not d.best]
    if without:
        raise NoFeasibleModel(
            "GOAL-01", folder, f"no model keeps every limit on {', '.join(without)}", "loosen it, or search longer"
        )


def show_run(run: Run) -> None:
    """Print the front, the verdict, and where the files are."""
    from modeltailor.reports import print_summary

    print_summary(run.summary)
    click.echo(f"\nreport: {run.folder / 'report.html'}")
    if run.best is not None:
        click.echo(f"model:  {run.folder / 'best.onnx'}")
