"""``modeltailor resume``."""

from __future__ import annotations

from pathlib import Path

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import (
    DURATION,
    PATH,
    RUN,
    assignments_option,
    existing_run,
    json_option,
    quiet_option,
)
from modeltailor.errors import StudyConflict

__all__ = ["command"]


@click.command(cls=Command, examples=["modeltailor resume runs/demo", "modeltailor resume runs/demo --time 20m"])
@click.argument("run_folder", type=RUN)
@click.option("--trials", type=int, help="Candidates in the whole study, those that are done included.")
@click.option("--time", "time_", type=DURATION, help="Wall clock of the whole run, what it took so far included.")
@click.option("--root", type=PATH, help="Folder of the model and the data, if it was moved.")
@assignments_option
@json_option
@quiet_option
def command(
    run_folder: Path,
    trials: int | None,
    time_: float | None,
    root: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Continue the run in RUN_FOLDER; what finished is kept. Needs no job file.

    Only the limits of the search itself may change (--trials, --time, --set search.trial_timeout=...): another budget is
    `modeltailor pick`, another job another run. A search that had come to its end goes on if it gets more trials or more
    time, whatever it had stopped for; where the other one is used up, it needs both.
    """
    from modeltailor.commands import running
    from modeltailor.job import load_job
    from modeltailor.resuming import stand_of, why_nothing_was_added
    from modeltailor.run_state import read_origin, root_of

    folder = existing_run(run_folder)
    if not (folder / "job.yaml").is_file():
        raise StudyConflict("RUN-03", folder, "holds no run", "name a folder that `modeltailor search` made")
    given = [f"search.{k}={v}" for k, v in (("trials", trials), ("time", time_)) if v is not None]
    job = load_job(folder / "job.yaml", (*assignments, *given))
    place = root if root is not None else root_of(folder)
    cache = Path(kept) if root is None and (kept := read_origin(folder).cache) else None
    before = stand_of(folder)
    run = running.search_in_view(job, out=folder, root=place, resume=True, quiet=quiet, cache=cache)
    reason = why_nothing_was_added(before, stand_of(folder), job.plan())
    if reason and not quiet:
        click.echo(reason, err=True)
    running.give_result(run, as_json=as_json)
