"""``modeltailor audit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import PATH, input_shapes, json_option, shape_options, target_option
from modeltailor.commands.screen import screen
from modeltailor.errors import CandidateError, ModelError, shown

if TYPE_CHECKING:
    from rich.table import Table

    from modeltailor.estimators.audit import Audit, FallBack

__all__ = ["command"]

_MOST_NODES = 20
_MOST_KINDS = 10


@click.command(cls=Command, examples=["modeltailor audit model.onnx"])
@click.argument("model", type=PATH)
@target_option
@shape_options
@json_option
def command(model: Path, target: str, batch: int, shapes: tuple[str, ...], as_json: bool) -> None:
    """What really executes in an ONNX file, and why it is not faster."""
    from modeltailor.estimators.audit import audit as look
    from modeltailor.estimators.bench import example_inputs
    from modeltailor.places import open_place
    from modeltailor.targets import LocalDevice
    from modeltailor.targets.local import options_here
    from modeltailor.targets.machine import processor

    device = open_place(target, Path.cwd())
    facts = device.describe()
    options = options_here(device)
    device.close()
    note = ""
    if not isinstance(device, LocalDevice) or facts.evidence != "measured-on-device":
        note = f"read on this machine ({processor()}) in place of {facts.name}: kernels and shares may differ there"
    inputs = example_inputs(model, shapes=input_shapes(shapes), batch=batch)
    try:
        found = look(model, inputs, options)
    except CandidateError as error:  # it came from outside, so this is no candidate of ours
        raise ModelError("MODEL-11", model.name, f"{error.what} ({error.code})", "it is unsafe to use") from error
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps({**asdict(found), "note": note}, indent=1))
    else:
        _show(found)
        if note:
            click.echo(note)


def _show(found: Audit) -> None:
    console = screen()
    executing = "one node executes" if len(found.nodes) == 1 else f"{len(found.nodes)} nodes execute"
    console.print(
        f"{shown(found.model, 60)}: {executing}. Shares are of the time of all nodes, by the runtime's own profile."
    )
    console.print(_nodes(found))
    rest = sorted(found.nodes, key=lambda n: -n.share)[_MOST_NODES:]
    if rest:
        click.echo(f"{sum(n.share for n in rest):6.1%}   {len(rest)} more nodes; --json lists every one")
    if found.converting:
        click.echo(
            f"\nconversions between number formats: {found.conversions}, {found.conversion_share:.1%} of the time"
        )
        console.print(_conversions(found))
    if found.pairs:
        share = sum(p.share for p in found.pairs)
        pairs = "one pair of them cancels" if len(found.pairs) == 1 else f"{len(found.pairs)} pairs of them cancel"
        click.echo(f"{pairs} out ({share:.1%}): neighbours in one format need neither")
    if found.fall_backs:
        click.echo("\nwhat does not run as the file or the request has it")
        console.print(_fall_backs(found))
    if found.saturating:
        layers = "one layer" if len(found.saturating) == 1 else f"{len(found.saturating)} layers"
        click.echo(
            f"\n{layers} may saturate here, {shown(found.saturating[0], 50)} first: this processor adds pairs of 8-bit products "
            "in 16 bits, so outputs differ from other machines'. Weights of 7 bits (reduced range) avoid it."
        )
    click.echo(f"\n{found.sentence}")


def _table(*columns: str) -> Table:
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def _nodes(found: Audit) -> Table:
    has_asked = any(n.asked for n in found.nodes)
    table = _table("share", "kernel", "computes in", *(["asked for"] if has_asked else []), "node")
    for node in sorted(found.nodes, key=lambda n: -n.share)[:_MOST_NODES]:
        asked = [shown(node.asked, 24)] if has_asked else []
        table.add_row(f"{node.share:6.1%}", node.op_type, node.precision, *asked, shown(node.name))
    return table


def _conversions(found: Audit) -> Table:
    """Conversions that are alike in one row, the dearest first."""
    alike: dict[tuple[str, str, str, str], list[float]] = {}
    for c in found.converting:
        where = f"{c.after} -> {', '.join(c.before)}"
        who = "the runtime put it in" if c.is_inserted else "in the file"
        alike.setdefault((f"{c.source} to {c.target}", c.op_type, shown(where, 60), who), []).append(c.share)
    table = _table("share", "count", "from, to", "kernel", "between", "")
    rows = sorted(alike.items(), key=lambda kv: -sum(kv[1]))
    for (types, kernel, where, who), shares in rows[:_MOST_KINDS]:
        table.add_row(f"{sum(shares):6.1%}", str(len(shares)), types, kernel, shown(where), who)
    if len(rows) > _MOST_KINDS:
        table.add_row(f"{sum(sum(s) for _, s in rows[_MOST_KINDS:]):6.1%}", "", "others", "", "", "")
    return table


def _fall_backs(found: Audit) -> Table:
    """Nodes that fell back for one reason in one row, the dearest first."""
    alike: dict[tuple[str, str, str], list[FallBack]] = {}
    for fall in found.fall_backs:
        alike.setdefault((fall.asked, fall.executed, fall.reason), []).append(fall)
    table = _table("share", "asked for", "executes", "why", "node")
    rows = sorted(alike.items(), key=lambda kv: -sum(f.share for f in kv[1]))
    for (asked, executed, reason), falls in rows[:_MOST_KINDS]:
        more = f" and {len(falls) - 1} more" if len(falls) > 1 else ""
        name = shown(falls[0].name, 50) + more
        table.add_row(f"{sum(f.share for f in falls):6.1%}", shown(asked, 24), executed, shown(reason), shown(name))
    if len(rows) > _MOST_KINDS:
        table.add_row(f"{sum(f.share for _, fs in rows[_MOST_KINDS:] for f in fs):6.1%}", "", "", "other reasons", "")
    return table
