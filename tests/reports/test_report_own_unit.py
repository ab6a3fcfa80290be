"""Reports of a metric that has a unit of its own: nothing is called points, and pictures have a fitting scale."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from importlib.resources import files
from pathlib import Path

import pytest

from modeltailor.reports import RunSummary, compare, render_comparison_html, render_svg, summarize
from modeltailor.reports.choice import choosable, figures_of_model
from modeltailor.reports.figure import tick_texts, ticks, worth_seeing
from modeltailor.reports.synthetic import synthetic_history
from modeltailor.reports.wording import change_text, counted_in, metric_text
from modeltailor.search.front import nearest
from modeltailor.search.records import AccuracyRecord, RunHistory
from modeltailor.targets import Budget

_SVG = "{http://www.w3.org/2000/svg}"


def _in_units(
    scale: float, spread: float = 1.0, *, unit: str = "mm", budget: dict[str, float | int | None] | None = None
) -> RunSummary:
    """A made-up run whose metric is an error of about ``scale`` millimetres; ``spread`` widens or narrows the differences."""

    def moved(a: AccuracyRecord | None) -> AccuracyRecord | None:
        if a is None:
            return None
        gained = {k: -scale * spread * getattr(a, k) for k in ("difference", "difference_low", "difference_high")}
        gained["difference_low"], gained["difference_high"] = gained["difference_high"], gained["difference_low"]
        value = scale + gained["difference"]
        return a.model_copy(update={"value": value, "low": value - 0.01, "high": value + 0.01, **gained})

    history = synthetic_history(budget=budget or {"max_drop": 20.0})
    run = history.run.model_copy(update={"metric": {"name": "rmse", "minimize": True, "unit": unit}})
    trials = tuple(t.model_copy(update={"accuracy": moved(t.accuracy)}) for t in history.trials)
    finals = tuple(f.model_copy(update={"test_accuracy": moved(f.test_accuracy)}) for f in history.finals)
    return summarize(RunHistory(run=run, trials=trials, finals=finals, stopped=history.stopped))


def _labels_up(text: str) -> list[str]:
    """What stands at the vertical axis of a picture."""
    root = ET.fromstring(text)
    found = [e for e in root.iter(f"{_SVG}text") if e.get("text-anchor") == "end" and (e.text or "")[:1].isdigit()]
    places = [e.get("x") for e in found]
    at_axis = max(set(places), key=places.count)
    return [e.text or "" for e in found if e.get("x") == at_axis]


@pytest.mark.parametrize(("low", "high"), [(0.4123, 0.4187), (20.001, 20.004), (100.1, 100.9), (0.0, 1.0), (-0.3, 0.2)])
def test_no_two_marks_of_an_axis_bear_the_same_text(low: float, high: float) -> None:
    marks = ticks(low, high, 5)
    texts = tick_texts(marks)
    assert len(set(texts)) == len(marks) >= 2
    assert [float(t.replace("\u2212", "-")) for t in texts] == pytest.approx(marks)


def test_the_axis_of_a_narrow_metric_can_be_read() -> None:
    labels = _labels_up(render_svg(_in_units(0.4, spread=0.02)))
    assert len(labels) >= 3
    assert len(set(labels)) == len(labels)


def test_the_fronts_of_a_comparison_are_shown_in_the_scale_of_the_metric() -> None:
    a = _in_units(200.0)
    page = render_comparison_html(compare(a, a), a, a)
    picture = re.findall(r'<svg [^>]*aria-label="Both fronts.*?</svg>', page, flags=re.DOTALL)[0]
    heights = {float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)" r="5.5"', picture)}
    near = [m for m in a.models if m.on_front and abs(m.accuracy.search.difference) <= 0.05 * 200.0]
    assert len(near) >= 3
    assert len([y for y in heights if 30.0 < y < 336.0]) >= 3


def test_what_is_worth_seeing_follows_the_scale_of_the_metric_and_the_budget() -> None:
    assert worth_seeing("", 0.9, 1.0) == pytest.approx(0.05)
    assert worth_seeing("%", 0.9, 2.0) == pytest.approx(0.08)
    assert worth_seeing("mm", 200.0, 20.0) == pytest.approx(10.0)
    assert worth_seeing("mm", 200.0, 1000.0) == pytest.approx(40.0)
    assert worth_seeing("mm", 0.0, None) == pytest.approx(0.05)


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's script outside a browser")
def test_no_two_marks_of_an_axis_of_the_page_bear_the_same_text(tmp_path: Path) -> None:
    script = tmp_path / "rule.js"
    script.write_text(files("modeltailor.reports.templates").joinpath("rule.js").read_text())
    code = """
const MT = require("./rule.js");
const marks = [20.41, 20.42, 20.43], shares = [0.90001, 0.90002], wide = [0.1, 0.2, 0.3];
process.stdout.write(JSON.stringify([
  MT.tickTexts(marks, (v, digits) => MT.metricText(v, "mm", digits)),
  MT.tickTexts(shares, (v, digits) => MT.metricText(v, "", digits)),
  MT.tickTexts(wide, (v, digits) => MT.metricText(v, "mm", digits)),
  MT.tickTexts([100.1, 100.2, 100.3], MT.msText),
]));
"""
    done = subprocess.run(["node", "-e", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        ["20.41 mm", "20.42 mm", "20.43 mm"],
        ["90.001 %", "90.002 %"],
        ["0.100 mm", "0.200 mm", "0.300 mm"],
        ["100.1 ms", "100.2 ms", "100.3 ms"],
    ]


@pytest.mark.parametrize(
    ("unit", "original", "minimize", "expected"),
    [
        ("", 0.9, False, ""),
        ("", None, False, ""),
        ("", 0.0, False, ""),
        ("", 25.34, False, "units"),
        ("", -0.2, False, "units"),
        ("", 25.34, True, "units"),
        ("", 0.004, True, "units"),
        ("", None, True, "units"),
        ("dB", 0.5, False, "dB"),
        ("%", 0.08, True, "%"),
    ],
)
def test_only_what_can_be_a_share_is_counted_in_percent(
    unit: str, original: float | None, minimize: bool, expected: str
) -> None:
    assert counted_in(unit, original, minimize=minimize) == expected


def test_a_perplexity_is_no_percentage() -> None:
    unit = counted_in("", 25.34, minimize=True)
    assert metric_text(25.34, unit) == "25.3 units"
    assert change_text(40.0, unit) == "+0.400 units"


@pytest.mark.parametrize("scale", [0.004, 25.0, 2000.0])
def test_a_metric_without_a_unit_that_is_no_share_is_reported_in_units(scale: float) -> None:
    found = _in_units(scale, unit="", budget={"max_drop_share": 0.01})
    assert found.metric.unit == "units"
    assert found.budget["max_drop"] == pytest.approx(scale)  # points: one percent of the original's value
    assert found.best
    kept = {m.key for m in found.models if m.meets_budget}
    assert 1 < len(kept) < len(found.models)
    told = found.verdict.text
    assert "points" not in told
    assert "units" in told
    assert "in %" not in render_svg(found)


@pytest.mark.parametrize("scale", [0.004, 2000.0])
def test_no_change_is_what_is_small_against_the_original(scale: float) -> None:
    assert "no change" not in _in_units(scale, budget={"max_drop": 10.0 * scale}).verdict.headline
    assert "no change of rmse" in _in_units(scale, spread=1e-4, budget={"max_drop": 10.0 * scale}).verdict.headline


@pytest.mark.parametrize("scale", [0.004, 2000.0])
def test_the_limit_that_stands_in_the_way_is_weighed_in_the_scale_of_the_metric(scale: float) -> None:
    binding = _in_units(scale, budget={"max_drop": 0.0, "latency_ms": 0.01}).verdict.binding
    assert binding is not None
    assert binding.limit == "latency"


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's script outside a browser")
def test_the_page_names_the_nearest_model_that_python_names_at_any_scale(tmp_path: Path) -> None:
    script = tmp_path / "rule.js"
    script.write_text(files("modeltailor.reports.templates").joinpath("rule.js").read_text())
    runs = []
    for scale in (0.004, 25.0, 2000.0):
        found = choosable(_in_units(scale, spread=20.0).models)
        budgets = [
            Budget(latency_ms=0.02 * i, max_drop=100.0 * scale * lost)
            for i in range(1, 16)
            for lost in (0.0, 0.01, 0.1)
        ]
        rows = [
            {
                "key": m.key,
                "judged": m.judged.model_dump(),
                "original": m.accuracy.search.value - m.accuracy.search.difference,
            }
            for m in found
        ]
        limits = [{"latency_ms": b.latency_ms, "max_drop": b.max_drop} for b in budgets]
        figures = [figures_of_model(m) for m in found]
        expected = [getattr(nearest(figures, b, minimize=True), "key", "") for b in budgets]
        runs.append(({"models": rows, "budgets": limits, "original": scale}, expected))
    code = """
const MT = require("./rule.js");
const runs = JSON.parse(require("fs").readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(runs.map((r) => r.budgets.map((b) => MT.nearest(r.models, b, true, r.original).model.key))));
"""
    given = json.dumps([run for run, _ in runs])
    done = subprocess.run(["node", "-e", code], cwd=tmp_path, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [expected for _, expected in runs]
    assert all(len(set(expected)) > 2 for _, expected in runs)
