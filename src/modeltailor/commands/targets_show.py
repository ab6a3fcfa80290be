"""``modeltailor targets show``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import TARGET, json_option

__all__ = ["command"]


@click.command(cls=Command, examples=["modeltailor targets show desktop-cpu"])
@click.argument("name", type=TARGET)
@json_option
def command(name: str, as_json: bool) -> None:
    """Show a profile with the source of each figure."""
    import yaml

    from modeltailor.places import profile_of

    data = profile_of(name, Path.cwd()).model_dump(mode="json", exclude_none=True)
    click.echo(
        json.dumps(data, indent=2) if as_json else yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip()
    )
