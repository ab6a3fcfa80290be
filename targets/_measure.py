"""What a measuring process does: hold one model, warm it up, run blocks. Called by name through ``Child``."""

from __future__ import annotations

import gc
import resource
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import onnxruntime as ort

from modeltailor.targets.agent.device_side import (
    BARE_MODEL,
    calls_per_second,
    reset_peak,
    settle,
    single_times,
    status_bytes,
    tells_memory,
    timed,
)
from modeltailor.targets.device import Inputs, RuntimeOptions
from modeltailor.targets.session import feed_for, open_session, refuse_fall_back

__all__ = ["Block", "Loaded", "Memory", "block", "callers", "load", "memory", "singles", "warm_up"]


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
    first = perf_counter_ns()
    refuse_fall_back(path, feed, options)
    _held[:] = [(session, feed)]
    return Loaded(load_ms=(opened - start) / 1e6, first_ms=(first - began) / 1e6)


def _run() -> None:
    session, feed = _held[0]
    session.run(None, feed)


def warm_up(shortest_s: float, longest_s: float) -> tuple[bool, float]:
    """Run the model until it settles; see :func:`~modeltailor.targets.agent.device_side.settle`."""
    return settle(_run, shortest_s, longest_s)


def block(n_dropped: int, n: int) -> Block:
    """Run ``n_dropped`` inferences after the switch to this process, then time ``n``."""
    timed(_run, n_dropped)
    before = resource.getrusage(resource.RUSAGE_SELF)
    times = timed(_run, n)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return Block(
        ms=median(times),
        major_faults=after.ru_majflt - before.ru_majflt,
        preemptions=after.ru_nivcsw - before.ru_nivcsw,
    )


def singles(n: int, longest_s: float) -> tuple[float, ...]:
    """Time ``n`` inferences one by one, fewer where ``longest_s`` is over before; milliseconds in order."""
    return tuple(single_times(_run, n, longest_s))


def callers(n: int, seconds: float) -> float:
    """Inferences a second that ``n`` callers of the one session get done together."""
    return calls_per_second(_run, n, seconds)


def memory(path: Path, inputs: Inputs, options: RuntimeOptions) -> Memory | None:
    """Measure the peak resident memory of loading and of running a model; the process must be fresh.

    ``None`` where the system does not tell (only Linux does). The base is a process that has the runtime, the inputs,
    and a session of one ``Identity``. ``ru_maxrss`` is inherited from the parent, and Python's own counters do not see
    native memory, hence ``VmHWM``.
    """
    if not tells_memory():
        return None
    bare = open_session(BARE_MODEL, options)
    gc.collect()
    base = status_bytes("VmRSS")
    reset_peak()
    session = open_session(path, options)
    loaded = status_bytes("VmHWM")
    reset_peak()
    feed = feed_for(session, inputs)
    for _ in range(4):
        session.run(None, feed)
    ran = status_bytes("VmHWM")
    del bare
    return Memory(load_bytes=max(0, loaded - base), run_bytes=max(0, ran - base))
