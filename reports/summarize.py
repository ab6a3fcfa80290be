"""From the records of a run to the one value that reports are made of. All numbers are decided here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import exp, log, sqrt
from statistics import median
from typing import Literal

from modeltailor.compress.vocabulary import recipe_from_plain
from modeltailor.reports.importance import option_importance
from modeltailor.reports.naming import audit_sentence, axis_of, recipe_name, recipe_text
from modeltailor.reports.summary import (
    Accuracies,
    Comparison,
    Failure,
    Judged,
    LimitCheck,
    MetricFacts,
    ModelSummary,
    Noise,
    Ratio,
    RecipeSummary,
    RunSummary,
    SearchSummary,
    TrialPoint,
)
from modeltailor.reports.verdict import verdict_of
from modeltailor.search.front import Figures, Limit, Objective, figures_of, margins, nearest, pareto_front, recommend
from modeltailor.search.records import FinalRecord, RunHistory, RunRecord, TrialRecord
from modeltailor.targets import Budget

__all__ = ["budget_of", "choosable", "figures_of_model", "limit_checks", "pick", "summarize"]

_LONGEST_ERROR = 600


def budget_of(record: RunRecord) -> Budget:
    """The budget that a run was started with."""
    size, memory = record.budget.get("size_bytes"), record.budget.get("memory_bytes")
    return Budget(
        latency_ms=record.budget.get("latency_ms"),
        size_bytes=None if size is None else int(size),
        memory_bytes=None if memory is None else int(memory),
        min_accuracy=record.budget.get("min_accuracy"),
        max_drop=record.budget.get("max_drop"),
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

    Where a run has finalists, only they and the original are picked: other figures come from screening.

    Returns:
        the model, or ``None`` if no model keeps every limit.
    """
    models = {m.key: m for m in choosable(summary.models)}
    found = recommend((figures_of_model(m) for m in models.values()), budget, minimize=summary.metric.minimize)
    return models[found.key] if found else None


def choosable(models: Sequence[ModelSummary]) -> list[ModelSummary]:
    """What may be picked: finalists and the original; everything while there are no finalists yet."""
    any_final = any(m.finalist for m in models)
    return [m for m in models if m.finalist or m.role == "fp32" or not any_final]


def _judged(f: Figures, minimize: bool) -> Judged:
    sign = 1.0 if minimize else -1.0
    drop = 100.0 * sign * (f.accuracy.difference_high if minimize else f.accuracy.difference_low)
    if f.test is not None:
        drop = max(drop, 100.0 * sign * f.test.difference)
    return Judged(
        latency_ms=f.latency_ms.high,
        size_bytes=f.size_bytes,
        memory_bytes=f.memory_bytes,
        drop_points=drop,
        accuracy=f.accuracy.high if minimize else f.accuracy.low,
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


def _quotient(a: Figures, b: Figures) -> Ratio:
    """How much faster a is than b: both were measured against the original, intervals joined on the log scale."""
    value = a.speedup.value / b.speedup.value
    half = sqrt(sum((0.5 * log(max(f.speedup.high, 1e-12) / max(f.speedup.low, 1e-12))) ** 2 for f in (a, b)))
    return Ratio(value=value, low=value * exp(-half), high=value * exp(half))


def _compare(a: Figures, b: Figures, name: str, minimize: bool) -> Comparison:
    sign = -1.0 if minimize else 1.0
    on_test = a.test is not None and b.test is not None
    gain = a.test.value - b.test.value if a.test and b.test else a.accuracy.value - b.accuracy.value
    return Comparison(
        key=b.key,
        name=name,
        speedup=_quotient(a, b),
        size_ratio=a.size_bytes / b.size_bytes,
        accuracy_points=100.0 * sign * gain,
        split="test" if on_test else "search",
    )


def _overlap(a_low: float, a_high: float, b_low: float, b_high: float) -> bool:
    return a_low <= b_high and b_low <= a_high


def _tied(a: Figures, b: Figures) -> bool:
    return _overlap(a.speedup.low, a.speedup.high, b.speedup.low, b.speedup.high) and _overlap(
        a.accuracy.difference_low, a.accuracy.difference_high, b.accuracy.difference_low, b.accuracy.difference_high
    )


class _Run:
    """The records of a run, looked up by key, and what was decided on the way."""

    def __init__(self, history: RunHistory, files: Mapping[str, str]) -> None:
        self.history = history
        self.files = files
        self.budget = budget_of(history.run)
        self.minimize = bool(history.run.metric.get("minimize", False))
        self.trials: dict[str, TrialRecord] = {}
        for trial in history.trials:
            if trial.is_measured:
                self.trials.setdefault(trial.key, trial)
        self.finals: dict[str, FinalRecord] = {f.key: f for f in history.finals}
        found = ((k, figures_of(t, self.finals.get(k))) for k, t in self.trials.items())
        self.figures: dict[str, Figures] = {k: f for k, f in found if f is not None}
        self.recipes = {k: recipe_from_plain(t.recipe) for k, t in self.trials.items()}
        self.baseline = history.baseline.key if history.baseline else ""
        self.uniforms = tuple(k for k, t in self.trials.items() if t.role == "baseline" and k in self.figures)
        self.front = self._front()
        self.best_uniform = self._best(self.uniforms)

    def _front(self) -> tuple[str, ...]:
        pool = [f for k, f in self.figures.items() if not self.finals or k in self.finals or k == self.baseline]
        with_memory = self.budget.memory_bytes is not None and all(f.memory_bytes is not None for f in pool)
        objectives: tuple[Objective, ...] = ("accuracy", "latency", "size")
        if with_memory:
            objectives = (*objectives, "memory")
        return tuple(f.key for f in pareto_front(pool, minimize=self.minimize, objectives=objectives))

    def _best(self, keys: Sequence[str]) -> str:
        models = [self.figures[k] for k in keys]
        found = recommend(models, self.budget, minimize=self.minimize)
        found = found or nearest(models, self.budget, minimize=self.minimize)
        return found.key if found else ""

    def name(self, key: str) -> str:
        trial = self.trials[key]
        return trial.label or recipe_name(self.recipes[key], trial.sites)

    def model(self, key: str) -> ModelSummary:
        trial, figures, final = self.trials[key], self.figures[key], self.finals.get(key)
        recipe = self.recipes[key]
        checks = limit_checks(figures, self.budget, self.minimize)
        uniform = self.figures.get(self.best_uniform)
        base = self.figures[self.baseline].size_bytes if self.baseline else figures.size_bytes
        return ModelSummary(
            key=key,
            name=self.name(key),
            trial=trial.number,
            role=trial.role,
            axis=axis_of(recipe),
            on_front=key in self.front,
            finalist=final is not None,
            verdict=final.verdict if final else "",
            file=self.files.get(key, f"artifacts/{trial.sha256[:16]}.onnx" if trial.sha256 else ""),
            sha256=trial.sha256,
            size_bytes=figures.size_bytes,
            size_ratio=figures.size_bytes / base,
            latency_ms=figures.latency_ms,
            speedup=figures.speedup,
            accuracy=Accuracies(search=figures.accuracy, test=figures.test),
            peak_memory_bytes=figures.memory_bytes,
            load_ms=final.load_ms if final and final.load_ms is not None else trial.load_ms,
            judged=_judged(figures, self.minimize),
            meets_budget=all(c.met for c in checks),
            limits=checks,
            over_uniform=_compare(figures, uniform, self.name(uniform.key), self.minimize) if uniform else None,
            ties=tuple(k for k in self.front if k != key and _tied(figures, self.figures[k])),
            audit=audit_sentence(trial.sites),
            recipe=RecipeSummary(
                text=recipe_text(recipe, trial.sites),
                structure=dict(recipe.to_plain()["structure"]),  # type: ignore[call-overload]
                settings=dict(recipe.to_plain()["settings"]),  # type: ignore[call-overload]
                formats={site: fmt.name for site, fmt in recipe.formats},
                sites=trial.sites,
            ),
        )

    def point(self, trial: TrialRecord) -> TrialPoint:
        figures = figures_of(trial, self.finals.get(trial.key))
        recipe = self.recipes.get(trial.key) or recipe_from_plain(trial.recipe)
        return TrialPoint(
            number=trial.number,
            key=trial.key,
            name=trial.label or recipe_name(recipe, trial.sites),
            role=trial.role,
            axis=axis_of(recipe),
            outcome=trial.outcome,
            stage=trial.stage,
            error=trial.error[:_LONGEST_ERROR],
            on_front=trial.key in self.front,
            size_bytes=figures.size_bytes if figures else (trial.size_bytes or None),
            latency_ms=figures.latency_ms if figures else trial.latency_ms,
            speedup=figures.speedup if figures else trial.speedup,
            accuracy=figures.accuracy if figures else trial.accuracy,
            peak_memory_bytes=figures.memory_bytes if figures else trial.peak_memory_bytes,
            finished_at_s=trial.finished_at_s,
        )


def summarize(history: RunHistory, budget: Budget | None = None, files: Mapping[str, str] | None = None) -> RunSummary:
    """Decide every number of a report.

    Args:
        history: the records of a run, finished or not.
        budget: limits to judge by; those of the run by default.
        files: where each model's file lies, relative to the run folder, by key; by default among ``artifacts/``.
    """
    if budget is not None:
        limits: dict[str, float | int | None] = {n: getattr(budget, n) for n in Budget.__dataclass_fields__}
        history = _with_budget(history, limits)
    run = _Run(history, files or {})
    record = history.run
    keys = dict.fromkeys([*([run.baseline] if run.baseline else []), *run.uniforms, *run.front])
    models = tuple(run.model(k) for k in keys)
    pool = [run.figures[m.key] for m in choosable(models)]
    best = recommend(pool, run.budget, minimize=run.minimize)
    close = nearest(pool, run.budget, minimize=run.minimize)
    chosen = best or close
    file = "best.onnx" if budget is None else next((m.file for m in models if chosen and m.key == chosen.key), "")
    metric = MetricFacts(
        name=str(record.metric.get("name", "accuracy")),
        minimize=run.minimize,
        unit=str(record.metric.get("unit", "") or ""),
    )
    return RunSummary(
        title=str(record.model.get("name") or record.model.get("source") or "model"),
        started_at=record.started_at,
        seed=record.seed,
        axes=record.axes,
        budget={n: getattr(run.budget, n) for n in Budget.__dataclass_fields__},
        metric=metric,
        target=str(record.profile.get("name") or record.device.get("name") or ""),
        evidence=next((f.latency_ms.evidence for f in run.figures.values()), ""),
        verdict=verdict_of(
            next((m for m in models if chosen and m.key == chosen.key), None),
            met=best is not None,
            metric=metric,
            finished=bool(history.finals),
            file=file,
        ),
        file=file,
        baseline=run.baseline,
        best=best.key if best else "",
        best_uniform=run.best_uniform,
        front=run.front,
        uniform_baselines=run.uniforms,
        models=models,
        trials=tuple(run.point(t) for t in history.trials),
        search=_search(history, run),
        noise=_noise(history),
        device=record.device,
        profile=record.profile,
        model=record.model,
        splits=record.splits,
        environment=record.environment,
        job=record.job,
        notes=record.notes,
    )


def _with_budget(history: RunHistory, limits: dict[str, float | int | None]) -> RunHistory:
    return RunHistory(
        run=history.run.model_copy(update={"budget": limits}),
        trials=history.trials,
        finals=history.finals,
        stopped=history.stopped,
        hypervolume=history.hypervolume,
        seconds=history.seconds,
    )


def _noise(history: RunHistory) -> Noise:
    def half_width(records: Sequence[TrialRecord | FinalRecord]) -> float | None:
        found = [
            (r.speedup.high - r.speedup.low) / (2 * r.speedup.value)
            for r in records
            if r.speedup is not None and r.speedup.high > r.speedup.low
        ]
        return median(found) if found else None

    return Noise(
        screening=half_width([t for t in history.trials if t.is_measured]),
        final=half_width(history.finals),
        n_undecided=sum(1 for f in history.finals if f.verdict in ("NOISY", "UNDECIDED")),
    )


def _search(history: RunHistory, run: _Run) -> SearchSummary:
    outcomes: dict[str, int] = defaultdict(int)
    kinds: dict[tuple[str, str], list[TrialRecord]] = defaultdict(list)
    spent: dict[str, float] = defaultdict(float)
    for trial in history.trials:
        outcomes[trial.outcome] += 1
        if not trial.is_measured:
            kinds[trial.outcome, trial.stage].append(trial)
        for stage, seconds in trial.seconds.items():
            spent[stage] += seconds
    split = history.seconds or tuple(spent.items())
    last = max((t.finished_at_s for t in history.trials), default=0.0)
    return SearchSummary(
        n_trials=len(history.trials),
        n_measured=outcomes.get("MEASURED", 0),
        n_failed=len(history.trials) - outcomes.get("MEASURED", 0),
        outcomes=dict(sorted(outcomes.items())),
        failures=tuple(
            Failure(
                outcome=outcome,
                stage=stage,
                count=len(trials),
                example=trials[0].error[:_LONGEST_ERROR],
                trials=tuple(t.number for t in trials),
            )
            for (outcome, stage), trials in sorted(kinds.items(), key=lambda kv: (-len(kv[1]), kv[0]))
        ),
        stopped=history.stopped,
        seconds=max(last, sum(s for _, s in history.seconds)),
        hypervolume=history.hypervolume,
        time_split=tuple(sorted(split, key=lambda p: -p[1])),
        importance=option_importance(
            [(run.recipes[k], f) for k, f in run.figures.items() if run.trials[k].role in ("search", "seed")]
        ),
    )
