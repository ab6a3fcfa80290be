from __future__ import annotations

import base64
import hashlib
import math
import random
from html import escape
from html.parser import HTMLParser

import pytest

from modeltailor.reports import RunSummary, compare, render_comparison, render_comparison_html, summarize
from modeltailor.reports.compare import _holm
from modeltailor.reports.synthetic import synthetic_history
from modeltailor.reports.wording import fixed, ratio
from modeltailor.search.records import IntervalRecord, RunHistory, TrialRecord


def _again(history: RunHistory, *, faster: float, noise: float, seed: int) -> RunHistory:
    """The same run on another day: each speedup drawn anew within its interval; one model really changed."""
    rng = random.Random(seed)
    finals = []
    for i, final in enumerate(history.finals):
        s = final.speedup
        error = (math.log(s.high / s.low) / (2 * 1.96)) * noise
        factor = math.exp(rng.gauss(0, error)) * (faster if i == 6 else 1.0)
        moved = IntervalRecord(
            value=s.value * factor, low=s.low * factor, high=s.high * factor, evidence=s.evidence
        )  # fmt: skip
        finals.append(final.model_copy(update={"speedup": moved}))
    run = history.run.model_copy(update={"environment": {**history.run.environment, "onnxruntime": "1.33.0"}})
    return RunHistory(run=run, trials=history.trials, finals=tuple(finals), stopped=history.stopped)


def test_a_run_against_itself_differs_in_nothing(summary: RunSummary) -> None:
    found = compare(summary, summary)
    assert found.facts == ()
    assert found.warnings == ()
    assert found.best is not None
    assert found.best.same_recipe
    assert found.only_a == found.only_b == 0
    assert len(found.shared) == len(summary.models) - 1
    assert not any(s.speed_differs or s.accuracy_differs for s in found.shared)
    assert all(s.same_file for s in found.shared)


def test_noise_is_not_called_real_and_a_real_change_is(history: RunHistory, summary: RunSummary) -> None:
    quiet = 0
    for seed in range(20):
        found = compare(summary, summarize(_again(history, faster=1.0, noise=1.0, seed=seed)))
        quiet += not any(s.speed_differs for s in found.shared)
    assert quiet >= 18  # 5 % of families may err
    changed = history.finals[6].key
    found = compare(summary, summarize(_again(history, faster=1.05, noise=0.3, seed=1)))
    assert [s.key for s in found.shared if s.speed_differs] == [changed]


def test_conditions_that_differ_are_listed(history: RunHistory, summary: RunSummary) -> None:
    found = compare(summary, summarize(_again(history, faster=1.0, noise=0.0, seed=0)))
    assert [(f.fact, f.a, f.b) for f in found.facts] == [("onnxruntime", "1.32.0", "1.33.0")]


def test_another_network_is_warned_about(history: RunHistory, summary: RunSummary) -> None:
    run = history.run.model_copy(update={"model": {"digest": "other"}, "metric": {"name": "f1", "minimize": False}})
    other = summarize(RunHistory(run=run, trials=history.trials, finals=history.finals))
    found = compare(summary, other)
    assert len(found.warnings) == 2
    assert any("different networks" in w for w in found.warnings)
    assert any("metrics differ" in w for w in found.warnings)


def test_holm_by_hand() -> None:
    assert _holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert _holm([]) == []


def test_markdown_of_a_comparison(summary: RunSummary) -> None:
    other = summarize(synthetic_history(seed=3))
    found = compare(summary, other, name_a="runs/mon|day", name_b="runs/tuesday")
    text = render_comparison(found, summary, other)
    assert "runs/mon\\|day" in text
    for sentence in found.sentences[-1:]:
        assert sentence in text
    rows = [ln for ln in text.split("## The same recipes in both")[1].splitlines() if ln.startswith("| ")]
    assert len(rows) == len(found.shared) + 1
    assert compare(summary, summarize(synthetic_history(0, finished=False))).best is None


class _Texts(HTMLParser):
    """The text of each table row and every tag of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_page_of_a_comparison_says_what_the_comparison_says(history: RunHistory, summary: RunSummary) -> None:
    other = summarize(_again(history, faster=1.05, noise=0.3, seed=1))
    found = compare(summary, other, name_a="runs/mon<b>day", name_b="runs/tuesday")
    text = render_comparison_html(found, summary, other)
    page = _Texts()
    page.feed(text)
    assert "script" not in page.tags
    assert "b" not in page.tags[: page.tags.index("main")]
    assert "mon&lt;b&gt;day" in text
    for sentence in found.sentences:
        assert escape(sentence) in text
    rows = {row[0]: row for row in page.rows if len(row) == 7}
    for s in found.shared:
        row = rows[s.name]
        assert row[1:3] == [ratio(s.speedup_a.value), ratio(s.speedup_b.value)]
        assert row[3].startswith(f"{fixed(s.ratio.value, 3)} {fixed(s.ratio.low, 3)} to")
        assert row[4].startswith("yes" if s.speed_differs else "no")
    assert text.count('fill="var(--bad)"') == sum(s.speed_differs for s in found.shared) == 1
    style = text[text.index("<style>") + 7 : text.index("</style>")]
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in text


def test_page_of_a_comparison_with_an_empty_run(summary: RunSummary) -> None:
    empty = summarize(synthetic_history(0, finished=False))
    text = render_comparison_html(compare(summary, empty), summary, empty)
    assert "recommends no model" in text
    assert "Nothing has been measured yet." in text


def test_uniform_settings_are_compared_by_name_where_their_details_changed(
    history: RunHistory, summary: RunSummary
) -> None:
    def another(trial: TrialRecord) -> TrialRecord:
        return trial.model_copy(update={"key": f"x{trial.key[1:]}"}) if trial.label == "int8 static" else trial

    finals = tuple(f.model_copy(update={"key": f"x{f.key[1:]}"}) if any(
        t.key == f.key and t.label == "int8 static" for t in history.trials) else f for f in history.finals)  # fmt: skip
    other = summarize(RunHistory(run=history.run, trials=tuple(another(t) for t in history.trials), finals=finals))
    found = {s.name: s for s in compare(summary, other).shared}
    assert not found["int8 static"].same_recipe
    assert all(s.same_recipe for name, s in found.items() if name != "int8 static")
    assert len(found) == len(summary.models) - 1
