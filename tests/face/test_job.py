from __future__ import annotations

from pathlib import Path

import click
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modeltailor.commands.init import _ask_loss
from modeltailor.errors import ConfigError
from modeltailor.job import load_job, parse_job, unit_of
from modeltailor.job_template import render_job
from modeltailor.quantity import parse_duration_s, parse_latency_ms, parse_size_bytes
from modeltailor.targets import Budget
from modeltailor.validation import _budget

GOOD = "model: model.py:build\ndata: data.py:load\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return path


def refused(tmp_path: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_job(write(tmp_path, text))
    assert caught.value.exit_code == 2
    return caught.value


def test_every_limit_is_read_in_its_unit(tmp_path: Path) -> None:
    job = load_job(
        write(
            tmp_path, GOOD + "budget: {max_drop: 1.0, latency: 2 ms, size: 200 KB, memory: 64 MiB, min_accuracy: 0.8}\n"
        )
    )
    budget = job.limits()
    assert (budget.max_drop, budget.latency_ms, budget.size_bytes) == (1.0, 2.0, 200_000)
    assert (budget.memory_bytes, budget.min_accuracy) == (64 * 2**20, 0.8)


def test_without_any_limit_one_point_may_be_lost(tmp_path: Path) -> None:
    assert load_job(write(tmp_path, GOOD)).limits().max_drop == 1.0


def test_assignments_override_the_file(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, GOOD), ("search.axes=[formats]", "search.time=5m", "budget.size=1 MB"))
    assert job.plan().axes == ("formats",)
    assert job.plan().time_s == 300.0
    assert job.limits().size_bytes == 10**6


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (GOOD + "budget: {latncy: 2 ms}", "CFG-04", "Did you mean 'latency'?"),
        (GOOD + "serch: {}", "CFG-04", "Did you mean 'search'?"),
        (GOOD + "model: other.py:build", "CFG-03", "given twice (lines 1, 3)"),
        (GOOD + "budget: [", "CFG-02", ":3:"),
        (GOOD + "budget: {latency: 0 ms}", "CFG-08", "finite and > 0"),
        (GOOD + "budget: {max_drop: .nan}", "CFG-07", "finite"),
        (GOOD + "budget: {max_drop: -1}", "CFG-07", "0 or more"),
        (GOOD + "budget: {max_drop: no}", "CFG-08", "truth value"),
        (GOOD + "budget: {min_accuracy: 1.01}", "CFG-09", "can never be met"),
        (GOOD + "budget: {size: many}", "CFG-08", "such as 200 KB"),
        (GOOD + "search: {trials: 0}", "CFG-08", "greater than or equal to 1"),
        (GOOD + "search: {trials: ten}", "CFG-05", "got text 'ten'"),
        (GOOD + "search: {time: 1s}", "CFG-15", "at least 10 s"),
        (GOOD + "search: {axes: [format]}", "CFG-08", "'formats'"),
        (GOOD + "search: {axes: []}", "CFG-08", "at least one"),
        ("data: data.py:load", "CFG-04", "is missing"),
        ("a: &x 1\nb: *x", "CFG-02", "aliases"),
        ("just text", "CFG-02", "must hold keys"),
        ("model: x\ndata: {" + "a: {" * 3000, "CFG-02", "YAML"),
    ],
)
def test_what_is_wrong_is_said_with_place_and_next_step(tmp_path: Path, text: str, code: str, words: str) -> None:
    error = refused(tmp_path, text)
    assert error.code == code
    assert words in error.line()
    assert "\n" not in error.line()


def test_missing_folder_and_too_large_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError):
            load_job(path)
    big = tmp_path / "big.yaml"
    big.write_text("#" * 1_000_001)
    with pytest.raises(ConfigError, match="too large"):
        load_job(big)


@pytest.mark.parametrize("limits", [{}, {"latency": 2.0, "size": 200_000}, {"memory": 64_000_000, "min_accuracy": 0.9}])
@pytest.mark.parametrize("data", ["data.py:load", "train.npz"])
def test_the_written_template_is_a_valid_job(tmp_path: Path, limits: dict[str, float], data: str) -> None:
    text = render_job(
        model="model.py:build", weights="w.safetensors", data=data, metric="f1", target="phone", limits=limits
    )
    job = load_job(write(tmp_path, text))
    assert job.target == "phone"
    assert job.metric.name == "f1"
    assert job.limits().latency_ms == limits.get("latency")
    assert job.limits().size_bytes == limits.get("size")


@given(st.floats(0.001, 1e6))
def test_units_scale(value: float) -> None:
    assert parse_latency_ms(f"{value!r} s") == pytest.approx(1000 * parse_latency_ms(value))
    assert parse_duration_s(f"{value!r}m") == pytest.approx(60 * parse_duration_s(value))


@pytest.mark.parametrize("text", ["", "ms", "-1 ms", "2 parsecs", "nan", "inf ms", True, None, "1 M"])
def test_what_is_no_quantity_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="got"):
        parse_latency_ms(text)


def test_sizes_know_both_kinds_of_prefix() -> None:
    assert (parse_size_bytes("1 KB"), parse_size_bytes("1KiB"), parse_size_bytes("0.5 mb")) == (1000, 1024, 500_000)


def test_a_function_and_files_exclude_each_other(tmp_path: Path) -> None:
    job = parse_job({"model": "m.py:b", "data": {"function": "d.py:l", "train": "t.npz"}})
    with pytest.raises(ConfigError, match="one of the two"):
        job.workload(tmp_path)


@pytest.mark.parametrize(
    "metric",
    ["rmse", "mae", "{name: metric.py:f, minimize: true}", "{name: metric.py:f, unit: dB}", "metric.py:f"],
)
def test_without_any_limit_a_metric_without_a_scale_may_lose_a_share_of_its_value(tmp_path: Path, metric: str) -> None:
    job = load_job(write(tmp_path, f"{GOOD}metric: {metric}\n"))
    assert job.limits() == Budget(max_drop_share=0.01)
    assert all(limits == Budget(max_drop_share=0.01) for _, limits in job.devices())
    explicit = load_job(write(tmp_path, f"{GOOD}metric: {metric}\nbudget: {{max_drop: 1.0}}\n"))
    assert explicit.limits() == Budget(max_drop=1.0)


@pytest.mark.parametrize("metric", ["f1", "spearman", "{name: metric.py:f, minimize: true, unit: '%'}"])
def test_without_any_limit_a_share_may_lose_one_point(tmp_path: Path, metric: str) -> None:
    assert load_job(write(tmp_path, f"{GOOD}metric: {metric}\n")).limits() == Budget(max_drop=1.0)


@pytest.mark.parametrize(
    ("metric", "share"), [("accuracy", True), ("f1", True), ("rmse", False), ("metric.py:f", False)]
)
def test_a_written_job_limits_the_loss_in_points_only_of_shares(metric: str, share: bool) -> None:
    text = render_job(model="m.py:build", weights="", data="d.py:load", metric=metric, target="desktop-cpu", limits={})
    job = parse_job(yaml.safe_load(text))
    assert job.budget.max_drop == (1.0 if share else None)
    assert ("1 % of the original's value may be lost" in text) == (not share)
    assert ("one point of a share" in text) == (metric == "metric.py:f")


def test_the_check_of_a_job_says_what_holds_without_a_limit() -> None:
    told = {}
    for metric in ("accuracy", "rmse", "metric.py:f"):
        check = _budget(parse_job({"model": "m.onnx", "data": "d.py:load", "metric": metric}))
        (note,) = check.notes
        told[metric] = f"{check.says}; {note}"
    assert told["accuracy"] == "max_drop 1 points; no limit is given, so max_drop 1.0 holds"
    for metric in ("rmse", "metric.py:f"):
        assert "max_drop 1 % of the original's value" in told[metric]
        assert f"1 % of the original's {metric} may be lost" in told[metric]
        assert ("point" in told[metric]) == (metric == "metric.py:f")


@pytest.mark.parametrize(("is_only", "empty"), [(True, "1 % of what the original has"), (False, "none")])
def test_init_does_not_take_a_metric_of_ones_own_for_a_share(
    monkeypatch: pytest.MonkeyPatch, is_only: bool, empty: str
) -> None:
    asked: list[str] = []
    answers = iter(["", "0.4"])

    def prompt(question: str, **_: object) -> str:
        asked.append(question)
        return next(answers)

    monkeypatch.setattr(click, "prompt", prompt)
    assert _ask_loss("metric.py:f", is_only=is_only) is None
    assert _ask_loss("metric.py:f", is_only=is_only) == pytest.approx(40.0)
    assert all("points" not in question and f"empty for {empty}" in question for question in asked)


def test_the_unit_of_an_error_without_one_is_not_percent() -> None:
    assert unit_of("metric.py:f", minimize=True) == "units"
    assert unit_of("metric.py:f") == ""
    assert unit_of("metric.py:f", "%", minimize=True) == ""
