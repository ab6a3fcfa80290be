"""``modeltailor init``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import LATENCY, PATH, SIZE, TARGET, budget_options, place_to_write
from modeltailor.errors import ConfigError, ModelTailorError

__all__ = ["command"]


@click.command(
    cls=Command,
    examples=[
        "modeltailor init",
        "modeltailor init --model model.py:build --weights weights.safetensors --data data.py:load --size 200KB",
    ],
)
@click.option("--out", type=PATH, default=Path("job.yaml"), show_default=True, help="The file to write.")
@click.option("--target", type=TARGET, help="Profile, see `modeltailor targets list`.")
@budget_options
@click.option("--model", help="model.py:build, package.module:function, model.onnx or a Hugging Face folder.")
@click.option("--weights", help="weights.safetensors")
@click.option("--data", help="data.py:load, or a .npz file with arrays x and y.")
@click.option("--metric", help="A built-in, or metric.py:function; suggested from the labels if not given.")
@click.option("--no-look", is_flag=True, help="Write the job without loading model and data.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def command(
    out: Path, target: str | None, model: str | None, weights: str | None, data: str | None, metric: str | None,
    no_look: bool, force: bool, **limits: Any,
) -> None:  # fmt: skip
    """Look at a model and its data, and write a commented job.yaml.

    In a terminal it asks for what is not given: the device and its limits first, the loss that you accept last, when the
    metric is known. Elsewhere --model and --data are needed, and the rest has defaults. Paths may be given from where
    you are; the job holds them from its own folder.
    """
    from modeltailor.inspection import inspect_workload
    from modeltailor.job_template import render_job
    from modeltailor.search.run_folder import disk_faults

    place_to_write(out, "--out", replace=force)
    ask = sys.stdin.isatty()
    root = out.resolve().parent
    asks_limits = ask and all(v is None for v in limits.values())
    target = _target_from_job(_ask_target() if ask and target is None else target or "desktop-cpu", root)
    if asks_limits:
        limits = _ask_limits(limits)
    model = _wanted(model, "--model", "model (model.py:build, model.onnx, or a Hugging Face folder)", ask)
    if weights is None and ask and ":" in model:
        weights = click.prompt("weights (.safetensors; empty for none)", default="", show_default=False, err=True)
    data = _wanted(data, "--data", "data (data.py:load, or a file.npz with arrays x and y)", ask)
    model, weights, data = (_from_job(text, root) for text in (model, weights or "", data))
    found = None if no_look else inspect_workload(model, weights, data, root)
    chosen = metric or (found.metric if found else "accuracy")
    if ask and metric is None:
        chosen = click.prompt("metric", default=chosen, err=True)
    if asks_limits:
        limits = {**limits, "max_drop": _ask_loss(chosen, is_only=all(v is None for v in limits.values()))}
    text = render_job(
        model=model,
        weights=weights,
        data=data,
        metric=_from_job(chosen, root) if ":" in chosen else chosen,
        target=target,
        limits={k: v for k, v in limits.items() if v is not None},
        student=found.student if found else "",
        facts=found.lines() if found else (),
        name=out.name,
    )
    with disk_faults(out):
        from modeltailor.durable import write_text

        write_text(out.resolve(), text)
    for line in found.lines() if found else ():
        click.echo(line, err=True)
    click.echo(f"wrote {out}; next: modeltailor validate {out}, then modeltailor search {out}")


def _wanted(value: str | None, option: str, question: str, ask: bool) -> str:
    if value:
        return value
    if ask:
        return str(click.prompt(question, err=True))
    raise ConfigError("CFG-04", option, "is needed", "pass it, or run this in a terminal")


def _ask_target() -> str:
    """Ask for the device; again after a bad answer."""
    from modeltailor.places import profile_of

    while True:
        answer = click.prompt("target device (a name of `modeltailor targets list`)", default="desktop-cpu", err=True)
        try:
            profile_of(answer, Path.cwd())
        except ModelTailorError as error:
            click.echo(error.line(), err=True)
        else:
            return str(answer)


def _ask_limits(limits: dict[str, Any]) -> dict[str, Any]:
    """Ask for the limits of the device; again after a bad answer."""
    made = dict(limits)
    for key, question, kind in (
        ("latency", "limit of one inference, e.g. 2ms (empty for none)", LATENCY),
        ("size", "limit of the file, e.g. 200KB (empty for none)", SIZE),
        ("memory", "limit of peak memory, e.g. 64MB (empty for none)", SIZE),
    ):
        while made[key] is None:
            answer = click.prompt(question, default="", show_default=False, err=True)
            if not answer:
                break
            try:
                made[key] = kind.convert(answer, None, None)
            except ModelTailorError as error:
                click.echo(error.line(), err=True)
    return made


def _ask_loss(metric: str, *, is_only: bool) -> float | None:
    """Ask how much may be lost, in what the metric is counted in. Returns points: hundredths of its unit.

    Args:
        metric: its name.
        is_only: whether there is no other limit, so that an empty answer leaves what holds without any.
    """
    from modeltailor.job import is_share, unit_of

    if is_share(metric):
        return float(click.prompt("largest loss in points of the metric", default=1.0, type=float, err=True))
    unit = unit_of(metric) or "its own unit, 0.01 for one percent of a share"
    empty = "empty for 1 % of what the original has" if is_only else "empty for none"
    while answer := click.prompt(
        f"largest loss of {metric}, in {unit} ({empty})", default="", show_default=False, err=True
    ):
        try:
            return 100.0 * float(answer)
        except ValueError:
            click.echo(f"'{answer}' is no number", err=True)
    return None


def _target_from_job(text: str, root: Path) -> str:
    """A device as the job in ``root`` names it; a profile file may be given from where we are, too.

    Raises:
        ConfigError: there is no such device, neither from here nor from the job's folder.
    """
    from modeltailor.places import profile_of

    try:
        here = profile_of(text, Path.cwd())
    except ConfigError:
        profile_of(text, root)
        return text
    try:
        if profile_of(text, root) == here:
            return text
    except ConfigError:
        pass
    file = next((p for p in (Path(text), Path(f"{text}.yaml")) if p.is_file()), None)
    return os.path.relpath(file.resolve(), root) if file is not None and not file.is_absolute() else text


def _from_job(text: str, root: Path) -> str:
    """A path as seen from the job's folder, if it names something that is there; else as it stands."""
    place, colon, name = text.rpartition(":")
    file = place if colon and place.endswith(".py") else text
    path = Path(file)
    if not file or path.is_absolute() or not path.exists():
        return text
    seen = os.path.relpath(path.resolve(), root)
    return f"{seen}:{name}" if file == place else seen
