"""What a run is asked for, and what it tells while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeltailor.search.elsewhere import FurtherDevice
from modeltailor.search.plan import SearchPlan
from modeltailor.search.records import RunHistory, TrialRecord
from modeltailor.targets import Budget, Device
from modeltailor.workloads import WorkloadSpec

__all__ = ["Phase", "Progress", "RunRequest"]

Phase = Literal["prepare", "baselines", "costs", "search", "finals", "done"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is going on, for whoever shows it.

    Attributes:
        phase: of the run.
        text: what is being tried now.
        trial: the trial that has just finished, if one has.
        finished: trials finished so far.
        planned: trials planned in all.
        elapsed_s: seconds since the run started.
        remaining_s: expected seconds to the end.
        history: everything known so far, once there is a baseline.
    """

    phase: Phase
    text: str
    trial: TrialRecord | None = None
    finished: int = 0
    planned: int = 0
    elapsed_s: float = 0.0
    remaining_s: float = 0.0
    history: RunHistory | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """Everything a run needs.

    Attributes:
        spec: model, data and metric.
        device: where latency is measured.
        profile: the device's profile as data, for the record.
        budget: the user's limits.
        plan: the search's own limits.
        out: the run folder.
        job: the job as data; a run folder belongs to one job.
        job_text: the job as the file that is kept beside the results.
        cache: where trained structures are kept between runs; ``None`` keeps none.
        resume: continue what stands in ``out``.
        others: further devices of the study.
    """

    spec: WorkloadSpec
    device: Device
    profile: Mapping[str, object]
    budget: Budget
    plan: SearchPlan
    out: Path
    job: Mapping[str, object]
    job_text: str
    cache: Path | None
    resume: bool = False
    others: tuple[FurtherDevice, ...] = ()
