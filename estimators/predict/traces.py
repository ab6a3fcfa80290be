"""ONNX Runtime's profile of one run on a device: the time of every kernel, and where it ran."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from modeltailor.errors import ConfigError
from modeltailor.estimators.predict.work import GraphWork, KernelWork

__all__ = ["KernelPoints", "Trace", "TracedKernel", "points_of", "read_trace"]

Floats = NDArray[np.float64]

_LARGEST_FILE = 200_000_000
_ENDING = "_kernel_time"
_LEAST_LEFT = 0.25  # of a kernel's time: the profiler counts in whole microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedKernel:
    """One kernel of a trace.

    Attributes:
        name: of the node.
        operator: that ran.
        provider: execution provider that ran it.
        ms: median milliseconds of a call.
    """

    name: str
    operator: str
    provider: str
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A profile of a model's run.

    Attributes:
        model: the ONNX file that was run.
        kernels: in the order of execution.
    """

    model: Path
    kernels: tuple[TracedKernel, ...]

    def without_profiler(self, latency_ms: float) -> Trace:
        """Return the trace without what the profiler adds, which is about the same for every kernel, a microsecond or two.

        Of networks with many small kernels, such as those that convert between formats, it is a third of the time.

        Args:
            latency_ms: of the same model without the profiler.
        """
        added = (sum(k.ms for k in self.kernels) - latency_ms) / len(self.kernels)
        if added <= 0.0:
            return self
        kernels = tuple(replace(k, ms=max(k.ms - added, _LEAST_LEFT * k.ms)) for k in self.kernels)
        return replace(self, kernels=kernels)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelPoints:
    """Times of single kernels.

    Attributes:
        kernels: what was timed.
        log_ms: ``[n]``.
        trace: ``[n]`` which trace each comes from: the profiler slows all kernels of a trace.
    """

    kernels: tuple[KernelWork, ...]
    log_ms: Floats
    trace: NDArray[np.intp]

    def without(self, trace: int) -> KernelPoints:
        """Leave one trace out."""
        kept = self.trace != trace
        kernels = tuple(k for k, keep in zip(self.kernels, kept, strict=True) if keep)
        return KernelPoints(kernels=kernels, log_ms=self.log_ms[kept], trace=self.trace[kept])


def read_trace(model: Path, path: Path) -> Trace:
    """Read the JSON file that ONNX Runtime's profiler wrote.

    Raises:
        ConfigError: it cannot be read, or holds no kernels.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigError("CFG-14", path, f"is larger than {_LARGEST_FILE:,} bytes", "profile fewer runs")
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise ConfigError("CFG-01", path, f"cannot read it ({error.strerror})", "check the path") from error
    except ValueError as error:
        raise ConfigError("CFG-06", path, "is not JSON", "give the file that the profiler wrote") from error
    times: dict[tuple[str, str, str], list[float]] = {}
    for event in events if isinstance(events, list) else ():
        name, details = str(event.get("name", "")), event.get("args")
        if event.get("cat") == "Node" and name.endswith(_ENDING) and isinstance(details, dict):
            key = (name.removesuffix(_ENDING), str(details.get("op_name", "")), str(details.get("provider", "")))
            times.setdefault(key, []).append(float(event.get("dur", 0.0)) / 1000.0)
    kernels = tuple(
        TracedKernel(name=name, operator=operator, provider=provider, ms=median(values))
        for (name, operator, provider), values in times.items()
    )
    if not kernels:
        raise ConfigError("CFG-06", path, "holds no times of kernels", "give the file that the profiler wrote")
    return Trace(model=model, kernels=kernels)


def points_of(traces: list[tuple[Trace, GraphWork]]) -> KernelPoints:
    """Return the kernels of traces whose work is known: those of the same name, else of the same place in the order."""
    kernels: list[KernelWork] = []
    log_ms: list[float] = []
    group: list[int] = []
    for number, (trace, work) in enumerate(traces):
        by_name = {(k.name, k.operator): k for k in work.kernels}
        pairs = [(by_name.get((t.name, t.operator)), t) for t in trace.kernels]
        same_order = [k.operator for k in work.kernels] == [t.operator for t in trace.kernels]
        if same_order and not all(k for k, _ in pairs):
            pairs = list(zip(work.kernels, trace.kernels, strict=True))
        for kernel, traced in pairs:
            if kernel is not None and traced.ms > 0.0:
                kernels.append(kernel)
                log_ms.append(float(np.log(traced.ms)))
                group.append(number)
    return KernelPoints(kernels=tuple(kernels), log_ms=np.array(log_ms), trace=np.array(group, dtype=np.intp))
