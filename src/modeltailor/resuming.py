"""Why a run that was asked to go on ended at once: which of its limits still binds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from modeltailor.errors import ModelTailorError
from modeltailor.search.plan import SearchPlan

__all__ = ["Stand", "stand_of", "why_nothing_was_added"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """Where a run stands.

    Attributes:
        trials: that are done.
        stopped: why its search stopped; empty while it goes on, or was stopped from outside.
        trials_asked: trials of the plan under which it stopped.
        time_asked_s: time of that plan.
    """

    trials: int
    stopped: str
    trials_asked: int
    time_asked_s: float


def stand_of(folder: Path) -> Stand:
    """Read where the run in ``folder`` stands; one that knows nothing yet has no trials."""
    from modeltailor.search.run_folder import RunFolder

    place = RunFolder(folder)
    try:
        study = place.study()
        history = place.read(study)
    except ModelTailorError:
        return Stand(trials=0, stopped="", trials_asked=0, time_asked_s=0.0)
    asked = json.loads(study.user_attrs.get("stopped_at", "{}"))
    return Stand(
        trials=len(history.trials),
        stopped=history.stopped,
        trials_asked=int(asked.get("trials", 0)),
        time_asked_s=float(asked.get("time_s", 0.0)),
    )


def why_nothing_was_added(before: Stand, after: Stand, plan: SearchPlan) -> str:
    """Say which limit ended a search that was resumed before it tried anything; empty if it tried something.

    Args:
        before: where the run stood when it was asked to go on.
        after: where it stands now.
        plan: the limits that it was asked to go on with.
    """
    if not before.stopped or after.trials > before.trials:
        return ""
    if after.trials >= plan.trials:
        return (
            f"nothing was added: all {plan.trials} trials are done; give more with --trials (more time alone adds none)"
        )
    if (after.trials_asked, after.time_asked_s) != (before.trials_asked, before.time_asked_s):
        return f"nothing was added: {after.stopped}"
    if plan.trials <= before.trials_asked and plan.time_s <= before.time_asked_s:
        return (
            "nothing was added: neither more trials nor more time were given than before; give --trials, --time or both"
        )
    return (
        f"nothing was added: the time of {plan.time_s:g} s is used up, what the run took so far included; "
        "give more with --time (more trials alone add none)"
    )
