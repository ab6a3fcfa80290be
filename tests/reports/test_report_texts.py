"""Markdown, CSV, terminal, card and picture say what the summary says."""

from __future__ import annotations

import csv
import io
import re
import struct
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeltailor.compress.vocabulary import Recipe, Structure
from modeltailor.errors import EnvironmentFault
from modeltailor.reports import (
    RunSummary,
    front_frame,
    outcomes_csv,
    read_summary,
    render_markdown,
    render_model_card,
    render_svg,
    render_terminal,
    summarize,
    write_reports,
)
from modeltailor.reports.figure import ticks, with_intervals
from modeltailor.reports.labels import Box, place_labels
from modeltailor.reports.naming import audit_sentence, kernel_family, loading_sentence, recipe_name
from modeltailor.reports.plot import render_png
from modeltailor.reports.synthetic import synthetic_history
from modeltailor.reports.tables import OUTCOME_COLUMNS, outcomes_parquet
from modeltailor.reports.wording import bytes_text, metric_text, ms_text, points, ratio
from modeltailor.search.records import RunHistory, SiteRecord


def _cells(line: str) -> list[str]:
    return [c.strip() for c in line.strip().strip("|").split("|")]


def test_markdown_table_holds_the_front_figure_by_figure(summary: RunSummary) -> None:
    text = render_markdown(summary)
    rows = [_cells(ln) for ln in text.split("## The front")[1].split("##")[0].splitlines() if ln.startswith("|")][2:]
    assert len(rows) == len(summary.front)
    for key, row in zip(summary.front, rows, strict=True):
        m = summary.model_of(key)
        assert m is not None
        assert row[0] == ("**→**" if key == summary.best else "")
        assert row[2] == f"{ratio(m.speedup.value)} [{ratio(m.speedup.low)}, {ratio(m.speedup.high)}]"
        assert row[3] == ms_text(m.latency_ms.value)
        assert row[4] == bytes_text(m.size_bytes)
        assert row[5].startswith(metric_text(m.accuracy.search.value))
        assert row[7] == ("yes" if m.meets_budget else "no")
    assert summary.verdict.headline in text
    assert len(text) < 10_000


def test_terminal_shows_the_same_figures_without_colour_codes(summary: RunSummary) -> None:
    text = render_terminal(summary)
    assert "\x1b" not in text
    lines = text.splitlines()
    for key in summary.front:
        m = summary.model_of(key)
        assert m is not None
        spread = " ±" if m.speedup.high > m.speedup.low else ""  # the original against itself has none
        wanted = (f"{ratio(m.speedup.value)}{spread}", ms_text(m.latency_ms.value), bytes_text(m.size_bytes),
                  points(100 * m.accuracy.search.difference))  # fmt: skip
        assert any(all(w in line for w in wanted) for line in lines), m.name
    marked = [line for line in lines if line.startswith(">")]
    best = summary.model_of(summary.best)
    assert best is not None
    assert len(marked) == 1
    assert best.name in marked[0]
    assert all(len(line) <= 120 for line in lines)


def test_csv_gives_every_trial_at_full_precision(summary: RunSummary) -> None:
    rows = list(csv.DictReader(io.StringIO(outcomes_csv(summary))))
    assert len(rows) == len(summary.trials)
    for row, t in zip(rows, summary.trials, strict=True):
        assert int(row["trial"]) == t.number
        assert row["outcome"] == t.outcome
        if t.latency_ms and t.accuracy:
            assert float(row["latency_ms"]) == t.latency_ms.value
            assert float(row["difference_low"]) == t.accuracy.difference_low
            assert int(row["size_bytes"]) == t.size_bytes
            assert row["evidence"] == t.latency_ms.evidence
        else:
            assert row["latency_ms"] == row["accuracy"] == ""


def test_a_score_that_was_given_up_early_is_marked(history: RunHistory) -> None:
    numbers = {t.number for t in history.trials if t.is_measured and t.role == "search"}
    partly = {min(numbers), max(numbers)}
    trials = tuple(t.model_copy(update={"scored_fully": t.number not in partly}) for t in history.trials)
    found = summarize(RunHistory(run=history.run, trials=trials, finals=history.finals))
    rows = {int(r["trial"]): r["scored_fully"] for r in csv.DictReader(io.StringIO(outcomes_csv(found)))}
    assert {n for n, text in rows.items() if text == "0"} == partly
    assert all(rows[t.number] == "" for t in found.trials if t.accuracy is None)
    assert all(rows[t.number] == "1" for t in found.trials if t.accuracy is not None and t.number not in partly)


def test_csv_holds_no_formula_and_no_broken_row() -> None:
    history = synthetic_history(8, finished=False)
    trials = tuple(t.model_copy(update={"label": '=HYPERLINK("http://x"),\n"'}) for t in history.trials)
    text = outcomes_csv(summarize(RunHistory(run=history.run, trials=trials)))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 8
    assert all(r["name"].startswith("'=") and "\n" not in r["name"] for r in rows)


def test_front_frame_marks_the_best(summary: RunSummary) -> None:
    frame = front_frame(summary)
    assert tuple(frame.index) == summary.front
    assert list(frame.index[frame["best"]]) == [summary.best]
    assert frame["speedup"].is_monotonic_decreasing
    assert front_frame(summarize(synthetic_history(0, finished=False))).empty


def test_card_tells_the_facts_of_the_recommended_file(summary: RunSummary) -> None:
    best = summary.model_of(summary.best)
    assert best is not None
    text = render_model_card(summary)
    for fact in (best.sha256, str(best.size_bytes), ms_text(best.latency_ms.value), best.audit, "best.onnx"):
        assert fact in text
    none = summarize(synthetic_history(budget={"max_drop": 0.0, "latency_ms": 0.01}))
    assert "There is no `best.onnx`" in render_model_card(none)


def test_hostile_names_do_nothing_in_markdown() -> None:
    evil = "|</td><script>alert(1)</script>`[x](javascript:alert(1))\n# big\u202e"
    history = synthetic_history(12, title=evil)
    trials = tuple(t.model_copy(update={"label": evil}) for t in history.trials)
    found = summarize(RunHistory(run=history.run, trials=trials, finals=history.finals))
    for text in (render_markdown(found), render_model_card(found)):
        assert "<script" not in text.replace("\\<script", "")
        assert not re.search(r"(?<!\\)\[x(?<!\\)\]\(javascript", text)
        assert "\u202e" not in text
        assert "\n# big" not in text
    rows = [ln for ln in render_markdown(found).splitlines() if ln.startswith("| ") and "alert" in ln]
    assert rows
    assert all(len(re.findall(r"(?<!\\)\|", r)) == 9 for r in rows)


def test_picture_is_valid_and_shows_each_model(summary: RunSummary) -> None:
    root = ET.fromstring(render_svg(summary))
    space = "{http://www.w3.org/2000/svg}"
    marks = [
        e for tag in ("circle", "path") for e in root.iter(f"{space}{tag}") if e.get("stroke-width") in ("1.5", "2")
    ]
    assert len(marks) == len(summary.models)
    words = " ".join(e.text or "" for e in root.iter(f"{space}text"))
    assert "int8 static" in words
    ET.fromstring(render_svg(summarize(synthetic_history(0, finished=False))))


def test_an_interval_of_the_front_ends_in_a_bar_or_goes_on_beyond_the_picture(summary: RunSummary) -> None:
    root = ET.fromstring(render_svg(summary))
    drawn = [e.get("d", "") for e in root.iter("{http://www.w3.org/2000/svg}path") if e.get("stroke") == "#999999"]
    assert len(drawn) == sum(m.on_front for m in summary.models)
    for d in drawn:
        _, low, high = map(float, re.split(r"[,V]", d.split("M")[2].split("M")[0]))
        bars = {float(m) for m in re.findall(r"M[\d.]+,([\d.]+)h6", d)}
        open_ends = {low, high} - bars
        assert all(v in (54.0, 408.0) for v in open_ends), d  # the picture's upper and lower edge
    assert any("h6" in d for d in drawn)


@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=5),
    st.lists(st.floats(-300, 300), max_size=6),
)
def test_intervals_widen_the_picture_but_leave_models_a_third_of_it(values: list[float], ends: list[float]) -> None:
    low, high = with_intervals(values, ends)
    assert low <= min(values)
    assert max(values) <= high
    assert (max(values) - min(values)) * 3.0 >= (high - low) * 0.999 or min(values) == max(values)
    assert all(low <= e <= high for e in ends) or high - low > 1.999 * (max(values) - min(values))


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0.0, 1.0, 5) == pytest.approx((0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    assert ticks(0.31, 0.88, 5) == pytest.approx((0.4, 0.6, 0.8))
    assert ticks(2.0, 2.0) == (2.0,)


def test_everything_is_written_whole_and_read_back(history: RunHistory, tmp_path: Path) -> None:
    (tmp_path / "front").mkdir()
    (tmp_path / "artifacts").mkdir()
    best = summarize(history).best
    trial = next(t for t in history.trials if t.key == best)
    (tmp_path / "front" / f"03-{best[:8]}.onnx").write_bytes(b"x")
    other = next(t for t in history.trials if t.is_measured and t.key != best)
    (tmp_path / "artifacts" / f"{other.sha256[:16]}.onnx").write_bytes(b"y")
    found = write_reports(tmp_path, history)
    names = {"summary.json", "outcomes.csv", "report.html", "report.md", "MODEL_CARD.md", "front.svg"}
    assert {p.name for p in tmp_path.iterdir()} == names | {"front", "artifacts"}
    assert read_summary(tmp_path / "summary.json") == found
    model = found.model_of(best)
    assert model is not None
    assert model.file == f"front/03-{best[:8]}.onnx"
    assert found.file == "best.onnx"
    assert trial.sha256 == model.sha256
    first = found.model_of(other.key)
    if first is not None:
        assert first.file == f"artifacts/{other.sha256[:16]}.onnx"
    before = (tmp_path / "report.html").read_bytes()
    write_reports(tmp_path, history)
    assert (tmp_path / "report.html").read_bytes() == before  # same records, same bytes


def _site(kernel: str, bits: int) -> SiteRecord:
    return SiteRecord(
        site=f"s{kernel}{bits}", kind="conv", format="w8a8", storage_bits=bits, stored_bytes=1, weight_elements=1,
        executed_kernel=kernel,
    )  # fmt: skip


def test_audit_separates_what_is_stored_from_what_is_executed() -> None:
    text = audit_sentence([_site("QLinearConv", 8), _site("QLinearConv", 4), _site("Conv", 4), _site("MatMulNBits", 4)])
    assert "2 of 4 layers run on 8-bit integer kernels, 1 of them stored in fewer than 8 bits" in text
    assert "1 of 4 layers computes in float (1 of them only stored smaller, not executed faster)" in text
    assert "1 of 4 layers runs on the block-wise MatMulNBits kernel" in text
    assert kernel_family("com.microsoft.QGemm") == "integer"
    assert kernel_family("FusedConv") == "float"


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # a busy machine is no fault
@given(st.lists(st.tuples(st.floats(0, 700), st.floats(0, 400), st.floats(20, 240)), max_size=12))
def test_names_in_pictures_never_cover_each_other_or_leave_the_frame(wanted: list[tuple[float, float, float]]) -> None:
    frame = Box(left=0, top=0, right=700, bottom=400)
    boxes = []
    for (_, _, width), label in zip(wanted, place_labels(wanted, [w[:2] for w in wanted], frame), strict=True):
        if label is not None:
            left = label.x - {"start": 0.0, "middle": width / 2, "end": width}[label.anchor]
            boxes.append(Box(left=left, right=left + width, top=label.y - 10.4, bottom=label.y + 2.6))
    assert all(b.left >= 0 and b.right <= 700.001 and b.top >= -0.001 and b.bottom <= 400.001 for b in boxes)
    assert not any(a.meets(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_lonely_name_is_placed() -> None:
    frame = Box(left=0, top=0, right=700, bottom=400)
    assert place_labels([(10.0, 10.0, 200.0)], [(10.0, 10.0), (40.0, 10.0)], frame)[0] is not None


def test_parquet_holds_the_rows_of_the_csv_with_types(summary: RunSummary) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(io.BytesIO(outcomes_parquet(summary)))
    assert tuple(table.column_names) == OUTCOME_COLUMNS
    rows = list(csv.DictReader(io.StringIO(outcomes_csv(summary))))
    for row, held in zip(rows, table.to_pylist(), strict=True):
        for name, text in row.items():
            value = held[name]
            if text == "":
                assert value in (None, "")
            elif isinstance(value, str):
                assert value == text.removeprefix("'")
            else:
                assert value == float(text)
    assert str(table.schema.field("size_bytes").type) == "int64"
    assert str(table.schema.field("latency_ms").type) == "double"


def test_png_is_a_picture_of_the_stated_size_and_repeats(summary: RunSummary) -> None:
    pytest.importorskip("matplotlib")
    data = render_png(summary, dpi=50)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (380, 230)
    assert data == render_png(summary, dpi=50)
    assert len(render_png(summarize(synthetic_history(0, finished=False)), dpi=50)) > 500


@pytest.mark.parametrize(("library", "render", "extra"), [
    ("matplotlib", render_png, "plots"), ("pyarrow", outcomes_parquet, "parquet")])  # fmt: skip
def test_a_missing_library_is_said_with_the_line_that_installs_it(
    summary: RunSummary,
    monkeypatch: pytest.MonkeyPatch,
    library: str,
    render: Callable[[RunSummary], bytes],
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(EnvironmentFault, match=f"needs {library}") as caught:
        render(summary)
    assert caught.value.exit_code == 5
    assert f"pip install 'modeltailor[{extra}]'" in caught.value.line()


def test_loading_tells_packed_from_plain() -> None:
    sites = [_site("QLinearConv", 8), _site("QLinearConv", 4), _site("MatMulNBits", 4)]
    text = loading_sentence(sites, 35.0, 7.0)
    assert text == (
        "1 of 3 layers are stored packed; the runtime unpacks them once, while it loads the file; "
        "1 of 3 layers stay packed in memory, block by block; loading takes 35.0 ms, 7.00 ms for the original."
    )
    assert "All weights are stored" in loading_sentence(sites[:1], None, None)
    assert loading_sentence([], 1.0, 1.0) == ""


def test_names_tell_ranks_zeros_and_resolution() -> None:
    structure = Structure(ranks=(("a", 4), ("b", 8)), sparsity=(("c", 0.5),), pattern="2:4", resolution=0.75)
    name = recipe_name(Recipe(structure=structure), [])
    assert name == "2 layers split in two of low rank · 50 % zeros in 1 layer, 2:4 · sees 75 % of the resolution · fp32"
