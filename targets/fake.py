"""A device without hardware: times come from a function, with the troubles of a real machine on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from modeltailor.canonical import content_key
from modeltailor.errors import CandidateError, ModelTailorError
from modeltailor.targets.device import (
    DeviceFacts,
    Evidence,
    Inputs,
    PairTimings,
    RunFacts,
    RuntimeOptions,
    TimingPlan,
    Timings,
)

__all__ = ["FakeDevice"]


class FakeDevice:
    """A device whose truth is known: for tests of whatever uses a device, and of the statistics themselves.

    It keeps a clock of its own that runs with the simulated inferences, so that drift and bursts hit neighbours in time
    alike, as on a real machine. The same seed and the same calls give the same times.

    Args:
        latency: true milliseconds of one inference, as a function of the file or by file name.
        noise: sigma of the log-normal noise of a single inference.
        spikes: share of inferences that take three times as long.
        drift: relative change of speed per second, or a function from seconds to a factor.
        bursts: share of the time in which a neighbour slows the machine by 30 %, in bursts of 0.5 s on average.
        process_effect: sigma of the log-normal factor that each fresh process carries for its life.
        failures: errors to raise by file name instead of timing that file.
        load_ms: milliseconds of opening any file.
        peak_bytes: rise of the peak memory, as a function of the file.
        name: of the device.
        evidence: label of its latencies.
        seed: of all randomness.
    """

    def __init__(
        self,
        latency: Callable[[Path], float] | Mapping[str, float],
        *,
        noise: float = 0.0,
        spikes: float = 0.0,
        drift: float | Callable[[float], float] = 0.0,
        bursts: float = 0.0,
        process_effect: float = 0.0,
        failures: Mapping[str, ModelTailorError] | None = None,
        load_ms: float = 5.0,
        peak_bytes: Callable[[Path], int] = lambda _: 1_000_000,
        name: str = "fake",
        evidence: Evidence = "measured-here",
        seed: int = 0,
    ) -> None:
        self.latency = latency
        self.noise = noise
        self.spikes = spikes
        self.drift = drift
        self.bursts = bursts
        self.process_effect = process_effect
        self.failures = dict(failures or {})
        self.load_ms = load_ms
        self.peak_bytes = peak_bytes
        self.name = name
        self.evidence: Evidence = evidence
        self.seed = seed
        self.calls: list[tuple[Path, ...]] = []
        self.clock_s = 0.0
        self._rng = np.random.default_rng(seed)
        self._slow_until_s = 0.0
        self._next_burst_s = self._gap()

    def describe(self) -> DeviceFacts:
        """Say that this is a fake."""
        return DeviceFacts(
            name=self.name,
            evidence=self.evidence,
            runtime="fake 1.0",
            processor="none",
            options=RuntimeOptions(),
            fingerprint=content_key((self.name, "fake", self.seed)),
        )

    def time(self, artifacts: Sequence[Path], inputs: Inputs, plan: TimingPlan) -> Timings:
        """Give simulated times; ``inputs`` are not looked at."""
        if not artifacts:
            raise ValueError("nothing to time")
        self.calls.append(tuple(artifacts))
        truth = [self._truth_ms(path) for path in artifacts]
        pairs = tuple(self._pair(truth, plan) for _ in range(plan.pairs))
        facts = tuple(
            RunFacts(
                load_ms=self.load_ms,
                first_inference_ms=2.0 * ms,
                peak_load_bytes=self.peak_bytes(path) if plan.memory else None,
                peak_run_bytes=self.peak_bytes(path) if plan.memory else None,
                singles_ms=self._singles(ms, plan.singles),
                runs_per_second=1000.0 / ms if plan.callers else None,
            )
            for path, ms in zip(artifacts, truth, strict=True)
        )
        return Timings(pairs=pairs, facts=facts, conditions=(("simulated_s", self.clock_s),))

    def _truth_ms(self, path: Path) -> float:
        if path.name in self.failures:
            error = self.failures[path.name]
            raise type(error)(error.code, path.name, error.what, error.next_step)
        if callable(self.latency):
            return self.latency(path)
        if path.name not in self.latency:
            raise CandidateError("UNSUPPORTED", path.name, "no such file", "give the fake a latency for it")
        return self.latency[path.name]

    def _pair(self, truth: Sequence[float], plan: TimingPlan) -> PairTimings:
        effects = np.exp(self._rng.normal(0.0, self.process_effect, len(truth))) if self.process_effect else None
        mine = [ms * float(effects[i]) if effects is not None else ms for i, ms in enumerate(truth)]
        self.clock_s += 0.5 * len(truth)  # starting and warming up
        rows: list[list[tuple[float, float]]] = [[] for _ in truth]
        enclosing: list[list[tuple[float, float]]] = [[] for _ in truth]
        for _ in range(plan.quads):
            for i in range(1 if len(truth) > 1 else 0, len(truth)):
                first = self._block(mine[0], plan)
                pair = self._block(mine[i], plan), self._block(mine[i], plan)
                rows[i].append(pair)
                enclosing[i].append((first, self._block(mine[0], plan)))
            if len(truth) > 1:
                rows[0].append(enclosing[1][-1])
                enclosing[0].append(enclosing[1][-1])
        return PairTimings(
            blocks_ms=tuple(tuple(r) for r in rows),
            baseline_blocks_ms=tuple(tuple(e) for e in enclosing),
            steady=(True,) * len(truth),
        )

    def _singles(self, ms: float, n: int) -> tuple[float, ...]:
        times = ms * self._slowness() * np.exp(self._rng.normal(0.0, self.noise, n))
        slow = self._rng.random(n) < self.spikes
        return tuple(float(t) for t in np.where(slow, 3.0 * times, times)) if n else ()

    def _gap(self) -> float:
        if not self.bursts:
            return float("inf")
        return self.clock_s + float(self._rng.exponential(0.5 * (1.0 - self.bursts) / self.bursts))

    def _slowness(self) -> float:
        while self.clock_s >= self._next_burst_s:
            self._slow_until_s = self._next_burst_s + float(self._rng.exponential(0.5))
            self._next_burst_s = self._slow_until_s + (self._gap() - self.clock_s)
        drift = self.drift(self.clock_s) if callable(self.drift) else 1.0 + self.drift * self.clock_s
        return drift * (1.3 if self.clock_s < self._slow_until_s else 1.0)

    def _block(self, ms: float, plan: TimingPlan) -> float:
        n = max(plan.block_inferences, int(np.ceil(plan.block_ms / ms)))
        level = ms * self._slowness()
        self.clock_s += n * level / 1000.0
        if not self.noise and not self.spikes:
            return level
        n = min(n, 200)  # more samples would not change a median that the machine's state dominates
        times = np.exp(self._rng.normal(0.0, self.noise, n))
        if self.spikes:
            times = np.where(self._rng.random(n) < self.spikes, 3.0 * times, times)
        return level * float(np.median(times))

    def close(self) -> None:
        """Nothing to release."""
