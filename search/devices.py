"""One study, several devices: a run as each device sees it, and the models that are good on all of them.

The records of a run hold the first device's figures in the usual places and those of the further devices beside them
(``elsewhere``). :func:`history_on` gives the run as if a device were its only one, so that fronts, budgets,
recommendations and reports of a device need no rules of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from modeltailor.search.front import TIE, Figures, as_fast, history_figures, recommend, violations
from modeltailor.search.records import FinalRecord, RunHistory, TrialRecord
from modeltailor.targets import Budget

__all__ = [
    "Agreement",
    "Compromise",
    "budget_on",
    "device_names",
    "elsewhere_excess",
    "elsewhere_ratio",
    "found_since",
    "good_on_all",
    "history_on",
    "is_met_on_all",
    "pool_of",
    "trial_on",
]

Agreement = Literal["same", "tied", "compromise", "none"]


def device_names(history: RunHistory) -> tuple[str, ...]:
    """Names of a run's devices, the first one first."""
    first = str(history.run.device.get("name") or history.run.profile.get("name") or "device")
    return (first, *(d.name for d in history.run.elsewhere))


def budget_on(history: RunHistory) -> Budget:
    """The limits written down in a run's record."""
    kept = history.run.budget
    size, memory = kept.get("size_bytes"), kept.get("memory_bytes")
    return Budget(
        latency_ms=kept.get("latency_ms"),
        size_bytes=None if size is None else int(size),
        memory_bytes=None if memory is None else int(memory),
        min_accuracy=kept.get("min_accuracy"),
        max_drop=kept.get("max_drop"),
        max_drop_share=kept.get("max_drop_share"),
    )


def history_on(history: RunHistory, device: str) -> RunHistory:
    """Return a run as one of its devices saw it: its times, its memory, its budget, its finalists.

    A trial that failed there is a failed trial. A trial that was not measured there is left out.

    Raises:
        KeyError: the run has no such device.
    """
    if device == device_names(history)[0]:
        return replace(history, run=history.run.model_copy(update={"elsewhere": ()}))
    there = {d.name: d for d in history.run.elsewhere}[device]
    run = history.run.model_copy(
        update={"device": there.device, "profile": there.profile, "budget": there.budget, "elsewhere": ()}
    )
    trials = (trial_on(t, device) for t in history.trials)
    finals = (_final_on(f, device) for f in history.finals)
    return replace(
        history,
        run=run,
        trials=tuple(t for t in trials if t is not None),
        finals=tuple(f for f in finals if f is not None),
    )


def trial_on(trial: TrialRecord, device: str) -> TrialRecord | None:
    """Return a trial as a further device saw it; ``None`` if it was not measured there."""
    place = trial.elsewhere.get(device)
    if place is None:
        return trial.model_copy(update={"elsewhere": {}}) if not trial.is_measured else None
    changed: dict[str, object] = {
        "latency_ms": place.latency_ms,
        "speedup": place.speedup,
        "load_ms": place.load_ms,
        "peak_memory_bytes": place.peak_memory_bytes,
        "elsewhere": {},
    }
    if not place.is_measured:
        changed |= {"outcome": place.outcome, "stage": "latency", "error": place.error}
    return trial.model_copy(update=changed)


def _final_on(final: FinalRecord, device: str) -> FinalRecord | None:
    place = final.elsewhere.get(device)
    if place is None:
        return None
    return final.model_copy(
        update={
            "latency_ms": place.latency_ms,
            "speedup": place.speedup,
            "load_ms": place.load_ms,
            "peak_memory_bytes": place.peak_memory_bytes,
            "verdict": place.verdict,
            "audit": None,
            "elsewhere": {},
        }
    )


def elsewhere_ratio(trial: TrialRecord) -> float | None:
    """Time against the original on the further devices, their geometric mean; ``None`` if it failed on one of them."""
    speedups = [p.speedup.value for p in trial.elsewhere.values() if p.is_measured and p.speedup is not None]
    if not speedups or len(speedups) < len(trial.elsewhere):
        return None
    return math.exp(-sum(map(math.log, speedups)) / len(speedups))


def elsewhere_excess(trial: TrialRecord, budgets: Mapping[str, Budget]) -> float | None:
    """How far a trial is over the tightest limit of latency or memory of the further devices, as a share of it.

    Args:
        trial: measured.
        budgets: by device.

    Returns:
        a negative share if every limit is kept; ``None`` if no further device has such a limit.
    """
    found: list[float] = []
    for name, budget in budgets.items():
        place = trial.elsewhere.get(name)
        if place is None or place.latency_ms is None:
            continue
        if budget.latency_ms is not None:
            found.append(place.latency_ms.high / budget.latency_ms - 1.0)
        if budget.memory_bytes is not None:
            peak = place.peak_memory_bytes
            found.append(1.0 if peak is None else peak / budget.memory_bytes - 1.0)
    return max(found, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compromise:
    """A model that keeps every limit on every device.

    Attributes:
        key: of the recipe.
        slowdowns: by device, how many times slower it is than that device's own recommended model; below 1 where it is
            faster (and loses in size or accuracy).
        tied: whether on every device it is as fast as that device's recommended model, as far as one can tell.
    """

    key: str
    slowdowns: tuple[tuple[str, float], ...]
    tied: bool

    @property
    def worst(self) -> float:
        """The largest of the slow-downs."""
        return max(s for _, s in self.slowdowns)


def pool_of(history: RunHistory) -> dict[str, Figures]:
    """Figures by key of the models that a decision may fall on: finalists once there are any, else all that were scored.

    A lucky screening must not beat a certified figure. What a run found that went on is the exception: it counts as it
    did in the first part until finalists are chosen again, for all of it would be lost where that is not reached.
    """
    figures = history_figures(history)
    finals, since = {f.key for f in history.finals}, found_since(history)
    return {k: f for k, f in figures.items() if not finals or k in finals or k in since}


def found_since(history: RunHistory) -> frozenset[str]:
    """Keys of the models that were measured after the finalists had been chosen; none while there are no finalists."""
    among = history.finals_among
    if not history.finals or among is None:
        return frozenset()
    return frozenset(t.key for t in history.trials if t.is_measured and t.number not in among) - {
        f.key for f in history.finals
    }


def good_on_all(views: Mapping[str, RunHistory], *, minimize: bool = False) -> tuple[Compromise, ...]:
    """Return the models that keep every limit on every device, the best compromise first.

    What all devices choose by themselves is the best one. Else it is, as everywhere, the most accurate one if accuracy has
    no limit; with one, the model with the smallest slow-down, on the device where it is worst off, against the model that
    this device would choose by itself; of models that are as fast as those, or within 2 % of the best compromise, the
    smallest file.

    Args:
        views: the run as each device sees it, by name, from :func:`history_on`.
        minimize: whether a smaller metric is better.
    """
    pools = {name: pool_of(view) for name, view in views.items()}
    budgets = {name: budget_on(view) for name, view in views.items()}
    best = {n: recommend(pool.values(), budgets[n], minimize=minimize) for n, pool in pools.items()}
    choices = {n: b for n, b in best.items() if b is not None}
    if len(choices) < len(best):
        return ()
    agreed = {b.key for b in choices.values()}
    by_accuracy = all(not b.limits_metric for b in budgets.values())
    sign = 1.0 if minimize else -1.0

    found: list[Compromise] = []
    for key in set.intersection(*(set(pool) for pool in pools.values())):
        mine = {n: pool[key] for n, pool in pools.items()}
        if any(violations(mine[n], budgets[n], minimize=minimize) for n in pools):
            continue
        slowdowns = tuple((n, b.speedup.value / mine[n].speedup.value) for n, b in choices.items())
        found.append(
            Compromise(key=key, slowdowns=slowdowns, tied=all(as_fast(mine[n], b) for n, b in choices.items()))
        )
    least = min((c.worst for c in found), default=1.0)

    def order(made: Compromise) -> tuple[bool, float, bool, int, float, str]:
        figures = next(iter(pools.values()))[made.key]
        accuracy = sign * figures.accuracy.value if by_accuracy else 0.0
        as_good = made.tied or made.worst <= least * (1.0 + TIE)
        return (agreed != {made.key}, accuracy, not as_good, figures.size_bytes if as_good else 0, made.worst, made.key)

    return tuple(sorted(found, key=order))


def is_met_on_all(views: Sequence[RunHistory], *, minimize: bool = False) -> bool:
    """Whether on every device some model keeps every limit."""
    return all(recommend(pool_of(v).values(), budget_on(v), minimize=minimize) is not None for v in views)
