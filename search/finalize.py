"""The end of a run: finalists measured again, interleaved and in fresh processes, and scored once on ``test``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from modeltailor.errors import CandidateError
from modeltailor.estimators.latency import Measurement, certify
from modeltailor.search.auditing import audit_file
from modeltailor.search.executor import accuracy_record, interval_record
from modeltailor.search.front import Objective, figures_of, history_figures, pareto_front, recommend
from modeltailor.search.local_executor import LocalExecutor
from modeltailor.search.records import AuditRecord, FinalRecord, RunHistory, TrialRecord
from modeltailor.targets import Budget, Evidence, LocalDevice
from modeltailor.targets.agent.device_side import DROPPED, SHORTEST_BLOCK

__all__ = ["MOST_FINALISTS", "certify_finalists", "choose_finalists", "fitting", "least_seconds", "measure_finalists"]

MOST_FINALISTS = 14

_CERTIFYING_PAIRS = 10
_FEWEST = 3
"""The original, the recommended model and the best uniform one are measured whatever it takes."""

_SLACK = 1.5
_PROCESS_S = 4.0
"""Of a finalist beside its blocks: processes to start, models to load, warm-up, memory."""

_AUDIT_SHARE = 0.15
"""Of the time of the final measurement; latency certificates are worth more than the profile of the last finalist."""


def choose_finalists(
    history: RunHistory, budget: Budget, *, minimize: bool, objectives: Sequence[Objective], most: int = MOST_FINALISTS
) -> tuple[TrialRecord, ...]:
    """Return the trials worth certifying: the original, the best uniform ones, the recommended one, and the front.

    A longer front is thinned evenly along its speed; its ends, the recommended model and one model an axis stay.
    """
    by_key = {t.key: t for t in reversed(history.trials) if t.is_measured}
    figures = history_figures(history)
    front = [f.key for f in pareto_front(figures.values(), minimize=minimize, objectives=objectives)]
    must: list[str] = [t.key for t in history.trials if t.role == "fp32" and t.is_measured][:1]
    best = recommend(figures.values(), budget, minimize=minimize)
    if best is not None:
        must.append(best.key)
    uniform = [f for t in history.trials if t.role == "baseline" and (f := figures_of(t)) is not None]
    chosen = recommend(uniform, budget, minimize=minimize) or max(uniform, key=lambda f: f.speedup.value, default=None)
    if chosen is not None:
        must.append(chosen.key)
    for axis in ("formats", "sparsity", "student"):
        first = next((k for k in front if _axis(by_key[k]) == axis), None)
        if first is not None:
            must.append(first)
    room = max(0, most - len(set(must)))
    rest = [k for k in front if k not in must]
    if len(rest) > room:
        rest = [rest[round(i * (len(rest) - 1) / max(1, room - 1))] for i in range(room)] if room else []
    keys = list(dict.fromkeys([*must, *rest]))
    return tuple(by_key[k] for k in keys)


def _axis(trial: TrialRecord) -> str:
    structure = trial.recipe.get("structure")
    assert isinstance(structure, dict)
    if structure["removed"] or structure["width"] != 1.0 or structure["depth"] != 1.0:
        return "student"
    return "sparsity" if structure["keep"] else "formats"


def certify_finalists(
    executor: LocalExecutor,
    finalists: Sequence[TrialRecord],
    *,
    seconds: float,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[FinalRecord, ...]:
    """Measure and score finalists.

    Args:
        executor: which measures; its baseline is set.
        finalists: the original first.
        seconds: wall clock that is left; fewer pairs are measured when it is short, and the verdict says so.
        say: told what is going on.

    Returns:
        one record a finalist that could be measured again; one that fails now is left out, and so are the last ones
        where models are too slow for the time.
    """
    scored = {}
    for trial in finalists:
        say(f"scoring {trial.label or trial.key[:8]} on test")
        path = executor.folder.artifact(trial.sha256)
        try:
            scored[trial.key] = executor.score(path, "test", is_reference=trial.role == "fp32")
        except CandidateError:
            continue
    started = time.monotonic()
    kept = [t for t in finalists if t.key in scored]
    audits = _audits(executor, kept, _AUDIT_SHARE * seconds, say)
    seconds -= time.monotonic() - started
    share = seconds / (1 + len(executor.elsewhere.devices))  # of each device
    measured = measure_finalists(executor, kept, seconds=share, say=say)
    kept = [t for t in kept if t.key in measured]
    places = executor.elsewhere.certify(
        executor.baseline,
        {t.key: executor.folder.artifact(t.sha256) for t in kept},
        executor.inputs(),
        seconds=seconds - share,
        say=say,
    )
    return tuple(
        FinalRecord(
            key=t.key,
            latency_ms=interval_record(m.latency_ms),
            speedup=interval_record(m.speedup),
            test_accuracy=accuracy_record(scored[t.key].accuracy),
            peak_memory_bytes=m.peak_memory_bytes,
            load_ms=m.load_ms,
            verdict=m.verdict if m.pairs >= _CERTIFYING_PAIRS else "compared",
            audit=audits.get(t.key),
            elsewhere=places[t.key],
        )
        for t, m in ((t, measured[t.key]) for t in kept)
    )


def measure_finalists(
    executor: LocalExecutor,
    finalists: Sequence[TrialRecord],
    *,
    seconds: float,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Measurement]:
    """Measure the latency of finalists beside each other.

    What cannot be measured does not cost the others their figures, and where models are so slow that the time does not
    do for all, the first ones are measured.

    Args:
        executor: which measures; its baseline is set.
        finalists: the original first, then by importance.
        seconds: wall clock that is left.
        say: told what is going on.

    Returns:
        what was measured, by key; empty if even the original fails.
    """
    until = time.monotonic() + seconds
    kept = fitting(finalists, seconds)
    while kept:
        say(f"certifying the latency of {len(kept)} finalists")
        paths = [executor.folder.artifact(t.sha256) for t in kept]
        left = max(until - time.monotonic(), least_seconds(kept))
        try:
            # The original is measured beside itself like any other: its interval shows what the machine's noise is.
            found = certify(
                executor.device, (executor.baseline, *paths), executor.inputs(),
                seconds=left, least_pair_s=least_seconds(kept), memory=True,
            )  # fmt: skip
        except CandidateError as error:
            named = {t.key for t, p in zip(kept, paths, strict=True) if p.name in error.where}
            rest = [t for t in kept if t.key not in named]
            if error.code == "TIMEOUT":  # whoever was measured when the time was over is named: it may be any of them
                rest = [t for t in kept[: len(kept) // 2] if t is kept[0] or t.key not in named]
            if len(rest) == len(kept) or not rest or rest[0] is not kept[0]:
                break
            kept = rest
            continue
        return {t.key: m for t, m in zip(kept, found, strict=True)}
    return {}


def least_seconds(finalists: Sequence[TrialRecord]) -> float:
    """Seconds that the shortest certification takes: two process pairs, in each two quads of the shortest blocks.

    Args:
        finalists: measured trials, the original first.
    """
    inferences = 2 * 2 * 4 * (DROPPED + SHORTEST_BLOCK)
    times = [t.latency_ms.value / 1e3 for t in finalists if t.latency_ms is not None]
    return sum(_SLACK * inferences * (s + times[0]) / 2 + _PROCESS_S for s in times)


def fitting(finalists: Sequence[TrialRecord], seconds: float) -> list[TrialRecord]:
    """Return the first finalists whose shortest certification fits the time, but at least :data:`_FEWEST` of them."""
    kept = list(finalists)
    while len(kept) > _FEWEST and least_seconds(kept) > seconds:
        kept.pop()
    return kept


def _audits(
    executor: LocalExecutor, finalists: Sequence[TrialRecord], seconds: float, say: Callable[[str], None]
) -> dict[str, AuditRecord]:
    """Profile the finalists one after another while the time lasts: what executes, and how long each layer takes."""
    started = time.monotonic()
    found: dict[str, AuditRecord] = {}
    say(f"reading what executes in {len(finalists)} finalists")
    facts = executor.device.describe()
    evidence: Evidence = facts.evidence if isinstance(executor.device, LocalDevice) else "measured-here"
    for trial in finalists:
        if time.monotonic() - started > seconds:
            break
        path = executor.folder.artifact(trial.sha256)
        record = audit_file(path, trial.sites, executor.inputs(), facts.options, evidence)
        if record is not None:
            found[trial.key] = record
    return found
