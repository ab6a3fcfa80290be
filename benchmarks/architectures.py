"""Do the formats hold on networks nobody tuned them for? Each is built in a random mixed recipe and checked.

Usage::

    python benchmarks/architectures.py [--only TEXT,TEXT] [--seeds N] [--random N] [--json FILE]

The networks and the checks are those of ``tests/architectures`` (what is checked stands in its ``verdict.py``): timm's
architectures without weights, the whole-model graphs of the ``onnx`` package, recurrent networks, MiniLM. What is not
installed is left out and said so. ``--random`` adds random graphs. Networks of hundreds of megabytes run in a process of
their own, with the peak of its memory. The file of ``--json`` is written after each network, and keeps what it holds of
others: the suite can be run in parts, and a part that was cut off is not lost.

The exit code is 1 if a network fails, and 4 if one was left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import onnx
import onnxruntime
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from architectures.case import Architecture
from architectures.random_graphs import random_case
from architectures.suite import SUITE, missing
from architectures.verdict import Verdict, as_plain, judge

_ALONE = 100_000_000  # bytes of weights


def _peak_megabytes() -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return next((int(line.split()[1]) // 1024 for line in status.read_text().splitlines() if "VmHWM" in line), None)


def _row(verdict: Verdict) -> dict[str, object]:
    return as_plain(verdict)


def _judged(architecture: Architecture, seed: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="modeltailor-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = architecture.make(Path(folder))
        return _row(judge(architecture.name, case, seed=seed))


def _judged_alone(architecture: Architecture, seed: int) -> dict[str, object]:
    command = [sys.executable, __file__, "--one", architecture.name, "--first-seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return _failure(architecture.name, done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"])
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def _failure(name: str, problems: list[str]) -> dict[str, object]:
    return {"name": name, "passed": False, "problems": problems}


def _safely(architecture: Architecture, seed: int) -> dict[str, object]:
    try:
        if architecture.most_bytes >= _ALONE:
            return _judged_alone(architecture, seed)
        return _judged(architecture, seed)
    except Exception as error:  # one network must not hide the others
        return _failure(architecture.name, [f"{type(error).__name__}: {error}"[:300]])


def _print(row: dict[str, object], seconds: float) -> None:
    said = "ok" if row["passed"] else "FAILED"
    if "gap" in row:
        print(
            f"{row['name']:38s} {said:6s} opset {row['opset']}, {row['quantized']} of {row['sites']} sites, "
            f"{len(row['unsupported'])} fp32, recipe moves outputs {row['noise']:.4f}, file is off its simulation "  # type: ignore[arg-type]
            f"{row['gap']:.5f} (allowed {row['limit']:.4f}), {int(str(row['float_bytes'])) // 1000} -> "
            f"{int(str(row['bytes'])) // 1000} kB, {seconds:.0f} s"
            + (f", peak {row['peak_mb']} MB" if row.get("peak_mb") else ""),
            flush=True,
        )
    else:
        print(f"{row['name']:38s} {said}", flush=True)
    for problem in row["problems"]:  # type: ignore[attr-defined]
        print(f"    {problem}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names that hold one of these texts, separated by commas")
    parser.add_argument("--seeds", type=int, default=1, help="recipes a network")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--random", type=int, default=0, help="random graphs besides")
    parser.add_argument("--json", type=Path, help="where the verdicts go")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        one = next(a for a in SUITE if a.name == options.one)
        print(json.dumps(_judged(one, options.first_seed) | {"peak_mb": _peak_megabytes()}))
        return 0
    wanted = [t for t in options.only.split(",") if t]
    chosen = [a for a in SUITE if not wanted or any(t in a.name for t in wanted)]
    left_out = [missing(a) for a in chosen if missing(a)]
    rows: list[dict[str, object]] = []
    kept = _kept(options.json)
    for architecture in (a for a in chosen if not missing(a)):
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            started = time.perf_counter()
            row = _safely(architecture, seed) | {"seed": seed}
            rows.append(row)
            _print(row, time.perf_counter() - started)
            _write(options.json, [*kept, *rows], left_out)
    for seed in range(options.random):
        with tempfile.TemporaryDirectory(prefix="modeltailor-") as folder:
            verdict = judge(f"random/{seed}", random_case(seed, Path(folder)), seed=seed)
        rows.append(as_plain(verdict) | {"seed": seed})
        _write(options.json, [*kept, *rows], left_out)
        if not verdict.passed:
            _print(rows[-1], verdict.seconds)
    return _finish(rows, left_out)


def _kept(path: Path | None) -> list[dict[str, object]]:
    """Verdicts of earlier parts."""
    if path is None or not path.exists():
        return []
    found: list[dict[str, object]] = json.loads(path.read_text())["networks"]
    return found


def _write(path: Path | None, rows: list[dict[str, object]], left_out: list[str]) -> None:
    """Write all verdicts; of two of the same recipe the later one counts."""
    if path is None:
        return
    about = {
        "python": platform.python_version(), "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__, "machine": platform.processor() or platform.machine(),
    }  # fmt: skip
    last = {(str(r["name"]), r["seed"]): r for r in rows}
    data = {"environment": about, "left_out": left_out, "networks": list(last.values())}
    path.write_text(json.dumps(data, indent=1) + "\n")


def _finish(rows: list[dict[str, object]], left_out: list[str]) -> int:
    passed = {str(r["name"]) for r in rows} - {str(r["name"]) for r in rows if not r["passed"]}
    names = {str(r["name"]) for r in rows}
    quantized = sum(int(str(r.get("quantized", 0))) for r in rows)
    without = sum(len(r.get("disagreeing", ())) for r in rows)  # type: ignore[arg-type]
    explained = sum(len(r.get("explained", ())) for r in rows)  # type: ignore[arg-type]
    print(f"\n{len(passed)} of {len(names)} networks pass")
    print(
        f"{quantized} quantized sites: {quantized - without - explained} execute what was asked for, "
        f"{explained} say why not, {without} do neither"
    )
    for text in left_out:
        print(f"left out: {text}")
    if len(passed) < len(names):
        return 1
    return 4 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
