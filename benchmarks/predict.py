"""Latency prediction for absent devices, checked against published measurements.

    python benchmarks/predict.py [--quick] [--json FILE] [--row NAME ...] [--devices]
                                 [--here FOLDER] [--network NAME ...] [--draw N ...] [--rounds N] [--lock FILE]

Each device in turn is left out; ``k`` measurements on it are chosen by the estimator's own rule, everything else is
predicted. Data: ``$MODELTAILOR_DATA/device_latency`` (default ``../shared/data``). No device is named in this code.

The row ``here`` is this machine: candidates of ResNet20 and MiniLM are built and timed by the project's own protocol, and
predicted from five of them. ``--here FOLDER`` keeps the measured tables; where they are kept, they are read. Without
the option the row is left out, unless it is asked for by name. ``--draw N ...`` takes other candidates.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: the tables are small, threads only wait for each other

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
from published.families import rows as family_rows
from published.known import hub_rows, ncnn_rows, ratio_rows
from published.rows import cells_rows, subnets_rows
from published.score import Effort, Score, averaged

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table.

    Attributes:
        title: what the row is.
        run: yields the scores of the left-out devices.
        goals: measure -> least value.
        middle: how devices are put together.
        bands: whether the share inside 80 % bands is a goal.
    """

    title: str
    run: Callable[[Path, Effort], Iterator[Score]]
    goals: dict[str, float]
    middle: Callable[..., np.floating] = np.nanmean
    bands: tuple[float, float] = (0.77, 0.83)


ROWS = {
    "cells": Row(
        title="NAS-Bench-201, all settings given",
        run=cells_rows,
        goals={"spearman": 0.972, "within10": 0.85},
    ),
    "subnets": Row(title="Once-for-all variants, no other device", run=subnets_rows, goals={"within10": 0.88}),
    "hub": Row(
        title="AI Hub, known models on a left-out device",
        run=hub_rows,
        goals={"within10": 0.55, "within20": 0.78},
        middle=np.nanmedian,
    ),
    "ncnn": Row(
        title="ncnn CPUs, known models on a left-out chip", run=ncnn_rows, goals={"within10": 0.65, "within20": 0.87}
    ),
    "families": Row(title="ncnn CPUs, model family and chip left out", run=family_rows, goals={"within20": 0.55}),
    "ratio": Row(
        title="float to int8 on a left-out device", run=ratio_rows, goals={"within10": 0.60, "within20": 0.85}
    ),
}
HERE = "here"
EFFORTS = {
    True: Effort(seeds=2, targets=1500, inner=9, folds=4),
    False: Effort(seeds=5, targets=5000, inner=60, folds=8),
}


def _here(run: Callable[[], Iterator[Score]], networks: list[str] | None) -> Row:
    """Return the row of this machine; its goals hold for each network."""
    goals = {"spearman": 0.98, "within10": 0.90}
    title = f"candidates of a search on this machine, k=5: {' and '.join(networks or ['resnet20', 'minilm'])}"
    return Row(title=title, run=lambda _folder, _effort: run(), goals=goals, middle=np.min)


def _goal_lines(name: str, row: Row, scores: list[Score]) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    for measure, goal in row.goals.items():
        value = float(row.middle([getattr(s, measure) for s in scores]))
        lines.append({"name": f"{name}:{measure}", "goal": goal, "value": round(value, 4), "met": value >= goal})
    inside = float(np.mean([s.inside for s in scores]))
    low, high = row.bands
    met = low <= round(inside, 2) <= high
    lines.append({"name": f"{name}:inside80", "goal": f"{low}-{high}", "value": round(inside, 4), "met": met})
    worse = [s.device for s in scores if s.flops_better]
    lines.append({"name": f"{name}:flops_better_on", "goal": 0, "value": len(worse), "met": not worse})
    return lines


def _print(row: Row, scores: list[Score], lines: list[dict[str, object]], seconds: float, devices: bool) -> None:
    print(f"\n{row.title}  ({len(scores)} left-out devices, {seconds:.0f} s)")
    header = f"  {'':44s} {'items':>6s} {'rho':>6s} {'10%':>6s} {'20%':>6s} {'80%in':>6s}   FLOPs: rho   10%   20%"
    print(header)
    pattern = "  {:44.44s} {:6d} {:6.3f} {:6.3f} {:6.3f} {:6.3f}        {:6.3f} {:5.3f} {:5.3f}"
    fields = ("spearman", "within10", "within20", "inside", "flops_spearman", "flops_within10", "flops_within20")
    if devices:
        for s in scores:
            print(pattern.format(s.device, s.n_items, *(getattr(s, f) for f in fields)))
    for title, middle in (("mean", np.nanmean), ("median", np.nanmedian)):
        n_items = int(middle([s.n_items for s in scores]))
        print(pattern.format(title, n_items, *(middle([getattr(s, f) for s in scores]) for f in fields)))
    for line in lines:
        print(f"    {'met ' if line['met'] else 'MISSED'} {line['name']}: {line['value']} (goal {line['goal']})")


def _result(name: str, row: Row, scores: list[Score], devices: bool) -> dict[str, object]:
    """Return a row for the JSON file: means and medians over the devices, and each device if it was asked for."""
    measures = [f.name for f in fields(Score) if f.name not in ("device", "n_items")]
    found: dict[str, object] = {"row": name, "title": row.title, "left_out": len(scores)}
    for title, middle in (("mean", np.nanmean), ("median", np.nanmedian)):
        found[title] = {m: round(float(middle([getattr(s, m) for s in scores])), 4) for m in measures}
    if devices:
        found["devices"] = [asdict(s) for s in scores]
    return found


def main() -> None:
    """Run the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; at most ten minutes on one core")
    parser.add_argument("--json", type=Path, help="write environment, results and goals here")
    parser.add_argument("--row", nargs="*", choices=sorted((*ROWS, HERE)), default=list(ROWS), help="only these rows")
    parser.add_argument("--here", type=Path, help="keep the measured tables of this machine there, or read them")
    parser.add_argument("--network", nargs="*", help="only these of its networks, resnet20 and minilm; all by default")
    parser.add_argument("--draw", type=int, nargs="*", default=[0], help="which draws of candidates; 0 by default")
    parser.add_argument("--rounds", type=int, default=2, help="how often each candidate is timed on this machine")
    parser.add_argument("--lock", type=Path, help="lock this file while a candidate is timed")
    parser.add_argument("--devices", action="store_true", help="print each device, and write it")
    arguments = parser.parse_args()
    folder = Path(os.environ.get("MODELTAILOR_DATA", ROOT.parent / "shared" / "data")) / "device_latency"
    rows, asked = dict(ROWS), list(arguments.row)
    if arguments.here or HERE in asked:
        from here.rows import here_rows  # late: it needs torch, and more

        kept = arguments.here or Path(tempfile.mkdtemp(prefix="modeltailor-here-"))
        rows[HERE] = _here(
            partial(here_rows, kept, arguments.rounds, arguments.lock, arguments.network, arguments.draw),
            arguments.network,
        )
        asked = list(dict.fromkeys((*asked, HERE)))
    results, goals = [], []
    for name in asked:
        row, start = rows[name], time.perf_counter()
        scores = averaged(row.run(folder, EFFORTS[arguments.quick]))
        lines = _goal_lines(name, row, scores)
        _print(row, scores, lines, time.perf_counter() - start, arguments.devices)
        results.append(_result(name, row, scores, arguments.devices))
        goals += lines
    print(f"\n{sum(bool(g['met']) for g in goals)} of {len(goals)} goals met")
    if arguments.json:
        environment = {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.machine(),
            "quick": arguments.quick,
        }
        document = {"environment": environment, "results": results, "goals": goals}
        arguments.json.write_text(json.dumps(document, indent=1, default=float), encoding="utf-8")


if __name__ == "__main__":
    main()
