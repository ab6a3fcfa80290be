"""Which models may be picked, and how each is judged against the limits of a budget; the rule itself is ``search/front.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from modeltailor.reports.summary import Judged, LimitCheck, ModelSummary, RunSummary
from modeltailor.search.front import Figures, Limit, least_accuracy, margins, recommend
from modeltailor.search.records import RunRecord
from modeltailor.targets import Budget

__all__ = ["budget_of", "choosable", "figures_of_model", "judged", "limit_checks", "pick"]


def budget_of(record: RunRecord) -> Budget:
    """The budget that a run was started with."""
    size, memory = record.budget.get("size_bytes"), record.budget.get("memory_bytes")
    return Budget(
        latency_ms=record.budget.get("latency_ms"),
        size_bytes=None if size is None else int(size),
        memory_bytes=None if memory is None else int(memory),
        min_accuracy=record.budget.get("min_accuracy"),
        max_drop=record.budget.get("max_drop"),
        max_drop_share=record.budget.get("max_drop_share"),
    )


def figures_of_model(model: ModelSummary) -> Figures:
    """The figures of a model in a summary, as the rule of recommendation reads them."""
    return Figures(
        key=model.key,
        accuracy=model.accuracy.search,
        latency_ms=model.latency_ms,
        speedup=model.speedup,
        size_bytes=model.size_bytes,
        memory_bytes=model.peak_memory_bytes,
        test=model.accuracy.test,
    )


def pick(summary: RunSummary, budget: Budget) -> ModelSummary | None:
    """The best model of a finished run under another budget; the rule of the report's sliders.

    Where a run has finalists, only they, the original and what was found since are picked: other figures come from
    screening.

    Returns:
        the model, or ``None`` if no model keeps every limit.
    """
    models = {m.key: m for m in choosable(summary.models)}
    found = recommend((figures_of_model(m) for m in models.values()), budget, minimize=summary.metric.minimize)
    return models[found.key] if found else None


def choosable(models: Sequence[ModelSummary]) -> list[ModelSummary]:
    """What may be picked: finalists, the original, what was found since; everything while there are no finalists yet."""
    any_final = any(m.finalist for m in models)
    return [m for m in models if m.finalist or m.found_since or m.role == "fp32" or not any_final]


def judged(f: Figures, minimize: bool) -> Judged:
    """The figures of a model that limits are held against: the unfavourable end of each interval."""
    sign = 1.0 if minimize else -1.0
    drop = 100.0 * sign * (f.accuracy.difference_high if minimize else f.accuracy.difference_low)
    if f.test is not None:
        drop = max(drop, 100.0 * sign * f.test.difference)
    return Judged(
        latency_ms=f.latency_ms.high,
        size_bytes=f.size_bytes,
        memory_bytes=f.memory_bytes,
        drop_points=drop,
        accuracy=least_accuracy(f, minimize=minimize),
    )


_UNITS: dict[Limit, Literal["ms", "bytes", "points", "metric"]] = {
    "latency": "ms", "size": "bytes", "memory": "bytes", "drop": "points", "accuracy": "metric",
}  # fmt: skip


def limit_checks(figures: Figures, budget: Budget, minimize: bool) -> tuple[LimitCheck, ...]:
    """Each limit of a budget held against one model, as :func:`modeltailor.search.front.margins` judges it."""
    return tuple(
        LimitCheck(
            limit=m.limit,
            allowed=m.allowed,
            value=m.value,
            met=m.kept,
            margin=None if m.value is None else -m.excess,
            unit=_UNITS[m.limit],
        )
        for m in margins(figures, budget, minimize=minimize)
    )
