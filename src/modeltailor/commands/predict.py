"""``modeltailor predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import PATH, TARGET, input_shapes, json_option
from modeltailor.commands.screen import screen
from modeltailor.errors import shown

if TYPE_CHECKING:
    from modeltailor.prediction import Prediction

__all__ = ["command"]


@click.command(
    cls=Command,
    examples=[
        "modeltailor predict fp32.onnx int8.onnx --target raspberry-pi-5",
        "modeltailor predict fp32.onnx int8.onnx --target my-board.yaml --measured on-my-board.csv",
        "modeltailor predict candidates/*.onnx --target my-board.yaml --suggest 5",
    ],
)
@click.argument("models", nargs=-1, required=True, type=PATH)
@click.option("--target", type=TARGET, required=True, help="Profile of the device that is not here: a name or a file.")
@click.option(
    "--measured", "measured", type=PATH, multiple=True,
    help="Latencies measured on the device: CSV, YAML, or the JSON of `bench` or `certify`; may be repeated.",
)  # fmt: skip
@click.option(
    "--profile", "profiles", multiple=True, metavar="MODEL=TRACE",
    help="ONNX Runtime's profile of one run of a model on the device: hundreds of points; may be repeated.",
)  # fmt: skip
@click.option(
    "--suggest", "suggest", type=click.IntRange(min=1), metavar="K",
    help="Also say which K of the models to measure next on the device.",
)  # fmt: skip
@click.option(
    "--shape", "shapes", multiple=True, metavar="NAME=1,3,32,32",
    help="Shape of an input with free dimensions; a free first one is 1.",
)  # fmt: skip
@json_option
def command(
    models: tuple[Path, ...], target: str, measured: tuple[Path, ...], profiles: tuple[str, ...], suggest: int | None,
    shapes: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Predict latency on a device that is not attached, with an 80 % band; the first model is compared with.

    From the device's profile and whatever was measured there; none is needed, five tell most. A prediction never
    passes for a measurement, and where nothing can be said (an accelerator that may hand nodes to the CPU, a model that
    does not fit a microcontroller) the reason stands in place of the number. Exit code 4 if no model fits, 6 if none can
    be predicted. See docs/prediction.md.
    """
    from modeltailor.prediction import predict_models, refuse

    found = predict_models(
        models, target, folder=Path.cwd(), measured=measured, profiles=profiles, suggest=suggest or 0,
        shapes=input_shapes(shapes),
    )  # fmt: skip
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps(asdict(found), indent=1))
    else:
        _show(found, asked=suggest is not None)
    refuse(found)


def _show(found: Prediction, *, asked: bool) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("model", "latency", "80 % band", "over the first", "80 % band", "chance of slower", "evidence"):
        table.add_column(column)
    for m in found.models:
        cells = [shown(m.model, 50)]
        if m.latency_ms is None:
            cells += ["-", "-", "-", "-", "-", "no number"]
        else:
            value, low, high = m.latency_ms
            cells += [f"{value:.4g} ms", f"{low:.4g} to {high:.4g} ms"]
            if m.over_first is None or m.chance_of_slower is None:
                cells += ["-", "-", "-"]
            else:
                over, least, most = m.over_first
                cells += [f"{over:.3g}x", f"{least:.3g}x to {most:.3g}x", f"{m.chance_of_slower:.0%}"]
            cells.append(m.evidence)
        table.add_row(*cells)
    screen(150).print(table)
    for m in found.models:
        if m.reason:
            click.echo(f"{shown(m.model, 50)}: {shown(m.reason, 300)}")
    click.echo(f"{found.device}; {found.basis}")
    if asked and not found.suggested:
        click.echo("measure next: none is left of these; each was measured on the device, or does not fit it")
    for i, s in enumerate(found.suggested):
        click.echo(f"measure {'next' if i == 0 else 'then'}: {shown(s.model, 80)} ({shown(s.why, 120)})")
