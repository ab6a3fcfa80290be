"""``modeltailor certify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import DURATION, RUN, TARGET, existing_run, json_option, quiet_option
from modeltailor.commands.screen import screen
from modeltailor.errors import NoFeasibleModel, shown

if TYPE_CHECKING:
    from modeltailor.certification import Certificate

__all__ = ["command"]


@click.command(
    cls=Command,
    examples=[
        "modeltailor certify runs/demo --target local",
        "modeltailor certify runs/demo --target ssh://pi@pi5.local",
    ],
)
@click.argument("run_folder", type=RUN)
@click.option(
    "--target",
    type=TARGET,
    default="local",
    show_default=True,
    help="local, ssh://user@host, or a profile's name or file.",
)
@click.option(
    "--pick",
    "keys",
    multiple=True,
    help="Key of a model; may be repeated. By default what the run lists to be measured on its device, else the front.",
)
@click.option("--time", "time_", type=DURATION, default="5m", show_default=True, help="Wall clock, about.")
@json_option
@quiet_option
def command(run_folder: Path, target: str, keys: tuple[str, ...], time_: float, as_json: bool, quiet: bool) -> None:
    """Measure a run's models again, on any device, beside the original, and say whether they agree with the run.

    A run for a device that was not attached lists in to-measure.json which models could be best there: with a device as
    the target, they are measured. The certificate is kept in certified/ of the run folder; the run's own records stay as
    they are. Exit code 4 if the run has a latency limit and no model keeps it there.
    """
    from modeltailor.api import load_run
    from modeltailor.certification import certify_run, seen_by
    from modeltailor.exporting import find_model
    from modeltailor.places import open_place
    from modeltailor.search.absent import read_to_measure

    run = load_run(existing_run(run_folder))
    listed = () if keys or target == "local" else read_to_measure(run_folder)
    device = open_place(target, Path.cwd())
    try:
        run = seen_by(run, device.describe().name)
        chosen = [find_model(run.summary, key).key for key in keys or listed]  # `best` is that of the device
        if listed and set(chosen) <= {run.summary.baseline}:
            listed, chosen = (), []  # the original alone tells nothing: the front, then
        if not quiet:
            count = len(chosen or run.summary.front)
            what = ("model" if count == 1 else "models") + (" of to-measure.json" if listed else "")
            click.echo(f"measuring {count} {what} on {device.describe().name}", err=True)
        found = certify_run(run, device, keys=chosen, seconds=time_)
    finally:
        device.close()
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps(asdict(found), indent=1))
    else:
        _show(found, run_folder)
    if found.limit_ms is not None and not found.keeping:
        raise NoFeasibleModel(
            "GOAL-02", run_folder, f"no model keeps {found.limit_ms:g} ms on {found.device} with certainty",
            "loosen the limit, or search with that device as the target",
        )  # fmt: skip


def _show(found: Certificate, run_folder: Path) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("model", "speedup", "95 % interval", "in the run", "agrees", "latency", "pairs", "verdict"):
        table.add_column(column)
    if found.limit_ms is not None:
        table.add_column(f"{found.limit_ms:g} ms")
    for m in found.models:
        value, low, high = m.speedup
        stated = f"{m.expected_speedup[1]:.3f} to {m.expected_speedup[2]:.3f}"
        cells = [
            shown(m.name, 44), f"{value:.3f}x", f"{low:.3f} to {high:.3f}", stated, m.agrees,
            f"{m.latency_ms[0]:.4g} ms", str(m.pairs), m.verdict,
        ]  # fmt: skip
        table.add_row(*cells, *([m.limit] if found.limit_ms is not None else []))
    screen(150).print(table)
    click.echo(
        f"fp32 {found.baseline_ms:.4g} ms; {found.evidence}, {found.runtime}, {found.processor}; {found.seconds:.0f} s"
    )
    n = len(found.models)
    click.echo(
        f"{len(found.agreeing)} of {n} speedups agree with the run (intervals overlap), {len(found.inside)} of {n} lie "
        f"within the run's own interval; {found.models[0].expected_evidence} there"
    )
    click.echo(f"kept: {run_folder / 'certified' / f'{found.device}-{found.fingerprint[:8]}.json'}")
