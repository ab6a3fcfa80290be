"""``modeltailor targets probe``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import TARGET, json_option
from modeltailor.commands.screen import screen

if TYPE_CHECKING:
    from modeltailor.targets.probe import ProbeEntry, ProbeTable

__all__ = ["command"]


@click.command(cls=Command, examples=["modeltailor targets probe desktop-cpu"])
@click.argument("name", type=TARGET, default="desktop-cpu")
@click.option("--afresh", is_flag=True, help="Measure again what the cache holds.")
@json_option
def command(name: str, afresh: bool, as_json: bool) -> None:
    """Measure which number formats, channel counts and threads pay on a device; a minute, kept in the cache."""
    from modeltailor.api import default_cache
    from modeltailor.places import open_place, open_with_threads
    from modeltailor.targets.probe import probe

    device, folder = open_place(name, Path.cwd()), default_cache() / "probes"
    others = open_with_threads(name, Path.cwd())
    try:
        found = probe(device, cache=folder, afresh=afresh, with_threads=others)
    finally:
        for each in (device, *others.values()):
            each.close()
    if as_json:
        click.echo(found.to_json())
    else:
        _show(found)


def _pays(entry: ProbeEntry, first: bool) -> str:
    if first or entry.kind in ("conversion", "channels"):
        return ""
    return "-" if entry.speedup is None else "yes" if entry.is_faster else "no"


def _show(found: ProbeTable) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("kind", "format", "variant", "ms", "times as fast", "range", "pays"):
        table.add_column(column)
    seen: set[str] = set()
    for e in found.entries:
        figures = (f"{e.ms:.4f}", f"{e.speedup:.2f}", f"{e.low:.2f} to {e.high:.2f}") if e.ms else ("-", "-", e.error)
        table.add_row(e.kind, e.format, e.detail, *figures, _pays(e, e.kind not in seen))
        seen.add(e.kind)
    screen(160).print(table)
    if found.conversion_us is not None:
        click.echo(f"a border between float and integers costs {found.conversion_us:.2f} us for 1,000 values")
    if found.bandwidth_gbps is not None:
        click.echo(f"weights stream from memory at {found.bandwidth_gbps:.1f} GB/s")
    if (multiple := found.channel_multiple("w8a8")) is not None:
        click.echo(f"channels of int8 convolutions: multiples of {multiple}")
    click.echo(f"{found.evidence} on {found.device}; {found.seconds:.0f} s")
    if found.left_out:
        click.echo(f"not reached in time: {', '.join(found.left_out)}")
