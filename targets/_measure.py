"""What a measuring process does: hold one model, warm it up, run blocks. Called by name through ``Child``."""

from __future__ import annotations

import gc
import resource
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import onnxruntime as ort

from modeltailor.targets.device import Inputs, RuntimeOptions
from modeltailor.targets.session import feed_for, open_session

__all__ = ["Block", "Loaded", "Memory", "block", "load", "memory", "warm_up"]

# Identity(x) -> y on float[1], opset 13, ir_version 8; written down so that `onnx` need not be imported
_BARE = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a00100d"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Milliseconds of opening the session and of the first run."""

    load_ms: float
    first_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Median milliseconds of one inference in a block, and what the process suffered meanwhile."""

    ms: float
    major_faults: int
    preemptions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Rise of the peak resident memory over the bare runtime, in bytes."""

    load_bytes: int
    run_bytes: int


_held: list[tuple[ort.InferenceSession, Inputs]] = []


def load(path: Path, inputs: Inputs, options: RuntimeOptions) -> Loaded:
    """Open the model that this process measures and run it once."""
    gc.collect()
    gc.disable()
    start = perf_counter_ns()
    session = open_session(path, options)
    opened = perf_counter_ns()
    feed = feed_for(session, inputs)
    began = perf_counter_ns()
    session.run(None, feed)
    _held[:] = [(session, feed)]
    return Loaded(load_ms=(opened - start) / 1e6, first_ms=(perf_counter_ns() - began) / 1e6)


def _times_ms(n: int) -> list[float]:
    session, feed = _held[0]
    stamps = [perf_counter_ns()]
    for _ in range(n):
        session.run(None, feed)
        stamps.append(perf_counter_ns())
    return [(b - a) / 1e6 for a, b in pairwise(stamps)]


def warm_up(shortest_s: float, longest_s: float) -> tuple[bool, float]:
    """Run until two windows agree within 2 %, at least ten times and ``shortest_s``.

    Returns:
        whether it settled, and the milliseconds of one inference at the end.
    """
    start = perf_counter_ns()
    last, n_done, window = 0.0, 0, 5
    while True:
        now = median(_times_ms(window))
        n_done += window
        spent_s = (perf_counter_ns() - start) / 1e9
        steady = last > 0 and abs(now - last) <= 0.02 * last
        if (steady and n_done >= 10 and spent_s >= shortest_s) or spent_s >= longest_s:
            return steady, now
        last = now
        window = max(5, min(1000, round(50.0 / max(now, 1e-3))))


def block(n_dropped: int, n: int) -> Block:
    """Run ``n_dropped`` inferences after the switch to this process, then time ``n``."""
    _times_ms(n_dropped)
    before = resource.getrusage(resource.RUSAGE_SELF)
    times = _times_ms(n)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return Block(
        ms=median(times),
        major_faults=after.ru_majflt - before.ru_majflt,
        preemptions=after.ru_nivcsw - before.ru_nivcsw,
    )


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def memory(path: Path, inputs: Inputs, options: RuntimeOptions) -> Memory:
    """Measure the peak resident memory of loading and of running a model; the process must be fresh.

    The base is a process that has the runtime, the inputs, and a session of one ``Identity``. ``ru_maxrss`` is
    inherited from the parent, and Python's own counters do not see native memory, hence ``VmHWM``.
    """
    bare = open_session(_BARE, options)
    gc.collect()
    base = _status_bytes("VmRSS")
    _reset_peak()
    session = open_session(path, options)
    loaded = _status_bytes("VmHWM")
    _reset_peak()
    feed = feed_for(session, inputs)
    for _ in range(4):
        session.run(None, feed)
    ran = _status_bytes("VmHWM")
    del bare
    return Memory(load_bytes=max(0, loaded - base), run_bytes=max(0, ran - base))
