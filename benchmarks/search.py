"""How many evaluations the search needs, and what whole runs give: toys with a known front, ResNet20, MiniLM.

Usage::

    python benchmarks/search.py [--quick] [--only toys,resnet20,minilm,joint,first] [--json FILE] [--plot FILE]
                                [--folder DIR] [--seeds N] [--first-seed N] [--rival-evaluations N] [--minutes N]

Every sampler sees the same space and the same evaluator, and every study starts with the uniform formats. Samplers that
use order get ordinal parameters. On the toys the share of the true hypervolume is printed (of its upper bound, where it
is only enclosed). ``resnet20`` and ``minilm`` build, score and time every recipe, on the space that a run on a desktop CPU
offers; what was made and measured is kept in ``--folder`` and replayed. ``joint`` and ``first`` are whole runs on ResNet20, with
training. Data comes from the folder in ``MODELTAILOR_DATA`` (default ``../shared/data``). ``--json`` keeps the parts that
are not run again; ``--plot`` writes SVG.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import optuna
from search_table.formats import compare_samplers
from search_table.joint import first_answer, joint
from search_table.networks import NETWORKS
from search_table.plot import plot
from search_table.studies import Row
from search_table.toys import toys

from modeltailor.targets.machine import runtime

PARTS = ("toys", "resnet20", "minilm", "joint", "first")


def run_part(part: str, args: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """Rows and goals of one part; both empty if its data or packages are missing."""
    results: list[Row] = []
    goals: list[Row] = []
    if part == "toys":
        toys(args.quick, args.rival_seeds, results, goals)
    elif part == "joint":
        joint(
            60.0 * args.minutes,
            range(args.first_seed, args.first_seed + (1 if args.quick else args.seeds)),
            args.folder,
            results,
            goals,
        )
    elif part == "first":
        first_answer(goals, results)
    else:
        table = args.folder / f"{part}.jsonl" if args.folder else None
        network = NETWORKS[part](table, quick=args.quick)
        if network is None:
            print(f"{part} is left out: its data or packages are not there")
            return results, goals
        compare_samplers(
            network, seeds=1 if args.quick else args.seeds, rivals=60 if args.quick else args.rival_evaluations,
            first_seed=args.first_seed, results=results, goals=goals,
        )  # fmt: skip
    return results, goals


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="few seeds, 20 and 100 sites, no long runs of the others")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by comma")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--folder", type=Path, help="measured recipes and runs are kept here, and read back")
    parser.add_argument("--seeds", type=int, default=5, help="of ResNet20, MiniLM and joint")
    parser.add_argument("--first-seed", type=int, default=0, help="of ResNet20, MiniLM and joint")
    parser.add_argument("--rival-evaluations", type=int, default=400, help="what the others get on ResNet20 and MiniLM")
    parser.add_argument("--rival-seeds", type=int, default=5, help="of the other samplers on the toys")
    parser.add_argument("--minutes", type=float, default=20.0, help="of each whole run of the joint part")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parts = [p for p in args.only.split(",") if p]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only: there is no part {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    kept = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    environment = {
        "python": platform.python_version(), "machine": platform.machine(), "cores": str(os.cpu_count()),
        **{p: version(p) for p in ("modeltailor", "optuna", "numpy", "scipy")}, "onnxruntime": runtime().partition(" ")[2],
    }  # fmt: skip
    for part in parts:
        started = time.monotonic()
        results, goals = run_part(part, args)
        kept[part] = {
            "environment": environment, "quick": args.quick, "seconds": time.monotonic() - started,
            "results": results, "goals": goals,
        }  # fmt: skip
        for goal in goals:
            print(f"{'met   ' if goal['met'] else 'MISSED'} {goal['name']}: {goal['value']:.4f} (goal {goal['goal']})")
        if args.json:
            args.json.write_text(json.dumps(kept, indent=1) + "\n")
    if args.plot:
        args.plot.write_text(plot([row for part in kept.values() for row in part["results"]]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
