"""The report in a real browser: needs Chromium, node, and npm for two packages of ``browser/package.json``.

Set ``MODELTAILOR_SCREENSHOTS`` to a folder to keep pictures of the pages for looking at them.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from modeltailor.reports import RunSummary, pick, render_html
from modeltailor.reports.wording import bytes_text, fixed, metric_text, ms_text, points, ratio
from modeltailor.targets import Budget

pytestmark = pytest.mark.slow

_FOLDER = Path(__file__).parent / "browser"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    for name in ("package.json", "drive.mjs"):
        shutil.copy(_FOLDER / name, folder / name)
    subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=folder, check=True, capture_output=True)
    return folder / "drive.mjs"


def _drive(driver: Path, summary: RunSummary, folder: Path) -> dict[str, Any]:
    report = folder / "report.html"
    report.write_text(render_html(summary))
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "install Chromium, or set CHROMIUM to its path"
    shots = os.environ.get("MODELTAILOR_SCREENSHOTS")
    command = ["node", str(driver), chromium, str(report), *([shots] if shots else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.fixture(scope="module")
def seen(driver: Path, summary: RunSummary, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _drive(driver, summary, tmp_path_factory.mktemp("page"))


def test_page_is_quiet_offline_and_soon_ready(seen: dict[str, Any]) -> None:
    assert seen["errors"] == []
    assert seen["requests"] == []
    assert min(seen["ready"]) < 1000


def test_sliders_change_the_pick_to_what_pick_says(seen: dict[str, Any], summary: RunSummary) -> None:
    for step in seen["picks"]:
        found = pick(summary, Budget(**step["budget"]))
        assert step["key"] == (found.key if found else ""), step
    assert len({step["key"] for step in seen["picks"]}) >= 4
    assert seen["reset"] == summary.best


def test_chart_answers_to_pointer_and_keyboard(seen: dict[str, Any], summary: RunSummary) -> None:
    clicked = seen["clicked"]
    assert clicked["key"] == clicked["row"]
    assert clicked["title"] == clicked["name"]
    assert clicked["name"] in seen["tip"]
    assert seen["focused"] == seen["entered"] != clicked["key"]
    assert seen["axes"] == [len(summary.models)] * 3


def test_table_sorts_filters_and_shows_failures(seen: dict[str, Any], summary: RunSummary) -> None:
    assert seen["sorted"] == sorted(m.size_bytes for m in summary.models)
    assert seen["reversed"] == seen["sorted"][::-1]
    assert len(seen["filtered"]) == sum("int8" in m.name for m in summary.models)
    assert seen["failed"] == summary.search.n_failed
    assert seen["layers"] == len(summary.models[0].recipe.sites)


def test_every_figure_of_the_table_is_that_of_the_summary(seen: dict[str, Any], summary: RunSummary) -> None:
    assert len(seen["table"]) == len(summary.models)
    for key, name, speed, latency, size, memory, search, test, meets in seen["table"]:
        m = summary.model_of(key)
        assert m is not None
        assert m.peak_memory_bytes is not None
        assert m.accuracy.test is not None
        assert name.startswith(m.name)
        assert speed == f"{ratio(m.speedup.value)}±{fixed((m.speedup.high - m.speedup.low) / 2, 2)}"
        assert latency == ms_text(m.latency_ms.value)
        assert (size, memory) == (bytes_text(m.size_bytes), bytes_text(m.peak_memory_bytes))
        for text, record in ((search, m.accuracy.search), (test, m.accuracy.test)):
            assert text == metric_text(record.value) + points(100 * record.difference)
        assert meets == ("yes" if m.meets_budget else "no")
    best = summary.model_of(summary.best)
    assert best is not None
    assert seen["figures"][0].startswith(ratio(best.speedup.value))
    assert seen["figures"][1] == ms_text(best.latency_ms.value)
    assert seen["figures"][2].startswith(bytes_text(best.size_bytes))


def test_download_holds_every_trial(seen: dict[str, Any], summary: RunSummary) -> None:
    rows = list(csv.DictReader(io.StringIO(seen["csv"])))
    assert [int(r["trial"]) for r in rows] == [t.number for t in summary.trials]
    assert "onnxruntime_cxx_api.h" in seen["cpp"]


def test_no_accessibility_fault_and_no_sideways_scrolling(seen: dict[str, Any]) -> None:
    assert [fault for fault in seen["axe"] if fault["impact"] in ("serious", "critical", "moderate")] == []
    assert seen["overflow"] == {"light": 0, "dark": 0, "phone": 0}


def test_large_report_is_ready_in_time(driver: Path, large: RunSummary, tmp_path: Path) -> None:
    found = _drive(driver, large, tmp_path)
    assert found["errors"] == []
    assert min(found["ready"]) < 1500
    assert [fault for fault in found["axe"] if fault["impact"] in ("serious", "critical")] == []
