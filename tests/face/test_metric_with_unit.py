"""Jobs and commands for a metric that has a unit of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from modeltailor.commands.options import budget_options
from modeltailor.job import Job, parse_job
from modeltailor.job_template import render_job

Face = Callable[..., Any]


def _written(metric: str, **limits: float) -> str:
    return render_job(
        model="m.py:build", weights="", data="d.py:load", metric=metric, target="desktop-cpu", limits=limits
    )


def test_compare_does_not_call_a_change_in_units_points(
    face: Face, made_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modeltailor import api

    other = tmp_path / "other"
    shutil.copytree(made_run, other)
    real = api.load_run

    def in_units(folder: Path) -> Any:
        run = real(folder)
        found = run.summary
        metric = found.metric.model_copy(update={"name": "rmse", "minimize": True, "unit": "mm"})
        worse = 0.3 if folder.name == "other" else 0.0

        def moved(m: Any) -> Any:
            record = m.accuracy.search
            search = record.model_copy(update={"value": record.value + worse})
            return m.model_copy(update={"accuracy": m.accuracy.model_copy(update={"search": search})})

        run.summary = found.model_copy(update={"metric": metric, "models": tuple(map(moved, found.models))})
        return run

    monkeypatch.setattr(api, "load_run", in_units)
    said = face("compare", made_run, other)
    assert said.code == 0, said.err
    assert "points" not in said.out
    assert "\u22120.300" in said.out
    assert "-30.00" not in said.out


@pytest.mark.parametrize("metric", ["rmse", "mae", "cross-entropy"])
def test_a_job_for_a_metric_with_a_unit_gets_no_limit_in_points(metric: str) -> None:
    text = _written(metric)
    job = parse_job(yaml.safe_load(text))
    assert job.budget.max_drop is None
    assert any(line.strip().startswith("# max_drop:") and "unit" in line for line in text.splitlines())
    least = next(line for line in text.splitlines() if "min_accuracy" in line)
    assert "worst" in least
    assert "smallest" not in least


def test_a_job_for_a_share_keeps_its_limit_in_points() -> None:
    job = parse_job(yaml.safe_load(_written("accuracy")))
    assert job.budget.max_drop == 1.0
    assert parse_job(yaml.safe_load(_written("rmse", max_drop=30.0))).budget.max_drop == 30.0
    assert parse_job(yaml.safe_load(_written("rmse", size=200_000))).budget.size == 200_000


def test_init_for_a_metric_with_a_unit_writes_no_loss_that_nobody_asked_for(face: Face, tmp_path: Path) -> None:
    said = face("init", "--model", "m.py:build", "--data", "d.py:load", "--metric", "rmse", "--no-look")
    assert said.code == 0, said.err
    job = yaml.safe_load((tmp_path / "job.yaml").read_text())
    assert not (job["budget"] or {}).get("max_drop")
    parse_job(job)


def test_what_a_point_is_stands_wherever_max_drop_is_explained() -> None:
    budget = Job.model_fields["budget"].annotation
    assert budget is not None
    loss, least = (str(budget.model_fields[k].description) for k in ("max_drop", "min_accuracy"))
    command = click.command()(budget_options(lambda **_: None))
    helps = {o.opts[0]: str(o.help) for o in command.params if isinstance(o, click.Option)}
    for text in (loss, helps["--max-drop"]):
        assert "hundredths of the metric's unit" in text
    for text in (least, helps["--min-accuracy"]):
        assert "worst allowed" in text.lower()


def test_a_section_that_holds_comments_alone_is_empty(tmp_path: Path) -> None:
    from modeltailor.job import load_job

    place = tmp_path / "job.yaml"
    place.write_text("model: m.onnx\ndata: d.py:load\nbudget:\n  # size: 200 KB\nsearch:\n")
    job = load_job(place)
    assert job.limits().max_drop == 1.0
    assert job.search.trials == 60
    changed = load_job(place, ("budget.size=100 KB", "search.trials=7"))
    assert (changed.budget.size, changed.search.trials) == (100_000, 7)


def test_no_comment_of_the_template_sticks_to_a_value() -> None:
    for line in _written("accuracy").splitlines():
        assert not line.rstrip().endswith("#")
        assert "#" not in line.strip("# ").replace(" # ", "")
