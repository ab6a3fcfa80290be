"""``modeltailor targets list``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.screen import screen
from modeltailor.errors import shown

if TYPE_CHECKING:
    from modeltailor.targets import Profile

__all__ = ["command"]

_MEASURED = {"local": "on this machine", "none": "here, as a stand-in"}


@click.command(cls=Command, examples=["modeltailor targets list"])
def command() -> None:
    """List the device profiles: those that ship, and those in this folder."""
    from rich.table import Table

    from modeltailor.targets import list_profiles

    table = Table(box=None, pad_edge=False)
    for column in ("name", "kind", "device", "runtime", "measured"):
        table.add_column(column)
    for p in (*_beside(Path.cwd()), *list_profiles()):
        version = f" {p.runtime_version}" if p.runtime_version else ""
        runtime = f"{p.provider}{version}, {p.threads} threads"
        table.add_row(p.name, p.kind, shown(p.title), runtime, _MEASURED.get(p.reach, f"there, by {p.reach}"))
    screen(150).print(table)


def _beside(folder: Path) -> list[Profile]:
    """The profiles among the YAML files of a folder; other files are somebody else's."""
    from modeltailor.errors import ConfigError
    from modeltailor.targets import load_profile

    found = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            found.append(load_profile(path))
        except ConfigError:
            continue
    return found
