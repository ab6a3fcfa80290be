"""``modeltailor report``."""

from __future__ import annotations

from pathlib import Path

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import RUN, existing_run, json_option

__all__ = ["command"]


@click.command(cls=Command, examples=["modeltailor report runs/demo", "modeltailor report runs/demo --png --parquet"])
@click.argument("run_folder", type=RUN)
@click.option("--png", is_flag=True, help="Also the front as front.png; needs modeltailor[plots].")
@click.option("--parquet", is_flag=True, help="Also all trials as outcomes.parquet; needs modeltailor[parquet].")
@json_option
def command(run_folder: Path, png: bool, parquet: bool, as_json: bool) -> None:
    """Write all reports of RUN_FOLDER again."""
    from modeltailor.api import load_run
    from modeltailor.commands.running import show_run
    from modeltailor.reports import write_parquet, write_png

    run = load_run(existing_run(run_folder))
    run.report()
    if png:
        write_png(run_folder, run.summary)
    if parquet:
        write_parquet(run_folder, run.summary)
    if as_json:
        click.echo((run_folder / "summary.json").read_text())
    else:
        show_run(run)
