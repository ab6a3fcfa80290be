from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeltailor.reports import RunSummary, budget_of, pick, render_markdown, render_terminal, summarize, summary_json
from modeltailor.reports.choice import figures_of_model, limit_checks
from modeltailor.reports.importance import epsilon_squared
from modeltailor.reports.schema import schema_text
from modeltailor.reports.synthetic import synthetic_history
from modeltailor.search.front import figures_of, pareto_front, violations
from modeltailor.search.records import AccuracyRecord, RunHistory
from modeltailor.targets import Budget

limits = st.one_of(st.none(), st.floats(0.02, 2.0))


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    size, memory = draw(limits), draw(limits)
    return Budget(
        latency_ms=draw(limits),
        size_bytes=None if size is None else int(200_000 * size),
        memory_bytes=None if memory is None else int(9_000_000 * (0.9 + 0.2 * memory)),
        max_drop=draw(st.one_of(st.none(), st.floats(0.0, 8.0))),
        min_accuracy=draw(st.one_of(st.none(), st.floats(0.8, 0.9))),
    )


def test_final_figures_stand_in_for_those_of_the_search(history: RunHistory, summary: RunSummary) -> None:
    finals = {f.key: f for f in history.finals}
    assert len(finals) > 10
    for model in summary.models:
        final = finals.get(model.key)
        assert model.finalist == (final is not None)
        if final:
            assert model.latency_ms == final.latency_ms
            assert model.speedup == final.speedup
            assert model.accuracy.test == final.test_accuracy


def test_the_front_is_that_of_the_finalists(history: RunHistory, summary: RunSummary) -> None:
    finals = {f.key: f for f in history.finals}
    first = {t.key: t for t in reversed(history.trials) if t.is_measured}  # a recipe may come up twice
    figures = [f for k, t in first.items() if k in finals and (f := figures_of(t, finals[k]))]
    assert summary.front == tuple(f.key for f in pareto_front(figures))


def test_a_model_that_alone_keeps_the_limits_is_chosen_though_others_beat_it(history: RunHistory) -> None:
    """What is on the front by its search figures may miss the limit on ``test``; a run published the other one already."""
    summary = summarize(history)
    best = summary.model_of(summary.best)
    assert best is not None
    old = next(f for f in history.finals if f.key == best.key)
    by_key = {t.key: t for t in history.trials if t.is_measured}
    off = next(k for k in by_key if k not in summary.front and k not in {f.key for f in history.finals})
    worse = by_key[best.key].model_copy(update={
        "key": off, "number": by_key[off].number, "recipe": by_key[off].recipe, "size_bytes": best.size_bytes + 1000,
    })  # fmt: skip
    missed = old.test_accuracy.model_copy(update={"difference": -0.5})
    finals = [f.model_copy(update={"test_accuracy": missed}) for f in history.finals if f.key != summary.baseline]
    beaten = replace(
        history,
        trials=tuple(worse if t.key == off else t for t in history.trials),
        finals=(*finals, old.model_copy(update={"key": off})),
    )
    found = summarize(beaten, Budget(max_drop=1.0, size_bytes=best.size_bytes + 2000, latency_ms=old.latency_ms.high))
    assert off not in found.front
    assert found.best == found.verdict.key == off
    assert (chosen := found.model_of(off)) is not None
    assert chosen.finalist
    assert (picked := pick(found, budget_of(beaten.run.model_copy(update={"budget": found.budget})))) is not None
    assert picked.key == off
    assert "Chosen, beside the front" in render_terminal(found)
    assert "Chosen, beside the front" in render_markdown(found)
    assert summarize(beaten, Budget()).model_of(off) is not None  # a budget on the page may still choose it
    for figure, factor in (("latency_ms", 2.0), ("speedup", 0.5)):  # unless something is better whatever is asked
        slow = {n: factor * getattr(getattr(old, figure), n) for n in ("value", "low", "high")}
        old = old.model_copy(update={figure: getattr(old, figure).model_copy(update=slow)})
    useless = replace(beaten, finals=(*history.finals, old.model_copy(update={"key": off})))
    assert summarize(useless, Budget()).model_of(off) is None


def test_the_gain_is_stated_over_a_uniform_setting_that_was_certified(history: RunHistory) -> None:
    summary = summarize(history)
    finals = {f.key for f in history.finals}
    certified = next(k for k in summary.uniform_baselines if k in finals and k != summary.baseline)
    missed = next(f for f in history.finals if f.key == certified).test_accuracy.model_copy(update={"difference": -0.5})
    strict = replace(
        history,
        finals=tuple(
            f.model_copy(update={"test_accuracy": missed}) if f.key == certified else f
            for f in history.finals
            if f.key == certified or f.key not in summary.uniform_baselines
        ),
    )
    assert len(summary.uniform_baselines) > 1
    assert summarize(strict).best_uniform == certified


def test_the_best_model_is_what_pick_says_under_the_same_budget(history: RunHistory, summary: RunSummary) -> None:
    found = pick(summary, budget_of(history.run))
    assert found is not None
    assert found.key == summary.best == summary.verdict.key
    assert found.meets_budget
    assert all(c.met and c.margin is not None and c.margin >= 0 for c in found.limits)


def test_another_budget_changes_the_pick_and_the_verdict(history: RunHistory, summary: RunSummary) -> None:
    tight = Budget(max_drop=5.0, size_bytes=60_000)
    found = pick(summary, tight)
    assert found is not None
    assert found.key != summary.best
    assert found.size_bytes <= 60_000
    other = summarize(history, tight)
    assert other.best == found.key
    assert other.file == found.file  # best.onnx is the file of the run's own budget


@given(budget=budgets())
@settings(max_examples=150, deadline=None)
def test_limit_checks_say_what_the_rule_of_the_search_says(summary: RunSummary, budget: Budget) -> None:
    for model in summary.models:
        figures = figures_of_model(model)
        checks = limit_checks(figures, budget, minimize=False)
        assert {c.limit for c in checks if not c.met} == {v.limit for v in violations(figures, budget)}
        assert len(checks) == sum(getattr(budget, n) is not None for n in Budget.__dataclass_fields__)
        for check in checks:
            assert check.margin is not None
            assert check.met == (check.margin >= -1e-9)


def test_no_model_keeps_every_limit_and_the_binding_one_is_named() -> None:
    budget = {"max_drop": 0.2, "latency_ms": 0.2, "size_bytes": 60000, "memory_bytes": None, "min_accuracy": None}
    found = summarize(synthetic_history(budget=budget))
    assert found.best == ""
    assert found.verdict.status == "unmet"
    binding = found.verdict.binding
    assert binding is not None
    assert not binding.met
    nearest = found.model_of(found.verdict.key)
    assert nearest is not None
    assert binding in nearest.limits
    assert nearest.name in found.verdict.headline
    assert found.verdict.headline.startswith("No model keeps every limit")


def test_gain_is_stated_over_the_best_uniform_setting(summary: RunSummary) -> None:
    best, uniform = summary.model_of(summary.best), summary.model_of(summary.best_uniform)
    assert best is not None
    assert uniform is not None
    assert uniform.role == "baseline"
    over = best.over_uniform
    assert over is not None
    assert over.speedup.value == pytest.approx(best.speedup.value / uniform.speedup.value)
    assert over.speedup.low < over.speedup.value < over.speedup.high
    assert over.size_ratio == best.size_bytes / uniform.size_bytes
    assert uniform.name in summary.verdict.sentences[0]  # the first thing said after the headline
    assert over.speed_differs
    assert f"{100 * (1 - over.speedup.value):.1f} % slower" in summary.verdict.sentences[0]
    assert f"{-over.accuracy_points:.2f} points worse in accuracy (test split" in summary.verdict.sentences[0]
    assert ("within the noise" in summary.verdict.sentences[0]) == (not over.accuracy_differs)


def _blurred(history: RunHistory, by: float) -> RunHistory:
    """The same run with wider intervals of its finalists' speed."""
    finals = []
    for f in history.finals:
        s = f.speedup
        wide = s.model_copy(update={"low": s.value - by * (s.value - s.low), "high": s.value + by * (s.high - s.value)})
        finals.append(f.model_copy(update={"speedup": wide}))
    return RunHistory(run=history.run, trials=history.trials, finals=tuple(finals))


def test_words_about_the_best_uniform_setting_agree_with_the_ties(history: RunHistory) -> None:
    told, n_tied = set(), 0
    for found in (summarize(_blurred(history, by)) for by in (1.0, 4.0, 12.0)):
        for model in found.models:
            over, uniform = model.over_uniform, found.model_of(found.best_uniform)
            if over is None or uniform is None or over.key == model.key:
                continue
            assert over.speed_differs == (not over.speedup.low <= 1.0 <= over.speedup.high)
            if model.speedup.low > uniform.speedup.high:  # whole intervals apart: surely another speed
                assert over.speed_differs
            if uniform.on_front and model.on_front:
                tied = uniform.key in model.ties
                n_tied += tied
                assert tied == (not over.speed_differs and not over.accuracy_differs)
            told.add((over.speed_differs, over.accuracy_differs))
    assert len(told) >= 3
    assert n_tied >= 2


def test_a_limit_that_is_missed_many_times_is_told_as_a_factor() -> None:
    limits = {"max_drop": 0.0, "latency_ms": 0.01, "size_bytes": 60_000, "memory_bytes": None, "min_accuracy": None}
    found = summarize(synthetic_history(budget=limits))
    nearest_model = found.model_of(found.verdict.key)
    assert nearest_model is not None
    assert f"{nearest_model.judged.latency_ms / 0.01:.1f}× what is allowed" in found.verdict.headline
    size = next(c for c in nearest_model.limits if c.limit == "size")
    assert size.margin is not None
    assert -1 < size.margin < 0
    assert f"missed by {-100 * size.margin:.1f} %" in " ".join(found.verdict.limits)


def test_ties_go_both_ways_and_only_within_the_front(summary: RunSummary) -> None:
    front = {k: summary.model_of(k) for k in summary.front}
    tied = 0
    for key, model in front.items():
        assert model is not None
        for other in model.ties:
            twin = front[other]
            assert twin is not None
            assert key in twin.ties
            assert model.speedup.low <= twin.speedup.high
            tied += 1
    assert tied > 0


def test_a_run_that_has_only_begun_is_summarized() -> None:
    none = summarize(synthetic_history(0, finished=False))
    assert none.verdict.status == "empty"
    assert none.models == ()
    some = summarize(synthetic_history(3, finished=False))
    assert some.verdict.status == "met"
    assert "not been measured again" in some.verdict.text
    assert some.model_of(some.best) is not None


def test_failed_trials_are_counted_by_reason(history: RunHistory, summary: RunSummary) -> None:
    failed = [t for t in history.trials if not t.is_measured]
    assert summary.search.n_failed == len(failed) == sum(f.count for f in summary.search.failures)
    assert summary.search.n_measured + summary.search.n_failed == len(history.trials)
    assert {n for f in summary.search.failures for n in f.trials} == {t.number for t in failed}


def test_summary_survives_json(summary: RunSummary) -> None:
    assert RunSummary.model_validate_json(summary_json(summary)) == summary


def test_published_schema_is_current() -> None:
    stored = files("modeltailor.reports").joinpath("summary.schema.json").read_text()
    assert stored == schema_text(), "run: python -m modeltailor.reports.schema > reports/summary.schema.json"
    required = json.loads(stored)["$defs"]["ModelSummary"]["required"]
    promised = {"key", "file", "sha256", "size_bytes", "latency_ms", "speedup", "accuracy", "peak_memory_bytes",
                "meets_budget", "recipe"}  # fmt: skip
    assert promised <= set(required)


def test_epsilon_squared_of_known_groups() -> None:
    assert epsilon_squared([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]) == pytest.approx(1.0)
    assert epsilon_squared([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]) == 0.0
    assert epsilon_squared([[1.0], [2.0]]) == 0.0  # as many groups as values tell nothing
    # by hand: SSw = 4, SSt = 5.5, n = 6, k = 2, so 1 - (4/4)/(5.5/5)
    assert epsilon_squared([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]) == pytest.approx(1 - 1.0 / 1.1)


def _mirrored(record: AccuracyRecord) -> AccuracyRecord:
    """The same result of a metric that is an error rate: 1 - accuracy, smaller is better."""
    return record.model_copy(
        update={
            "value": 1 - record.value, "low": 1 - record.high, "high": 1 - record.low, "difference": -record.difference,
            "difference_low": -record.difference_high, "difference_high": -record.difference_low,
        }
    )  # fmt: skip


def test_a_metric_where_less_is_better_gives_the_mirrored_report(history: RunHistory, summary: RunSummary) -> None:
    run = history.run.model_copy(update={"metric": {"name": "error rate", "minimize": True, "unit": "%"}})
    trials = tuple(
        t.model_copy(update={"accuracy": _mirrored(t.accuracy)}) if t.accuracy else t for t in history.trials
    )
    finals = tuple(f.model_copy(update={"test_accuracy": _mirrored(f.test_accuracy)}) for f in history.finals)
    found = summarize(RunHistory(run=run, trials=trials, finals=finals))
    assert set(found.front) == set(summary.front)
    assert found.best == summary.best
    for model in found.models:
        twin = summary.model_of(model.key)
        assert twin is not None
        assert model.judged.drop_points == pytest.approx(twin.judged.drop_points)
        assert model.meets_budget == twin.meets_budget
        assert set(model.ties) == set(twin.ties)
        if model.over_uniform and twin.over_uniform:
            assert model.over_uniform.accuracy_points == pytest.approx(twin.over_uniform.accuracy_points)
    assert "error rate 0.50 points worse on the test split" in found.verdict.headline
    assert "points worse in error rate" in found.verdict.sentences[0]


def test_wide_and_unsettled_measurements_are_called_so(history: RunHistory, summary: RunSummary) -> None:
    assert "wide" not in summary.verdict.text
    finals = []
    for final in history.finals:
        s = final.speedup
        wide = s.model_copy(update={"low": s.value * 0.8, "high": s.value * 1.25})
        finals.append(final.model_copy(update={"speedup": wide, "verdict": "NOISY"}))
    noisy = summarize(RunHistory(run=history.run, trials=history.trials, finals=tuple(finals)))
    assert "That is wide" in noisy.verdict.text
    assert "stayed NOISY" in noisy.verdict.text
    assert noisy.noise.n_undecided == len(finals)
    assert noisy.noise.n_finals == len(finals)
    best = noisy.model_of(noisy.best)
    assert best is not None
    assert len(best.ties) >= len(summary.model_of(summary.best).ties)  # type: ignore[union-attr]


def test_a_metric_with_a_unit_keeps_it(history: RunHistory) -> None:
    def in_decibel(record: AccuracyRecord) -> AccuracyRecord:
        names = ("value", "low", "high", "difference", "difference_low", "difference_high")
        return record.model_copy(update={n: 35 * getattr(record, n) for n in names})

    run = history.run.model_copy(
        update={"metric": {"name": "PSNR", "unit": "dB"}, "budget": {"min_accuracy": 30.0, "size_bytes": 200_000}}
    )
    trials = tuple(
        t.model_copy(update={"accuracy": in_decibel(t.accuracy)}) if t.accuracy else t for t in history.trials
    )
    found = summarize(RunHistory(run=run, trials=trials))
    best = found.model_of(found.best)
    assert best is not None
    assert "points" not in found.verdict.text
    assert f"{-best.accuracy.search.difference:.3f} dB of PSNR lost" in found.verdict.headline
    assert "limit 30.0 dB" in found.verdict.text
