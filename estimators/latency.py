"""What raw block times mean: ratios and absolute latencies with intervals, and three tiers of measuring.

A block's value is its median (the device gives it), a pair's value the trimmed mean of log ratios over its quads, the
estimate the trimmed mean over the pairs with a t interval over the **pairs**: two processes of one and the same model
differ by about a percent, so quads of one pair are no independent evidence. On shared hosts a pair in ten is off by ten
percent, hence the trimming; the pairs that are left out still widen the interval. And a neighbour on the same core may
slow integer kernels by half and float ones by a sixth for minutes, so that ratios themselves change: quads count only
while the baseline runs as fast as it does undisturbed. See ``docs/measuring.md``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from modeltailor.estimators.estimate import Estimate
from modeltailor.targets import Device, Evidence, Inputs, PairTimings, RunFacts, TimingPlan, Timings

__all__ = [
    "BudgetVerdict",
    "Measurement",
    "Verdict",
    "absolute",
    "budget_verdict",
    "certify",
    "compare",
    "compare_all",
    "merge",
    "ratio",
    "screen",
]

Verdict = Literal["certified", "NOISY", "UNDECIDED"]
BudgetVerdict = Literal["met", "missed", "undecided"]

_CONFIDENCE = 0.95
_TRIM = 0.2
_LEAST_TRIMMED = 4  # quads from which on a burst in one of them is left out of a pair's value
_LEAST_PAIRS_TRIMMED = 5  # pairs from which on the lowest and highest fifth are left out
_DISTURBED = 0.05  # rise of the log time of the baseline over its calm level
_CALM_QUANTILE = 0.05  # of the baseline's blocks, taken for that level
_LEAST_CALM_PAIRS = 4  # with fewer, all are taken, disturbed or not
_LEAST_CALM_QUADS = 3  # of each of one to three pairs
_PROCESS_EFFECT = 0.01  # relative sigma of what one process adds to another; unseen within a single pair
_FEW_PAIRS = 4  # fewer lean on the process effect that is known
_PRIOR_PAIRS = 5  # how many pairs that knowledge is worth
_LEAST_PAIRS = 8  # fewer, and stopping at a narrow interval loses its coverage
_LEAST_PAIRS_CERTIFY = 10
_QUADS_A_PAIR = 4
_QUADS_DISTURBED = 12  # where less is calm: they cost less than another pair of processes
_MOSTLY_CALM = 0.9  # share of quads


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was found out about one artifact.

    Attributes:
        path: its file.
        latency_ms: milliseconds of one inference, as of this session of the machine.
        speedup: how many times faster than the baseline of the same session; the stable figure.
        baseline_ms: milliseconds of the baseline in the same session.
        load_ms: opening the session.
        first_inference_ms: the first run after loading.
        peak_memory_bytes: rise of the peak resident memory over the bare runtime, of loading and running; ``None`` if
            it was not asked for.
        verdict: ``certified`` if the interval of ``speedup`` is as narrow as asked for on enough pairs, else ``NOISY``;
            ``UNDECIDED`` if it is, but the limit lies within the interval of ``latency_ms``.
        pairs: process pairs that it rests on: those with a quad that counts.
        steady: whether every warm-up settled.
        conditions: what the machine showed meanwhile; ``calm_share`` is the share of quads that count.
    """

    path: Path
    latency_ms: Estimate
    speedup: Estimate
    baseline_ms: Estimate
    load_ms: float
    first_inference_ms: float
    peak_memory_bytes: int | None = None
    verdict: Verdict = "certified"
    pairs: int = 1
    steady: bool = True
    conditions: tuple[tuple[str, float], ...] = ()


def _log_interval(pair_values: Sequence[NDArray[np.float64]], process_effects: float) -> tuple[float, float, bool]:
    """Return centre and half-width in logs, and whether they rest on too few pairs for a claim.

    Args:
        pair_values: by pair, one value a quad.
        process_effects: relative sigma between two runs of the same that one pair cannot show.
    """
    centres = np.array([_trimmed_mean(v) for v in pair_values])
    n = len(centres)
    if n >= _LEAST_PAIRS_TRIMMED:
        # With the usual degrees of freedom eight pairs hold the truth in 93 of 100 cases; with one fewer, in 95.
        return _trimmed_mean(centres), _trimmed_half_width(centres, spent=2), False
    if n == 1:
        return float(centres[0]), math.hypot(_trimmed_half_width(pair_values[0]), 1.96 * process_effects), True
    variance, freedom = float(centres.var(ddof=1)), n - 1
    if n < _FEW_PAIRS:  # two or three pairs hardly know their own spread: what is known of processes weighs in
        within = float(np.mean([(_trimmed_half_width(v) / 1.96) ** 2 for v in pair_values]))
        known = process_effects**2 + within
        variance = (_PRIOR_PAIRS * known + (n - 1) * variance) / (_PRIOR_PAIRS + n - 1)
        freedom = _PRIOR_PAIRS + n - 1
    quantile = float(stdtrit(freedom, 0.5 + _CONFIDENCE / 2))
    return float(centres.mean()), quantile * math.sqrt(variance / n), n < _FEW_PAIRS


def _trimmed_mean(values: NDArray[np.float64]) -> float:
    """Mean without the lowest and highest fifth; of four values without the lowest and the highest."""
    cut = max(int(_TRIM * len(values)), 1 if len(values) >= _LEAST_TRIMMED else 0)
    return float(np.sort(values)[cut : len(values) - cut].mean())


def _trimmed_half_width(values: NDArray[np.float64], *, spent: int = 1) -> float:
    """Half-width of the interval of a trimmed mean (Tukey and McLaughlin 1963: winsorized variance).

    Args:
        values: the sample.
        spent: degrees of freedom that the kept values do not have.
    """
    n, cut = len(values), int(_TRIM * len(values))  # two kept of four would know too little of their spread
    kept = n - 2 * cut
    if kept < 2:
        return 0.1  # a single quad says nothing of its own spread
    ordered = np.sort(values)
    winsorized = np.clip(ordered, ordered[cut], ordered[n - cut - 1])
    error = float(winsorized.std(ddof=1)) / ((kept / n) * math.sqrt(n))
    return float(stdtrit(kept - spent, 0.5 + _CONFIDENCE / 2)) * error


def _estimate(centre: float, half: float, evidence: Evidence, screening: bool) -> Estimate:
    return Estimate(
        value=math.exp(centre),
        low=math.exp(centre - half),
        high=math.exp(centre + half),
        evidence=evidence,
        screening=screening,
    )


def _calm(timings: Timings) -> list[list[NDArray[np.bool_]]]:
    """Return by pair and artifact which quads fell into a time in which nothing disturbed the baseline.

    The baseline's calm level is a low quantile of all its blocks. A quad is judged by the last block of the baseline
    before it and the first one after it. Its own blocks are not looked at: to choose quads in which they are low would
    make the baseline look faster than it is.
    """
    blocks = [
        np.log(np.array(p.baseline_blocks_ms[1:] or p.baseline_blocks_ms, dtype=np.float64)) for p in timings.pairs
    ]
    most = np.quantile(np.concatenate([b.ravel() for b in blocks]), _CALM_QUANTILE) + _DISTURBED
    found = []
    for pair, candidates in zip(timings.pairs, blocks, strict=True):
        n_candidates, n_quads, _ = candidates.shape
        in_time = candidates.transpose(1, 0, 2).reshape(-1, 2)  # the candidates take turns
        around = np.full((len(in_time), 2), -np.inf)
        around[1:, 0], around[:-1, 1] = in_time[:-1, 1], in_time[1:, 0]
        masks = list((around.max(axis=1) <= most).reshape(n_quads, n_candidates).T)
        found.append(masks if len(pair.blocks_ms) == 1 else [masks[0], *masks])
    return found


def _calm_share(timings: Timings) -> float:
    return float(np.mean([m.mean() for masks in _calm(timings) for m in masks]))


def _counted(timings: Timings, index: int) -> list[NDArray[np.bool_]]:
    """Return which quads of an artifact count, one mask a pair: those of calm times if they give the narrower interval.

    Where blocks scatter by themselves, fewer of them tell less, and all count.
    """
    calm = [masks[index] for masks in _calm(timings)]
    every = [np.ones_like(m) for m in calm]
    if len(calm) < _LEAST_CALM_PAIRS:
        enough = all(m.sum() >= _LEAST_CALM_QUADS for m in calm)
    else:
        enough = sum(bool(m.any()) for m in calm) >= _LEAST_CALM_PAIRS
    if not enough:
        return every
    values = [_log_ratios(p, index) if index else _log_times(p, index) for p in timings.pairs]
    return calm if _interval(values, calm)[1] < _interval(values, every)[1] else every


def _interval(
    values: Sequence[NDArray[np.float64]], masks: Sequence[NDArray[np.bool_]], process_effects: float = _PROCESS_EFFECT
) -> tuple[float, float, bool]:
    return _log_interval([v[m] for v, m in zip(values, masks, strict=True) if m.any()], process_effects)


def _log_ratios(pair: PairTimings, index: int) -> NDArray[np.float64]:
    enclosing = np.log(np.array(pair.baseline_blocks_ms[index], dtype=np.float64)).mean(axis=1)
    difference: NDArray[np.float64] = enclosing - _log_times(pair, index)
    return difference


def _log_times(pair: PairTimings, index: int) -> NDArray[np.float64]:
    times: NDArray[np.float64] = np.log(np.array(pair.blocks_ms[index], dtype=np.float64)).mean(axis=1)
    return times


def ratio(timings: Timings, index: int, *, evidence: Evidence = "measured-here") -> Estimate:
    """Return how many times faster artifact ``index`` is than the baseline (above 1 is faster).

    Args:
        timings: raw times of one or several pairs; quads in which the baseline is disturbed are left out.
        index: of the artifact; 0, the baseline, gives exactly 1.
        evidence: label of the device.

    Returns:
        a 95 % interval over the pairs. With one pair it comes from its quads, widened by what two processes of the same
        model differ; with two or three it leans on the same knowledge; both are marked as screening.
    """
    if index == 0:
        return Estimate(value=1.0, low=1.0, high=1.0, evidence=evidence, screening=len(timings.pairs) == 1)
    values = [_log_ratios(p, index) for p in timings.pairs]
    centre, half, screening = _interval(values, _counted(timings, index), math.sqrt(2.0) * _PROCESS_EFFECT)
    return _estimate(centre, half, evidence, screening)


def absolute(timings: Timings, index: int, *, evidence: Evidence = "measured-here") -> Estimate:
    """Return the milliseconds of one inference of artifact ``index``, with an interval as in :func:`ratio`."""
    values = [_log_times(p, index) for p in timings.pairs]
    centre, half, screening = _interval(values, _counted(timings, index))
    return _estimate(centre, half, evidence, screening)


def budget_verdict(estimate: Estimate, limit: float) -> BudgetVerdict:
    """Judge an estimate against a limit: met only if all of the interval is under it, missed only if all is over it."""
    if estimate.high <= limit:
        return "met"
    return "missed" if estimate.low > limit else "undecided"


def merge(first: Timings, *others: Timings) -> Timings:
    """Join timings of the same artifacts: all pairs; median facts, largest memory, mean conditions."""
    every = (first, *others)
    facts = []
    for several in zip(*(t.facts for t in every), strict=True):
        facts.append(
            RunFacts(
                load_ms=median(f.load_ms for f in several),
                first_inference_ms=median(f.first_inference_ms for f in several),
                peak_load_bytes=_largest(f.peak_load_bytes for f in several),
                peak_run_bytes=_largest(f.peak_run_bytes for f in several),
            )
        )
    return Timings(
        pairs=tuple(p for t in every for p in t.pairs), facts=tuple(facts), conditions=_mean_conditions(every)
    )


def _mean_conditions(every: Sequence[Timings]) -> tuple[tuple[str, float], ...]:
    sums: dict[str, tuple[float, int]] = {}
    for timings in every:
        for name, value in timings.conditions:
            total, n = sums.get(name, (0.0, 0))
            sums[name] = total + value * len(timings.pairs), n + len(timings.pairs)
    return tuple((name, total / max(1, n)) for name, (total, n) in sums.items())


def _largest(values: Iterable[int | None]) -> int | None:
    present = [v for v in values if v is not None]
    return max(present) if present else None


def _measurements(
    timings: Timings,
    artifacts: Sequence[Path],
    evidence: Evidence,
    half_width: float | None = None,
    limit_ms: float | None = None,
    min_pairs: int = 1,
) -> tuple[Measurement, ...]:
    made = []
    baseline_ms = absolute(timings, 0, evidence=evidence)
    for i, (path, facts) in enumerate(zip(artifacts, timings.facts, strict=True)):
        speedup, latency = ratio(timings, i, evidence=evidence), absolute(timings, i, evidence=evidence)
        counted = _counted(timings, i)
        n_pairs = sum(bool(m.any()) for m in counted)
        verdict: Verdict = "certified"
        if half_width is not None and (speedup.half_width > half_width or n_pairs < min_pairs):
            verdict = "NOISY"
        elif limit_ms is not None and budget_verdict(latency, limit_ms) == "undecided":
            verdict = "UNDECIDED"
        made.append(
            Measurement(
                path=path,
                latency_ms=latency,
                speedup=speedup,
                baseline_ms=baseline_ms,
                load_ms=facts.load_ms,
                first_inference_ms=facts.first_inference_ms,
                peak_memory_bytes=_largest((facts.peak_load_bytes, facts.peak_run_bytes)),
                verdict=verdict,
                pairs=n_pairs,
                steady=all(p.steady[0] and p.steady[i] for p in timings.pairs),
                conditions=(*timings.conditions, ("calm_share", float(np.concatenate(counted).mean()))),
            )
        )
    return tuple(made)


def screen(
    device: Device,
    artifacts: tuple[Path, Path],
    inputs: Inputs,
    *,
    memory: bool = False,
    plan: TimingPlan | None = None,
) -> Measurement:
    """Measure a candidate beside the baseline in one process pair: good for steering a search, no claim is made.

    Args:
        device: where to measure.
        artifacts: baseline and candidate.
        inputs: arrays by input name.
        memory: also measure the peak memory.
        plan: how much to measure; one pair of eight quads if ``None``.

    Raises:
        CandidateError: the candidate crashed, hung or ran out of memory.
        DeviceError: the device failed.
    """
    chosen = replace(plan or TimingPlan(), pairs=1, memory=memory)
    timings = device.time(artifacts, inputs, chosen)
    return _measurements(timings, artifacts, device.describe().evidence)[-1]


def compare(
    device: Device,
    artifacts: Sequence[Path],
    inputs: Inputs,
    *,
    half_width: float = 0.02,
    min_pairs: int = _LEAST_PAIRS,
    max_pairs: int = 24,
    limit_ms: float | None = None,
    memory: bool = False,
    seconds: float = math.inf,
    least_pair_s: float = 0.0,
    plan: TimingPlan | None = None,
) -> tuple[Measurement, ...]:
    """Measure artifacts in fresh process pairs until every ratio's interval is narrow enough.

    Stopping when the interval is narrow keeps its coverage; stopping when a difference is significant would not.

    Args:
        device: where to measure.
        artifacts: the baseline first.
        inputs: arrays by input name.
        half_width: half of the interval of each ratio, as a share, that is asked for.
        min_pairs: least pairs of a ``certified`` verdict.
        max_pairs: pairs after which it stops in any case.
        limit_ms: a latency budget; as long as an interval holds it, pairs are added.
        memory: also measure the peak memory.
        seconds: wall clock that is left; no pairs are started that would overrun it (two are always measured).
        least_pair_s: seconds that a pair of these artifacts may take before it counts as hanging, if that is more than
            the plan's limit: many slow models take long.
        plan: blocks and quads of a pair; if ``None`` four quads, and twelve while a neighbour disturbs the baseline.

    Returns:
        one measurement a candidate, in order.

    Raises:
        CandidateError: an artifact crashed, hung or ran out of memory; ``where`` names its file.
        DeviceError: the device failed.
    """
    return compare_all(
        device,
        artifacts,
        inputs,
        half_width=half_width,
        min_pairs=min_pairs,
        max_pairs=max_pairs,
        limit_ms=limit_ms,
        memory=memory,
        seconds=seconds,
        least_pair_s=least_pair_s,
        plan=plan,
    )[1:]


def compare_all(
    device: Device,
    artifacts: Sequence[Path],
    inputs: Inputs,
    *,
    half_width: float = 0.02,
    min_pairs: int = _LEAST_PAIRS,
    max_pairs: int = 24,
    limit_ms: float | None = None,
    memory: bool = False,
    seconds: float = math.inf,
    least_pair_s: float = 0.0,
    plan: TimingPlan | None = None,
) -> tuple[Measurement, ...]:
    """Do what :func:`compare` does, and return the baseline's own measurement too, first."""
    if len(artifacts) < 2:
        raise ValueError("a baseline and at least one candidate are needed")
    started = time.monotonic()
    base = plan or TimingPlan(quads=_QUADS_A_PAIR)
    evidence = device.describe().evidence
    timings: Timings | None = None
    while True:
        done = 0 if timings is None else len(timings.pairs)
        step_started = time.monotonic()
        step = min(2, max_pairs - done)
        limit = max(base.timeout_s, least_pair_s) * step
        whole = replace(base, pairs=step, memory=memory and done == 0, timeout_s=limit)
        more = device.time(artifacts, inputs, whole)
        timings = more if timings is None else merge(timings, more)
        measured = _measurements(timings, artifacts, evidence, half_width, limit_ms, min_pairs)
        n_pairs, now = len(timings.pairs), time.monotonic()
        settled = n_pairs >= min_pairs and all(m.verdict == "certified" for m in measured[1:])
        if settled or n_pairs >= max_pairs or now - started + (now - step_started) >= seconds:
            return measured
        if plan is None:
            wanted = _QUADS_A_PAIR if _calm_share(timings) >= _MOSTLY_CALM else _QUADS_DISTURBED
            if now - started + (now - step_started) * wanted / base.quads < seconds:
                base = replace(base, quads=wanted)


def certify(
    device: Device,
    artifacts: Sequence[Path],
    inputs: Inputs,
    *,
    half_width: float = 0.01,
    min_pairs: int = _LEAST_PAIRS_CERTIFY,
    max_pairs: int = 30,
    limit_ms: float | None = None,
    memory: bool = True,
    seconds: float = math.inf,
    least_pair_s: float = 0.0,
    plan: TimingPlan | None = None,
) -> tuple[Measurement, ...]:
    """Measure finalists: as :func:`compare`, with more pairs and half the width."""
    return compare(
        device,
        artifacts,
        inputs,
        half_width=half_width,
        min_pairs=min_pairs,
        max_pairs=max_pairs,
        limit_ms=limit_ms,
        memory=memory,
        seconds=seconds,
        least_pair_s=least_pair_s,
        plan=plan,
    )
