"""``modeltailor compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import PATH, RUN, existing_run, json_option, place_to_write, replacing_option
from modeltailor.commands.screen import screen
from modeltailor.errors import ConfigError, shown

if TYPE_CHECKING:
    from modeltailor.reports import RunComparison

__all__ = ["command"]

_ENDINGS = (".html", ".md", ".json")


@click.command(cls=Command, examples=["modeltailor compare runs/monday runs/tuesday --out compared.md"])
@click.argument("run_a", type=RUN)
@click.argument("run_b", type=RUN)
@click.option("--out", type=PATH, help="Also write it here; the ending says how: .html, .md or .json.")
@replacing_option
@json_option
def command(run_a: Path, run_b: Path, out: Path | None, force: bool, as_json: bool) -> None:
    """Two runs side by side: how they were made, and which differences of their models are real."""
    from modeltailor.api import load_run
    from modeltailor.reports import compare, render_comparison, render_comparison_html

    if out is not None and out.suffix not in _ENDINGS:
        raise ConfigError("CFG-10", "--out", f"must end in {', '.join(_ENDINGS)}; got '{out.name}'", "rename it")
    if out is not None:
        place_to_write(out, "--out", replace=force, runs=(run_a, run_b))
    a, b = (load_run(existing_run(f)) for f in (run_a, run_b))
    name_a, name_b = _names(run_a, run_b)
    found = compare(a.summary, b.summary, name_a=name_a, name_b=name_b)
    document = found.model_dump_json(indent=1)
    if out is not None:
        from modeltailor.durable import write_text
        from modeltailor.search.run_folder import disk_faults

        with disk_faults(out):
            render = render_comparison_html if out.suffix == ".html" else render_comparison
            write_text(out, document + "\n" if out.suffix == ".json" else render(found, a.summary, b.summary))
    if as_json:
        click.echo(document)
        return
    for line in (*found.warnings, *found.sentences):
        click.echo(line)
    _print_shared(found, a.summary.metric.unit)
    if out is not None:
        click.echo(f"\nwritten: {out}")


def _print_shared(found: RunComparison, unit: str) -> None:
    from rich.table import Table

    from modeltailor.reports.wording import change

    if found.facts:
        facts = Table(box=None, pad_edge=False)
        for column in ("differs", shown(found.a, 40), shown(found.b, 40)):
            facts.add_column(column, overflow="fold")
        for f in found.facts:
            facts.add_row(shown(f.fact, 40), shown(f.a, 60), shown(f.b, 60))
        click.echo("")
        screen(140).print(facts)
    if found.shared:
        gained = f"accuracy, {'points' if unit in ('', '%') else shown(unit, 20)}"
        table = Table(box=None, pad_edge=False)
        for column in ("model", shown(found.a, 24), shown(found.b, 24), "ratio, 95 %", "real", gained):
            table.add_column(column)
        for s in found.shared:
            table.add_row(
                shown(s.name, 50), f"{s.speedup_a.value:.2f}x", f"{s.speedup_b.value:.2f}x",
                f"{s.ratio.value:.3f} [{s.ratio.low:.3f}, {s.ratio.high:.3f}]", "yes" if s.speed_differs else "no",
                f"{change(s.accuracy_points, unit)}{' (real)' if s.accuracy_differs else ''}",
            )  # fmt: skip
        click.echo("")
        screen(140).print(table)


def _names(a: Path, b: Path) -> tuple[str, str]:
    if a.resolve().name != b.resolve().name:
        return a.resolve().name, b.resolve().name
    return str(a), str(b)
