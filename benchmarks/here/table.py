"""The measured table: each candidate beside its original by the project's own protocol, kept with what it executes."""

from __future__ import annotations

import fcntl
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import exp, log, sqrt
from pathlib import Path
from statistics import fmean, median, variance
from typing import Any, TypedDict

import onnxruntime

from here.candidates import COUNTS, NETWORKS, Candidate
from modeltailor.estimators.latency import compare_all
from modeltailor.estimators.predict import KernelWork, Trace, TracedKernel, executed_files, read_trace
from modeltailor.targets import TimingPlan, load_profile, open_device
from modeltailor.targets.profile import Profile

__all__ = ["Timed", "stand_in", "tables"]

_QUADS_AND_PAIRS = {"resnet20": (8, 3), "minilm": (4, 2)}  # of each round; a block of MiniLM lasts ten times as long


_PROFILED_RUNS = 60


class Row(TypedDict):
    """A candidate as it is kept: rounds of milliseconds of the original, speedup, half-width; what executes; a profile."""

    rounds: list[list[float]]
    kernels: list[dict[str, Any]]
    traced: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One candidate.

    Attributes:
        name: of the candidate.
        latency_ms: median latency of the original over all sessions, divided by this one's speedup (the geometric mean of
            its rounds): sessions drift, ratios hardly do.
        noise: standard deviation of the log of the speedup, as the rounds differ, or by their intervals if there is one.
        kernels: what it executes.
        trace: the runtime's profile of some runs.
    """

    name: str
    latency_ms: float
    noise: float
    kernels: tuple[KernelWork, ...]
    trace: Trace


def stand_in() -> Profile:
    """Return this machine as one of which nothing is known but a guess: two rates and a bandwidth of a desktop core."""
    figures = {"origin": "spec", "source": "a guess at any desktop core, one thread"}
    data = {
        "name": "here", "title": "this machine", "kind": "desktop-cpu", "runtime": "the installed ONNX Runtime",
        "peak_gops": {"fp32": {"value": 50.0, **figures}}, "bandwidth_gbps": {"value": 10.0, **figures},
        "instructions": ["avx2"],
    }  # fmt: skip
    return Profile.model_validate(data)


def tables(
    folder: Path, rounds: int = 1, lock: Path | None = None, networks: Sequence[str] | None = None, draw: int = 0
) -> dict[str, list[Timed]]:
    """Return the tables of all networks, from ``folder`` where they are kept, else built, timed and kept there.

    Args:
        folder: where they are kept; one that was begun is gone on with.
        rounds: how often each candidate is timed, all candidates one after the other in each round.
        lock: a file that is locked while a candidate is timed, for machines that others measure on as well.
        networks: which; all if ``None``.
        draw: which candidates of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for network in networks or NETWORKS:
        candidates = NETWORKS[network]
        path = folder / (f"{network}-{draw}.json" if draw else f"{network}.json")
        rows: dict[str, Row] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for turn in range(rounds):
            if len(rows) == COUNTS[network] and all(len(r["rounds"]) > turn for r in rows.values()):
                continue
            for _ in _time(network, candidates(draw), rows, turn, lock):
                path.write_text(json.dumps(rows), encoding="utf-8")
        found[network] = _timed(rows)
    return found


def _time(
    network: str, candidates: Iterable[Candidate], rows: dict[str, Row], turn: int, lock: Path | None
) -> Iterator[str]:
    """Time every candidate that lacks this round, and add it to its row."""
    quads, pairs = _QUADS_AND_PAIRS[network]
    plan = TimingPlan(quads=quads)
    device = open_device(load_profile("desktop-cpu"))
    with tempfile.TemporaryDirectory() as where:
        original, made = Path(where) / "original.onnx", Path(where) / "candidate.onnx"
        for number, candidate in enumerate(candidates):
            if number == 0:
                original.write_bytes(candidate.model)
            row = rows.setdefault(candidate.name, {"rounds": [], "kernels": [], "traced": []})
            if len(row["rounds"]) > turn:
                continue
            made.write_bytes(candidate.model)
            with _alone(lock):
                own = compare_all(
                    device, (original, made), candidate.inputs, min_pairs=pairs, max_pairs=pairs, plan=plan
                )[1]
            if not row["kernels"]:
                (file,) = executed_files([made], stand_in(), {k: v.shape for k, v in candidate.inputs.items()})
                row["kernels"] = [asdict(k) for k in file.work.kernels]
            with _alone(lock):
                row["traced"] = row["traced"] or [asdict(k) for k in _profiled(made, candidate).kernels]
            row["rounds"].append([own.baseline_ms.value, own.speedup.value, own.speedup.half_width])
            print(f"  {candidate.name:16s} {own.latency_ms.value:8.3f} ms {own.speedup.value:6.3f}x "
                  f"+- {own.speedup.half_width:.1%}", flush=True)  # fmt: skip
            yield candidate.name


def _profiled(path: Path, candidate: Candidate) -> Trace:
    """Run a candidate under the runtime's profiler."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for _ in range(_PROFILED_RUNS):
        session.run(None, dict(candidate.inputs))
    return read_trace(path, Path(session.end_profiling()))


@contextmanager
def _alone(lock: Path | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    with lock.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _timed(rows: dict[str, Row]) -> list[Timed]:
    baseline_ms = median(session[0] for row in rows.values() for session in row["rounds"])
    repeated = _repeat_noise(rows)
    found = []
    for name, row in rows.items():
        logs = [log(session[1]) for session in row["rounds"]]
        intervals = sqrt(fmean((session[2] / 1.96) ** 2 for session in row["rounds"]))
        found.append(
            Timed(
                name=name,
                latency_ms=baseline_ms / exp(fmean(logs)),
                noise=(intervals if repeated is None else repeated) / sqrt(len(logs)),
                kernels=tuple(KernelWork(**k) for k in row["kernels"]),
                trace=Trace(model=Path(name), kernels=tuple(TracedKernel(**k) for k in row["traced"])),
            )
        )
    return found


def _repeat_noise(rows: dict[str, Row]) -> float | None:
    """Return the standard deviation of one round's log speedup, from all that was timed more than once; ``None`` if nothing was.

    The interval of two process pairs is wide because two values know little of their own spread; many repetitions do.
    """
    logs = [[log(session[1]) for session in row["rounds"]] for row in rows.values()]
    spread = [(variance(values), len(values) - 1) for values in logs if len(values) > 1]
    freedom = sum(n for _, n in spread)
    return sqrt(sum(v * n for v, n in spread) / freedom) if freedom else None
