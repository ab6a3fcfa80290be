"""``modeltailor selftest``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import PATH, TARGET, input_shapes, json_option, quiet_option, shape_options
from modeltailor.errors import DeviceError

if TYPE_CHECKING:
    from modeltailor.estimators.latency import Measurement
    from modeltailor.estimators.selftest import RealCheck, SyntheticCheck

__all__ = ["command"]


@click.command(cls=Command, examples=["modeltailor selftest", "modeltailor selftest --aa model.onnx --comparisons 10"])
@click.option(
    "--aa",
    "model",
    type=PATH,
    is_flag=False,
    flag_value=Path("-"),
    help="Compare a model with itself, here; a small one of ours without a file.",
)
@click.option(
    "--comparisons", type=click.IntRange(2, 10_000), help="How many; 100 on the synthetic device, 10 for --aa."
)
@click.option(
    "--target",
    type=TARGET,
    default="local",
    show_default=True,
    help="Where --aa measures: local, ssh://user@host, a profile.",
)
@shape_options
@json_option
@quiet_option
def command(
    model: Path | None, comparisons: int | None, target: str, batch: int, shapes: tuple[str, ...], as_json: bool, quiet: bool
) -> None:  # fmt: skip
    """Does the measuring keep its promises? On a synthetic device of known truth, or with --aa on this one.

    A model compared with itself must come out equal: more false alarms than 95 % intervals allow end with exit code 6.
    """
    if model is None:
        _synthetic(comparisons or 100, as_json=as_json)
    else:
        _real(model, comparisons or 10, target, batch, shapes, as_json=as_json, quiet=quiet)


def _synthetic(comparisons: int, *, as_json: bool) -> None:
    from modeltailor.estimators.selftest import check_synthetic

    found = check_synthetic(comparisons=comparisons)
    if as_json:
        _print_document({**_plain(found), "passed": found.passed})
    else:
        click.echo(f"synthetic device, {found.comparisons} comparisons of each sort")
        click.echo(
            f"  equal models called different: {found.false_alarms} ({found.false_alarms / found.comparisons:.1%})"
        )
        click.echo(f"  a difference of 3 % seen:      {found.power:.1%}")
        click.echo(f"  intervals that hold the truth: {found.coverage:.1%} (nominal 95 %)")
        click.echo(f"  half-width {found.mean_half_width:.2%} after {found.mean_pairs:.1f} process pairs on average")
    if not found.passed:
        raise DeviceError(
            "DEV-20", "the measuring", "does not keep its promises on the synthetic device", "report this"
        )


def _real(
    model: Path, comparisons: int, target: str, batch: int, shapes: tuple[str, ...], *, as_json: bool, quiet: bool
) -> None:
    from modeltailor.estimators.bench import example_inputs
    from modeltailor.estimators.selftest import NOMINAL_ALARMS, chance_allows, check_real
    from modeltailor.places import open_place

    def tell(measured: Measurement) -> None:
        if not quiet:
            s = measured.speedup
            click.echo(f"{s.value:.4f} [{s.low:.4f}, {s.high:.4f}] {measured.verdict}", err=True)

    device = open_place(target, Path.cwd())
    try:
        with tempfile.TemporaryDirectory(prefix="modeltailor-") as scratch:
            file = _own_model(Path(scratch)) if model == Path("-") else model
            inputs = example_inputs(file, shapes=input_shapes(shapes), batch=batch)
            found = check_real(device, file, inputs, comparisons=comparisons, notify=tell)
    finally:
        device.close()
    allowed = chance_allows(comparisons, NOMINAL_ALARMS)
    if as_json:
        _print_document({**_plain(found), "allowed": allowed, "passed": found.false_alarms <= allowed})
    else:
        widest = max((high - low) / 2 for _, low, high in found.speedups)
        click.echo(
            f"the model against itself, {comparisons} times: {found.false_alarms} false alarms (at most {allowed} by chance)"
        )
        click.echo(
            f"widest interval ±{widest:.2%}; {sum(v == 'NOISY' for v in found.verdicts)} comparisons stayed NOISY"
        )
    if found.false_alarms > allowed:
        raise DeviceError(
            "DEV-21", target, f"{found.false_alarms} of {comparisons} comparisons of a model with itself came out different",
            "quiet the machine (other programs, frequency scaling), then try again",
        )  # fmt: skip


def _own_model(folder: Path) -> Path:
    from modeltailor.targets import Child

    path = folder / "digits.onnx"
    with Child(name="selftest") as child:
        child.call("modeltailor.demo:export", timeout_s=120.0, path=path)
    return path


def _plain(found: SyntheticCheck | RealCheck) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(found)


def _print_document(data: dict[str, object]) -> None:
    import json

    click.echo(json.dumps(data, indent=1))
