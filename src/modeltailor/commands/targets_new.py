"""``modeltailor targets new``."""

from __future__ import annotations

from pathlib import Path

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import PATH, TARGET
from modeltailor.errors import ConfigError

__all__ = ["command"]


@click.command(
    cls=Command, examples=["modeltailor targets new my-board --like raspberry-pi-5 --reach ssh --address pi@pi5.local"]
)
@click.argument("name")
@click.option("--like", type=TARGET, help="Profile whose kind, provider and threads are taken over.")
@click.option(
    "--reach", default="none", show_default=True, help="ssh, tcp, adb, local, or none: this machine stands in."
)
@click.option("--address", default="", help="user@host, host:port or serial number, as --reach needs it.")
@click.option("--out", type=PATH, help="The file to write; NAME.yaml by default.")
def command(name: str, like: str | None, reach: str, address: str, out: Path | None) -> None:
    """Write a commented profile for a device of yours."""
    from modeltailor.durable import write_text
    from modeltailor.search.run_folder import disk_faults
    from modeltailor.targets import load_profile
    from modeltailor.targets.profile_template import render_profile

    model = load_profile(like, folder=Path.cwd()) if like is not None else None
    text = render_profile(name, like=model, reach=reach, address=address)
    place = out or Path(f"{name}.yaml")
    if place.exists():
        raise ConfigError("CFG-13", place, "exists already", "choose another --out")
    if not place.absolute().parent.is_dir():
        raise ConfigError("CFG-01", "--out", f"there is no folder {place.parent}", "make it first")
    with disk_faults(place):
        write_text(place.absolute(), text)
    click.echo(f"wrote {place}; next: modeltailor targets check {place}")
