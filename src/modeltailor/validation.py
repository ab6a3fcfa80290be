"""Checks a job before anything is started: one result a part, and all problems, not only the first.

Cheap: nothing is trained, exported, quantized or timed. Model and data are loaded in a child process, as in a run, and
the model sees a few samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from modeltailor.errors import CandidateError, ConfigError, DataError, ModelError, ModelTailorError, shown
from modeltailor.job import Job, check_job, is_share, unit_of
from modeltailor.places import profile_of
from modeltailor.targets import Child

if TYPE_CHECKING:
    from modeltailor.targets import Budget, Profile
    from modeltailor.validation_child import DataSeen, ModelSeen, ScoreSeen

__all__ = ["Check", "validate"]

Part = Literal["job", "target", "budget", "search", "metric", "model", "data", "score"]

_LOAD_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found out about one part of a job.

    Attributes:
        part: of the job; ``score`` is model, data and metric together.
        says: what was found, one line; empty if the part has problems.
        notes: what a reader should know though it is no problem.
        problems: what is wrong.
    """

    part: Part
    says: str = ""
    notes: tuple[str, ...] = ()
    problems: tuple[ModelTailorError, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def validate(path: Path, assignments: tuple[str, ...] = ()) -> tuple[Check, ...]:
    """Check a job file and all that it names.

    Args:
        path: the job file.
        assignments: overrides as in ``search.trials=20``.

    Returns:
        one check a part; parts that cannot be looked at because of an earlier problem are left out.
    """
    job, problems = check_job(path, assignments)
    if job is None:
        return (Check(part="job", problems=problems),)
    root = path.resolve().parent
    parts = (Check(part="job", says=f"{path.name} is well formed"), *_targets(job, root), _budget(job), _search(job))
    return (*parts, *_workload(job, root))


def _targets(job: Job, root: Path) -> tuple[Check, ...]:
    """One check a device, in the order of the job."""
    checks, names = [], set[str]()
    for text, limits in job.devices():
        try:
            profile = profile_of(text, root)
            if profile.name in names:
                raise ConfigError("CFG-08", "targets", f"two of them are called {profile.name}", "rename a profile")
        except ModelTailorError as error:
            checks.append(Check(part="target", problems=(error,)))
            continue
        names.add(profile.name)
        held = _limits(limits, _unit(job)) if len(job.devices()) > 1 else ""
        says = f"{_place(profile)}; {held}" if held else _place(profile)
        checks.append(Check(part="target", says=says, notes=_provider_notes(profile)))
    return tuple(checks)


def _place(profile: Profile) -> str:
    match profile.reach:
        case "local":
            where = "measured on this machine"
        case "none":
            where = "this machine stands in for it: latencies will be labelled measured-here"
        case _:
            where = f"reached by {profile.reach} at {profile.address}; not connected to now"
    return f"{profile.name} ({profile.title}): {profile.provider}, {profile.threads} threads; {where}"


def _provider_notes(profile: Profile) -> tuple[str, ...]:
    import os

    if profile.reach in ("local", "none") and profile.threads > (os.cpu_count() or 1):
        return (f"the profile asks for {profile.threads} threads; this machine has {os.cpu_count()} cores",)
    return ()


def _budget(job: Job) -> Check:
    empty = all(v is None for v in job.budget.model_dump().values())
    notes = (f"no limit is given, so {_usual(job)}",) if empty else ()
    return Check(part="budget", says=_limits(job.limits(), _unit(job)), notes=notes)


def _usual(job: Job) -> str:
    """What holds without a limit, in words."""
    metric = job.metric
    if is_share(metric.name, metric.unit):
        return "max_drop 1.0 holds"
    rule = f"1 % of the original's {shown(metric.name, 60)} may be lost"
    return rule if _unit(job) else f"{rule}; of a share (larger is better, from 0 to 1) one point"


def _unit(job: Job) -> str:
    return unit_of(job.metric.name, job.metric.unit, minimize=job.metric.minimize)


def _limits(limits: Budget, unit: str) -> str:
    from modeltailor.reports.wording import bytes_text

    def loss(points: float) -> str:
        return f"{points:g} ({points / 100:g} {unit})" if unit else f"{points:g} points"

    def usual(share: float) -> str:
        told = f"{100 * share:g} % of the original's value"
        return told if unit else f"{told}, {100 * share:g} points of a share"

    named: list[tuple[str, float | None, Callable[[float], str]]] = [
        ("latency", limits.latency_ms, lambda v: f"{v:g} ms"),
        ("size", limits.size_bytes, bytes_text),
        ("memory", limits.memory_bytes, bytes_text),
        ("min_accuracy", limits.min_accuracy, lambda v: f"{v:g}"),
        ("max_drop", limits.max_drop, loss),
        ("max_drop", limits.max_drop_share, usual),
    ]
    return ", ".join(f"{name} {text(value)}" for name, value, text in named if value is not None)


def _search(job: Job) -> Check:
    plan = job.plan()
    notes = []
    if plan.trials < 6:
        notes.append(f"{plan.trials} trials are hardly more than the uniform baselines")
    if plan.time_s < 60:
        notes.append(f"{plan.time_s:g} s leave little beside the baselines")
    says = f"{plan.trials} trials, {plan.time_s:g} s, axes {', '.join(plan.axes)}, sampler {plan.sampler}, seed {plan.seed}"
    return Check(part="search", says=says, notes=tuple(notes))


def _workload(job: Job, root: Path) -> tuple[Check, ...]:
    try:
        spec = job.workload(root)
    except ModelTailorError as error:
        return (Check(part="data", problems=(error,)),)
    with Child(name="validate") as child:

        def call(name: str, part: Part) -> object:
            try:
                return child.call(f"modeltailor.validation_child:{name}", timeout_s=_LOAD_S, spec=spec)
            except CandidateError as error:
                kind = {"model": ModelError, "metric": ConfigError}.get(part, DataError)
                made = kind("CODE-02", part, f"{error.what} ({error.code})", "mend what this part of the job names")
                made.detail = error.detail
                raise made from error

        metric = _checked("metric", lambda: f"{call('metric', 'metric')}")
        model = _checked("model", lambda: cast("ModelSeen", call("model", "model")).line())
        data = _checked_data(lambda: cast("DataSeen", call("data", "data")))
        if not (metric.passed and model.passed and data.passed):
            return metric, model, data
        score = _checked("score", lambda: cast("ScoreSeen", call("score", "score")).line())
        return metric, model, data, score


def _checked(part: Part, function: Callable[[], str]) -> Check:
    try:
        return Check(part=part, says=function())
    except ModelTailorError as error:
        return Check(part=part, problems=(error,))


def _checked_data(function: Callable[[], DataSeen]) -> Check:
    try:
        seen = function()
    except ModelTailorError as error:
        return Check(part="data", problems=(error,))
    return Check(part="data", says=seen.line(), notes=seen.notes)
