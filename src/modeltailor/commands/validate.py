"""``modeltailor validate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import PATH, assignments_option, json_option, quiet_option

if TYPE_CHECKING:
    from modeltailor.validation import Check

__all__ = ["command"]


@click.command(cls=Command, examples=["modeltailor validate job.yaml"])
@click.argument("job_file", type=PATH)
@assignments_option
@json_option
@quiet_option
def command(job_file: Path, assignments: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Check JOB_FILE and all that it names, in seconds: model, data, splits, metric, target, budget.

    Every problem is one line on stderr; the exit code is that of the first one.
    """
    from modeltailor.validation import validate

    checks = validate(job_file, assignments)
    problems = [p for c in checks for p in c.problems]
    if as_json:
        click.echo(_document(checks))
    elif not quiet:
        for check in checks:
            if check.passed:
                click.echo(f"ok  {check.part:<7} {check.says}")
                for note in check.notes:
                    click.echo(f"    {'':<7} note: {note}")
    for problem in problems:
        click.echo(problem.line(), err=True)
    if problems:
        sys.exit(problems[0].exit_code)
    if not as_json and not quiet:
        click.echo(f"all fine; next: modeltailor search {job_file}")


def _document(checks: tuple[Check, ...]) -> str:
    import json

    return json.dumps(
        {
            "valid": all(c.passed for c in checks),
            "checks": [
                {
                    "part": c.part,
                    "passed": c.passed,
                    "says": c.says,
                    "notes": list(c.notes),
                    "problems": [
                        {"code": p.code, "where": p.where, "what": p.what, "next_step": p.next_step} for p in c.problems
                    ],
                }
                for c in checks
            ],
        },
        indent=1,
    )
