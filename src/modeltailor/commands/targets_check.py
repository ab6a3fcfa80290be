"""``modeltailor targets check``."""

from __future__ import annotations

from pathlib import Path

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import TARGET, json_option, quiet_option
from modeltailor.errors import CandidateError, DeviceError

__all__ = ["command"]


@click.command(
    cls=Command, examples=["modeltailor targets check my-board.yaml", "modeltailor targets check ssh://pi@pi5.local"]
)
@click.argument("name", type=TARGET)
@click.option("--dry", is_flag=True, help="Check the profile only; do not reach the device.")
@json_option
@quiet_option
def command(name: str, dry: bool, as_json: bool, quiet: bool) -> None:
    """Check a profile or an address, reach the device, and time a small network on it."""
    from modeltailor.places import open_place, profile_of

    if dry:
        profile = profile_of(name, Path.cwd())
        if as_json:
            click.echo(profile.model_dump_json(indent=1, exclude_defaults=True))
        elif not quiet:
            click.echo(f"ok  {profile.name} ({profile.title}): {profile.provider}, {profile.threads} threads")
        return
    from modeltailor.targets.check import check_device

    device = open_place(name, Path.cwd())
    try:
        found = check_device(device)
    except CandidateError as error:
        raise DeviceError(
            "DEV-22", name, f"not even a small network runs there: {error.what}", "see its log"
        ) from error
    finally:
        device.close()
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps(asdict(found), indent=1, default=str))
    elif not quiet:
        facts = found.facts
        click.echo(f"ok  {facts.name}: {facts.runtime}, {facts.processor}; {facts.evidence}")
        click.echo(f"    a small network takes {found.latency_ms:.4g} ms, {found.load_ms:.1f} ms to load")
        click.echo(f"    blocks of the same network differ by {found.spread:.1%} at most; {found.seconds:.0f} s in all")
        for key, value in found.conditions.items():
            click.echo(f"    {key} {value:g}")
