"""``modeltailor demo``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import DURATION, PATH, json_option, quiet_option
from modeltailor.errors import CandidateError, ConfigError, EnvironmentFault

__all__ = ["command"]

_LONGEST_TRAINING_S = 1200.0
"""Some 15 seconds of work; a busy machine may need many times that."""


@click.command(cls=Command, examples=["modeltailor demo"])
@click.option("--out", type=PATH, default=Path("runs/demo"), show_default=True, help="Run folder.")
@click.option("--time", "time_", type=DURATION, default="170s", show_default=True, help="Wall clock.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is drawn.")
@json_option
@quiet_option
def command(out: Path, time_: float, seed: int, as_json: bool, quiet: bool) -> None:
    """Handwritten digits: train a small network, search, report into runs/demo."""
    from modeltailor.commands.running import run_job
    from modeltailor.search.plan import SearchPlan
    from modeltailor.targets import Child

    if out.exists() and not (out / "study.db").exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError("CFG-13", "--out", f"{out} is there already and holds no run", "choose another")
    SearchPlan(time_s=time_)  # what is no plan is said before anything is trained
    weights = out.parent / f"{out.name}-inputs" / "weights.safetensors"
    if not weights.exists():
        if not quiet:
            click.echo("training a small network on handwritten digits (about 15 s)", err=True)
        try:
            with Child(threads=os.cpu_count() or 1, name="demo") as child:
                child.call("modeltailor.demo:train", timeout_s=_LONGEST_TRAINING_S, weights=weights)
        except CandidateError as error:
            raise EnvironmentFault(
                "ENV-05", "demo", f"the network could not be trained: {error.what}",
                "try again when the machine is less busy",
            ) from error  # fmt: skip
    job = {
        "model": {"source": "modeltailor.demo:build", "weights": weights.name, "student": "modeltailor.demo:student"},
        "data": "modeltailor.demo:load",
        "metric": "accuracy",
        "target": "desktop-cpu",
        "budget": {"max_drop": 1.0},
        "search": {"trials": 40, "time": time_, "seed": seed},
    }
    run_job(job, out=out, root=weights.parent, resume=out.exists(), quiet=quiet, as_json=as_json)
