"""From the records of a run to the one value that reports are made of. All numbers are decided here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, sqrt
from statistics import median

from modeltailor.compress.vocabulary import recipe_from_plain
from modeltailor.reports.absent import summarize_absent
from modeltailor.reports.choice import budget_of, judged, limit_checks
from modeltailor.reports.devices import summarize_devices
from modeltailor.reports.importance import option_importance
from modeltailor.reports.layers import Profile, missing_layers, site_summaries
from modeltailor.reports.naming import audit_sentence, axis_of, loading_sentence, recipe_name, recipe_text
from modeltailor.reports.summary import (
    Accuracies,
    Comparison,
    Failure,
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
from modeltailor.reports.wording import counted_in
from modeltailor.search.devices import found_since, pool_of
from modeltailor.search.front import (
    Figures,
    figures_of,
    front_under,
    nearest,
    recommend,
    same_speed,
    speed_ratio,
)
from modeltailor.search.records import AccuracyRecord, FinalRecord, RunHistory, TrialRecord
from modeltailor.search.scale import settled
from modeltailor.targets import Budget

__all__ = ["summarize"]

_LONGEST_ERROR = 600


def _compare(a: Figures, b: Figures, name: str, minimize: bool) -> Comparison:
    sign = -1.0 if minimize else 1.0
    mine, other = _accuracies(a, b)
    value, low, high = speed_ratio(a, b)
    return Comparison(
        key=b.key,
        name=name,
        speedup=Ratio(value=value, low=low, high=high),
        size_ratio=a.size_bytes / b.size_bytes,
        accuracy_points=100.0 * sign * (mine.value - other.value),
        split="test" if mine is a.test else "search",
        speed_differs=not same_speed(a, b),
        accuracy_differs=not _same_accuracy(mine, other),
    )


def _accuracies(a: Figures, b: Figures) -> tuple[AccuracyRecord, AccuracyRecord]:
    """What two models are compared by: the test split if both were scored there."""
    return (a.test, b.test) if a.test and b.test else (a.accuracy, b.accuracy)


def _same_accuracy(a: AccuracyRecord, b: AccuracyRecord) -> bool:
    """Both changes are paired with the original's samples; joined as if they were independent, which is careful."""
    halves = ((x.difference_high - x.difference_low) / 2 for x in (a, b))
    return abs(a.difference - b.difference) <= sqrt(sum(h**2 for h in halves)) + 1e-12


def _tied(a: Figures, b: Figures) -> bool:
    return same_speed(a, b) and _same_accuracy(*_accuracies(a, b))


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
        self.original = history.baseline.sites if history.baseline else ()
        self.sensitivities = {(s, f): v for s, f, v in history.sensitivities}
        self.uniforms = tuple(k for k, t in self.trials.items() if t.role == "baseline" and k in self.figures)
        self.since = found_since(history)
        keys = dict.fromkeys([*pool_of(history), self.baseline])
        self.pool = [self.figures[k] for k in keys if k in self.figures]
        self.front = tuple(f.key for f in front_under(self.pool, self.budget, minimize=self.minimize))
        # one that was not certified would be excused from what the others must keep on ``test``
        self.best_uniform = self._best([k for k in self.uniforms if k in self.finals] or self.uniforms)

    def spared(self) -> tuple[str, ...]:
        """Finalists off the front that some budget may choose: what beats them is worse in a figure that limits look at."""
        costs = {f.key: self._costs(f) for f in self.pool}
        front = [costs[k] for k in self.front]
        return tuple(
            key
            for key in self.finals
            if key in costs
            and key not in self.front
            and not any(all(a <= b for a, b in zip(other, costs[key], strict=True)) for other in front)
        )

    def _costs(self, figures: Figures) -> tuple[float, ...]:
        sign = 1.0 if self.minimize else -1.0
        held = judged(figures, self.minimize)
        memory = figures.memory_bytes if figures.memory_bytes is not None else inf
        return (
            1.0 / figures.speedup.value, figures.size_bytes, memory, sign * figures.accuracy.value,
            held.latency_ms, held.drop_points, sign * held.accuracy,
        )  # fmt: skip

    def _best(self, keys: Sequence[str]) -> str:
        models = [self.figures[k] for k in keys]
        found = recommend(models, self.budget, minimize=self.minimize)
        found = found or nearest(models, self.budget, minimize=self.minimize)
        return found.key if found else ""

    def name(self, key: str) -> str:
        trial = self.trials[key]
        return trial.label or recipe_name(self.recipes[key], trial.sites)

    def _profile(self, key: str) -> Profile:
        final, figures = self.finals.get(key), self.figures.get(key)
        return Profile(final.audit if final else None, figures.latency_ms.value if figures else None)

    def _load_ms(self, key: str) -> float | None:
        final, trial = self.finals.get(key), self.trials.get(key)
        if final is not None and final.load_ms is not None:
            return final.load_ms
        return trial.load_ms if trial else None

    def _recipe(self, key: str) -> RecipeSummary:
        trial, recipe = self.trials[key], self.recipes[key]
        as_data = recipe.to_plain()
        return RecipeSummary(
            text=recipe_text(recipe, trial.sites),
            structure=dict(as_data["structure"]),  # type: ignore[call-overload]
            settings=dict(as_data["settings"]),  # type: ignore[call-overload]
            formats={site: fmt.name for site, fmt in recipe.formats},
            sites=site_summaries(
                trial.sites,
                self.original,
                recipe,
                profile=self._profile(key),
                original_profile=self._profile(self.baseline),
                sensitivities=self.sensitivities,
            ),
            missing=missing_layers(trial.sites, self.original, recipe),
        )

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
            load_ms=self._load_ms(key),
            judged=judged(figures, self.minimize),
            meets_budget=all(c.met for c in checks),
            limits=checks,
            over_uniform=_compare(figures, uniform, self.name(uniform.key), self.minimize) if uniform else None,
            ties=tuple(k for k in self.front if k != key and _tied(figures, self.figures[k])),
            audit=audit_sentence(trial.sites),
            profile=final.audit if final else None,
            between_layers=_between_layers(final),
            loading=loading_sentence(trial.sites, self._load_ms(key), self._load_ms(self.baseline)),
            recipe=self._recipe(key),
            found_since=key in self.since,
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
            scored_fully=trial.scored_fully,
            reused=trial.reused,
        )


def _between_layers(final: FinalRecord | None) -> float | None:
    if final is None or final.audit is None or not final.audit.time_shares:
        return None
    return max(0.0, 1.0 - sum(share for _, share in final.audit.time_shares))


def summarize(history: RunHistory, budget: Budget | None = None, files: Mapping[str, str] | None = None) -> RunSummary:
    """Decide every number of a report.

    Args:
        history: the records of a run, finished or not.
        budget: limits to judge by; those of the run by default.
        files: where each model's file lies, relative to the run folder, by key; by default among ``artifacts/``.
    """
    minimize = bool(history.run.metric.get("minimize", False))
    fp32 = history.baseline
    original = fp32.accuracy.value if fp32 is not None and fp32.accuracy is not None else None
    held = budget_of(history.run) if budget is None else budget
    if original is not None:
        held = settled(held, original, minimize=minimize)
    if held != budget_of(history.run):
        history = _with_budget(history, {n: getattr(held, n) for n in Budget.__dataclass_fields__})
    run = _Run(history, files or {})
    record = history.run
    best = recommend(run.pool, run.budget, minimize=run.minimize)
    chosen = best or nearest(run.pool, run.budget, minimize=run.minimize)
    own = [chosen.key] if chosen else []
    keys = dict.fromkeys([*([run.baseline] if run.baseline else []), *run.uniforms, *run.front, *run.spared(), *own])
    models = tuple(run.model(k) for k in keys)
    file = "best.onnx" if budget is None else next((m.file for m in models if chosen and m.key == chosen.key), "")
    metric = MetricFacts(
        name=str(record.metric.get("name", "accuracy")),
        minimize=run.minimize,
        unit=counted_in(str(record.metric.get("unit", "") or ""), original, minimize=minimize),
    )
    devices, on_all = summarize_devices(history, {k: run.name(k) for k in run.figures})
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
            finished=bool(history.finals) and not (chosen and chosen.key in run.since),
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
        devices=devices,
        on_all=on_all,
        absent=summarize_absent(history, {k: run.name(k) for k in keys}, run.figures),
    )


def _with_budget(history: RunHistory, limits: dict[str, float | int | None]) -> RunHistory:
    everywhere = ("size_bytes", "min_accuracy", "max_drop", "max_drop_share")  # the others are each device's own
    shared = {n: limits[n] for n in everywhere}
    elsewhere = tuple(d.model_copy(update={"budget": d.budget | shared}) for d in history.run.elsewhere)
    return replace(history, run=history.run.model_copy(update={"budget": limits, "elsewhere": elsewhere}))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}{'' if text[-1] in '.!?' else '.'}" if text else ""


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
        n_finals=len(history.finals),
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
        stopped=_sentence(history.stopped),
        seconds=max(last, sum(s for _, s in history.seconds)),
        hypervolume=history.hypervolume,
        time_split=tuple(sorted(split, key=lambda p: -p[1])),
        importance=option_importance(
            [(run.recipes[k], f) for k, f in run.figures.items() if run.trials[k].role in ("search", "seed")]
        ),
        n_scored_partly=sum(t.is_measured and not t.scored_fully for t in history.trials),
        n_reused=sum(bool({"latency", "accuracy"} & set(t.reused)) for t in history.trials),
    )
