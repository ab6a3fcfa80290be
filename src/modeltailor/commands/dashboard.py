"""``modeltailor dashboard``."""

from __future__ import annotations

from pathlib import Path

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import RUN, existing_run

__all__ = ["command"]


@click.command(cls=Command, examples=["modeltailor dashboard runs/demo"])
@click.argument("run_folder", type=RUN)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port to listen on.")
def command(run_folder: Path, host: str, port: int) -> None:
    """Open the study of RUN_FOLDER in optuna-dashboard: every trial, its formats by layer, its built file.

    Needs the extra ``modeltailor[dashboard]``. Ctrl-C ends it.
    """
    from modeltailor.search.dashboard import serve_dashboard

    folder = existing_run(run_folder)

    def ready() -> None:
        click.echo(f"http://{host}:{port}/ shows {folder}; Ctrl-C ends it", err=True)

    serve_dashboard(folder, host=host, port=port, ready=ready)
