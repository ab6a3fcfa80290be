"""What holds for a whole run, written down at its start."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version

from modeltailor.canonical import content_key
from modeltailor.search.records import DeviceRecord, RunRecord
from modeltailor.search.request import RunRequest
from modeltailor.search.stages import PreparedFacts
from modeltailor.targets.machine import runtime
from modeltailor.workloads import Metric

__all__ = ["describe_run", "job_key"]


def describe_run(
    request: RunRequest,
    facts: PreparedFacts,
    metric: Metric,
    shapes: Mapping[str, Sequence[int]],
    before: RunRecord | None = None,
) -> RunRecord:
    """Return the record of a run.

    Args:
        request: what was asked for.
        facts: what loading the workload found out.
        metric: the resolved metric.
        shapes: of the inputs that latency is measured with, by name.
        before: the record of the part that is resumed: its start and its notes stay.
    """
    sizes, digests = dict(facts.split_sizes), dict(facts.split_digests)
    device = asdict(request.device.describe())
    return RunRecord(
        job=dict(request.job),
        budget=asdict(request.budget),
        profile=dict(request.profile),
        device=device,
        metric={
            "name": metric.name,
            "minimize": metric.minimize,
            "unit": metric.unit,
            "rows_per_sample": metric.rows_per_sample,
        },
        model={
            "kind": facts.kind,
            "source": request.spec.model.source,
            "digest": facts.digest,
            "parameters": facts.parameters,
            "input_names": list(facts.input_names),
            "input_shapes": {name: list(shape) for name, shape in shapes.items()},
        },
        splits={name: {"samples": n, "digest": digests.get(name, "")} for name, n in sizes.items()},
        axes=tuple(request.plan.axes),
        notes=tuple(dict.fromkeys((*(before.notes if before else ()), *facts.notes))),
        environment={
            **_environment(),
            "processor": str(device["processor"]),
            "threads": str(device["options"]["intra_op_threads"]),
        },
        seed=request.plan.seed,
        started_at=before.started_at if before else datetime.now(UTC).isoformat(timespec="seconds"),
        elsewhere=tuple(
            DeviceRecord(
                name=at.name,
                device=asdict(at.device.describe()),
                profile=dict(at.profile),
                budget=asdict(at.budget),
            )
            for at in request.others
        ),
    )


def _environment() -> dict[str, str]:
    built, _, number = runtime().partition(" ")  # one of several packages gives the runtime: onnxruntime-gpu ...
    found = {name: version(name) for name in ("onnx", "torch", "optuna", "numpy")}
    return {
        "modeltailor": version("modeltailor"),
        built: number,
        **found,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": str(os.cpu_count()),
    }


def job_key(job: Mapping[str, object]) -> str:
    """Return the content key of a job without what may change when it is resumed: more trials, more time."""
    search = job.get("search")
    assert isinstance(search, Mapping)
    kept = {k: v for k, v in search.items() if k not in ("trials", "time", "trial_timeout")}
    return content_key({**job, "search": kept})
