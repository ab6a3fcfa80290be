"""One study, several devices: a front each, models good on all, and nothing lost when one of them goes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import modeltailor
from modeltailor.errors import CandidateError, ConfigError, DeviceError, ModelError
from modeltailor.search.devices import (
    budget_on,
    device_names,
    elsewhere_excess,
    elsewhere_ratio,
    good_on_all,
    history_on,
    pool_of,
)
from modeltailor.search.finalize import choose_finalists
from modeltailor.search.fleet import finalists_on_all
from modeltailor.search.front import pareto_front, recommend
from modeltailor.search.records import AccuracyRecord, IntervalRecord, PlaceRecord, RunHistory, TrialRecord
from modeltailor.targets import Budget, FakeDevice


def by_size() -> FakeDevice:
    """Small files are fast."""
    return FakeDevice(latency=lambda path: 0.2 + path.stat().st_size / 100_000, name="desktop-cpu")


def by_unpacking() -> FakeDevice:
    """Another kind of device, to which small files are slow."""
    return FakeDevice(latency=lambda path: unpacked_ms(path.stat().st_size), name="pixel-8", seed=1)


def unpacked_ms(size_bytes: int) -> float:
    return 1.0 + 20_000 / size_bytes


class Flaky(FakeDevice):
    """Goes away at its ``gone_at``-th call, for good."""

    gone_at = 6

    def time(self, artifacts, inputs, plan):
        if len(self.calls) + 1 >= self.gone_at:
            raise DeviceError("DEV-06", self.name, "the agent is gone", "check it")
        return super().time(artifacts, inputs, plan)


def job_at(folder: Path, *assignments: str) -> modeltailor.Job:
    text = (folder / "job.yaml").read_text()
    assert "targets" not in text
    job = modeltailor.load_job(folder / "job.yaml", ("search.axes=[formats]", "search.trials=7", *assignments))
    data = job.model_dump(mode="json", exclude={"target"})
    return modeltailor.job.parse_job(
        {**data, "targets": ["desktop-cpu", {"name": "pixel-8", "budget": {"memory": "64 MB"}}]}
    )


@pytest.fixture(scope="module")
def run(trained_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> modeltailor.Run:
    out = tmp_path_factory.mktemp("runs") / "two"
    return modeltailor.tailor(
        job_at(trained_digits), out=out, root=trained_digits, cache=out.parent / "cache",
        device=by_size(), others=(by_unpacking(),),
    )  # fmt: skip


def test_every_trial_has_figures_of_each_device(run: modeltailor.Run) -> None:
    assert device_names(run.history) == ("desktop-cpu", "pixel-8")
    measured = [t for t in run.history.trials if t.is_measured]
    assert len(measured) >= 6
    for trial in measured:
        place = trial.elsewhere["pixel-8"]
        assert place.latency_ms is not None
        assert place.latency_ms.value == pytest.approx(unpacked_ms(trial.size_bytes), rel=0.02)
        assert place.peak_memory_bytes == 1_000_000  # this device has a limit of memory
        assert trial.peak_memory_bytes is None
    assert all(f.elsewhere["pixel-8"].verdict in ("certified", "compared") for f in run.history.finals)


def test_each_device_has_its_own_front_and_best(run: modeltailor.Run) -> None:
    views = {name: history_on(run.history, name) for name in device_names(run.history)}
    assert budget_on(views["pixel-8"]).memory_bytes == 64_000_000
    assert budget_on(views["desktop-cpu"]).memory_bytes is None
    fronts, best = {}, {}
    for name, view in views.items():
        pool = pool_of(view).values()
        fronts[name] = {f.key for f in pareto_front(pool)}
        best[name] = recommend(pool, budget_on(view))
    assert fronts["desktop-cpu"] != fronts["pixel-8"]
    sha256 = {t.key: t.sha256 for t in run.history.trials}
    for name, file in (("desktop-cpu", "best.onnx"), ("pixel-8", "best-pixel-8.onnx")):
        chosen = best[name]
        assert chosen is not None
        assert modeltailor.durable.sha256_file(run.folder / file) == sha256[chosen.key]
    assert len(list((run.folder / "front-pixel-8").glob("*.onnx"))) == len(fronts["pixel-8"])
    common = good_on_all(views)
    assert common
    assert modeltailor.durable.sha256_file(run.folder / "best-on-all.onnx") == sha256[common[0].key]
    assert common[0].worst == min(c.worst for c in common)


def test_however_few_there_is_time_for_the_first_of_each_device_are_certified(run: modeltailor.Run) -> None:
    together = [t.key for t in finalists_on_all(run.history, minimize=False)]
    for view in (history_on(run.history, name) for name in device_names(run.history)):
        own = [t.key for t in choose_finalists(view, budget_on(view), minimize=False)][:3]
        assert set(own) <= set(together[: 1 + 2 * 2])


def test_the_summary_says_who_wins_where(run: modeltailor.Run) -> None:
    summary = json.loads((run.folder / "summary.json").read_text())
    devices = {d["name"]: d for d in summary["devices"]}
    assert set(devices) == {"desktop-cpu", "pixel-8"}
    for device in devices.values():
        assert device["front"]
        assert device["best"] in device["front"]
    assert summary["on_all"]["agreement"] in ("same", "tied", "compromise")
    text = (run.folder / "report.md").read_text()
    assert "pixel-8" in text
    assert summary["on_all"]["sentence"] in text
    assert summary["on_all"]["sentence"].split(":")[0] in (run.folder / "report.html").read_text()


def test_an_original_that_one_device_cannot_run_is_said_at_once(trained_digits: Path, tmp_path: Path) -> None:
    """Nothing could be compared there: every trial would fail, and the whole time would be spent on that."""
    full = FakeDevice(latency=lambda _: _no_room(), name="pixel-8", seed=1)
    with pytest.raises(ModelError, match=r"OOM on pixel-8: .*leave pixel-8 out"):
        modeltailor.tailor(
            job_at(trained_digits), out=tmp_path / "run", root=trained_digits, cache=None,
            device=by_size(), others=(full,),
        )  # fmt: skip


def _no_room() -> float:
    raise CandidateError("OOM", "original.onnx", "does not fit into memory", "")


@pytest.mark.slow
def test_device_that_goes_away_costs_nothing_that_was_found(trained_digits: Path, tmp_path: Path) -> None:
    job = job_at(trained_digits, "search.trials=6")
    kept = {"out": tmp_path / "run", "root": trained_digits, "cache": tmp_path / "cache"}
    with pytest.raises(DeviceError, match="gone"):
        modeltailor.tailor(
            job, **kept, device=by_size(), others=(Flaky(latency=by_unpacking().latency, name="pixel-8"),)
        )
    before = modeltailor.search.run_folder.RunFolder(tmp_path / "run").read().trials
    assert before
    done = modeltailor.tailor(job, **kept, device=by_size(), others=(by_unpacking(),), resume=True)
    after = {t.key: t for t in done.history.trials}
    assert all(after[t.key] == t for t in before)
    assert len(done.history.trials) == 6


def interval(value: float, half: float = 0.01) -> IntervalRecord:
    return IntervalRecord(value=value, low=value * (1 - half), high=value * (1 + half), evidence="measured-here")


def trial(**places: float | str) -> TrialRecord:
    return TrialRecord(
        number=0, key="k", role="search", recipe={}, latency_ms=interval(1.0), speedup=interval(2.0),
        elsewhere={
            name: PlaceRecord(outcome=v) if isinstance(v, str) else PlaceRecord(latency_ms=interval(8.0 / v), speedup=interval(v))
            for name, v in places.items()
        },
    )  # fmt: skip


def test_time_elsewhere_is_a_geometric_mean_and_no_number_where_one_failed() -> None:
    assert elsewhere_ratio(trial(b=2.0)) == pytest.approx(0.5)
    assert elsewhere_ratio(trial(b=2.0, c=8.0)) == pytest.approx(0.25)
    assert elsewhere_ratio(trial(b=2.0, c="OOM")) is None
    assert elsewhere_ratio(trial()) is None


def test_the_tightest_limit_elsewhere_counts() -> None:
    budgets = {"b": Budget(latency_ms=4.0), "c": Budget(latency_ms=0.5)}
    assert elsewhere_excess(trial(b=2.0, c=8.0), budgets) == pytest.approx(1.02)  # 1.01 ms of 0.5 ms
    assert elsewhere_excess(trial(b=4.0), {"b": Budget(latency_ms=4.0)}) == pytest.approx(-0.495)
    assert elsewhere_excess(trial(b=2.0), {"b": Budget(size_bytes=1)}) is None
    assert elsewhere_excess(trial(b=2.0), {"b": Budget(memory_bytes=1)}) == 1.0  # asked for and not measured


def test_a_model_that_fails_on_one_device_is_only_missing_there(run: modeltailor.Run) -> None:
    history = run.history
    best = run.summary.best
    failed = tuple(
        t.model_copy(update={"elsewhere": {"pixel-8": PlaceRecord(outcome="OOM", error="too large")}})
        if t.key == best
        else t
        for t in history.trials
    )
    finals = tuple(f.model_copy(update={"elsewhere": {}}) if f.key == best else f for f in history.finals)
    changed = replace(history, trials=failed, finals=finals)
    there = history_on(changed, "pixel-8")
    assert next(t.outcome for t in there.trials if t.key == best) == "OOM"
    assert best in pool_of(history_on(changed, "desktop-cpu"))
    assert best not in pool_of(there)
    views = {n: history_on(changed, n) for n in device_names(changed)}
    assert best not in {c.key for c in good_on_all(views)}


def seen(
    run: modeltailor.Run, figures: dict[str, tuple[float, int, float]], budget: dict[str, float], half: float = 0.01
) -> RunHistory:
    """The run as a device sees it where each model has this speed, with an interval, and this size and accuracy."""

    def made(number: int, key: str) -> TrialRecord:
        speed, size_bytes, value = figures[key]
        accuracy = AccuracyRecord(value=value, low=value - 0.01, high=value + 0.01, n_samples=1000)
        changed = {"number": number, "key": key, "speedup": interval(speed, half), "size_bytes": size_bytes}
        return trial().model_copy(update={**changed, "accuracy": accuracy})

    trials = tuple(made(number, key) for number, key in enumerate(figures))
    return replace(run.history, run=run.history.run.model_copy(update={"budget": budget}), trials=trials, finals=())


def test_what_all_devices_choose_is_best_on_all_though_another_one_is_faster(run: modeltailor.Run) -> None:
    figures = {"fast": (2.01, 90, 0.9), "small": (2.0, 50, 0.9), "slow": (1.5, 40, 0.9)}
    limited = seen(run, figures, {"max_drop": 1.0})
    assert recommend(pool_of(limited).values(), budget_on(limited)).key == "small"  # type: ignore[union-attr]
    assert [c.key for c in good_on_all({"a": limited, "b": limited})] == ["small", "fast", "slow"]
    free = seen(run, figures | {"exact": (1.1, 200, 0.95)}, {})
    assert good_on_all({"a": free, "b": free})[0].key == "exact"  # without a limit on accuracy


def test_accuracy_without_a_limit_comes_first_on_all_devices_too(run: modeltailor.Run) -> None:
    views = {
        "a": seen(run, {"exact": (1.0, 200, 0.95), "good": (1.2, 200, 0.93), "poor": (3.0, 50, 0.8)}, {}),
        "b": seen(run, {"good": (1.1, 200, 0.93), "poor": (2.0, 50, 0.8)}, {}),
    }
    assert [c.key for c in good_on_all(views)] == ["good", "poor"]


def test_within_two_percent_of_the_best_compromise_the_smallest_file_wins(run: modeltailor.Run) -> None:
    a = {
        "x": (3.00, 900, 0.9),
        "y": (2.00, 800, 0.9),
        "p": (2.86, 100, 0.9),
        "q": (2.853, 50, 0.9),
        "r": (2.7, 40, 0.9),
    }
    b = {
        "x": (2.00, 900, 0.9),
        "y": (3.00, 800, 0.9),
        "p": (2.86, 100, 0.9),
        "q": (2.853, 50, 0.9),
        "r": (2.7, 40, 0.9),
    }
    views = {name: seen(run, figures, {"max_drop": 1.0}, half=0.001) for name, figures in {"a": a, "b": b}.items()}
    assert [c.key for c in good_on_all(views)][:3] == ["q", "p", "r"]


def test_certifying_on_a_further_device_holds_it_against_what_was_found_there(run: modeltailor.Run) -> None:
    from modeltailor.certification import certify_run

    there = history_on(run.history, "pixel-8")
    front = [f.key for f in pareto_front(pool_of(there).values()) if f.key != run.summary.baseline]
    found = certify_run(run, by_unpacking())
    assert {m.key for m in found.models} == set(front) - {run.summary.baseline}
    final = {f.key: f.speedup.value for f in there.finals}
    assert {m.key: m.expected_speedup[0] for m in found.models} == pytest.approx({k: final[k] for k in front})
    with pytest.raises(ConfigError, match="no model"):
        certify_run(run, by_unpacking(), keys=["f" * 64])  # never left out in silence
    limited = there.run.model_copy(update={"budget": there.run.budget | {"latency_ms": 0.001}})
    hard = replace(run.history, run=run.history.run.model_copy(update={
        "elsewhere": tuple(d.model_copy(update={"budget": limited.budget}) for d in run.history.run.elsewhere)
    }))  # fmt: skip
    assert certify_run(modeltailor.Run(run.folder, hard), by_unpacking()).limit_ms == 0.001
    assert certify_run(modeltailor.Run(run.folder, hard), by_size()).limit_ms is None


def test_another_budget_holds_on_every_device_but_for_what_is_their_own(run: modeltailor.Run) -> None:
    from modeltailor.reports import summarize

    size = min(t.size_bytes for t in run.history.trials if t.is_measured)
    there = summarize(run.history, Budget(size_bytes=size)).devices[1]
    assert there.budget["size_bytes"] == size
    assert there.budget["max_drop"] is None
    assert there.budget["memory_bytes"] == 64_000_000


def test_ties_on_all_devices_are_those_of_the_recommendation(run: modeltailor.Run) -> None:
    """Intervals that overlap by a hair are no tie: two independent errors hardly ever point at each other."""
    a = {"x": (2.00, 90, 0.9), "y": (1.97, 50, 0.9), "z": (1.87, 40, 0.9)}
    b = {"x": (2.00, 90, 0.9), "y": (1.87, 80, 0.9), "z": (1.97, 40, 0.9)}
    views = {name: seen(run, figures, {"max_drop": 1.0}, half=0.03) for name, figures in {"a": a, "b": b}.items()}
    found = {c.key: c for c in good_on_all(views)}
    assert dict(found["y"].slowdowns) == pytest.approx({"a": 1.0, "b": 1.97 / 1.87})
    assert not found["y"].tied  # 5 % apart: their intervals overlap, the interval of the ratio does not hold 1
    assert found["x"].tied
    assert next(iter(found)) == "x"


def test_candidate_that_crashes_there_keeps_its_figures_here(tmp_path: Path) -> None:
    from modeltailor.search.certifying import Contender
    from modeltailor.search.elsewhere import Elsewhere, FurtherDevice

    crash = FakeDevice({"a.onnx": 1.0}, failures={"b.onnx": CandidateError("CRASH:SEGV", "b.onnx", "killed")})
    at = Elsewhere((FurtherDevice(name="x", device=crash, profile={}, budget=Budget()),))
    found = at.screen(Path("a.onnx"), Path("b.onnx"), {}, digest="")
    assert found["x"].outcome == "CRASH:SEGV"
    assert not found["x"].is_measured
    both = [Contender(key=k, path=Path(f"{k}.onnx"), latency_ms=1.0) for k in ("a", "b")]
    places = at.certify(Path("a.onnx"), {"x": both}, {}, seconds=1.0)
    assert set(places["x"]) == {"a"}


def test_devices_share_the_time_that_is_left_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """One on which a finalist hangs takes from all that come later, and none gets more than there is."""
    from modeltailor.search import elsewhere

    clock = [0.0]
    asked: list[tuple[float, float]] = []

    def certify_latency(*_: object, seconds: float, longest_s: float, **__: object) -> dict[str, None]:
        asked.append((seconds, longest_s))
        clock[0] += 60.0 if len(asked) == 1 else 5.0
        return {}

    monkeypatch.setattr(elsewhere, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(elsewhere, "certify_latency", certify_latency)
    devices = [elsewhere.FurtherDevice(name=n, device=by_size(), profile={}, budget=Budget()) for n in "xyz"]
    places = elsewhere.Elsewhere(devices).certify(
        Path("a.onnx"), {"x": [], "y": [], "z": []}, {}, seconds=75.0, longest_s=90.0
    )
    assert list(places) == ["x", "y", "z"]
    assert asked == [(25.0, 30.0), (15.0, 15.0), (25.0, 25.0)]


def test_devices_called_alike_are_refused(trained_digits: Path, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("name: desktop-cpu\ntitle: t\nkind: phone\nruntime: r\n")
    data = job_at(trained_digits).model_dump(mode="json", exclude={"target"})
    data["targets"] = ["desktop-cpu", str(tmp_path / "other.yaml")]
    with pytest.raises(ConfigError, match="called alike"):
        modeltailor.tailor(data, out=tmp_path / "run", root=trained_digits)
