"""What ``validate``, ``quick`` and ``init`` say of a job is true of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
import yaml

from modeltailor.job import load_job, parse_job
from modeltailor.validation import _budget
from modeltailor.validation_child import ModelSeen, data
from modeltailor.workloads import DataSpec, MetricSpec, ModelSpec, WorkloadSpec

Face = Callable[..., Any]


def _splits(folder: Path, shared: int) -> WorkloadSpec:
    """Four splits of 1,000 samples; ``shared`` of train stand in test, too."""
    rng = np.random.default_rng(0)
    files = []
    train = rng.normal(size=(1000, 4)).astype(np.float32)
    for name in ("train", "calibration", "search", "test"):
        x = train if name == "train" else rng.normal(size=(1000, 4)).astype(np.float32)
        if name == "test":
            x[:shared] = train[:shared]
        np.savez(folder / f"{name}.npz", x=x, y=rng.integers(0, 3, 1000))
        files.append((name, f"{name}.npz"))
    return WorkloadSpec(
        root=folder, model=ModelSpec(source="m.onnx"), data=DataSpec(files=tuple(files), allow_overlap=True),
        metric=MetricSpec(),
    )  # fmt: skip


def test_splits_are_called_disjoint_only_if_they_are(tmp_path: Path) -> None:
    for name, shared in (("apart", 0), ("few", 3), ("many", 400)):
        (tmp_path / name).mkdir()
        seen = data(_splits(tmp_path / name, shared))
        told = seen.line()
        assert ("stands in another split" in told) == (shared == 0), (name, told)
        assert any(f"share {shared} of" in note for note in seen.notes) == (shared > 0)


def test_an_onnx_file_is_said_to_take_what_the_search_does_to_it() -> None:
    line = ModelSeen(kind="onnx", parameters=10, inputs=(("x", "[1, 3]"),)).line()
    assert "formats only" not in line
    assert "channels and ranks" in line
    assert "blocks and students need PyTorch" in line
    assert "need PyTorch" not in ModelSeen(kind="torch", parameters=10, inputs=(("x", ""),)).line()


def test_limits_are_written_as_people_write_them() -> None:
    job = parse_job(
        {"model": "m.onnx", "data": "d.py:load", "budget": {"size": "2 MB", "memory": "64 MB", "max_drop": 1}}
    )
    told = _budget(job).says
    assert "size 2.00 MB" in told
    assert "memory 64.0 MB" in told
    assert "e+" not in told
    assert "max_drop 1 points" in told


def test_a_loss_in_units_is_not_called_points() -> None:
    base = {"model": "m.onnx", "data": "d.py:load", "metric": "rmse"}
    told = _budget(parse_job({**base, "budget": {"max_drop": 30}})).says
    assert "points" not in told
    assert "0.3 units" in told
    (note,) = _budget(parse_job(base)).notes
    assert "1 % of the original's rmse" in note


@pytest.mark.parametrize("written", ["images.npz", "'data/images.npz'"])
def test_data_may_be_one_file(tmp_path: Path, written: str) -> None:
    place = tmp_path / "job.yaml"
    place.write_text(f"model: m.onnx\ndata: {written}\n")
    name = written.strip("'")
    assert load_job(place).workload(tmp_path).data.files == (("train", name),)
    changed = load_job(place, ("data.test=t.npz",))
    assert changed.workload(tmp_path).data.files == (("train", name), ("test", "t.npz"))
    assert load_job(place, ("data=other.npz",)).data.train == "other.npz"
    assert load_job(place, ("data=data.py:load",)).data.function == "data.py:load"


def test_init_holds_metric_and_target_as_seen_from_the_job(face: Face, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "metric.py").write_text("def f(outputs, y):\n    return 0.5\n")
    for name in ("my-board", "named"):
        assert face("targets", "new", name).code == 0
    given = ["--model", "m.py:build", "--data", "d.py:load", "--no-look", "--force", "--out", "jobs/job.yaml"]
    for target, held in (("my-board.yaml", "../my-board.yaml"), ("named", "../named.yaml"), ("pixel-8", "pixel-8"),
                         ("ssh://pi@pi5.local", "ssh://pi@pi5.local")):  # fmt: skip
        said = face("init", *given, "--metric", "metric.py:f", "--target", target)
        assert said.code == 0, said.err
        job = yaml.safe_load((tmp_path / "jobs" / "job.yaml").read_text())
        assert job["metric"] == "../metric.py:f"
        assert job["target"] == held
    assert face("targets", "new", "beside", "--out", "jobs/beside.yaml").code == 0
    assert face("init", *given, "--target", "beside.yaml").code == 0
    assert yaml.safe_load((tmp_path / "jobs" / "job.yaml").read_text())["target"] == "beside.yaml"
    assert "CFG-01" in face("init", *given, "--target", "none.yaml").error(2)


@pytest.mark.parametrize(
    ("metric", "answer", "max_drop"), [("accuracy", 2.0, 2.0), ("rmse", "0.3", 30.0), ("rmse", "", None)]
)
def test_init_asks_for_the_loss_in_what_the_metric_is_counted_in(
    face: Face, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, answer: object, max_drop: float | None
) -> None:
    asked: list[str] = []

    def prompt(question: str, **named: Any) -> Any:
        asked.append(question)
        if "largest loss" in question:
            assert ("points" in question) == (metric == "accuracy")
            return answer
        return {"metric": metric}.get(question, named.get("default", ""))

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(click, "prompt", prompt)
    said = face("init", "--model", "m.py:build", "--weights", "w", "--data", "d.py:load", "--no-look")
    assert said.code == 0, said.err
    job = yaml.safe_load((tmp_path / "job.yaml").read_text())
    assert (job["budget"] or {}).get("max_drop") == max_drop
    assert asked.index("metric") < next(i for i, q in enumerate(asked) if "largest loss" in q)
