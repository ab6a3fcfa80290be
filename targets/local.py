"""This machine as a device: as itself, or standing in for another one under its threads and limits."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, cast

from modeltailor.canonical import content_key
from modeltailor.errors import CandidateError, DeviceError, ModelTailorError
from modeltailor.targets import machine
from modeltailor.targets.agent.device_side import (
    DROPPED,
    SHORTEST_WARM_UP_S,
    fit_blocks,
    measure_quads,
    system_state,
)
from modeltailor.targets.device import (
    Device,
    DeviceFacts,
    Inputs,
    PairTimings,
    RunFacts,
    RuntimeOptions,
    TimingPlan,
    Timings,
)
from modeltailor.targets.isolation import Child
from modeltailor.targets.lock import measurement_token
from modeltailor.targets.runtime_version import refuse_other_runtime

if TYPE_CHECKING:
    from modeltailor.targets._measure import Block, Loaded, Memory
    from modeltailor.targets.profile import Profile

__all__ = ["LocalDevice", "options_here", "pair_timings"]

Quad = tuple[float, float, float, float]

_OPEN_S = 60.0
_LEAST_MEMORY_BYTES = 512_000_000  # below it a Python process with ONNX Runtime does not even start
_CPU = "CPUExecutionProvider"


@dataclass(slots=True)
class _Runner:
    """One process that holds one artifact."""

    child: Child
    path: Path
    deadline: float
    loaded: Loaded | None = None
    steady: bool = False
    inference_ms: float = 0.0
    n: int = 1
    faults: int = 0
    preemptions: int = 0

    def call(self, name: str, **arguments: object) -> object:
        """Call a function of the measuring process; faults name the artifact's file."""
        left = self.deadline - time.monotonic()
        try:
            return self.child.call(f"modeltailor.targets._measure:{name}", timeout_s=max(0.01, left), **arguments)
        except CandidateError as error:
            raise _named(error, self.path, error.code) from error
        except DeviceError:
            raise
        except ModelTailorError as error:  # the runtime refuses the file
            raise _named(error, self.path, "UNSUPPORTED") from error

    def prepare(self, inputs: Inputs, options: RuntimeOptions, plan: TimingPlan) -> None:
        self.loaded = cast("Loaded", self.call("load", path=self.path, inputs=inputs, options=options))
        shortest = min(SHORTEST_WARM_UP_S, plan.warmup_s)
        self.steady, self.inference_ms = cast(
            "tuple[bool, float]", self.call("warm_up", shortest_s=shortest, longest_s=plan.warmup_s)
        )
        self.n = max(plan.block_inferences, math.ceil(plan.block_ms / max(self.inference_ms, 1e-4)))

    def block(self) -> float:
        done = cast("Block", self.call("block", n_dropped=min(DROPPED, self.n), n=self.n))
        self.faults += done.major_faults
        self.preemptions += done.preemptions
        return done.ms


def _named(error: ModelTailorError, path: Path, code: str) -> CandidateError:
    made = CandidateError(code, path.name, error.what, error.next_step)
    made.detail = error.detail
    return made


def pair_timings(rows: Sequence[Sequence[Quad]], steady: Sequence[bool]) -> PairTimings:
    """Sort the quads (A, B, B, A) of a pair by artifact; a single artifact is its own baseline."""
    blocks = tuple(tuple((b1, b2) for _, b1, b2, _ in row) for row in rows)
    enclosing = tuple(tuple((a1, a2) for a1, _, _, a2 in row) for row in rows)
    alone = len(steady) == 1
    return PairTimings(
        blocks_ms=blocks if alone else (enclosing[0], *blocks),
        baseline_blocks_ms=enclosing if alone else (enclosing[0], *enclosing),
        steady=tuple(steady),
    )


class LocalDevice:
    """ONNX Runtime on this machine, by the protocol of ``docs/measuring.md``.

    Each pair has fresh processes, one an artifact. In a pair the baseline and each candidate alternate in quads
    A B B A of blocks; of the two, only one computes at any time. A quad whose two baseline blocks differ by more than
    10 % is measured again (at most once for each quad of the plan): the gate never looks at the candidate.

    Args:
        profile: the device that is measured, or stood in for.
        wait_s: longest wait for other runs that measure on this machine.
    """

    def __init__(self, profile: Profile, *, wait_s: float = 900.0) -> None:
        self.profile = profile
        self.wait_s = wait_s

    @property
    def options(self) -> RuntimeOptions:
        """How sessions are opened here."""
        provider = self.profile.provider
        if not self.profile.is_local and provider != _CPU:
            provider = _CPU  # the stand-in has no such accelerator; the evidence label says that it is none
        precision = self.profile.precision if provider == self.profile.provider else ()
        return RuntimeOptions(
            provider=provider, intra_op_threads=self.profile.threads, spinning=False, precision=precision
        )

    @property
    def _memory_limit_bytes(self) -> int | None:
        if self.profile.is_local or self.options.provider != _CPU or self.profile.memory_bytes is None:
            return None
        limit = int(self.profile.memory_bytes.value)
        return limit if limit >= _LEAST_MEMORY_BYTES else None

    def describe(self) -> DeviceFacts:
        """Say what device and runtime this is.

        Raises:
            DeviceError: the profile is of this machine and speaks of another version of the runtime.
        """
        runtime, processor, instructions = machine.runtime(), machine.processor(), machine.instructions()
        options = self.options
        if self.profile.is_local:
            refuse_other_runtime(self.profile.name, runtime, self.profile.runtime_version)
        return DeviceFacts(
            name=self.profile.name,
            evidence="measured-on-device" if self.profile.is_local else "measured-here",
            runtime=runtime,
            processor=processor,
            options=options,
            fingerprint=content_key((self.profile.name, runtime, processor, instructions, options)),
            instructions=instructions,
        )

    def time(self, artifacts: Sequence[Path], inputs: Inputs, plan: TimingPlan) -> Timings:
        """Time the artifacts against the first of them, interleaved; see :class:`~modeltailor.targets.Device`."""
        if not artifacts:
            raise ValueError("nothing to time")
        for path in artifacts:
            if not path.is_file():
                raise CandidateError("UNSUPPORTED", path.name, "no such file", "build it first")
        with measurement_token("local", wait_s=self.wait_s):
            deadline = time.monotonic() + plan.timeout_s
            before = machine.Counters.now()
            peaks = [self._memory(path, inputs, deadline) if plan.memory else None for path in artifacts]
            pairs: list[PairTimings] = []
            loaded: list[list[Loaded]] = [[] for _ in artifacts]
            faults = preemptions = 0
            for number in range(plan.pairs):
                # Blocks are planned for three quarters of the time, so that a busy machine is not taken for a hang.
                now = time.monotonic()
                soft = now + 0.75 * (deadline - now) / (plan.pairs - number)
                pair, runners = self._pair(artifacts, inputs, plan, deadline, soft)
                pairs.append(pair)
                for kept, runner in zip(loaded, runners, strict=True):
                    assert runner.loaded is not None
                    kept.append(runner.loaded)
                    faults += runner.faults
                    preemptions += runner.preemptions
            extra = [self._extra(path, inputs, plan, deadline, len(artifacts) - i) for i, path in enumerate(artifacts)]
            conditions = machine.Counters.now().conditions_since(before)
            shown = {k: v for k, v in system_state().items() if k not in dict(conditions)}
        facts = tuple(
            RunFacts(
                load_ms=median(one.load_ms for one in several),
                first_inference_ms=median(one.first_ms for one in several),
                peak_load_bytes=peak.load_bytes if peak else None,
                peak_run_bytes=peak.run_bytes if peak else None,
                singles_ms=singles_ms,
                runs_per_second=per_second,
            )
            for several, peak, (singles_ms, per_second) in zip(loaded, peaks, extra, strict=True)
        )
        suffered = (("major_page_faults", float(faults)), ("preemptions", float(preemptions)))
        return Timings(pairs=tuple(pairs), facts=facts, conditions=(*conditions, *shown.items(), *suffered))

    def _child(self) -> Child:
        return Child(memory_bytes=self._memory_limit_bytes, threads=self.profile.threads, name="measure")

    def _memory(self, path: Path, inputs: Inputs, deadline: float) -> Memory | None:
        with self._child() as child:
            runner = _Runner(child=child, path=path, deadline=deadline)
            return cast("Memory | None", runner.call("memory", path=path, inputs=inputs, options=self.options))

    def _extra(
        self, path: Path, inputs: Inputs, plan: TimingPlan, deadline: float, n_left: int
    ) -> tuple[tuple[float, ...], float | None]:
        """Single inferences and concurrent callers, in a process of its own, within this artifact's share of the time."""
        if not plan.singles and not plan.callers:
            return (), None
        with self._child() as child:
            runner = _Runner(child=child, path=path, deadline=deadline)
            runner.prepare(inputs, self.options, plan)
            left = 0.8 * max(0.1, deadline - time.monotonic()) / n_left
            times = runner.call("singles", n=plan.singles, longest_s=left) if plan.singles else ()
            seconds = min(plan.callers_s, left)
            rate = runner.call("callers", n=plan.callers, seconds=seconds) if plan.callers else None
            return cast("tuple[float, ...]", times), cast("float | None", rate)

    def _pair(
        self, artifacts: Sequence[Path], inputs: Inputs, plan: TimingPlan, deadline: float, soft: float
    ) -> tuple[PairTimings, list[_Runner]]:
        runners: list[_Runner] = []
        try:
            for path in artifacts:
                runners.append(_Runner(child=self._child(), path=path, deadline=deadline))
                runners[-1].prepare(inputs, self.options, plan)
            n_quads = fit_blocks(runners, plan.quads, soft - time.monotonic())
            rows = measure_quads(runners, n_quads, soft)
        finally:
            for runner in runners:
                runner.child.close()
        return pair_timings(rows, [r.steady for r in runners]), runners

    def close(self) -> None:
        """Nothing stays open between calls."""


def options_here(device: Device) -> RuntimeOptions:
    """Return how sessions are opened on this machine, where models for a device are scored and looked into.

    As on the device, but on the CPU where this machine cannot open its provider. This machine as a device gives its own
    options: what it lacks, it says itself.
    """
    options = device.describe().options
    if isinstance(device, LocalDevice) or options.provider == _CPU:
        return options
    with Child(name="providers") as child:  # drivers may crash
        try:
            found = child.call("modeltailor.targets.session:nearest_here", timeout_s=_OPEN_S, options=options)
        except CandidateError:
            return replace(options, provider=_CPU, precision=())
    return cast("RuntimeOptions", found)
