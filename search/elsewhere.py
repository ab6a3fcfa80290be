"""Measuring on the further devices of a study: every candidate screened, every finalist certified on each of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modeltailor.errors import CandidateError
from modeltailor.estimators.estimate import Estimate
from modeltailor.estimators.latency import screen
from modeltailor.search.certifying import Contender, certified_verdict, certify_latency
from modeltailor.search.measurements import Measurements, ScreeningRecord
from modeltailor.search.records import FinalPlaceRecord, IntervalRecord, PlaceRecord
from modeltailor.targets import Budget, Device, Inputs, TimingPlan

__all__ = ["Elsewhere", "FurtherDevice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FurtherDevice:
    """A device beside the first one of a study.

    Attributes:
        name: of its profile; distinct from the others'.
        device: where it measures.
        profile: as data, for the record.
        budget: every limit that holds there.
    """

    name: str
    device: Device
    profile: Mapping[str, object]
    budget: Budget


def _interval(estimate: Estimate) -> IntervalRecord:
    return IntervalRecord(value=estimate.value, low=estimate.low, high=estimate.high, evidence=estimate.evidence)


class Elsewhere:
    """The further devices of a study; none makes every call return at once.

    Args:
        devices: measured on one after another.
        measurements: what earlier runs have measured.
    """

    def __init__(self, devices: Sequence[FurtherDevice] = (), measurements: Measurements | None = None) -> None:
        self.devices = tuple(devices)
        self.measurements = measurements or Measurements(None)

    def screen(
        self, baseline: Path, path: Path, inputs: Inputs, *, digest: str, plan: TimingPlan | None = None
    ) -> dict[str, PlaceRecord]:
        """Screen a file against the original on every device. A file that fails on one is a record with its outcome.

        Args:
            baseline: the built original.
            path: the built candidate.
            inputs: arrays by input name.
            digest: of the split that ``inputs`` come from.
            plan: how much to measure.

        Raises:
            DeviceError: a device is gone, and stays so.
        """
        return {d.name: self._screen(d, baseline, path, inputs, digest, plan) for d in self.devices}

    def _screen(
        self, at: FurtherDevice, baseline: Path, path: Path, inputs: Inputs, digest: str, plan: TimingPlan | None
    ) -> PlaceRecord:
        memory = at.budget.memory_bytes is not None
        what = {
            "file": path.stem,
            "original": baseline.stem,
            "device": at.device.describe().fingerprint,
            "memory": memory,
            "inputs": digest,
        }
        known = None if path == baseline else self.measurements.screening(what)
        if known is None:
            try:
                found = screen(at.device, (baseline, path), inputs, memory=memory, plan=plan)
            except CandidateError as error:
                return PlaceRecord(outcome=error.code, error=error.line())
            known = ScreeningRecord(
                latency_ms=_interval(found.latency_ms),
                speedup=_interval(found.speedup),
                load_ms=found.load_ms,
                peak_memory_bytes=found.peak_memory_bytes,
            )
            self.measurements.keep_screening(what, known)
        return PlaceRecord(
            latency_ms=known.latency_ms,
            speedup=known.speedup,
            load_ms=known.load_ms,
            peak_memory_bytes=known.peak_memory_bytes,
        )

    def certify(
        self,
        baseline: Path,
        contenders: Mapping[str, Sequence[Contender]],
        inputs: Inputs,
        *,
        seconds: float,
        longest_s: float = math.inf,
        say: Callable[[str], None] = lambda _: None,
    ) -> dict[str, dict[str, FinalPlaceRecord]]:
        """Measure finalists again on every device; by device, what it found by key of the recipe.

        Args:
            baseline: the built original.
            contenders: by device; the original first, then by importance.
            inputs: arrays by input name.
            seconds: wall clock for all devices together.
            longest_s: wall clock that is left of the run, for all devices together.
            say: told what is going on.

        Raises:
            DeviceError: a device is gone, and stays so.
        """
        until, share = time.monotonic() + longest_s, seconds / max(1, len(self.devices))
        found = {}
        for number, at in enumerate(self.devices):
            left = (until - time.monotonic()) / (
                len(self.devices) - number
            )  # what hangs takes from all that come later
            found[at.name] = _certify(at, baseline, contenders[at.name], inputs, min(share, left), left, say)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the devices."""
        return tuple(d.name for d in self.devices)

    @property
    def memory(self) -> bool:
        """Whether the peak memory of every candidate is asked for somewhere."""
        return any(d.budget.memory_bytes is not None for d in self.devices)

    @property
    def budgets(self) -> dict[str, Budget]:
        """Limits by device."""
        return {d.name: d.budget for d in self.devices}

    def close(self) -> None:
        """Close every device. Safe to call twice."""
        for at in self.devices:
            at.device.close()


def _certify(
    at: FurtherDevice,
    baseline: Path,
    contenders: Sequence[Contender],
    inputs: Inputs,
    seconds: float,
    longest_s: float,
    say: Callable[[str], None],
) -> dict[str, FinalPlaceRecord]:
    measured = certify_latency(
        at.device,
        baseline,
        contenders,
        inputs,
        seconds=seconds,
        longest_s=longest_s,
        say=lambda what: say(f"{what} on {at.name}"),
    )
    return {
        key: FinalPlaceRecord(
            latency_ms=_interval(m.latency_ms),
            speedup=_interval(m.speedup),
            load_ms=m.load_ms,
            peak_memory_bytes=m.peak_memory_bytes,
            verdict=certified_verdict(m),
        )
        for key, m in measured.items()
    }
