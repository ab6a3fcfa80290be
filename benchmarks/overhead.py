"""Where the time of a run goes: stages of a search on the demo's digits and, with the data at hand, on ResNet20.

python benchmarks/overhead.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import modeltailor
from modeltailor.targets import Child

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MODELTAILOR_DATA", ROOT.parent / "shared" / "data"))
WORK = {
    "prepare", "probe", "settings", "structure", "recovery", "build", "score", "latency", "profile", "sensitivity", "finals",
}  # fmt: skip
"""Stages that build, run, measure or train; ``recovery`` is training with formats, ``settings`` tries ways of rounding."""


def digits(folder: Path, seconds: float) -> dict[str, Any]:
    weights = folder / "weights.safetensors"
    with Child(threads=os.cpu_count() or 1, name="demo") as child:
        child.call("modeltailor.demo:train", timeout_s=300.0, weights=weights)
    job = {
        "model": {"source": "modeltailor.demo:build", "weights": weights.name, "student": "modeltailor.demo:student"},
        "data": "modeltailor.demo:load",
        "search": {"trials": 40, "time": seconds},
    }
    return measure("digits", job, folder, goal=0.15)


def resnet20(folder: Path, seconds: float) -> dict[str, Any]:
    job = modeltailor.load_job(ROOT / "examples/resnet20_cifar/job.yaml", (f"search.time={seconds}s",))
    return measure("resnet20", job, folder, root=ROOT / "examples/resnet20_cifar", goal=0.10)


def measure(name: str, job: Any, folder: Path, *, goal: float, root: Path | None = None) -> dict[str, Any]:
    started = time.monotonic()
    first: list[float] = []

    def note(progress: Any) -> None:
        done = progress.trial is not None and progress.trial.role == "baseline"
        if done and not first:
            first.append(time.monotonic() - started)

    run = modeltailor.tailor(job, out=folder / name, root=root or folder, cache=folder / "cache", notify=note)
    total = time.monotonic() - started
    stages = {k: v for k, v in run.history.seconds if k in WORK}
    return {
        "name": name,
        "seconds": total,
        "trials": len(run.history.trials),
        "first_baseline_s": first[0] if first else None,
        "stages": stages,
        "other_share": 1.0 - sum(stages.values()) / total,
        "goal": goal,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most ten minutes on two cores")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        results = [digits(folder, 120 if arguments.quick else 150)]
        if (DATA / "cifar10_jpeg").is_dir():
            results.append(resnet20(folder, 300 if arguments.quick else 900))
    for r in results:
        print(
            f"\n{r['name']}: {r['seconds']:.0f} s, {r['trials']} trials, first baseline after {r['first_baseline_s']:.0f} s"
        )
        for stage, seconds in sorted(r["stages"].items(), key=lambda s: -s[1]):
            print(f"  {stage:<12} {seconds:7.1f} s  {seconds / r['seconds']:6.1%}")
        print(f"  {'all else':<12} {r['other_share'] * r['seconds']:7.1f} s  {r['other_share']:6.1%}")
    goals = [
        {
            "name": f"{r['name']}: time outside building, inference, measuring and training",
            "goal": r["goal"],
            "value": r["other_share"],
            "met": r["other_share"] <= r["goal"],
        }
        for r in results
    ]
    for g in goals:
        print(f"{'met   ' if g['met'] else 'missed'} {g['name']}: {g['value']:.1%} (goal {g['goal']:.0%})")
    if arguments.json:
        environment = {"cpu": platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()}
        arguments.json.write_text(
            json.dumps({"environment": environment, "results": results, "goals": goals}, indent=1)
        )


if __name__ == "__main__":
    main()
