"""The end of a run: finalists measured again, interleaved and in fresh processes, and scored once on ``test``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

from modeltailor.errors import CandidateError, DataError, ModelError
from modeltailor.search.auditing import audit_file
from modeltailor.search.certifying import Contender, certified_verdict, certify_latency
from modeltailor.search.devices import trial_on
from modeltailor.search.executor import accuracy_record, interval_record
from modeltailor.search.front import figures_of, front_under, history_figures, nearest, recommend
from modeltailor.search.local_executor import LocalExecutor
from modeltailor.search.records import AuditRecord, FinalRecord, RunHistory, TrialRecord
from modeltailor.search.stages import ScoredModel
from modeltailor.targets import Budget, Evidence, LocalDevice

__all__ = ["MOST_FINALISTS", "certify_finalists", "choose_finalists"]

MOST_FINALISTS = 14

_FEWEST_SCORED = 3
"""The original, the recommended model and the best uniform one of each device are scored on ``test`` whatever it takes."""

_SCORING_SHARE = 0.4
_AUDIT_SHARE = 0.15
"""Of the time of the final measurement; latency certificates are worth more than the profile of the last finalist."""


def choose_finalists(
    history: RunHistory, budget: Budget, *, minimize: bool, most: int = MOST_FINALISTS
) -> tuple[TrialRecord, ...]:
    """Return the trials worth certifying: the original, the best uniform ones, the recommended one, and the front.

    In this order, of a front its ends first, then what lies between those that were named: however many of the first are
    taken, they are spread along its speed.
    """
    by_key = {t.key: t for t in reversed(history.trials) if t.is_measured}
    figures = history_figures(history)
    front = [f.key for f in front_under(figures.values(), budget, minimize=minimize)]
    must: list[str] = [t.key for t in history.trials if t.role == "fp32" and t.is_measured][:1]
    best = recommend(figures.values(), budget, minimize=minimize)
    if best is not None:
        must.append(best.key)
    uniform = [f for t in history.trials if t.role == "baseline" and (f := figures_of(t)) is not None]
    chosen = recommend(uniform, budget, minimize=minimize) or nearest(uniform, budget, minimize=minimize)
    if chosen is not None:
        must.append(chosen.key)
    for axis in ("formats", "sparsity", "student"):
        first = next((k for k in front if _axis(by_key[k]) == axis), None)
        if first is not None:
            must.append(first)
    must = list(dict.fromkeys(must))
    rest = [front[i] for i in _spread(len(front), [i for i, k in enumerate(front) if k in must])]
    return tuple(by_key[k] for k in [*must, *rest][: max(most, len(must))])


def _spread(n: int, known: Sequence[int]) -> list[int]:
    """The numbers below ``n`` that are not known: the ends, then again and again the middle of the widest gap left."""
    order = [end for end in dict.fromkeys((0, n - 1)) if n and end not in known]
    while len(order) + len(known) < n:
        low, high = max(pairwise(sorted([*known, *order])), key=lambda ends: ends[1] - ends[0])
        order.append((low + high) // 2)
    return order


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
    longest_s: float = math.inf,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[FinalRecord, ...]:
    """Measure and score finalists.

    Args:
        executor: which measures; its baseline is set.
        finalists: the original first.
        seconds: wall clock for it; fewer pairs are measured when it is short, and the verdict says so.
        longest_s: wall clock that is left of the run; of so many finalists that their least takes longer the first are measured.
        say: told what is going on.

    Returns:
        one record a finalist that could be measured again; one that fails now is left out, and so are the last ones
        where there is no time for all. None where the original fails, against which losses are, or all the others do.
    """
    started = time.monotonic()
    scored = _scored_on_test(executor, finalists, _SCORING_SHARE * seconds, say)
    kept = [t for t in finalists if t.key in scored]
    if not any(t.role == "fp32" for t in kept):
        return ()
    audits = _audits(executor, kept, _AUDIT_SHARE * seconds, say)
    spent, devices = time.monotonic() - started, 1 + len(executor.elsewhere.devices)
    seconds -= spent
    share = seconds / devices
    until = started + longest_s
    measured = certify_latency(
        executor.device,
        executor.baseline,
        _contenders(executor, kept),
        executor.inputs(),
        seconds=share,
        longest_s=(until - time.monotonic()) / devices,
        say=say,
    )
    kept = [t for t in kept if t.key in measured]
    if len(kept) < min(2, len(finalists)):
        return ()  # the original alone would stand for all that was found
    places = executor.elsewhere.certify(
        executor.baseline,
        {n: _contenders(executor, kept, n) for n in executor.elsewhere.names},
        executor.inputs(),
        seconds=seconds - share,
        longest_s=until - time.monotonic(),
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
            verdict=certified_verdict(m),
            audit=audits.get(t.key),
            elsewhere={name: found[t.key] for name, found in places.items() if t.key in found},
        )
        for t, m in ((t, measured[t.key]) for t in kept)
    )


def _scored_on_test(
    executor: LocalExecutor, finalists: Sequence[TrialRecord], seconds: float, say: Callable[[str], None]
) -> dict[str, ScoredModel]:
    """Score finalists on ``test`` in their order, by key; what fails is left out, and so is what there is no time for."""
    started = time.monotonic()
    fewest = 1 + (_FEWEST_SCORED - 1) * (1 + len(executor.elsewhere.devices))
    found: dict[str, ScoredModel] = {}
    for number, trial in enumerate(finalists):
        if number >= fewest and time.monotonic() - started > seconds:
            break
        say(f"scoring {trial.label or trial.key[:8]} on test")
        path = executor.folder.artifact(trial.sha256)
        try:
            found[trial.key] = executor.score(path, "test", is_reference=trial.role == "fp32")
        except (CandidateError, DataError, ModelError):
            if trial.role == "fp32":
                break
    return found


def _contenders(executor: LocalExecutor, trials: Sequence[TrialRecord], further: str | None = None) -> list[Contender]:
    """The trials as the first device saw them, or as a further one did: of those, what ran there, and the original."""
    found = []
    for trial in trials:
        seen = trial if further is None else trial_on(trial, further)
        if trial.role != "fp32" and (seen is None or not seen.is_measured):
            continue
        latency = seen.latency_ms if seen else None
        path = executor.folder.artifact(trial.sha256)
        found.append(Contender(key=trial.key, path=path, latency_ms=latency.value if latency else None))
    return found


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
        record = audit_file(path, trial.sites, executor.inputs(), executor.options_here, evidence)
        if record is not None:
            found[trial.key] = record
    return found
