"""``modeltailor watch``."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import DURATION, RUN, existing_run, json_option, quiet_option
from modeltailor.commands.running import require_best
from modeltailor.errors import EnvironmentFault

if TYPE_CHECKING:
    from modeltailor.live_panel import Moment
    from modeltailor.watching import Watched

__all__ = ["command"]


@click.command(cls=Command, examples=["modeltailor watch runs/demo", "modeltailor watch runs/demo --once --json"])
@click.argument("run_folder", type=RUN)
@click.option("--once", is_flag=True, help="Show the state now, and end.")
@click.option("--every", type=DURATION, default="2s", show_default=True, help="Time between two looks.")
@json_option
@quiet_option
def command(run_folder: Path, once: bool, every: float, as_json: bool, quiet: bool) -> None:
    """Show what a run is doing, from another terminal; ends when it does.

    Reads the run folder only. Without --once the exit code is that of the run: 0 if a model keeps the budget, 4 if none
    does, 5 if the run was stopped before its end.
    """
    from modeltailor.watching import Watched

    watched = Watched(existing_run(run_folder))
    moment = watched.look() if once else _follow(watched, every, silent=quiet or as_json)
    if as_json:
        click.echo(_document(moment))
    elif once or sys.stdout.isatty():
        _show(moment)
    if not once:
        _end(moment, run_folder)


def _follow(watched: Watched, every: float, *, silent: bool) -> Moment:
    from rich.console import Console
    from rich.live import Live

    from modeltailor.live_panel import Panel

    console = Console()
    moment = watched.look()
    if silent or not console.is_terminal:
        return _follow_plainly(watched, moment, every, silent=silent)
    with Live(Panel(moment), console=console, refresh_per_second=1, transient=True) as live:
        while moment.working:
            time.sleep(every)
            moment = watched.look()
            live.update(Panel(moment))
    return moment


def _follow_plainly(watched: Watched, moment: Moment, every: float, *, silent: bool) -> Moment:
    from modeltailor.live_panel import moment_line

    told: set[str] = set()
    while True:
        for news in (moment, replace(moment, last="")):
            words = news.last or news.text
            if words and words not in told and not silent:
                click.echo(moment_line(news))
                sys.stdout.flush()
            told.add(words)
        if not moment.working:
            return moment
        time.sleep(every)
        moment = watched.look()


def _show(moment: Moment) -> None:
    from rich.console import Console

    from modeltailor.live_panel import Panel

    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    console.print(Panel(moment))


def _document(moment: Moment) -> str:
    import json

    summary = moment.summary
    return json.dumps(
        {
            "run": moment.title,
            "phase": moment.phase,
            "working": moment.working,
            "text": moment.text,
            "finished": moment.finished,
            "planned": moment.planned,
            "elapsed_s": moment.elapsed_s,
            "remaining_s": moment.remaining_s,
            "last": moment.last,
            "verdict": summary.verdict.model_dump(mode="json") if summary is not None else None,
        },
        indent=1,
    )


def _end(moment: Moment, run_folder: Path) -> None:
    if moment.phase != "done":
        raise EnvironmentFault(
            "RUN-08", run_folder, f"no process works in this run any more; it {moment.text}",
            f"continue it with `modeltailor resume {run_folder}`",
        )  # fmt: skip
    if moment.summary is not None:
        require_best(run_folder, moment.summary)
