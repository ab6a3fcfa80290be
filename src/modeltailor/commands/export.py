"""``modeltailor export``."""

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
    quiet_option,
)
from modeltailor.errors import ConfigError, NoFeasibleModel

__all__ = ["command"]


@click.command(
    cls=Command,
    examples=[
        "modeltailor export runs/demo --to shipped",
        "modeltailor export runs/demo --size 20KB --to shipped-small",
        "modeltailor export runs/demo --pick 3f9a2c41 --unpack --to shipped-plain",
    ],
)
@click.argument("run_folder", type=RUN)
@click.option("--to", type=PATH, required=True, help="Folder to write.")
@click.option("--pick", "key", help="Key of a model (its first digits, or a file of front/); else the budget decides.")
@budget_options
@click.option("--unpack", is_flag=True, help="Plain int8 weights; written only if outputs are equal bit for bit.")
@click.option("--force", is_flag=True, help="Write into a folder that holds something.")
@json_option
@quiet_option
def command(
    run_folder: Path,
    to: Path,
    key: str | None,
    unpack: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
    **limits: Any,
) -> None:
    """Take a model out of a run: file, card, program, checksums.

    Without --pick and limits it is the recommended model; with limits the best one that keeps them.
    """
    from modeltailor.api import load_run
    from modeltailor.exporting import export_model, find_model

    asked = {k: v for k, v in limits.items() if v is not None}
    if key is not None and asked:
        name = next(iter(asked)).replace("_", "-")
        raise ConfigError("CFG-08", "--pick", f"was given together with --{name}", "give one of the two")
    run = load_run(existing_run(run_folder))
    if asked:
        run = run.under(budget_from(limits))
    if key is None and not run.summary.best:
        raise NoFeasibleModel(
            "GOAL-01",
            run_folder,
            run.summary.verdict.headline.rstrip("."),
            "loosen that limit, or name one with --pick",
        )
    model = find_model(run.summary, key if key is not None else "best")
    made = export_model(run, model, to, unpack=unpack, replace=force)
    if as_json:
        import json
        from dataclasses import asdict

        document = {**asdict(made), "folder": str(made.folder), "key": model.key, "name": model.name}
        click.echo(json.dumps(document, indent=1))
        return
    if not quiet:
        click.echo(f"{model.name}: {made.size_bytes:,} bytes, SHA-256 {made.sha256[:16]}…")
        if made.unpacked:
            click.echo(f"unpacked from {model.size_bytes:,} bytes; equal bit for bit on {made.checked_inputs} inputs")
    click.echo("\n".join(str(made.folder / name) for name in made.files))
