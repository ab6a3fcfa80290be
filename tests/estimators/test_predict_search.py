"""A run whose device was not attached: predictions beside measurements, ties, and the list that ``certify`` reads."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from modeltailor.errors import StudyConflict
from modeltailor.estimators import Estimate
from modeltailor.estimators.predict import NoEstimate
from modeltailor.reports import render_html, render_markdown, render_terminal, summarize, summary_json
from modeltailor.reports import wording as w
from modeltailor.reports.synthetic import synthetic_history
from modeltailor.search.absent import TO_MEASURE, candidates, predict_absent, read_to_measure, to_measure_text
from modeltailor.search.devices import pool_of
from modeltailor.search.records import RunHistory
from modeltailor.targets import Budget, load_profile


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, chain: Callable[..., Path]) -> RunHistory:
    """A finished run for a board that this machine stood in for, its models predicted there."""
    folder = tmp_path_factory.mktemp("artifacts")
    made = synthetic_history(n_trials=24, n_front=5)
    profile = load_profile("raspberry-pi-5")
    made = dataclasses.replace(made, run=made.run.model_copy(update={"profile": profile.to_plain()}))
    hashes = [t.sha256 for t in made.trials if t.is_measured]
    files = {
        sha256: chain(folder / f"{i}.onnx", [3, 8 * (1 + i % 6), 16], kernel=1 if i % 2 else 3)
        for i, sha256 in enumerate(hashes)
    }
    predicted = predict_absent(made, files.__getitem__, {"x": (1, 3, 16, 16)})
    return dataclasses.replace(made, predicted=predicted)


def test_an_attached_device_is_not_predicted() -> None:
    made = synthetic_history(n_trials=24)
    attached = {**made.run.profile, "reach": "local"}
    made = dataclasses.replace(made, run=made.run.model_copy(update={"profile": attached}))

    def no_file(sha256: str) -> Path:
        raise AssertionError(sha256)

    assert predict_absent(made, no_file, {}) == ()
    assert to_measure_text(made) == ""
    assert summarize(made).absent is None


def test_the_front_is_predicted_and_labelled(history: RunHistory) -> None:
    summary = summarize(history)
    assert summary.absent is not None
    assert {m.key for m in summary.absent.models} >= set(summary.front)
    for model in summary.absent.models:
        assert model.predicted_ms is not None
        assert model.predicted_ms.evidence == "predicted"
        assert model.predicted_ms.low < model.predicted_ms.value < model.predicted_ms.high
        assert model.here_ms.evidence != "predicted"
    assert all(m.latency_ms.evidence != "predicted" for m in summary.models)  # what was measured stays what it is


def test_bands_that_overlap_are_ties_and_what_is_certainly_slower_is_not_listed(history: RunHistory) -> None:
    absent = summarize(history).absent
    assert absent is not None
    for a in absent.models:
        for b in absent.models:
            assert (b.key in a.ties) == (a.key in b.ties)
    listed = [m for m in absent.models if m.to_measure]
    assert len(listed) > 1
    reach = min(m.predicted_ms.high for m in listed if m.predicted_ms)
    assert all(m.predicted_ms is not None and m.predicted_ms.low <= reach for m in listed)


def test_a_limit_on_latency_and_certainly_faster_models_leave_others_out() -> None:
    def estimate(low: float, high: float) -> Estimate:
        return Estimate(value=(low * high) ** 0.5, low=low, high=high, evidence="predicted")

    made = synthetic_history(n_trials=24, n_front=5)
    pool = pool_of(made)
    keys = sorted(pool)[:4]
    few = {k: pool[k] for k in keys}
    bands = dict(zip(keys, (estimate(1, 2), estimate(1.9, 3), estimate(2.1, 3), estimate(0.5, 4)), strict=True))
    assert candidates(bands, few, Budget(), False) == {keys[0], keys[1], keys[3]}
    assert candidates(bands, few, Budget(latency_ms=0.9), False) == {keys[3]}
    assert candidates(bands, few, Budget(latency_ms=0.1), False) == {keys[0], keys[1], keys[3]}  # none: all are shown
    refused = {**bands, keys[3]: NoEstimate(reason="unknown", kind="placement")}
    assert keys[3] in candidates(refused, few, Budget(), False)
    small = sorted(pool[k].size_bytes for k in keys)[0]
    kept = candidates(bands, few, Budget(size_bytes=small), False)
    assert kept <= {k for k in keys if pool[k].size_bytes <= small}


def test_the_list_is_read_back(history: RunHistory, tmp_path: Path) -> None:
    assert read_to_measure(tmp_path) == ()
    text = to_measure_text(history)
    (tmp_path / TO_MEASURE).write_text(text)
    wanted = [p.key for p in history.predicted if p.could_be_best]
    assert read_to_measure(tmp_path) == tuple(wanted)
    data = json.loads(text)
    assert data["device"] == "raspberry-pi-5"
    assert all(m["predicted_ms"]["evidence"] == "predicted" for m in data["models"])
    (tmp_path / TO_MEASURE).write_text("{}")
    with pytest.raises(StudyConflict, match="RUN-10"):
        read_to_measure(tmp_path)


def test_every_number_of_the_section_stands_in_the_summary(history: RunHistory) -> None:
    summary = summarize(history)
    assert summary.absent is not None
    data = json.loads(summary_json(summary))["absent"]
    known = {str(sum(m["to_measure"] for m in data["models"])), w.percent(data["band"]), "80", "3", "8"}
    for m in data["models"]:
        known.update(re.findall(r"[\d.]+", m["name"]))
        known.update(w.ms_text(m["here_ms"]["value"]).split())
        known.update(x for k in ("value", "low", "high") for x in w.ms_text(m["predicted_ms"][k]).split())
    known.update(re.findall(r"\d+(?:\.\d+)?", f"{data['sentence']} {data['name']}"))
    markdown = render_markdown(summary)
    section = markdown[markdown.index("predicted\n") : markdown.index("## Why believe it")].replace("\\", "")
    numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)", section)
    assert len(numbers) >= 4 * len(data["models"])
    assert {n for n in numbers if n not in known} == set()
    page, lines = render_html(summary), render_terminal(summary)
    fastest = data["models"][0]
    assert w.ms_text(fastest["predicted_ms"]["value"]).replace(" ", "\u00a0") in page
    assert f"predicted {w.ms_text(fastest['predicted_ms']['value'])}" in lines


def test_a_board_that_nothing_fits_lists_nothing(
    history: RunHistory, tmp_path: Path, chain: Callable[..., Path]
) -> None:
    tiny = {**history.run.profile, "memory_bytes": {"value": 1000, "origin": "spec", "source": "made up"}}
    run = history.run.model_copy(update={"profile": tiny})
    made = dataclasses.replace(history, run=run, predicted=())
    file = chain(tmp_path / "a.onnx", [3, 8, 8])
    found = predict_absent(made, lambda _: file, {"x": (1, 3, 16, 16)})
    assert all(p.latency_ms is None and "bytes of memory" in p.reason and not p.could_be_best for p in found)
    assert json.loads(to_measure_text(dataclasses.replace(made, predicted=found)))["models"] == []
