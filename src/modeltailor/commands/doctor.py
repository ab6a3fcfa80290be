"""``modeltailor doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import json_option, quiet_option
from modeltailor.errors import EnvironmentFault, shown

if TYPE_CHECKING:
    from modeltailor.diagnosis import Diagnosis

__all__ = ["command"]

_MARKS = {"ok": "ok  ", "note": "note", "missing": "MISSING"}


@click.command(cls=Command, examples=["modeltailor doctor"])
@json_option
@quiet_option
def command(as_json: bool, quiet: bool) -> None:
    """What is installed, which providers there are, what is missing, and the line that installs it.

    Ends with exit code 5 if something that is needed is missing.
    """
    from modeltailor.api import default_cache
    from modeltailor.diagnosis import diagnose

    found = diagnose(Path("runs"), default_cache())
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps({"healthy": found.healthy, "findings": [asdict(f) for f in found.findings]}, indent=1))
    elif not quiet:
        _show(found)
    missing = [f for f in found.findings if f.level == "missing"]
    if missing:
        first, more = missing[0], len(missing) - 1
        raise EnvironmentFault(
            "ENV-01", first.name, first.says + (f" ({more} more)" if more else ""), first.install or "mend it"
        )


def _show(found: Diagnosis) -> None:
    topic = ""
    for f in found.findings:
        if f.topic != topic:
            click.echo(f"{f.topic}")
            topic = f.topic
        click.echo(f"  {_MARKS[f.level]}  {shown(f.name, 40):<20} {shown(f.says)}")
        if f.install:
            click.echo(f"        {'':<20} {f.install}")
