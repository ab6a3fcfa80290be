"""``modeltailor quick``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import (
    DURATION,
    PATH,
    assignments_option,
    budget_options,
    input_shapes,
    json_option,
    quiet_option,
    shape_options,
    target_option,
)
from modeltailor.commands.screen import screen
from modeltailor.errors import ConfigError

if TYPE_CHECKING:
    from modeltailor.quick import QuickLook

__all__ = ["command"]

_WITH_DATA = {"metric", "max_drop", "min_accuracy", "latency", "size", "memory", "out", "assignments"}
_WITHOUT_DATA = {"batch", "shapes"}


@click.command(
    cls=Command,
    examples=[
        "modeltailor quick model.onnx",
        "modeltailor quick model.py:build --weights weights.safetensors --data data.py:load",
    ],
)
@click.argument("model")
@click.option("--weights", default="", help="Weights of a PyTorch model.")
@click.option("--data", help="data.py:load, or a .npz file; without it nothing is said about accuracy.")
@click.option("--metric", default="accuracy", show_default=True, help="A built-in, or metric.py:function.")
@target_option
@shape_options
@budget_options
@click.option("--time", "time_", type=DURATION, default="2m", show_default=True, help="Wall clock, about.")
@click.option("--out", type=PATH, help="Run folder, with data; runs/quick-NAME by default.")
@assignments_option
@json_option
@quiet_option
def command(
    model: str, weights: str, data: str | None, metric: str, target: str, batch: int, shapes: tuple[str, ...],
    time_: float, out: Path | None, assignments: tuple[str, ...], as_json: bool, quiet: bool, **limits: Any,
) -> None:  # fmt: skip
    """Two minutes: what pays on this device, and what a search could win.

    With data it is the first two minutes of a search (probe, uniform baselines, first candidates) in a run folder that
    `modeltailor resume` carries on. Without data, inputs are made up: latency and size are measured, accuracy is not.
    """
    _refuse_idle(data is not None)
    if data is None:
        _without_data(model, weights, target, batch, shapes, time_, as_json=as_json, quiet=quiet)
        return
    job: dict[str, Any] = {
        "model": {"source": model, "weights": weights},
        "data": {"train": data} if data.endswith(".npz") else data,
        "metric": metric,
        "target": target,
        "budget": {k: v for k, v in limits.items() if v is not None},
        "search": {"time": time_},
    }
    _with_data(job, _folder(model, out), assignments, as_json=as_json, quiet=quiet)


def _refuse_idle(with_data: bool) -> None:
    """No option is dropped in silence."""
    from click.core import ParameterSource

    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name in (_WITHOUT_DATA if with_data else _WITH_DATA):
            why = "has no use with --data, which gives the shapes" if with_data else "has no use without --data"
            raise ConfigError(
                "CFG-08", parameter.opts[0], why, "leave it out" if with_data else "give --data, or leave it out"
            )


def _folder(model: str, out: Path | None) -> Path:
    stem = Path(model.partition(":")[0]).stem or "model"
    return out or Path("runs") / f"quick-{stem}"


def _with_data(job: dict[str, Any], out: Path, assignments: tuple[str, ...], *, as_json: bool, quiet: bool) -> None:
    from modeltailor.commands.running import require_best, search_in_view, show_run
    from modeltailor.job import assign, parse_job

    parsed = parse_job(assign(job, assignments), "quick")
    run = search_in_view(parsed, out=out, root=Path.cwd(), resume=out.exists(), quiet=quiet)
    if as_json:
        click.echo((out / "summary.json").read_text())
    else:
        show_run(run)
        if run.best is not None:
            click.echo(f"what executes in it: {run.best.audit}")
        for note in run.summary.notes:
            click.echo(f"note: {note}")
        click.echo(f"\na search goes on from here: modeltailor resume {out} --time 20m")
    require_best(out, run.summary)


def _without_data(
    model: str, weights: str, target: str, batch: int, shapes: tuple[str, ...], time_: float, *, as_json: bool, quiet: bool
) -> None:  # fmt: skip
    from modeltailor.api import default_cache
    from modeltailor.places import open_place
    from modeltailor.quick import look_quickly
    from modeltailor.workloads import ModelSpec

    given = input_shapes(shapes)
    device = open_place(target, Path.cwd())
    try:
        found = look_quickly(
            ModelSpec(source=model, weights=weights),
            Path.cwd(),
            device,
            shapes=given,
            batch=batch,
            seconds=time_,
            cache=default_cache(),
            notify=(lambda _: None) if quiet else (lambda text: click.echo(text, err=True)),
        )
    finally:
        device.close()
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps({**asdict(found), "best": found.best.name, "accuracy": None}, indent=1))
        return
    _show(found)


def _show(found: QuickLook) -> None:
    from rich.table import Table

    from modeltailor.errors import shown

    table = Table(box=None, pad_edge=False)
    for column in ("", "speedup", "95 % interval", "latency", "file", "accuracy"):
        table.add_column(column)
    for r in found.rows:
        value, low, high = r.speedup
        table.add_row(
            r.name,
            f"{value:.2f}x",
            f"{low:.2f} to {high:.2f}",
            f"{r.latency_ms:.4g} ms",
            f"{r.size_bytes:,} bytes",
            "?",
        )
    screen(110).print(table)
    for name, why in found.failed:
        click.echo(f"{name}: could not be built: {shown(why)}")
    click.echo(f"\n{found.device}; {found.rows[0].evidence}; {found.seconds:.0f} s")
    click.echo(
        "inputs are made up (" + ", ".join(f"{n} {list(s)}" for n, s in found.shapes) + "); accuracy was not measured"
    )
    for name, sentence in found.audits:
        click.echo(f"{name}: {sentence}")
    for sentence in found.probed:
        click.echo(f"probe, {sentence}")
    click.echo("\nwhat a search could win:")
    for sentence in found.prospects:
        click.echo(f"  - {sentence}")
