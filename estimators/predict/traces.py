"""ONNX Runtime's profile of one run on a device: the time of every kernel, and where it ran."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from modeltailor.errors import ConfigError
from modeltailor.estimators.predict.kernel_kinds import Kind, kind_of
from modeltailor.estimators.predict.work import GraphWork, KernelWork
from modeltailor.targets.agent.device_side import CPU_PROVIDER, SHAPE_BYTES, SHAPE_WORK

__all__ = ["KernelPoints", "Trace", "TracedKernel", "placed_operators", "points_of", "read_trace"]

Floats = NDArray[np.float64]

_LARGEST_FILE = 200_000_000
_ENDING = "_kernel_time"
_LEAST_OF_LATENCY = 0.9  # of the model: what its kernels take if they are most of it
_LEAST_LEFT = 0.25  # of a kernel's time: the profiler counts in whole microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedKernel:
    """One kernel of a trace.

    Attributes:
        name: of the node.
        operator: that ran.
        provider: execution provider that ran it.
        ms: milliseconds of a call, the mean of the middle half of all calls.
        written_bytes: of its outputs; 0 where the profile does not tell.
    """

    name: str
    operator: str
    provider: str
    ms: float
    written_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A profile of a model's run.

    Attributes:
        model: the ONNX file that was run.
        kernels: in the order of execution.
        adds_up: whether the kernels' times are known to add up to what the model takes without the profiler.
    """

    model: Path
    kernels: tuple[TracedKernel, ...]
    adds_up: bool = False

    def without_profiler(self, latency_ms: float) -> Trace:
        """Return the trace without what the profiler adds, which is about the same for every kernel, a microsecond or two.

        Of networks with many small kernels, such as those that convert between formats, it is a third of the time. It adds
        no more to a kernel than the fastest one takes; what is left over, the machine was slower by while it profiled. Where
        the kernels take a little less than the model does, it was faster; where they take much less, most of the model's
        time is not theirs, and nothing is known of them but what the profile says.

        Args:
            latency_ms: of the same model without the profiler.
        """
        total = sum(k.ms for k in self.kernels)
        too_much = (total - latency_ms) / len(self.kernels)
        if too_much <= 0.0:
            slower = total / latency_ms
            if slower < _LEAST_OF_LATENCY:
                return self
            kernels = tuple(replace(k, ms=k.ms / slower) for k in self.kernels)
            return replace(self, kernels=kernels, adds_up=True)
        added = min(too_much, *(k.ms for k in self.kernels))
        slower = (total - len(self.kernels) * added) / latency_ms if added < too_much else 1.0
        kernels = tuple(replace(k, ms=max(k.ms - added, _LEAST_LEFT * k.ms) / slower) for k in self.kernels)
        return replace(self, kernels=kernels, adds_up=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelPoints:
    """Times of single kernels; equal ones of one trace are one point.

    Attributes:
        kernels: what was timed, one of each.
        log_ms: ``[n]``, their mean.
        repeats: ``[n]`` how many there were.
        trace: ``[n]`` which trace each comes from: the profiler slows all kernels of a trace.
        adds_up: ``[n]`` whether that trace's times are known to add up to what its model takes.
        networks: what was traced, by trace.
    """

    kernels: tuple[KernelWork, ...]
    log_ms: Floats
    repeats: NDArray[np.intp]
    trace: NDArray[np.intp]
    adds_up: NDArray[np.bool_]
    networks: tuple[GraphWork, ...]

    @property
    def beside(self) -> Floats:
        """Bytes of all weights of the network that each ran in, ``[n]``."""
        return np.array([n.weight_bytes for n in self.networks], dtype=np.float64)[self.trace]

    def of(self, network: GraphWork) -> NDArray[np.bool_]:
        """Say which come from a trace of that very network, ``[n]``."""
        return np.array([n == network for n in self.networks], dtype=np.bool_)[self.trace]

    def without(self, network: GraphWork) -> KernelPoints:
        """Leave the traces of a network out."""
        kept = ~self.of(network)
        return KernelPoints(
            kernels=tuple(k for k, keep in zip(self.kernels, kept, strict=True) if keep),
            log_ms=self.log_ms[kept],
            repeats=self.repeats[kept],
            trace=self.trace[kept],
            adds_up=self.adds_up[kept],
            networks=self.networks,
        )


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
    written: dict[tuple[str, str, str], int] = {}
    for event in events if isinstance(events, list) else ():
        name, details = str(event.get("name", "")), event.get("args")
        if event.get("cat") == "Node" and name.endswith(_ENDING) and isinstance(details, dict):
            key = (name.removesuffix(_ENDING), str(details.get("op_name", "")), str(details.get("provider", "")))
            times.setdefault(key, []).append(float(event.get("dur", 0.0)) / 1000.0)
            size = str(details.get("output_size", ""))
            written[key] = int(size) if size.isdecimal() else 0
    kernels = tuple(
        TracedKernel(name=key[0], operator=key[1], provider=key[2], ms=_middle(values), written_bytes=written[key])
        for key, values in times.items()
    )
    if not kernels:
        raise ConfigError("CFG-06", path, "holds no times of kernels", "give the file that the profiler wrote")
    return Trace(model=model, kernels=kernels)


def _middle(values: Sequence[float]) -> float:
    """Return the mean of the middle half: the profiler counts whole microseconds, which is all that a median can be."""
    cut = len(values) // 4
    return fmean(sorted(values)[cut : len(values) - cut])


def points_of(traces: Sequence[tuple[Trace, GraphWork]]) -> KernelPoints:
    """Return the kernels of traces whose work is known: a loop runs as often as its file likes, and tells of no other.

    Nodes without a name are called by their operator and a number in a profile, and by their output in a graph: they are
    told apart by operator and bytes written, and those that agree in both by their order.

    An accelerator's queue takes kernels and hands control back: the profiler sees how long that took, not the kernels. So
    only what ran on the CPU counts, unless the kernels' times add up to what the model was measured to take.
    """
    found: dict[tuple[int, Kind], tuple[KernelWork, list[float]]] = {}
    for number, (trace, work) in enumerate(traces):
        for kernel, traced in _matched(work.kernels, trace.kernels):
            if traced.ms > 0.0 and kernel.counted and (trace.adds_up or traced.provider == CPU_PROVIDER):
                found.setdefault((number, kind_of(kernel)), (kernel, []))[1].append(float(np.log(traced.ms)))
    return KernelPoints(
        kernels=tuple(kernel for kernel, _ in found.values()),
        log_ms=np.array([fmean(logs) for _, logs in found.values()]),
        repeats=np.array([len(logs) for _, logs in found.values()], dtype=np.intp),
        trace=np.array([number for number, _ in found], dtype=np.intp),
        adds_up=np.array([traces[number][0].adds_up for number, _ in found], dtype=np.bool_),
        networks=tuple(work for _, work in traces),
    )


def placed_operators(trace: Trace, work: GraphWork, provider: str) -> frozenset[str]:
    """Return the operators that a trace shows to run on an accelerator.

    These are the ones it calls by their names. Some providers run whole parts of a network as one kernel of their own
    (``TRTKernel_graph_...``, ``QNN_0``, ``DmlFusedNode_...``) and name nothing: where all that was computed ran there, every
    operator of the file did. Work on shapes stays on the CPU on purpose, and counts for neither.

    Args:
        trace: of a run.
        work: of the file that ran.
        provider: execution provider of the accelerator.
    """
    here = frozenset(k.operator for k in trace.kernels if k.provider == provider)
    elsewhere = frozenset(k.operator for k in trace.kernels if k.provider != provider and not _is_shape_work(k))
    return here - elsewhere if elsewhere or not here else here | work.operators


def _is_shape_work(kernel: TracedKernel) -> bool:
    return kernel.operator in SHAPE_WORK and 0 < kernel.written_bytes <= SHAPE_BYTES


def _matched(
    kernels: Sequence[KernelWork], traced: Sequence[TracedKernel]
) -> Iterator[tuple[KernelWork, TracedKernel]]:
    by_name = {(k.name, k.operator): k for k in kernels}
    named = {(t.name, t.operator) for t in traced} & by_name.keys()
    told = all(t.written_bytes for t in traced)
    nameless: dict[tuple[str, int], tuple[list[KernelWork], list[TracedKernel]]] = defaultdict(lambda: ([], []))
    for kernel in kernels:
        if (kernel.name, kernel.operator) not in named:
            nameless[kernel.operator, kernel.written_bytes if told else 0][0].append(kernel)
    for t in traced:
        if (t.name, t.operator) in named:
            yield by_name[t.name, t.operator], t
        else:
            nameless[t.operator, t.written_bytes if told else 0][1].append(t)
    for ours, theirs in nameless.values():
        if len(ours) == len(theirs):
            yield from zip(ours, theirs, strict=True)
