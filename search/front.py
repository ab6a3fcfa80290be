"""Which models are worth showing, which keep the budget, and which one is recommended. One rule, used everywhere.

The rule of recommendation, in words: of the models that keep every limit, the fastest; of those that cannot be told
apart from it in speed (the interval of the ratio holds 1, or it is within :data:`TIE`), the smallest file; of files within
:data:`TIE` of that, the most accurate model. Without a limit on accuracy it is the most accurate one instead, ties going to
the fastest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, hypot, inf, log
from typing import Literal

from modeltailor.search.records import AccuracyRecord, FinalRecord, IntervalRecord, RunHistory, TrialRecord
from modeltailor.search.scale import drop_points, usual_worthless_loss
from modeltailor.targets import Budget

__all__ = [
    "TIE",
    "Figures",
    "Limit",
    "Margin",
    "Objective",
    "as_fast",
    "figures_of",
    "front_under",
    "history_figures",
    "least_accuracy",
    "margins",
    "nearest",
    "pareto_front",
    "recommend",
    "same_speed",
    "speed_ratio",
    "violations",
    "weighed_excess",
]

Objective = Literal["accuracy", "latency", "size", "memory", "elsewhere"]
"""What a study minimises; ``elsewhere`` is the time on its further devices and no objective of any one front."""

Limit = Literal["latency", "size", "memory", "accuracy", "drop"]

TIE = 0.02
"""Speeds, and sizes, closer than this share are the same for a decision: nobody would notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of one model that decisions rest on: the final ones where there are, else those of its trial.

    Attributes:
        key: the recipe's key.
        accuracy: on the ``search`` split.
        test: on the ``test`` split, for finalists.
        latency_ms: milliseconds of one inference.
        speedup: over the fp32 original, from interleaved measurement.
        size_bytes: bytes of the file.
        memory_bytes: peak resident memory, if it was asked for.
    """

    key: str
    accuracy: AccuracyRecord
    latency_ms: IntervalRecord
    speedup: IntervalRecord
    size_bytes: int
    memory_bytes: int | None = None
    test: AccuracyRecord | None = None

    @property
    def original(self) -> float:
        """The original's value of the metric on the ``search`` split."""
        return self.accuracy.value - self.accuracy.difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """How a model stands to one limit of the budget.

    Attributes:
        limit: which one.
        allowed: the limit in its own unit (ms, bytes, accuracy, points).
        value: the end of the interval that was judged, in the same unit; ``None`` if it was not measured.
        excess: how far over, negative if under, as a share of the limit; for the metric in points: hundredths of its unit.
    """

    limit: Limit
    allowed: float
    value: float | None
    excess: float

    @property
    def kept(self) -> bool:
        """Whether the limit is kept."""
        return self.value is not None and self.excess <= 1e-9


def figures_of(trial: TrialRecord, final: FinalRecord | None = None) -> Figures | None:
    """Return the figures of a measured trial, or ``None`` if it failed."""
    if not trial.is_measured or trial.accuracy is None or trial.latency_ms is None or trial.speedup is None:
        return None
    return Figures(
        key=trial.key,
        accuracy=trial.accuracy,
        latency_ms=final.latency_ms if final else trial.latency_ms,
        speedup=final.speedup if final else trial.speedup,
        size_bytes=trial.size_bytes,
        memory_bytes=final.peak_memory_bytes if final and final.peak_memory_bytes else trial.peak_memory_bytes,
        test=final.test_accuracy if final else None,
    )


def history_figures(history: RunHistory) -> dict[str, Figures]:
    """Figures by key of the models that decisions may fall on; finals override.

    A model whose scoring was given up is left out: it was given up because it cannot matter, and its score, over other
    samples than those of the others, is not comparable with theirs.
    """
    finals = {f.key: f for f in history.finals}
    found = ((t.key, figures_of(t, finals.get(t.key))) for t in history.trials if t.scored_fully)
    return {key: f for key, f in found if f is not None}


def _cost(figures: Figures, objective: Objective, minimize: bool) -> float:
    match objective:
        case "accuracy":
            return figures.accuracy.value if minimize else -figures.accuracy.value
        case "latency":  # the ratio is the stable figure; absolute times drift between measurements
            return 1.0 / figures.speedup.value
        case "size":
            return float(figures.size_bytes)
        case "memory":
            return float(figures.memory_bytes or 0)
        case "elsewhere":
            raise ValueError("the front of one device knows no other one")


def pareto_front(
    models: Iterable[Figures],
    *,
    minimize: bool = False,
    objectives: Sequence[Objective] = ("accuracy", "latency", "size"),
) -> tuple[Figures, ...]:
    """Return the models that no other model beats or equals in every objective, fastest first.

    Args:
        models: candidates.
        minimize: whether a smaller metric is better.
        objectives: what counts.
    """
    rows = sorted({m.key: m for m in models}.values(), key=lambda m: m.key)
    costs = [tuple(_cost(m, o, minimize) for o in objectives) for m in rows]
    kept = []
    for i, mine in enumerate(costs):
        beaten = any(
            all(a <= b for a, b in zip(other, mine, strict=True)) and (other != mine or j < i)
            for j, other in enumerate(costs)
            if j != i
        )
        if not beaten:
            kept.append(rows[i])
    return tuple(sorted(kept, key=lambda m: (-m.speedup.value, m.key)))


def front_under(models: Iterable[Figures], budget: Budget, *, minimize: bool = False) -> tuple[Figures, ...]:
    """Return the front as a budget asks for it: memory counts if it has a limit, and was measured of every model."""
    pool = list(models)
    with_memory = budget.memory_bytes is not None and all(m.memory_bytes is not None for m in pool)
    objectives: tuple[Objective, ...] = ("accuracy", "latency", "size")
    return pareto_front(pool, minimize=minimize, objectives=(*objectives, "memory") if with_memory else objectives)


def margins(figures: Figures, budget: Budget, *, minimize: bool = False) -> tuple[Margin, ...]:
    """Return how a model stands to each limit, judged on the unfavourable end of each interval.

    The drop is judged on the paired interval of ``search``; for finalists the drop seen on ``test`` must keep it too. The
    same goes for the accuracy itself.
    """
    found: list[Margin] = []

    def judge(limit: Limit, allowed: float | None, value: float | None) -> None:
        if allowed is not None:
            excess = 1.0 if value is None else (value - allowed) / allowed
            found.append(Margin(limit=limit, allowed=allowed, value=value, excess=excess))

    judge("latency", budget.latency_ms, figures.latency_ms.high)
    judge("size", budget.size_bytes, float(figures.size_bytes))
    judge("memory", budget.memory_bytes, figures.memory_bytes)
    sign = 1.0 if minimize else -1.0
    allowed_points = drop_points(budget, figures.original, minimize=minimize)
    if allowed_points is not None:
        loss = sign * (figures.accuracy.difference_high if minimize else figures.accuracy.difference_low)
        if figures.test is not None:
            loss = max(loss, sign * figures.test.difference)
        points = 100.0 * loss
        found.append(Margin(limit="drop", allowed=allowed_points, value=points, excess=points - allowed_points))
    if budget.min_accuracy is not None:
        worst = least_accuracy(figures, minimize=minimize)
        short = 100.0 * sign * (worst - budget.min_accuracy)
        found.append(Margin(limit="accuracy", allowed=budget.min_accuracy, value=worst, excess=short))
    return tuple(found)


def least_accuracy(figures: Figures, *, minimize: bool = False) -> float:
    """Return what a limit on accuracy is held against: the worse end on ``search``, or the value on ``test`` if that is worse."""
    if minimize:
        return max(figures.accuracy.high, figures.test.value if figures.test else -inf)
    return min(figures.accuracy.low, figures.test.value if figures.test else inf)


def violations(figures: Figures, budget: Budget, *, minimize: bool = False) -> tuple[Margin, ...]:
    """Return the limits that a model does not keep."""
    return tuple(m for m in margins(figures, budget, minimize=minimize) if not m.kept)


def recommend(models: Iterable[Figures], budget: Budget, *, minimize: bool = False) -> Figures | None:
    """Return the recommended model under ``budget``, or ``None`` if no model keeps every limit."""
    feasible = [m for m in models if not violations(m, budget, minimize=minimize)]
    if not feasible:
        return None
    sign = 1.0 if minimize else -1.0
    if not budget.limits_metric:
        return min(feasible, key=lambda m: (sign * m.accuracy.value, -m.speedup.value, m.size_bytes, m.key))
    fastest = max(feasible, key=lambda m: (m.speedup.value, m.key))
    tied = [m for m in feasible if as_fast(m, fastest)]
    smallest = min(m.size_bytes for m in tied)
    small = [m for m in tied if m.size_bytes <= smallest * (1.0 + TIE)]
    return min(small, key=lambda m: (sign * m.accuracy.value, m.size_bytes, -m.speedup.value, m.key))


def speed_ratio(a: Figures, b: Figures) -> tuple[float, float, float]:
    """How much faster a is than b, with the interval's ends: both were measured against the original.

    The intervals are joined on the log scale as independent ones.
    """
    value, half = a.speedup.value / b.speedup.value, _joined_half(a, b)
    return value, value * exp(-half), value * exp(half)


def same_speed(a: Figures, b: Figures) -> bool:
    """Whether two models cannot be told apart in speed: the interval of the ratio holds 1."""
    return abs(log(a.speedup.value / b.speedup.value)) <= _joined_half(a, b)


def as_fast(a: Figures, b: Figures) -> bool:
    """Whether a decision need not mind which is faster: a is, or ties with b, within :data:`TIE` or in the interval."""
    return a.speedup.value >= b.speedup.value * (1.0 - TIE) or same_speed(a, b)


def _joined_half(a: Figures, b: Figures) -> float:
    return hypot(*(0.5 * log(max(f.speedup.high, 1e-12) / max(f.speedup.low, 1e-12)) for f in (a, b)))


def nearest(models: Iterable[Figures], budget: Budget, *, minimize: bool = False) -> Figures | None:
    """Return the model whose worst excess over the limits is smallest, by :func:`weighed_excess`; ``None`` without models."""

    def worst(m: Figures) -> tuple[float, str]:
        over = [
            weighed_excess(v.excess, m.original, minimize=minimize) if v.limit in ("drop", "accuracy") else v.excess
            for v in violations(m, budget, minimize=minimize)
        ]
        return (max(over, default=0.0), m.key)

    return min(models, key=worst, default=None)


def weighed_excess(points: float, original: float, *, minimize: bool = False) -> float:
    """Return what an excess of the metric weighs beside those of other limits, which are shares of the limit.

    What makes a model worthless weighs as much as twice a limit. One point of a score so weighs as much as 10 % of a
    limit: people forgive a file that is a little too large sooner.

    Args:
        points: of excess: hundredths of the metric's unit.
        original: the original's value of the metric.
        minimize: whether a smaller metric is better.
    """
    return points / (100.0 * usual_worthless_loss(original, minimize=minimize))
