"""Every number in every report is one of summary.json: the renderers format, they decide nothing."""

from __future__ import annotations

import bisect
import csv
import html
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from modeltailor.live_panel import Moment, Panel
from modeltailor.reports import (
    RunSummary,
    compare,
    outcomes_csv,
    render_comparison,
    render_comparison_html,
    render_html,
    render_markdown,
    render_model_card,
    render_svg,
    render_terminal,
    summarize,
    summary_json,
)
from modeltailor.reports import wording as w
from modeltailor.reports.devices import devices_html, devices_markdown, devices_text
from modeltailor.reports.html import page_data
from modeltailor.reports.synthetic import synthetic_history
from modeltailor.run import Run
from modeltailor.search.records import RunHistory

_NUMBER = re.compile(r"(?<![\w.])[−+]?\d+(?:\.\d+)?(?![\w.]*[A-Za-z_]\w*\d)")
_INDICES = {"layout", "cells", "ties", "palette", "names"}


def _leaves(value: object) -> Iterator[float]:
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, (int, float)):
        yield float(value)
    elif isinstance(value, dict):
        for v in value.values():
            yield from _leaves(v)
    elif isinstance(value, list):
        for v in value:
            yield from _leaves(v)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for k, v in value.items():
            yield k
            yield from _texts(v)
    elif isinstance(value, list):
        for v in value:
            yield from _texts(v)


def _written(data: dict[str, Any]) -> set[str]:
    """Every way in which a number of the summary may be written, and the numbers in its texts and names."""
    forms: set[str] = set()

    def tell(*texts: str) -> None:
        for text in texts:
            forms.update(_NUMBER.findall(text.replace("\u00a0", " ")))

    for v in {*_leaves(data)}:
        for x in (v, -v, 100 * v, -100 * v):
            tell(
                w.ratio(x),
                w.ms_text(x),
                w.bytes_text(x),
                w.seconds_text(abs(x)),
                w.points(x),
                w.amount(x),
                w.percent(x),
            )
            tell(*(w.fixed(x, digits) for digits in (0, 1, 2, 3)), *(w.percent(x, digits) for digits in (1, 2)))
        if v == int(v):
            tell(str(int(v)))
    for models in (data["models"], [m["over_uniform"] for m in data["models"] if m["over_uniform"]]):
        for m in models:  # half-widths and the words for a ratio are differences of two numbers that stand there
            for name in ("speedup", "latency_ms"):
                if isinstance(found := m.get(name), dict):
                    half = (found["high"] - found["low"]) / 2
                    tell(w.fixed(half, 2), w.percent(half / found["value"], 1), w.percent(abs(found["value"] - 1), 1))
            tell(w.percent(abs(1 - m["size_ratio"])))
    for group in (data["front"], data["models"], data["search"]["failures"]):
        tell(str(len(group)))
    tell(*_texts(data))
    return forms


def _of_models(run: RunSummary) -> dict[str, Any]:
    """The summary without what texts do not show: layers and trials."""
    data: dict[str, Any] = json.loads(summary_json(run))
    data["trials"] = []
    for model in data["models"]:
        model["recipe"]["sites"] = []
        model["profile"] = model["profile"] and {"sentence": model["profile"]["sentence"]}
    return data


@pytest.fixture(scope="module", params=[0, 3])
def run(request: pytest.FixtureRequest) -> RunSummary:
    return summarize(synthetic_history(seed=request.param))


def test_numbers_of_the_texts_stand_in_the_summary(run: RunSummary) -> None:
    known = _written(_of_models(run)) | {"256", "95", "2020", "12"}  # SHA-256, 95 %, words of the page
    for name, text in (
        ("markdown", render_markdown(run)), ("card", render_model_card(run)), ("terminal", render_terminal(run)),
    ):  # fmt: skip
        plain = re.sub(r"```.*?```", "", text.replace("\\", ""), flags=re.DOTALL)
        numbers = _NUMBER.findall(plain)
        assert len(numbers) > 30
        strange = {n for n in numbers if n not in known and n.lstrip("+−") not in known}
        assert not strange, (name, strange)


def test_numbers_of_the_page_stand_in_the_summary(run: RunSummary) -> None:
    leaves = sorted({*_leaves(json.loads(summary_json(run)))})

    def is_known(value: float) -> bool:
        at = bisect.bisect_left(leaves, value)
        return any(abs(leaves[i] - value) <= 5e-3 * abs(value) for i in (at - 1, at) if 0 <= i < len(leaves))

    def walk(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
        if isinstance(value, dict):
            for k, v in value.items():
                if k not in _INDICES:
                    yield from walk(v, (*path, k))
        elif isinstance(value, list):
            for v in value:
                yield from walk(v, path)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield path, float(value)

    data = page_data(run)
    layers = data["layers"]
    assert isinstance(layers, dict)
    layers["layouts"] = [[row[1:] for row in layout] for layout in layers["layouts"]]  # type: ignore[union-attr, index]
    layers["sensitivities"] = [row[1:] for row in layers["sensitivities"]]  # type: ignore[union-attr, index]
    for model in data["models"]:  # type: ignore[union-attr]
        assert isinstance(model, dict)
        del model["nMissing"]
    found = list(walk(data, ()))
    assert len(found) > 3000
    strange = {(path, value) for path, value in found if not is_known(value)}
    assert not strange, sorted(strange)[:5]


def test_numbers_of_the_table_are_those_of_the_summary(run: RunSummary) -> None:
    data = json.loads(summary_json(run))
    rows = list(csv.DictReader(io.StringIO(outcomes_csv(run))))
    for row, t in zip(rows, data["trials"], strict=True):
        for column, value in {
            "accuracy": t["accuracy"] and t["accuracy"]["value"],
            "difference_high": t["accuracy"] and t["accuracy"]["difference_high"],
            "speedup_low": t["speedup"] and t["speedup"]["low"],
            "latency_high_ms": t["latency_ms"] and t["latency_ms"]["high"],
            "size_bytes": t["size_bytes"],
            "peak_memory_bytes": t["peak_memory_bytes"],
            "finished_at_s": t["finished_at_s"],
        }.items():
            assert (float(row[column]) if row[column] else None) == value, column


def test_the_picture_shows_figures_of_the_summary_only(run: RunSummary) -> None:
    known = _written(_of_models(run))
    names = [t for t in re.findall(r"<text[^>]*>([^<]*)</text>", render_svg(run)) if re.search(r"×|KB|MB", t)]
    assert names
    assert {n for t in names for n in _NUMBER.findall(t)} <= known


def _strange(text: str, known: set[str]) -> set[str]:
    plain = text.replace("\\", "").replace("\u00a0", " ")
    numbers = _NUMBER.findall(plain)
    assert numbers
    return {n for n in numbers if n not in known and n.lstrip("+−") not in known}


def _words_of(page: str) -> str:
    """What a reader sees of a page: no tags, no style, no data."""
    text = re.sub(r"<(style|script)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]*>", " ", text))


def test_the_page_says_in_words_what_the_summary_says(run: RunSummary) -> None:
    known = _written(_of_models(run)) | {"3", "256", "2026", "01", "95"}
    assert not _strange(_words_of(render_html(run)), known)


@pytest.mark.slow
def test_every_number_that_the_browser_shows_stands_in_the_summary(
    drive: Callable[[RunSummary, Path], dict[str, Any]], run: RunSummary, tmp_path: Path
) -> None:
    data = json.loads(summary_json(run))
    known = _written(data) | {"95", "256"} | {str(n) for n in range(len(data["trials"]) + 1)}
    for t in data["trials"]:
        if t["speedup"]:
            known |= set(_NUMBER.findall(w.fixed((t["speedup"]["high"] - t["speedup"]["low"]) / 2, 2)))
    total = sum(s for _, s in data["search"]["time_split"])
    known |= {n for _, s in data["search"]["time_split"] for n in _NUMBER.findall(w.percent(s / total))}
    for model in data["models"]:
        for site in model["recipe"]["sites"]:
            known |= set(_NUMBER.findall(w.amount(site["macs"] / 1e6)))
    seen = drive(run, tmp_path)
    assert len(_NUMBER.findall(seen["words"])) > 500
    assert not _strange(seen["words"], known)


def test_numbers_of_several_devices_stand_in_the_summary() -> None:
    study = summarize(synthetic_history(elsewhere=("pixel-8", "raspberry-pi-5")))
    assert len(study.devices) == 3
    data = _of_models(study)
    known = _written(data) | {"95", "3"}  # 95 %, three devices
    for device in data["devices"]:
        known |= {str(len(device["front"]))}
    assert data["on_all"]["slowdowns"]
    for value in data["on_all"]["slowdowns"].values():
        known |= set(_NUMBER.findall(w.percent(value - 1.0, 1)))
    for text in ("\n".join(devices_markdown(study)), "\n".join(devices_text(study)), _words_of(devices_html(study))):
        assert not _strange(text, known)
        for device in study.devices:
            assert device.best_speedup is not None
            assert w.ratio(device.best_speedup.value) in text


def test_numbers_of_a_comparison_stand_in_it_or_in_the_runs() -> None:
    a, b = summarize(synthetic_history(seed=0)), summarize(synthetic_history(seed=0, n_trials=50))
    found = compare(a, b, name_a="first", name_b="second")
    assert found.shared
    data: dict[str, Any] = json.loads(found.model_dump_json())
    known = _written(_of_models(a)) | _written(_of_models(b)) | {"95", "0.05", "5"}
    for v in {*_leaves(data)}:
        for x in (v, 100 * v):
            known |= set(_NUMBER.findall(" ".join((w.ratio(x), w.change(x), w.percent(x), f"{x:.2g}", w.fixed(x, 3)))))
    known |= {str(sum(s.speed_differs for s in found.shared)), str(len(found.shared))}
    known |= set(_NUMBER.findall(" ".join(_texts(data))))
    markdown, page = render_comparison(found, a, b), render_comparison_html(found, a, b)
    assert not _strange(markdown, known)
    assert not _strange(_words_of(re.sub(r"<svg.*?</svg>", " ", page, flags=re.DOTALL)), known)


def test_the_live_view_shows_numbers_of_the_summary(run: RunSummary) -> None:
    out = io.StringIO()
    last = "int8 static: 2.31x"
    moment = Moment(title="runs/x", phase="search", text="trying", finished=7, planned=41, elapsed_s=63.0,
                    remaining_s=107.0, working=False, last=last, summary=run)  # fmt: skip
    Console(file=out, width=120, force_terminal=False).print(Panel(moment))
    rows = [line for line in out.getvalue().splitlines() if "passed" not in line and last not in line]
    known = _written(_of_models(run)) | {str(len(run.front) - 7)}
    assert not _strange("\n".join(rows), known)


def test_frames_and_notebook_pages_hold_the_summary(run: RunSummary, tmp_path: Path) -> None:
    history = synthetic_history(seed=run.seed)
    notebook = Run(tmp_path, history)
    assert notebook.summary.model_dump(exclude={"models"}) == run.model_dump(exclude={"models"})
    for key, row in notebook.front.iterrows():
        model = run.model_of(str(key))
        assert model is not None
        assert (row["speedup"], row["latency_high_ms"]) == (model.speedup.value, model.latency_ms.high)
        assert (row["size_bytes"], row["peak_memory_bytes"]) == (model.size_bytes, model.peak_memory_bytes)
        assert (row["accuracy"], row["difference"]) == (model.accuracy.search.value, model.accuracy.search.difference)
        assert row["meets_budget"] == model.meets_budget
    for number, row in notebook.outcomes.iterrows():
        point = run.trials[number]
        assert point.number == number
        if point.latency_ms is not None and point.accuracy is not None:
            assert row["latency_ms"] == point.latency_ms.value
            assert row["difference_low"] == point.accuracy.difference_low
    words = _words_of(re.sub(r"<svg.*?</svg>", " ", notebook._repr_html_(), flags=re.DOTALL))
    known = _written(_of_models(run))
    for v in {*_leaves(_of_models(run))}:
        known |= set(_NUMBER.findall(f"{v:.4g} {v:.4f}"))
    known |= {n.replace("-", "−") for n in known}
    assert not {n for n in _NUMBER.findall(words) if n.lstrip("−+") not in known and n not in known}


def test_a_number_that_a_renderer_made_up_is_found(run: RunSummary) -> None:
    known = _written(_of_models(run))
    made_up = [w.bytes_text((1 + 0.0173 * k) * m.size_bytes).split()[0] for m in run.models for k in range(1, 9)]
    made_up += [w.ms_text((1 + 0.0173 * k) * m.latency_ms.value).split()[0] for m in run.models for k in range(1, 9)]
    assert sum(text not in known for text in made_up) > 0.4 * len(made_up)  # three digits often meet by chance


def test_an_empty_run_prints_no_figures() -> None:
    empty = summarize(RunHistory(run=synthetic_history(0, finished=False).run))
    assert empty.models == ()
    assert "Nothing has been measured yet." in render_terminal(empty)


@pytest.mark.parametrize(
    ("value", "text"), [(-1.8749999999999933, "−1.88"), (-0.6249999999999978, "−0.63"), (0.004999, "0.00")]
)
def test_the_noise_of_floats_does_not_decide_a_tie(value: float, text: str) -> None:
    assert w.fixed(value, 2) == w.fixed(round(value, 9), 2) == text
