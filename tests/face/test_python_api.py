"""The Python face: what its docstrings show runs, and notebooks get pictures and tables."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import modeltailor
from modeltailor.reports.synthetic import synthetic_history
from modeltailor.run import Picture, Run


@pytest.mark.parametrize("name", ["modeltailor.run", "modeltailor.quantity", "modeltailor.job"])
def test_examples_in_docstrings_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    assert result.attempted > 0


def test_a_run_loaded_from_disk_agrees_with_its_summary(made_run: Path, tmp_path: Path) -> None:
    run = modeltailor.load_run(made_run)
    assert run.best is not None
    assert run.best_path is not None
    assert list(run.front.index) == list(run.summary.front)
    assert len(run.outcomes) == len(run.history.trials)
    measured = run.outcomes[run.outcomes["outcome"] == "MEASURED"]
    point = next(t for t in run.summary.trials if t.number == measured.index[-1])
    assert point.speedup is not None
    assert measured.loc[point.number, "speedup"] == pytest.approx(point.speedup.value)
    other = run.under(modeltailor.Budget(size_bytes=10))
    assert other.best is None
    assert other.best_path is None
    made = run.export(tmp_path / "out", run.best.key[:8])
    assert made.sha256 == run.best.sha256


def test_notebooks_get_a_table_and_a_picture_and_hostile_names_stay_text(tmp_path: Path) -> None:
    history = synthetic_history(
        30, 6, site_name="<script>{stage}{block}{i}</script>", title="<script>alert(1)</script>"
    )
    run = Run(tmp_path, history)
    html = run._repr_html_()
    assert "<script" not in html
    assert html.count("<svg") == 1
    assert "<table" in html
    picture = run.plot()
    assert isinstance(picture, Picture)
    assert picture._repr_svg_() == picture.svg
    assert picture.save(tmp_path / "front.svg").read_text() == picture.svg
    assert run.summary.verdict.headline in repr(run)
