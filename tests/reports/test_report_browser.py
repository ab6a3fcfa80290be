"""The report in a real browser; ``conftest.py`` says what that needs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeltailor.reports import RunSummary, outcomes_csv, pick, read_summary, summarize
from modeltailor.reports.choice import choosable, figures_of_model
from modeltailor.reports.synthetic import synthetic_history
from modeltailor.reports.wording import amount, bytes_text, fixed, metric_text, ms_text, percent, points, ratio
from modeltailor.search.front import nearest
from modeltailor.search.records import RunHistory
from modeltailor.targets import Budget

pytestmark = pytest.mark.slow

Drive = Callable[[RunSummary, Path], dict[str, Any]]


@pytest.fixture(scope="module")
def seen(drive: Drive, summary: RunSummary, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return drive(summary, tmp_path_factory.mktemp("page"))


def test_page_is_quiet_offline_and_soon_ready(seen: dict[str, Any]) -> None:
    assert seen["errors"] == []
    assert seen["requests"] == []
    assert min(seen["ready"]) < 1000


def test_sliders_change_the_pick_to_what_pick_says(seen: dict[str, Any], summary: RunSummary) -> None:
    for step in seen["picks"]:
        found = pick(summary, Budget(**step["budget"]))
        assert step["key"] == (found.key if found else ""), step
        if found is None:
            close = nearest(map(figures_of_model, choosable(summary.models)), Budget(**step["budget"]))
            assert close is not None
            assert step["nearest"] == close.key, step
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


def test_every_figure_of_the_layers_is_that_of_the_summary(seen: dict[str, Any], summary: RunSummary) -> None:
    model = summary.model_of(seen["layerModel"])
    assert model is not None
    head = seen["layerHead"]
    assert {"time", "share", "of fp32’s time", "sensitivity"} <= set(head)
    assert ("channels kept" in head) == any(s.channels_kept not in (None, 1.0) for s in model.recipe.sites)
    assert ("zeros" in head) == any((s.sparsity or 0.0) >= 0.0005 for s in model.recipe.sites)
    for row, site in zip(seen["layerTable"], model.recipe.sites, strict=True):
        shown = dict(zip(head, row, strict=True))
        assert shown["layer"] == site.site
        assert (shown["bits"], shown["executed kernel"]) == (str(site.storage_bits), site.executed_kernel)
        assert shown["bytes"] == bytes_text(site.stored_bytes)
        assert site.bytes_of_fp32 is not None
        assert shown["of fp32"] == percent(site.bytes_of_fp32)
        assert site.time_ms is not None
        assert shown["time"] == ms_text(site.time_ms)
        assert site.time_share is not None
        assert shown["share"] == percent(site.time_share, 1)
        if "zeros" in shown:
            assert shown["zeros"] == percent(site.sparsity or 0.0, 1)
        assert shown["sensitivity"] == ("–" if site.sensitivity is None else amount(site.sensitivity))
    assert model.profile is not None
    assert model.profile.sentence in seen["audit"]
    assert {"sensitivity", "zeros, %", "Time", "Stored bytes"} <= set(seen["strips"])


def test_every_figure_of_the_table_is_that_of_the_summary(seen: dict[str, Any], summary: RunSummary) -> None:
    assert len(seen["table"]) == len(summary.models)
    for key, name, speed, latency, size, memory, search, test, meets in seen["table"]:
        m = summary.model_of(key)
        assert m is not None
        assert m.peak_memory_bytes is not None
        assert m.accuracy.test is not None
        assert name.startswith(m.name)
        half = (m.speedup.high - m.speedup.low) / 2
        assert speed == ratio(m.speedup.value) + (f"±{fixed(half, 2)}" if half > 0 else "")
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
    full = list(csv.DictReader(io.StringIO(outcomes_csv(summary))))
    assert list(rows[0]) == list(full[0])
    for mine, theirs in zip(rows, full, strict=True):
        for name, text in theirs.items():
            if name in ("name", "error", "key", "role", "axis", "outcome", "stage", "evidence"):
                assert mine[name] == text[:240], name
            else:
                assert (mine[name] == "") == (text == ""), name
                assert text == "" or float(mine[name]) == pytest.approx(float(text), rel=1e-5), name
    assert "onnxruntime_cxx_api.h" in seen["cpp"]


def test_no_accessibility_fault_and_no_sideways_scrolling(seen: dict[str, Any]) -> None:
    assert [fault for fault in seen["axe"] if fault["impact"] in ("serious", "critical", "moderate")] == []
    assert seen["overflow"] == {"light": 0, "dark": 0, "phone": 0}


def test_large_report_is_ready_in_time(drive: Drive, large: RunSummary, tmp_path: Path) -> None:
    found = drive(large, tmp_path)
    assert found["errors"] == []
    assert min(found["ready"]) < 1500
    assert [fault for fault in found["axe"] if fault["impact"] in ("serious", "critical")] == []
    assert found["overflow"] == {"light": 0, "dark": 0, "phone": 0}


def test_the_page_tells_partly_scored_trials_from_the_others_and_models_beside_the_front(
    drive: Drive, tmp_path: Path
) -> None:
    history = synthetic_history(seed=7)  # one finalist beside the front may be chosen by some budget
    finals = {f.key for f in history.finals}
    searched = [t for t in history.trials if t.is_measured and t.role == "search" and t.key not in finals]
    partly = {t.key for t in searched[:2]}
    trials = tuple(t.model_copy(update={"scored_fully": t.key not in partly}) for t in history.trials)
    # one finalist that another one beats in everything: measured again, but nobody would choose it
    beaten = searched[2]
    final = history.finals[-1]
    assert beaten.speedup is not None
    assert beaten.accuracy is not None
    worse = beaten.speedup.model_copy(update={"value": 0.2, "low": 0.19, "high": 0.21})
    lost = beaten.accuracy.model_copy(
        update={"value": 0.1, "difference": -0.78, "difference_low": -0.79, "difference_high": -0.77}
    )
    again = final.model_copy(update={"key": beaten.key, "speedup": worse, "test_accuracy": lost})
    trials = tuple(
        t.model_copy(update={"speedup": worse, "accuracy": lost, "size_bytes": 10**9}) if t.key == beaten.key else t
        for t in trials
    )
    found = summarize(RunHistory(run=history.run, trials=trials, finals=(*history.finals, again), stopped="done"))
    assert found.model_of(beaten.key) is None
    saw = drive(found, tmp_path)
    assert saw["errors"] == []
    assert set(saw["partly"]) == partly
    assert set(saw["partlyTips"]) == partly
    assert "scored in part" in saw["legend"]
    assert 0 < saw["hollow"] <= len(partly)
    for key, words in saw["kinds"]:
        m = found.model_of(key)
        assert m is not None
        assert words.endswith("on the front") <= m.on_front, words
    beside = [m.key for m in found.models if not m.on_front and m.role in ("search", "seed") and m.key != found.best]
    assert beside
    assert all(dict(saw["kinds"])[key].endswith("beside the front") for key in beside)
    assert f"{len(history.finals) + 1} models were measured again" in saw["trust"]


_NONE = {"max_drop": 0.0, "latency_ms": 0.01, "size_bytes": None, "memory_bytes": None, "min_accuracy": None}


@pytest.mark.parametrize("kind", ["real", "hopeless", "hostile", "devices"])
def test_every_kind_of_run_has_a_sound_page(drive: Drive, real_run: Path, kind: str, tmp_path: Path) -> None:
    evil = (
        "</script><script>alert({i})</script>\u202e\u0000\"'&{stage}{block}<img src=x onerror=alert(1)>" + "A" * 10_000
    )
    found: RunSummary = {
        "real": lambda: read_summary(real_run / "summary.json"),
        "hopeless": lambda: summarize(synthetic_history(budget=_NONE)),
        "hostile": lambda: summarize(synthetic_history(40, site_name=evil, title=evil, seed=4)),
        "devices": lambda: summarize(synthetic_history(elsewhere=("pixel-8", "raspberry-pi-5"))),
    }[kind]()
    saw = drive(found, tmp_path)
    assert (saw["errors"], saw["requests"], saw["dialogs"]) == ([], [], [])
    assert min(saw["ready"]) < 1000
    assert [fault for fault in saw["axe"] if fault["impact"] in ("serious", "critical", "moderate")] == []
    assert saw["overflow"] == {"light": 0, "dark": 0, "phone": 0}
    for step in saw["picks"]:
        best = pick(found, Budget(**step["budget"]))
        assert step["key"] == (best.key if best else ""), step
    assert ("Devices" in saw["contents"]) == (kind == "devices")
