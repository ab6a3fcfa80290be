"""``modeltailor search``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import (
    DURATION,
    PATH,
    TARGET,
    assignments_option,
    budget_options,
    json_option,
    quiet_option,
)

__all__ = ["command"]

_KEYS = {
    "trials": "search.trials",
    "time_": "search.time",
    "seed": "search.seed",
    "target": "target",
    "max_drop": "budget.max_drop",
    "min_accuracy": "budget.min_accuracy",
    "latency": "budget.latency",
    "size": "budget.size",
    "memory": "budget.memory",
}


@click.command(cls=Command, examples=["modeltailor search job.yaml --time 20m --max-drop 1.0 --size 200KB"])
@click.argument("job_file", type=PATH)
@click.option("--out", type=PATH, help="Run folder; runs/NAME by default.")
@click.option("--trials", type=int, help="Candidates in the whole study.")
@click.option("--time", "time_", type=DURATION, help="Wall clock of the run, e.g. 20m.")
@click.option("--seed", type=int, help="Of everything that is drawn.")
@click.option("--target", type=TARGET, help="Profile to measure under; see `modeltailor targets list`.")
@budget_options
@assignments_option
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option(
    "--cache",
    type=PATH,
    help="What later runs take from: trained structures, scores, screenings, probes. ~/.cache/modeltailor by default.",
)
@json_option
@quiet_option
def command(
    job_file: Path,
    out: Path | None,
    assignments: tuple[str, ...],
    resume: bool,
    cache: Path | None,
    as_json: bool,
    quiet: bool,
    **overrides: Any,
) -> None:
    """Search for the best models under the budget of JOB_FILE."""
    from modeltailor.commands.running import run_job
    from modeltailor.job import load_job

    given = tuple(f"{_KEYS[k]}={v}" for k, v in overrides.items() if v is not None)
    job = load_job(job_file, (*assignments, *given))
    name = job_file.stem if job_file.stem != "job" else job_file.resolve().parent.name
    run_job(
        job,
        out=out or Path("runs") / name,
        root=job_file.resolve().parent,
        resume=resume,
        quiet=quiet,
        as_json=as_json,
        cache=cache,
    )
