"""The one value that all reports are made of. Every number is decided when it is built; renderers only format.

Published as ``summary.json`` with the schema in ``summary.schema.json``. Accuracy and shares lie in 0..1, ``points``
are percent of the metric, times are milliseconds or seconds by name, lengths bytes.
"""

from __future__ import annotations

import operator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from modeltailor.reports.absent import AbsentDevice
from modeltailor.search.front import Limit
from modeltailor.search.records import AccuracyRecord, AuditRecord, IntervalRecord, Role, SiteRecord

__all__ = [
    "SCHEMA_VERSION",
    "Accuracies",
    "Comparison",
    "DeviceSummary",
    "Failure",
    "Judged",
    "LimitCheck",
    "MetricFacts",
    "ModelSummary",
    "Noise",
    "OnAllDevices",
    "OptionImportance",
    "Ratio",
    "RecipeSummary",
    "RunSummary",
    "SearchSummary",
    "SiteSummary",
    "TrialPoint",
    "Verdict",
]

SCHEMA_VERSION = 1

ModelAxis = Literal["none", "formats", "sparsity", "student"]


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Ratio(_Value):
    """A ratio with its 95 % interval."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class Accuracies(_Value):
    """The metric on both splits; ``test`` only for models that were scored there (once)."""

    search: AccuracyRecord
    test: AccuracyRecord | None = None


class Judged(_Value):
    """The figures that limits are held against: the unfavourable end of each interval.

    Attributes:
        latency_ms: upper end.
        size_bytes: exact.
        memory_bytes: as measured, if it was.
        drop_points: upper end of the paired loss on ``search``; not less than the loss seen on ``test``.
        accuracy: unfavourable end of the metric on ``search``.
    """

    latency_ms: FiniteFloat
    size_bytes: int
    memory_bytes: int | None
    drop_points: FiniteFloat
    accuracy: FiniteFloat


class LimitCheck(_Value):
    """One limit of the budget held against one model.

    Attributes:
        limit: which one.
        allowed: the limit, in ``unit``.
        value: the judged figure, in ``unit``; ``None`` if it was not measured.
        met: whether it is kept.
        margin: room left: a share of the limit, or points for ``drop`` and ``accuracy``; negative if not kept.
        unit: of ``allowed`` and ``value``.
    """

    limit: Limit
    allowed: FiniteFloat
    value: FiniteFloat | None
    met: bool
    margin: FiniteFloat | None
    unit: Literal["ms", "bytes", "points", "metric"]


class Comparison(_Value):
    """One model against another: how much faster, how much smaller, what accuracy is gained (positive is better).

    Attributes:
        key: the other model.
        name: of the other model.
        speedup: latency of the other over this one's.
        size_ratio: bytes of this one over the other's.
        accuracy_points: gain of the metric in points, on ``test`` if both were scored there, else on ``search``.
        split: where ``accuracy_points`` was seen.
        speed_differs: whether the interval of ``speedup`` lies on one side of 1.
        accuracy_differs: whether the interval of ``accuracy_points``, joined from those against fp32, lies on one side of 0.
    """

    key: str
    name: str
    speedup: Ratio
    size_ratio: FiniteFloat
    accuracy_points: FiniteFloat
    split: Literal["search", "test"]
    speed_differs: bool = True
    accuracy_differs: bool = True


class SiteSummary(SiteRecord):
    """One layer of a model, beside the same layer of the original. What was not measured is ``None``.

    Attributes:
        rank: of the two thin layers that a layer was split into.
        sensitivity: loss that was measured with this layer alone in this format, in the original network: KL divergence
            of the outputs, or squared error.
        time_share: share of the time of all executed nodes, by the runtime's profile of this file, 0..1.
        time_ms: that share of the measured latency.
        time_of_fp32: over the original's time in this layer.
        bytes_of_fp32: stored bytes over the original's.
    """

    rank: int | None = None
    sensitivity: FiniteFloat | None = None
    time_share: FiniteFloat | None = None
    time_ms: FiniteFloat | None = None
    time_of_fp32: FiniteFloat | None = None
    bytes_of_fp32: FiniteFloat | None = None


class RecipeSummary(_Value):
    """What was done to the network, and what the built file holds at each site.

    ``missing`` names layers of the original that went with the blocks that were taken out.
    """

    text: str
    structure: dict[str, object]
    settings: dict[str, object]
    formats: dict[str, str]
    sites: tuple[SiteSummary, ...]
    missing: tuple[str, ...] = ()


class ModelSummary(_Value):
    """One model that a person may choose.

    Attributes:
        key: the recipe's key.
        name: short and readable; unique in a report together with ``trial``.
        trial: number of its trial.
        role: why it was tried.
        axis: what part of the search changed it.
        on_front: no other model beats it.
        finalist: measured again and scored on ``test``; where there are any, only they are picked.
        found_since: after the finalists had been chosen, by a run that went on: picked like them until they are chosen again.
        verdict: of the final measurement; empty for others.
        file: relative to the run folder; empty if the file is not kept.
        size_ratio: bytes over those of the fp32 original.
        ties: keys of models of the front that cannot be told apart from this one: the interval of the ratio of their
            speedups holds 1, and that of the difference of their accuracies holds 0.
        audit: what really executes, one sentence.
        profile: the executed-precision audit of the file: its own sentence and where the time goes; of finalists only.
        between_layers: share of the time outside the layers, 0..1; ``None`` without a profile.
        loading: in which form weights are stored, what the runtime makes of it while loading, how long that takes.
    """

    key: str
    name: str
    trial: int
    role: Role
    axis: ModelAxis
    on_front: bool
    finalist: bool
    verdict: str
    file: str
    sha256: str
    size_bytes: int
    size_ratio: FiniteFloat
    latency_ms: IntervalRecord
    speedup: IntervalRecord
    accuracy: Accuracies
    peak_memory_bytes: int | None
    load_ms: FiniteFloat | None
    judged: Judged
    meets_budget: bool
    limits: tuple[LimitCheck, ...]
    over_uniform: Comparison | None
    ties: tuple[str, ...]
    audit: str
    profile: AuditRecord | None = None
    between_layers: FiniteFloat | None = None
    loading: str = ""
    recipe: RecipeSummary
    found_since: bool = Field(default=False, exclude_if=operator.not_)


class TrialPoint(_Value):
    """One trial as a point of the chart and a row of the table; figures are ``None`` if it failed before them."""

    number: int
    key: str
    name: str
    role: Role
    axis: ModelAxis
    outcome: str
    stage: str
    error: str
    on_front: bool
    size_bytes: int | None
    latency_ms: IntervalRecord | None
    speedup: IntervalRecord | None
    accuracy: AccuracyRecord | None
    peak_memory_bytes: int | None
    finished_at_s: FiniteFloat
    scored_fully: bool = True
    reused: tuple[str, ...] = ()


class Failure(_Value):
    """Failed trials of one kind, with the first one's words."""

    outcome: str
    stage: str
    count: int
    example: str
    trials: tuple[int, ...]


class OptionImportance(_Value):
    """How much one option alone tells of the results: epsilon squared, an adjusted share of variance, 0..1."""

    option: str
    accuracy: FiniteFloat
    latency: FiniteFloat
    n_values: int


class Noise(_Value):
    """Median half-width of the speedup's interval, as a share of the value.

    Attributes:
        screening: while searching.
        final: in the final measurement.
        n_undecided: models whose final measurement stayed noisy or undecided.
        n_finals: models that were measured again, those that another model beats included.
    """

    screening: FiniteFloat | None
    final: FiniteFloat | None
    n_undecided: int
    n_finals: int = 0


class SearchSummary(_Value):
    """How the result came about.

    Attributes:
        n_scored_partly: measured trials whose scoring was given up early, because they could not matter any more.
        n_reused: trials with a figure that an earlier run had measured on the very same file.
    """

    n_trials: int
    n_measured: int
    n_failed: int
    outcomes: dict[str, int]
    failures: tuple[Failure, ...]
    stopped: str
    seconds: FiniteFloat
    hypervolume: tuple[tuple[FiniteFloat, FiniteFloat], ...]
    time_split: tuple[tuple[str, FiniteFloat], ...]
    importance: tuple[OptionImportance, ...]
    n_scored_partly: int = 0
    n_reused: int = 0


class MetricFacts(_Value):
    """What a model is worth, and which way is up."""

    name: str
    minimize: bool
    unit: str


class Verdict(_Value):
    """The answer in words.

    Attributes:
        status: ``met`` a model keeps every limit; ``unmet`` none does; ``empty`` nothing was measured yet.
        key: the recommended model, or the nearest one; empty if there is none.
        headline: one sentence.
        sentences: what follows: the gain over the best uniform setting, and how sure all this is.
        limits: each limit of the budget, whether it is kept and with what margin.
        binding: the limit that stands in the way, if no model keeps all.
    """

    status: Literal["met", "unmet", "empty"]
    key: str
    headline: str
    sentences: tuple[str, ...]
    limits: tuple[str, ...]
    binding: LimitCheck | None

    @property
    def text(self) -> str:
        """All of it as one paragraph."""
        limits = "; ".join(t for t in self.limits if t not in self.headline)
        told = (f"{limits[0].upper()}{limits[1:]}.",) if limits else ()
        return " ".join((self.headline, *told, *self.sentences))


class DeviceSummary(_Value):
    """What a study found for one of its devices.

    Attributes:
        name: of the profile.
        evidence: how its latencies were got.
        runtime: name and version.
        processor: what really ran.
        budget: every limit that holds there.
        front: keys of the models that no other beats there, fastest first.
        best: key of the model that it would choose; empty if none keeps every limit.
        best_name: of that model, for people.
        best_latency_ms: of that model, there.
        best_speedup: of that model, there.
        best_size_bytes: of that model.
        kept: keys of the models that keep every limit there.
        failed: trials that failed there.
    """

    name: str
    evidence: str
    runtime: str
    processor: str
    budget: dict[str, FiniteFloat | None]
    front: tuple[str, ...]
    best: str
    best_name: str
    best_latency_ms: IntervalRecord | None
    best_speedup: IntervalRecord | None
    best_size_bytes: int | None
    kept: tuple[str, ...]
    failed: int


class OnAllDevices(_Value):
    """What the devices of a study have in common.

    Attributes:
        agreement: ``same`` (all choose one model), ``tied`` (one model cannot be told apart in speed from each one's
            choice), ``compromise``, or ``none`` (no model keeps every limit on all of them).
        best: key of the model that is good on all; empty for ``none``.
        keys: of all models that keep every limit on every device, the best compromise first.
        slowdowns: of ``best`` by device, against that device's own choice.
        sentence: the same in words.
    """

    agreement: Literal["same", "tied", "compromise", "none"]
    best: str
    keys: tuple[str, ...]
    slowdowns: dict[str, FiniteFloat]
    sentence: str


class RunSummary(_Value):
    """Everything a report says.

    Attributes:
        best: key of the recommended model; empty if no model keeps every limit.
        file: the recommended model under its public name: ``best.onnx``, or its own file if another budget was asked.
        best_uniform: key of the uniform baseline that the budget's rule likes best.
        models: the original, the uniform baselines and the front, each once; what can be picked and compared.
        trials: every trial.
        devices: of a study of several devices, what was found for each; the rest of the summary holds for the first.
        on_all: what they have in common; ``None`` for one device.
        absent: what is predicted for the run's device, where another machine stood in for it.
    """

    schema_version: int = SCHEMA_VERSION
    title: str
    started_at: str
    seed: int
    axes: tuple[str, ...]
    budget: dict[str, FiniteFloat | None]
    metric: MetricFacts
    target: str
    evidence: str
    verdict: Verdict
    file: str
    baseline: str
    best: str
    best_uniform: str
    front: tuple[str, ...]
    uniform_baselines: tuple[str, ...]
    models: tuple[ModelSummary, ...]
    trials: tuple[TrialPoint, ...]
    search: SearchSummary
    noise: Noise
    device: dict[str, object]
    profile: dict[str, object]
    model: dict[str, object]
    splits: dict[str, dict[str, object]]
    environment: dict[str, str]
    job: dict[str, object]
    notes: tuple[str, ...]
    devices: tuple[DeviceSummary, ...] = Field(default=(), exclude_if=operator.not_)
    on_all: OnAllDevices | None = Field(default=None, exclude_if=operator.not_)
    absent: AbsentDevice | None = Field(default=None, exclude_if=operator.not_)

    def model_of(self, key: str) -> ModelSummary | None:
        """The model of that key, or ``None``."""
        return next((m for m in self.models if m.key == key), None)
