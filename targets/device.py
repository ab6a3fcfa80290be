"""The ``Device`` protocol: where a model runs and is timed, and the raw values that come back.

A device gives raw times; what they mean (ratio, interval, verdict) is decided in ``estimators``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Device",
    "DeviceFacts",
    "Evidence",
    "Inputs",
    "PairTimings",
    "RunFacts",
    "RuntimeOptions",
    "TimingPlan",
    "Timings",
]

Evidence = Literal["measured-on-device", "measured-here", "predicted"]
Inputs = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """How ONNX Runtime runs a model.

    Attributes:
        provider: execution provider, for instance ``CPUExecutionProvider``.
        intra_op_threads: threads inside one operator; operators run one after another.
        spinning: whether idle threads spin; off on shared machines.
        optimization: graph optimization level of the session.
        precision: lower precisions in which the provider may compute floats on its own (``tf32``, ``fp16`` ...); its
            other switches of that kind are turned off.
    """

    provider: str = "CPUExecutionProvider"
    intra_op_threads: int = 1
    spinning: bool = False
    optimization: Literal["none", "basic", "extended", "all"] = "all"
    precision: tuple[str, ...] = ()


_ADDS_EXACTLY = {"avx_vnni", "avx512_vnni", "amx_int8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What is known of a device and its runtime.

    Attributes:
        name: the profile's name.
        evidence: the label that latencies from this device carry.
        runtime: name and version, as in ``onnxruntime 1.32.0``.
        processor: the processor that really runs, as the system names it.
        options: how sessions are opened.
        fingerprint: changes when device, runtime or options change; caches are keyed by it.
        instructions: instruction sets that matter to number formats (``avx512_vnni``, ``asimddp`` ...).
    """

    name: str
    evidence: Evidence
    runtime: str
    processor: str
    options: RuntimeOptions
    fingerprint: str
    instructions: tuple[str, ...] = ()

    @property
    def may_saturate(self) -> bool:
        """Whether its integer kernels add pairs of 8-bit products in 16 bits: x86 without VNNI; see ``saturation.py``."""
        named = set(self.instructions)
        return bool(named & {"avx2", "avx512f"}) and not named & _ADDS_EXACTLY


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingPlan:
    """How much to measure; see ``docs/measuring.md`` for the protocol.

    Attributes:
        pairs: fresh process pairs; each loads every artifact anew.
        quads: ABBA quads in a pair.
        block_inferences: least inferences in a block.
        block_ms: least milliseconds of a block.
        warmup_s: longest warm-up of an artifact, in seconds.
        memory: also read the peak memory of each artifact, in a fresh process of its own.
        singles: also time so many inferences of each artifact one by one, in a fresh process of its own; percentiles
            are made of them. 0 for none.
        callers: also count the inferences that so many callers get out of one session at a time, in a fresh process;
            0 for none.
        callers_s: seconds of that count.
        timeout_s: wall-clock limit of the whole call.
    """

    pairs: int = 1
    quads: int = 8
    block_inferences: int = 20
    block_ms: float = 50.0
    warmup_s: float = 2.0
    memory: bool = False
    singles: int = 0
    callers: int = 0
    callers_s: float = 2.0
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTimings:
    """Raw block times of one process pair.

    Attributes:
        blocks_ms: by artifact (in the order given), by quad, the two block values of that quad: median milliseconds
            of one inference. The first artifact is the baseline; its blocks stand beside each candidate's.
        baseline_blocks_ms: by artifact, by quad, the two blocks of the baseline that enclose them (A B B A).
        steady: whether the warm-up of each artifact settled.
    """

    blocks_ms: tuple[tuple[tuple[float, float], ...], ...]
    baseline_blocks_ms: tuple[tuple[tuple[float, float], ...], ...]
    steady: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What loading and running one artifact showed.

    Attributes:
        load_ms: opening the session, constant folding included.
        first_inference_ms: the first run after loading.
        peak_load_bytes: rise of the peak resident memory over the bare runtime, after loading; ``None`` if not asked.
        peak_run_bytes: the same after at least three inferences.
        singles_ms: milliseconds of single inferences in order; empty if not asked for. Fewer than asked where time ran
            out.
        runs_per_second: inferences a second of all callers together; ``None`` if not asked for.
    """

    load_ms: float
    first_inference_ms: float
    peak_load_bytes: int | None = None
    peak_run_bytes: int | None = None
    singles_ms: tuple[float, ...] = ()
    runs_per_second: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """All raw times of one call of :meth:`Device.time`.

    Attributes:
        pairs: one entry a process pair.
        facts: one entry an artifact.
        conditions: what the machine showed meanwhile (steal, load, frequency), for the report.
    """

    pairs: tuple[PairTimings, ...]
    facts: tuple[RunFacts, ...]
    conditions: tuple[tuple[str, float], ...] = ()


@runtime_checkable
class Device(Protocol):
    """A place where ONNX files run and are timed."""

    def describe(self) -> DeviceFacts:
        """Say what device and runtime this is."""
        ...

    def time(self, artifacts: Sequence[Path], inputs: Inputs, plan: TimingPlan) -> Timings:
        """Time the artifacts against the first of them, interleaved.

        Args:
            artifacts: ONNX files; the first is the baseline.
            inputs: input arrays by name, the same for all artifacts.
            plan: how much to measure.

        Raises:
            CandidateError: an artifact crashed, hung or ran out of memory; ``where`` names its file.
            DeviceError: the device itself failed.
        """
        ...

    def close(self) -> None:
        """Release processes and connections. Safe to call twice."""
        ...
