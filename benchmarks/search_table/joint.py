"""Formats and structures together on ResNet20, whole runs of the tool: ours, NSGA-II on the same space, other tools.

The runs are those of ``modeltailor search`` on the example's job, training and final measurements included. What other
tools give is what they were found to give on the same network, data and kind of machine, one thread; ONNX Runtime's own
static quantization is made and timed here.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from networks.cifar import EXAMPLE, ROOT, images, resnet
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import modeltailor
from modeltailor.estimators.bench import compare_files
from modeltailor.reports import ModelSummary, RunSummary
from modeltailor.search import Progress
from modeltailor.search.hypervolume import hypervolume
from modeltailor.targets import LocalDevice, RuntimeOptions, load_profile
from modeltailor.targets.session import open_session
from modeltailor.workloads.export import export_onnx
from search_table.networks import accuracy_of
from search_table.studies import Row, Values

__all__ = ["first_answer", "joint"]

_EXAMPLE = ROOT / "examples" / "resnet20_cifar"
_REFERENCE = (0.1, 1.0, 1.0)
_ORIGIN = {"accuracy": 0.8798, "bytes": 1_094_655}
_KNOWN: dict[str, tuple[tuple[float, float, int], ...]] = {
    "the hand-made pipeline (channels pruned, distilled, int8)": (
        (2.01, 0.8464, 184_254), (2.08, 0.8632, 238_337), (2.57, 0.7730, 97_984), (2.18, 0.8796, 331_611),
    ),
    "NNCF post-training int8, with and without accuracy control": ((2.13, 0.8768, 327_662), (1.82, 0.8794, 489_731)),
}  # fmt: skip
"""Speed over fp32, accuracy on the 5,000 test images (fp32: 0.8798), bytes; as measured once with those tools."""


def joint(seconds: float, seeds: Sequence[int], folder: Path | None, results: list[Row], goals: list[Row]) -> None:
    """Run ours and NSGA-II for the same time, once a seed; runs that are finished in ``folder`` are only read."""
    place = folder or Path(tempfile.mkdtemp(prefix="modeltailor-joint-"))
    reached: dict[str, list[float]] = {"tailor": [], "nsga2": []}
    dominated: list[str] = []
    for seed, name in itertools.product(seeds, reached):
        run = _whole_run(place, name, seed, seconds)
        points = _front(run.summary)
        reached[name].append(hypervolume(points, _REFERENCE))
        beaten = _beaten_by_uniform(run.summary)
        dominated += beaten if name == "tailor" else []
        axes = sorted({t.axis for t in run.summary.trials})
        print(f"joint {name:7s} seed {seed}  {reached[name][-1]:.4f}  {len(run.summary.trials)} trials, {len(points)} finalists, "
              f"{axes}", flush=True)  # fmt: skip
        results.append({"part": "joint", "name": f"{name}, seed {seed}", "hypervolume": reached[name][-1], "points": points,
                        "trials": len(run.summary.trials), "seconds": seconds, "beaten_by_uniform": beaten})  # fmt: skip
    for name, values in reached.items():
        results.append({"part": "joint", "name": name, "hypervolume": statistics.median(values),
                        "spread": [min(values), max(values)], "seeds": list(seeds)})  # fmt: skip
    goals.append({"name": "joint: models of the front that a uniform baseline dominates", "goal": 0,
                  "value": len(dominated), "met": not dominated})  # fmt: skip
    ours = statistics.median(reached["tailor"])
    rivals = {"NSGA-II on the same space for the same time": statistics.median(reached["nsga2"])}
    rivals["ONNX Runtime static int8"] = hypervolume([_static_int8(place)], _REFERENCE)
    for name, rows in _KNOWN.items():
        rivals[name] = hypervolume(
            [_values(speed, _ORIGIN["accuracy"] - accuracy, size) for speed, accuracy, size in rows], _REFERENCE
        )
    for name, value in rivals.items():
        print(f"joint {value:.4f}  {name}", flush=True)
        if "NSGA-II" not in name:
            results.append({"part": "joint", "name": name, "hypervolume": value})
        goals.append({"name": f"joint: hypervolume over that of {name}", "goal": 1.0, "value": ours / value,
                      "met": ours >= value})  # fmt: skip


def _whole_run(place: Path, name: str, seed: int, seconds: float) -> modeltailor.Run:
    out = place / f"{name}-{seed}"
    if (out / "summary.json").exists():
        found = modeltailor.load_run(out)
        if not found.history.finals:
            raise SystemExit(f"{out} was stopped before its end; remove it")
        return found
    changes = (
        f"search.time={seconds:.0f}s", "search.trials=1000", f"search.sampler={name}", f"search.seed={seed}",
        "budget.max_drop=10", "budget.size=4MB",  # the whole front is wanted, no corner of it
    )  # fmt: skip
    job = modeltailor.load_job(_EXAMPLE / "job.yaml", changes)
    return modeltailor.tailor(job, out=out, root=_EXAMPLE, cache=place / f"cache-{name}-{seed}")


def first_answer(goals: list[Row], results: list[Row]) -> None:
    """Seconds to the uniform baselines, and to the first model that keeps ``max_drop 1.0, size 125 KB``."""
    job = modeltailor.load_job(
        _EXAMPLE / "job.yaml", ("search.time=240s", "budget.size=125KB", "search.axes=[formats]")
    )
    baselines: list[float] = []
    started = time.monotonic()

    def note(progress: Progress) -> None:
        if progress.trial is not None and progress.trial.role == "baseline":
            baselines.append(time.monotonic() - started)

    with tempfile.TemporaryDirectory() as scratch:
        run = modeltailor.tailor(
            job, out=Path(scratch) / "run", root=_EXAMPLE, cache=Path(scratch) / "cache", notify=note
        )
        met = [t.finished_at_s for t in run.summary.trials if t.key in _kept(run.summary)]
    first = min(met, default=float("inf"))
    print(
        f"first answer: all uniform baselines after {max(baselines):.0f} s, a model within the budget after {first:.0f} s"
    )
    results.append({"part": "first", "baselines_s": baselines, "met_s": sorted(met)})
    goals.append({"name": "ResNet20: seconds to probe and uniform baselines", "goal": 90.0, "value": max(baselines),
                  "met": max(baselines) <= 90.0})  # fmt: skip
    goals.append({"name": "ResNet20: seconds to a model that loses at most 1.0 point at 125 KB", "goal": 180.0, "value": first,
                  "met": first <= 180.0})  # fmt: skip


def _kept(summary: RunSummary) -> set[str]:
    """Keys of the models that keep the whole budget on the unfavourable ends of their intervals."""
    return {m.key for m in summary.models if m.meets_budget}


def _values(speed: float, loss: float, size: float) -> Values:
    return loss, 1.0 / speed, size / _ORIGIN["bytes"]


def _front(summary: RunSummary) -> list[Values]:
    """Finalists by what they lose on the test images and their latency in the last measurement."""
    tested = [(m, m.accuracy.test) for m in summary.models if m.accuracy.test is not None]
    origin = next(test.value for m, test in tested if m.role == "fp32")
    return [_values(m.speedup.value, origin - test.value, m.size_bytes) for m, test in tested]


def _beaten_by_uniform(summary: RunSummary) -> list[str]:
    """Names of models of the front that a uniform baseline beats in accuracy, latency and size."""
    uniform = [m for m in summary.models if m.role in ("baseline", "fp32")]

    def beats(a: Sequence[float], b: Sequence[float]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))

    def at(m: ModelSummary) -> Values:
        return -m.accuracy.search.value, 1.0 / m.speedup.value, float(m.size_bytes)

    return [
        m.name for m in summary.models if m.on_front and any(beats(at(u), at(m)) for u in uniform if u.key != m.key)
    ]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, rows: np.ndarray) -> None:  # type: ignore[type-arg]
        self.rows = iter([{"x": rows[i : i + 1]} for i in range(len(rows))])

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[type-arg]
        return next(self.rows, None)


def _static_int8(place: Path) -> Values:
    """ONNX Runtime's static quantization of the same network, made and timed here: U8S8, per channel, QDQ."""
    source, made = place / "fp32.onnx", place / "static-int8.onnx"
    export_onnx(resnet("resnet20"), (EXAMPLE,), source, input_names=["x"], output_names=["y"])
    splits = images.load()
    rows = splits["calibration"]["x"][:256].astype(np.float32)
    quantize_static(
        source, made, _Reader(rows), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    device = LocalDevice(load_profile("desktop-cpu"))
    try:
        found = compare_files(device, [source, made], inputs={"x": rows[:1]}, seconds=60.0)
    finally:
        device.close()
    speed = found.rows[1].measured.speedup.value
    test = splits["test"]
    origin, accuracy = (
        accuracy_of(open_session(path, RuntimeOptions()), test["x"].astype(np.float32), test["y"])
        for path in (source, made)
    )
    return _values(speed, origin - accuracy, made.stat().st_size)
