"""How a model serves: the spread of single inferences and the throughput of several callers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modeltailor.estimators.percentiles import percentiles
from modeltailor.targets import Device, Inputs, TimingPlan

__all__ = ["Serving", "serve"]

_FIXED_S = 60.0
_EACH_S = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """One file under single inferences and under callers.

    Attributes:
        path: the file.
        singles: inferences that the percentiles rest on.
        p50_ms: median of single inferences; ``None`` here and below where the sample is too small to claim it.
        p90_ms: 90th percentile; needs 1,024 inferences.
        p99_ms: 99th percentile; needs 20,000 inferences.
        callers: threads that share one session; 0 if not asked for.
        per_second: samples a second of all callers together; ``None`` if not asked for.
    """

    path: Path
    singles: int
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    callers: int
    per_second: float | None


def serve(
    device: Device,
    files: Sequence[Path],
    inputs: Inputs,
    *,
    singles: int = 20_000,
    callers: int = 0,
    seconds: float = 2.0,
) -> tuple[Serving, ...]:
    """Time inferences one by one, and count those of concurrent callers; each file in a fresh process of its own.

    Args:
        device: where.
        files: models that take the same inputs.
        inputs: arrays by input name; the first dimension is the batch.
        singles: inferences a file; fewer where time runs out.
        callers: threads that share one session; 0 leaves the count out.
        seconds: that callers are counted.

    Raises:
        CandidateError: a file crashes, hangs or runs out of memory.
        DeviceError: the device failed.
    """
    plan = TimingPlan(
        pairs=1, quads=1, block_ms=1.0, block_inferences=1, singles=singles, callers=callers, callers_s=seconds,
        timeout_s=_FIXED_S + _EACH_S * len(files),
    )  # fmt: skip
    timings = device.time(tuple(files), inputs, plan)
    batch = max((v.shape[0] for v in inputs.values() if v.ndim), default=1)
    made = []
    for path, facts in zip(files, timings.facts, strict=True):
        claimed = percentiles(facts.singles_ms)
        p50, p90, p99 = (claimed[s].ms if s in claimed else None for s in (0.5, 0.9, 0.99))
        rate = facts.runs_per_second
        made.append(
            Serving(
                path=path, singles=len(facts.singles_ms), p50_ms=p50, p90_ms=p90, p99_ms=p99, callers=callers,
                per_second=None if rate is None else rate * batch,
            )
        )  # fmt: skip
    return tuple(made)
