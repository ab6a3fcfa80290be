"""A target that is not attached: what the models would take there, and which of them to measure when it is.

This machine stood in for the device, so its latencies rank the models only as far as the two are alike. What the device
itself would take is predicted from its profile, with an 80 % band; bands that overlap are ties.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from modeltailor.errors import ModelTailorError, StudyConflict
from modeltailor.estimators.estimate import Estimate
from modeltailor.estimators.predict import NoEstimate, could_be_best, forecast, read_measurements
from modeltailor.search.devices import budget_on, pool_of
from modeltailor.search.front import Figures, pareto_front, violations
from modeltailor.search.records import IntervalRecord, PredictedRecord, RunHistory
from modeltailor.targets import Budget
from modeltailor.targets.profile import Profile

__all__ = [
    "TO_MEASURE",
    "absent_profile",
    "candidates",
    "note_of",
    "predict_absent",
    "read_to_measure",
    "to_measure_text",
]

TO_MEASURE = "to-measure.json"
"""The list of models to be measured on the device, in the run folder."""


def absent_profile(history: RunHistory) -> Profile | None:
    """Return the profile of a run's first device if another machine stood in for it, else ``None``."""
    if history.run.profile.get("reach", "none") != "none":
        return None
    try:
        return Profile.model_validate(history.run.profile)
    except ValidationError:  # written by a version whose profiles held other fields
        return None


def predict_absent(
    history: RunHistory, artifact: Callable[[str], Path], shapes: Mapping[str, Sequence[int]]
) -> tuple[PredictedRecord, ...]:
    """Predict what the original, the uniform baselines and the front would take on a device that is not attached.

    Args:
        history: a run with finalists.
        artifact: where the file of a SHA-256 lies.
        shapes: of the inputs that the run timed with, by name.

    Returns:
        one record a model; none if the device is attached.

    Raises:
        ModelError: a file cannot be read.
    """
    profile = absent_profile(history)
    if profile is None:
        return ()
    minimize = bool(history.run.metric.get("minimize", False))
    pool = pool_of(history)
    by_key = {t.key: t for t in reversed(history.trials) if t.is_measured}
    front = {f.key for f in pareto_front(pool.values(), minimize=minimize)}
    keys = [k for k, t in by_key.items() if t.role in ("fp32", "baseline") or k in front]
    keys.sort(key=lambda k: by_key[k].number)
    measured = read_measurements(Path(profile.measured), shapes, profile=profile) if profile.measured else ()
    found = forecast([artifact(by_key[k].sha256) for k in keys], profile, measured, shapes).estimates
    best = candidates(dict(zip(keys, found, strict=True)), pool, budget_on(history), minimize)
    return tuple(
        PredictedRecord(
            key=key,
            latency_ms=_record(estimate) if isinstance(estimate, Estimate) else None,
            reason=estimate.reason if isinstance(estimate, NoEstimate) else "",
            could_be_best=key in best,
        )
        for key, estimate in zip(keys, found, strict=True)
    )


def candidates(
    estimates: Mapping[str, Estimate | NoEstimate], pool: Mapping[str, Figures], budget: Budget, minimize: bool
) -> set[str]:
    """Return the models of the pool that could be the one to choose on the device.

    These keep the limits on accuracy, size and memory, their band reaches under the limit on latency, and no other such
    model is certainly faster. If no model keeps the limits, all are looked at.
    """
    others = replace(budget, latency_ms=None)
    able = [k for k in estimates if k in pool and not violations(pool[k], others, minimize=minimize)]
    able = able or [k for k in estimates if k in pool]
    chosen = [able[i] for i in could_be_best([estimates[k] for k in able])]
    limit = budget.latency_ms
    if limit is not None:
        within = [k for k in chosen if not isinstance(e := estimates[k], Estimate) or e.low <= limit]
        chosen = within or chosen
    return set(chosen)


def _record(estimate: Estimate) -> IntervalRecord:
    return IntervalRecord(value=estimate.value, low=estimate.low, high=estimate.high, evidence=estimate.evidence)


def to_measure_text(history: RunHistory) -> str:
    """Return ``to-measure.json``; empty if the device is attached or nothing was predicted."""
    profile = absent_profile(history)
    if profile is None or not history.predicted:
        return ""
    by_key = {t.key: t for t in reversed(history.trials) if t.is_measured}
    finals = {f.key: f for f in history.finals}
    models = []
    for record in history.predicted:
        if not record.could_be_best:
            continue
        trial = by_key[record.key]
        here = finals[record.key].latency_ms if record.key in finals else trial.latency_ms
        models.append(
            {
                "key": record.key,
                "label": trial.label,
                "file": f"artifacts/{trial.sha256[:16]}.onnx",
                "sha256": trial.sha256,
                "predicted_ms": record.latency_ms.model_dump() if record.latency_ms else None,
                "reason": record.reason,
                "measured_here_ms": here.model_dump() if here else None,
            }
        )
    head = {"schema_version": 1, "device": profile.name, "title": profile.title, "band": 0.8}
    return json.dumps({**head, "models": models}, indent=1) + "\n"


def read_to_measure(folder: Path) -> tuple[str, ...]:
    """Return the keys of the models that a run lists to be measured on its device; none if it has no such list.

    Raises:
        StudyConflict: the list cannot be read.
    """
    path = folder / TO_MEASURE
    if not path.is_file():
        return ()
    try:
        return tuple(str(m["key"]) for m in json.loads(path.read_text(encoding="utf-8"))["models"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyConflict(
            "RUN-10", path, f"is not a list of models to measure ({type(error).__name__})",
            "make it again with `modeltailor resume`, or name models with --pick",
        ) from error  # fmt: skip


def note_of(error: ModelTailorError) -> str:
    """Return the note of a run whose models could not be predicted."""
    return f"what the models would take on the device could not be predicted: {error.where}: {error.what}"
