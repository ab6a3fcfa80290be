"""What is written down of a run: one record a trial, one record the run. The only form in which results are stored.

Read back from disk, so validated by pydantic. Lengths are bytes, times milliseconds or seconds by name, accuracy and
shares in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from modeltailor.targets import Evidence

__all__ = [
    "AccuracyRecord",
    "FinalRecord",
    "IntervalRecord",
    "Role",
    "RunHistory",
    "RunRecord",
    "SiteRecord",
    "TrialRecord",
]

Role = Literal["fp32", "baseline", "seed", "search"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IntervalRecord(_Record):
    """A figure with its interval: 95 % unless said otherwise, and how it was got."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    evidence: Evidence


class AccuracyRecord(_Record):
    """A metric's value on a split, its interval, and the paired difference to the fp32 original (candidate - original)."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    difference: FiniteFloat = 0.0
    difference_low: FiniteFloat = 0.0
    difference_high: FiniteFloat = 0.0
    n_samples: int


class SiteRecord(_Record):
    """One site of a built file; see ``compress.SiteReport``. ``executed_kernel`` is read off the optimized graph."""

    site: str
    kind: str
    format: str
    storage_bits: int
    stored_bytes: int
    weight_elements: int
    macs: int = 0
    executed_kernel: str
    note: str = ""


class TrialRecord(_Record):
    """One finished trial: measured, or failed with the stage and the reason.

    ``graph`` is a key of the graph that the runtime executes, without the values of its weights. Trials of one graph run
    the same kernels on the same shapes; ``timed_as`` names the trial whose screening they share. Finalists are all
    measured again, each by itself.
    """

    number: int
    key: str
    role: Role
    label: str = ""
    recipe: dict[str, object]
    outcome: str = "MEASURED"
    stage: str = ""
    error: str = ""
    sha256: str = ""
    size_bytes: Annotated[int, Field(ge=0)] = 0
    latency_ms: IntervalRecord | None = None
    speedup: IntervalRecord | None = None
    accuracy: AccuracyRecord | None = None
    load_ms: FiniteFloat | None = None
    peak_memory_bytes: int | None = None
    sites: tuple[SiteRecord, ...] = ()
    graph: str = ""
    timed_as: int | None = None
    seconds: dict[str, FiniteFloat] = Field(default_factory=dict)
    finished_at_s: FiniteFloat = 0.0

    @property
    def is_measured(self) -> bool:
        """Whether every figure is there."""
        return self.outcome == "MEASURED"


class FinalRecord(_Record):
    """What the end of a run found out about one finalist: measured again, scored once on ``test``.

    ``certified``: ten fresh process pairs or more and a half-width of at most 1 %. ``compared``: the time allowed fewer
    pairs; the interval holds, but is no certificate. ``NOISY``: the machine did not let it become narrow enough.
    """

    key: str
    latency_ms: IntervalRecord
    speedup: IntervalRecord
    test_accuracy: AccuracyRecord
    peak_memory_bytes: int | None = None
    load_ms: FiniteFloat | None = None
    verdict: Literal["certified", "compared", "NOISY", "UNDECIDED"] = "certified"


class RunRecord(_Record):
    """What holds for the whole run."""

    schema_version: int = 1
    job: dict[str, object]
    budget: dict[str, float | int | None]
    profile: dict[str, object]
    device: dict[str, object]
    metric: dict[str, object]
    model: dict[str, object]
    splits: dict[str, dict[str, object]]
    axes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    environment: dict[str, str]
    seed: int
    started_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """Everything that a run folder holds in records; what reports are made of.

    Attributes:
        run: what holds for the whole run.
        trials: finished trials by number; the first measured one with role ``fp32`` is the baseline.
        finals: finalists, measured again and scored on ``test``; empty while a run is going on.
        stopped: why the search stopped, one sentence; empty while it is going on.
        hypervolume: seconds since the start and hypervolume reached, one point a trial.
        seconds: where the time went, by stage.
    """

    run: RunRecord
    trials: tuple[TrialRecord, ...] = ()
    finals: tuple[FinalRecord, ...] = ()
    stopped: str = ""
    hypervolume: tuple[tuple[float, float], ...] = ()
    seconds: tuple[tuple[str, float], ...] = ()

    @property
    def baseline(self) -> TrialRecord | None:
        """The fp32 original, or ``None`` while it has not been measured."""
        return next((t for t in self.trials if t.role == "fp32" and t.is_measured), None)
