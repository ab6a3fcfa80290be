"""What is written down of a run: one record a trial, one record the run. The only form in which results are stored.

Read back from disk, so validated by pydantic. Lengths are bytes, times milliseconds or seconds by name, accuracy and
shares in 0..1.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from modeltailor.targets import Evidence

__all__ = [
    "AccuracyRecord",
    "AuditRecord",
    "DeviceRecord",
    "FallBackRecord",
    "FinalPlaceRecord",
    "FinalRecord",
    "IntervalRecord",
    "PlaceRecord",
    "PredictedRecord",
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
    """One site of a built file; see ``compress.SiteReport``. ``executed_kernel`` is read off the optimized graph.

    What older runs did not write down is ``None``.

    Attributes:
        channels: output channels that the file has here.
        channels_kept: their share of the original's, 0..1; ``None`` where the original has no layer of that name.
        sparsity: share of the weights that are exactly zero, 0..1.
    """

    site: str
    kind: str
    format: str
    storage_bits: int
    stored_bytes: int
    weight_elements: int
    macs: int = 0
    executed_kernel: str
    note: str = ""
    channels: int | None = None
    channels_kept: FiniteFloat | None = None
    sparsity: FiniteFloat | None = None


class PlaceRecord(_Record):
    """What a further device of the study made of a trial's file, or the outcome code and the reason why it could not."""

    outcome: str = "MEASURED"
    error: str = ""
    latency_ms: IntervalRecord | None = None
    speedup: IntervalRecord | None = None
    load_ms: FiniteFloat | None = None
    peak_memory_bytes: int | None = None

    @property
    def is_measured(self) -> bool:
        """Whether it ran there."""
        return self.outcome == "MEASURED"


class TrialRecord(_Record):
    """One finished trial: measured, or failed with the stage and the reason.

    ``graph`` is a key of the graph that the runtime executes, without the values of its weights. Trials of one graph run
    the same kernels on the same shapes; ``timed_as`` names the trial whose screening they share. ``scored_fully`` is
    false where scoring was given up because the model could not matter any more; ``accuracy.n_samples`` tells after how
    many samples. ``reused`` names figures that an earlier run measured on the same file, and ``structure`` or ``recovery``
    where the weights had been trained before. Finalists are all measured again, each by itself, over all samples.
    ``elsewhere`` holds what the further devices of a study found, by name.
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
    scored_fully: bool = True
    load_ms: FiniteFloat | None = None
    peak_memory_bytes: int | None = None
    sites: tuple[SiteRecord, ...] = ()
    graph: str = ""
    timed_as: int | None = None
    reused: tuple[str, ...] = ()
    elsewhere: dict[str, PlaceRecord] = Field(default_factory=dict, exclude_if=operator.not_)
    seconds: dict[str, FiniteFloat] = Field(default_factory=dict)
    finished_at_s: FiniteFloat = 0.0

    @property
    def is_measured(self) -> bool:
        """Whether every figure is there."""
        return self.outcome == "MEASURED"

    @property
    def is_measured_everywhere(self) -> bool:
        """Whether it ran on every further device of the study, too."""
        return self.is_measured and all(p.is_measured for p in self.elsewhere.values())


class FallBackRecord(_Record):
    """A node that does not run as the file or the recipe has it; ``share`` of the time of all nodes, 0..1."""

    node: str
    asked: str
    executed: str
    reason: str
    share: FiniteFloat


class AuditRecord(_Record):
    """What the runtime executed in a finalist's file and where its time went, by the runtime's own profile.

    Attributes:
        sentence: the answer to "why is it not faster?".
        evidence: what the profiled machine says about the target: profiles are taken where the search runs.
        node_ms: milliseconds of all nodes together, profiler included: use the shares.
        compute_share: share of the time in heavy nodes by what they compute in, largest first.
        conversions: nodes that only convert between number formats.
        conversion_share: their share of the time.
        layout_share: share of the time spent on moving data into other layouts.
        time_shares: share of the time by site; the rest is in nodes between the sites.
        fall_backs: what runs otherwise than meant, by share; the first few.
        n_fall_backs: how many there are.
    """

    sentence: str
    evidence: Evidence
    node_ms: FiniteFloat
    compute_share: tuple[tuple[str, FiniteFloat], ...]
    conversions: int
    conversion_share: FiniteFloat
    layout_share: FiniteFloat
    time_shares: tuple[tuple[str, FiniteFloat], ...]
    fall_backs: tuple[FallBackRecord, ...] = ()
    n_fall_backs: int = 0


Certificate = Literal["certified", "compared", "NOISY", "UNDECIDED"]


class FinalPlaceRecord(_Record):
    """A finalist measured again on a further device of the study; ``verdict`` as in :class:`FinalRecord`."""

    latency_ms: IntervalRecord
    speedup: IntervalRecord
    load_ms: FiniteFloat | None = None
    peak_memory_bytes: int | None = None
    verdict: Certificate = "certified"


class FinalRecord(_Record):
    """What the end of a run found out about one finalist: measured again, scored once on ``test``.

    ``certified``: ten fresh process pairs or more and a half-width of at most 1 %. ``compared``: the time allowed fewer
    pairs; the interval holds, but is no certificate. ``NOISY``: the machine did not let it become narrow enough.
    ``audit`` is ``None`` where there was no time left for it, or the runtime gave no profile.
    """

    key: str
    latency_ms: IntervalRecord
    speedup: IntervalRecord
    test_accuracy: AccuracyRecord
    peak_memory_bytes: int | None = None
    load_ms: FiniteFloat | None = None
    verdict: Certificate = "certified"
    audit: AuditRecord | None = None
    elsewhere: dict[str, FinalPlaceRecord] = Field(default_factory=dict, exclude_if=operator.not_)


class PredictedRecord(_Record):
    """What a model would take on the run's device, which is not attached.

    Attributes:
        key: of the model.
        latency_ms: predicted, with an **80 %** band; ``None`` if there is no number.
        reason: why there is none.
        could_be_best: no other model that keeps the limits is certainly faster there: to be measured on the device.
    """

    key: str
    latency_ms: IntervalRecord | None
    reason: str = ""
    could_be_best: bool = False


class DeviceRecord(_Record):
    """A further device of the study: its profile, what was found there, and every limit that holds on it."""

    name: str
    device: dict[str, object]
    profile: dict[str, object]
    budget: dict[str, float | int | None]


class RunRecord(_Record):
    """What holds for the whole run; ``device``, ``profile`` and ``budget`` are those of its first device."""

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
    elsewhere: tuple[DeviceRecord, ...] = Field(default=(), exclude_if=operator.not_)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """Everything that a run folder holds in records; what reports are made of.

    Attributes:
        run: what holds for the whole run.
        trials: finished trials by number; the first measured one with role ``fp32`` is the baseline.
        finals: finalists, measured again and scored on ``test``; empty while a run is going on for the first time.
        finals_among: numbers of the trials that the finalists were chosen among; what is missing was found since.
            ``None`` where it was not written down: all of them.
        stopped: why the search stopped, one sentence; empty while it is going on.
        hypervolume: seconds since the start and hypervolume reached, one point a trial.
        seconds: where the time went, by stage.
        sensitivities: layer, format and the loss that was measured with that layer alone in that format, in the
            original network (KL divergence of the outputs, or squared error); formats that were guessed are left out.
        predicted: what models would take on the device, where another machine stood in for it.
    """

    run: RunRecord
    trials: tuple[TrialRecord, ...] = ()
    finals: tuple[FinalRecord, ...] = ()
    finals_among: frozenset[int] | None = None
    stopped: str = ""
    hypervolume: tuple[tuple[float, float], ...] = ()
    seconds: tuple[tuple[str, float], ...] = ()
    sensitivities: tuple[tuple[str, str, float], ...] = ()
    predicted: tuple[PredictedRecord, ...] = ()

    @property
    def baseline(self) -> TrialRecord | None:
        """The fp32 original, or ``None`` while it has not been measured."""
        return next((t for t in self.trials if t.role == "fp32" and t.is_measured), None)
