"""The browser's rule and number formats are those of Python: the same inputs through node."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from modeltailor.reports import RunSummary, pick, wording
from modeltailor.reports.choice import choosable, figures_of_model, limit_checks
from modeltailor.reports.verdict import limit_sentence
from modeltailor.search.front import nearest
from modeltailor.targets import Budget

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's script outside a browser")

_PROGRAM = """
const MT = require(process.argv[2]);
const { models, budgets, numbers } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const name = (m) => (m ? m.key : "");
process.stdout.write(JSON.stringify({
  picks: budgets.map((b) => name(MT.pick(models, b, false))),
  nearest: budgets.map((b) => MT.nearest(models, b, false).model.key),
  bindings: budgets.map((b) => MT.nearest(models, b, false).binding).map((m) => (m ? MT.limitText(m, "") : "")),
  limits: ["", "dB"].map((unit) => budgets.map((b) => MT.margins(models[0].judged, b, false).map((m) => MT.limitText(m, unit)))),
  texts: numbers.map((v) => [MT.msText(v), MT.bytesText(v), MT.ratio(v), MT.percent(v / 1000, 2), MT.points(v - 5),
    MT.secondsText(v), MT.metricText(v / 1e6, ""), MT.metricText(v, "dB"), MT.fixed(v, 3),
    MT.changeText(v - 5, ""), MT.changeText(v - 5, "dB")]),
}));
"""


def _node(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    script = folder / "rule.js"
    script.write_text(files("modeltailor.reports.templates").joinpath("rule.js").read_text())
    program = folder / "main.js"
    program.write_text(_PROGRAM)
    done = subprocess.run(
        ["node", str(program), str(script)], input=json.dumps(payload), capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _budgets(n: int, seed: int) -> list[Budget]:
    rng = random.Random(seed)

    def maybe(low: float, high: float) -> float | None:
        return None if rng.random() < 0.4 else rng.uniform(low, high)

    out = []
    for _ in range(n):
        size, memory = maybe(40_000, 500_000), maybe(9.0e6, 1.02e7)
        out.append(
            Budget(
                latency_ms=maybe(0.24, 0.8),
                size_bytes=None if size is None else int(size),
                memory_bytes=None if memory is None else int(memory),
                max_drop=maybe(0.0, 4.0),
                min_accuracy=maybe(0.83, 0.88) if rng.random() < 0.4 else None,
            )
        )
    return out


def _models(summary: RunSummary) -> list[dict[str, Any]]:
    return [
        {
            "key": m.key,
            "speed": [m.speedup.value, m.speedup.low, m.speedup.high],
            "size": m.size_bytes,
            "accuracy": m.accuracy.search.value,
            "judged": m.judged.model_dump(),
        }
        for m in choosable(summary.models)
    ]


def _plain(budgets: list[Budget]) -> list[dict[str, Any]]:
    return [{n: getattr(b, n) for n in Budget.__dataclass_fields__} for b in budgets]


def test_sliders_pick_what_python_picks(summary: RunSummary, tmp_path: Path) -> None:
    models = _models(summary)
    budgets = _budgets(400, seed=5)
    for m in summary.models:  # limits that are kept exactly, and just missed
        budgets += [Budget(latency_ms=m.judged.latency_ms, size_bytes=m.size_bytes, max_drop=5.0)]
        budgets += [Budget(min_accuracy=m.judged.accuracy, memory_bytes=m.peak_memory_bytes)]
        budgets += [Budget(size_bytes=m.size_bytes - 1, max_drop=max(0.0, m.judged.drop_points))]
    picks = _node({"models": models, "budgets": _plain(budgets), "numbers": []}, tmp_path)["picks"]
    expected = [found.key if (found := pick(summary, b)) else "" for b in budgets]
    assert picks == expected
    assert len(set(expected)) >= 6  # the budgets do tell models apart, and some ask too much
    assert "" in expected


def test_where_nothing_keeps_the_limits_the_page_names_what_python_names(summary: RunSummary, tmp_path: Path) -> None:
    budgets = [
        *_budgets(300, seed=9),
        Budget(latency_ms=0.001, max_drop=0.1),  # hopeless: many times what is allowed
        Budget(size_bytes=10, min_accuracy=0.99),
    ]
    models = _models(summary)
    found = _node({"models": models, "budgets": _plain(budgets), "numbers": []}, tmp_path)
    figures = {m.key: figures_of_model(m) for m in choosable(summary.models)}
    n_missed = 0
    for i, budget in enumerate(budgets):
        checks = limit_checks(figures[models[0]["key"]], budget, False)
        for unit, texts in zip(("", "dB"), found["limits"], strict=True):
            metric = summary.metric.model_copy(update={"unit": unit})
            assert texts[i] == [limit_sentence(c, metric) for c in checks]
        close = nearest(figures.values(), budget)
        assert close is not None
        if pick(summary, budget) is None:
            n_missed += 1
            assert found["nearest"][i] == close.key
            missed = [limit_sentence(c, summary.metric) for c in limit_checks(close, budget, False) if not c.met]
            assert found["bindings"][i] in missed
        else:
            assert found["bindings"][i] == ""
    assert n_missed > 20


def test_numbers_read_the_same_in_browser_and_python(tmp_path: Path) -> None:
    rng = random.Random(2)
    numbers = [0.0, 0.5, 2.5, 9.995, 10.0, 99.95, 999.5, 1000.0, 9_999.9, 412_500.0, 1e6, 2.5e9, 59.6, 3600.0, 0.125]
    numbers += [10 ** rng.uniform(-5, 10) for _ in range(400)]
    texts = _node({"models": [], "budgets": [], "numbers": numbers}, tmp_path)["texts"]
    for value, found in zip(numbers, texts, strict=True):
        assert found == [
            wording.ms_text(value),
            wording.bytes_text(value),
            wording.ratio(value),
            wording.percent(value / 1000, 2),
            wording.points(value - 5),
            wording.seconds_text(value),
            wording.metric_text(value / 1e6),
            wording.metric_text(value, "dB"),
            wording.fixed(value, 3),
            wording.change_text(value - 5),
            wording.change_text(value - 5, "dB"),
        ], value
