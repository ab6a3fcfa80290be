"""``modeltailor bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import DURATION, PATH, TARGET, input_shapes, json_option, quiet_option
from modeltailor.commands.screen import screen
from modeltailor.errors import ConfigError, shown

if TYPE_CHECKING:
    from modeltailor.estimators.bench import Bench
    from modeltailor.serving import Serving
    from modeltailor.targets import Inputs

__all__ = ["command"]

_MUCH_STOLEN = 0.02
_MOSTLY_CALM = 0.9


@click.command(
    cls=Command,
    examples=[
        "modeltailor bench fp32.onnx int8.onnx",
        "modeltailor bench fp32.onnx int8.onnx --batch 1 --batch 8 --percentiles --callers 4",
    ],
)
@click.argument("files", nargs=-1, required=True, type=PATH)
@click.option(
    "--target",
    type=TARGET,
    default="local",
    show_default=True,
    help="local, ssh://user@host, or a profile's name or file.",
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(min=1),
    multiple=True,
    help="Where the file leaves it free; may be repeated.",
)
@click.option(
    "--shape", "shapes", multiple=True, metavar="NAME=1,3,32,32", help="Shape of an input with more free dimensions."
)
@click.option("--percentiles", is_flag=True, help="Also p50, p90 (1,024 inferences) and p99 (20,000).")
@click.option("--callers", type=click.IntRange(1, 256), help="Also samples a second of so many threads on one session.")
@click.option(
    "--time", "time_", type=DURATION, default="60s", show_default=True, help="Wall clock, about, for each batch."
)
@json_option
@quiet_option
def command(
    files: tuple[Path, ...], target: str, batches: tuple[int, ...], shapes: tuple[str, ...], percentiles: bool,
    callers: int | None, time_: float, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Compare the latency of ONNX files; the first is the baseline.

    Interleaved in fresh process pairs, with 95 % intervals over the pairs; see docs/measuring.md.
    """
    from modeltailor.estimators.bench import common_inputs, compare_files
    from modeltailor.places import open_place
    from modeltailor.serving import serve

    given = input_shapes(shapes)
    if given and len(batches) > 1:
        raise ConfigError("CFG-08", "--shape", "fixes the batch, and several --batch were given", "give one of the two")
    device = open_place(target, Path.cwd())
    found: list[tuple[int, Bench, tuple[Serving, ...]]] = []
    try:
        sets = common_inputs(files, shapes=given, batches=batches)
        for batch, inputs in zip(batches or map(_batch_of, sets), sets, strict=True):
            if not quiet:
                click.echo(f"timing {len(files)} files, batch {batch}", err=True)
            bench = compare_files(device, files, inputs=inputs, seconds=time_)
            wanted = percentiles or callers is not None
            served = serve(device, files, inputs, callers=callers or 0) if wanted else ()
            found.append((batch, bench, served))
    finally:
        device.close()
    if as_json:
        click.echo(_document(found))
        return
    for batch, bench, served in found:
        _show(batch if len(found) > 1 else None, bench, served)


def _batch_of(inputs: Inputs) -> int:
    return next((int(value.shape[0]) for value in inputs.values() if value.ndim), 1)


def _show(batch: int | None, bench: Bench, served: tuple[Serving, ...]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=None if batch is None else f"batch {batch}", title_justify="left")
    columns = ["file", "speedup", "95 % interval", "latency", "samples/s", "load", "first run", "peak memory", "size"]
    columns += ["verdict"]
    if served:
        columns += ["p50", "p90", "p99"]
        columns += [f"{served[0].callers} callers"] if served[0].callers else []
    for column in columns:
        table.add_column(column)
    for i, row in enumerate(bench.rows):
        m = row.measured
        memory = "-" if m.peak_memory_bytes is None else f"{m.peak_memory_bytes / 1e6:.1f} MB"
        cells = [
            shown(row.path.name, 40), f"{m.speedup.value:.3f}x", f"{m.speedup.low:.3f} to {m.speedup.high:.3f}",
            f"{m.latency_ms.value:.4g} ms", f"{row.per_second:,.0f}", f"{m.load_ms:.1f} ms",
            f"{m.first_inference_ms:.3g} ms", memory,
            f"{row.size_bytes:,} bytes", m.verdict,
        ]  # fmt: skip
        if served:
            s = served[i]
            cells += ["-" if p is None else f"{p:.4g} ms" for p in (s.p50_ms, s.p90_ms, s.p99_ms)]
            cells += [f"{s.per_second:,.0f}/s" if s.per_second is not None else "-"] if s.callers else []
        table.add_row(*cells)
    screen(180).print(table)
    for name in (shown(row.path.name, 40) for row in bench.rows if not row.measured.steady):
        click.echo(f"never steady: the warm-up of {name}, or of the baseline beside it, did not settle")
    seen = dict(bench.conditions)
    if seen.get("steal_share", 0.0) >= _MUCH_STOLEN:
        click.echo(f"other machines of this host took {seen['steal_share']:.0%} of the processors' time meanwhile")
    if (calm := seen.get("calm_share", 1.0)) < _MOSTLY_CALM:
        click.echo(f"a neighbour disturbed the baseline in {1 - calm:.0%} of the quads; they do not count")
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in bench.shapes)
    click.echo(
        f"{bench.rows[0].measured.latency_ms.evidence}, {bench.facts.runtime}, {bench.facts.processor}, "
        f"{bench.facts.options.intra_op_threads} threads; {shapes}"
    )


def _document(found: list[tuple[int, Bench, tuple[Serving, ...]]]) -> str:
    import json
    from dataclasses import asdict

    rounds = [
        {"batch": batch, **asdict(bench), "serving": [asdict(s) for s in served]} for batch, bench, served in found
    ]
    return json.dumps({"rounds": rounds}, indent=1, default=str)
