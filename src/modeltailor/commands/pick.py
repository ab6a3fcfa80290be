"""``modeltailor pick``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import (
    PATH,
    RUN,
    budget_from,
    budget_options,
    existing_run,
    json_option,
    place_to_write,
    quiet_option,
    replacing_option,
)
from modeltailor.errors import NoFeasibleModel

__all__ = ["command"]


@click.command(cls=Command, examples=["modeltailor pick runs/demo --size 150KB"])
@click.argument("run_folder", type=RUN)
@budget_options
@click.option("--to", type=PATH, help="Copy the picked model here.")
@replacing_option
@json_option
@quiet_option
def command(run_folder: Path, to: Path | None, force: bool, as_json: bool, quiet: bool, **limits: Any) -> None:
    """Another budget, no new search: the best model of RUN_FOLDER under it; without one, under the run's own.

    The last line on stdout is the model's file.
    """
    from modeltailor.api import load_run
    from modeltailor.exporting import artifact_of
    from modeltailor.reports import verdict_lines
    from modeltailor.search.run_folder import disk_faults

    if to is not None:
        place_to_write(to, "--to", replace=force, runs=(run_folder,))
    run = load_run(existing_run(run_folder))
    if any(v is not None for v in limits.values()):
        run = run.under(budget_from(limits))
    found = run.best
    if found is None:
        raise NoFeasibleModel(
            "GOAL-01", run_folder, run.summary.verdict.headline.rstrip("."), "loosen that limit, or search longer"
        )
    source = artifact_of(run_folder, found)
    if to is not None:
        from modeltailor.durable import write_bytes

        with disk_faults(to):
            write_bytes(to, source.read_bytes())
        source = to
    if as_json:
        import json

        click.echo(json.dumps({**found.model_dump(mode="json"), "file": str(source)}, indent=1))
        return
    if not quiet:
        for line in verdict_lines(run.summary):
            click.echo(line)
    click.echo(str(source))
