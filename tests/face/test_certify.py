"""``modeltailor certify``: what is measured again, where, and how it is held against the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeltailor.durable import sha256_file

Face = Callable[..., Any]


def test_certify_keeps_its_certificate_beside_the_run(
    face: Face, made_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modeltailor import places
    from modeltailor.targets import FakeDevice

    before = sha256_file(made_run / "study.db")
    device = FakeDevice(latency=lambda path: 0.2 + path.stat().st_size / 100_000, noise=0.0, seed=0)
    monkeypatch.setattr(places, "open_place", lambda *_: device)
    said = face("certify", made_run, "--json", "-q")
    assert said.code == 0, said.err
    told = json.loads(said.out)
    kept = [json.loads(p.read_text()) for p in (made_run / "certified").iterdir()]
    assert kept == [told]
    assert all(
        m["speedup"][0] == pytest.approx(told["baseline_ms"] / m["latency_ms"][0], rel=0.01) for m in told["models"]
    )
    assert sha256_file(made_run / "study.db") == before


def test_certify_says_which_models_agree_with_the_run(
    face: Face, made_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modeltailor import places
    from modeltailor.api import load_run
    from modeltailor.exporting import artifact_of
    from modeltailor.targets import FakeDevice

    summary = load_run(made_run).summary
    baseline = summary.model_of(summary.baseline)
    assert baseline is not None
    models = [m for m in map(summary.model_of, summary.front) if m is not None and m.key != baseline.key]
    truth = {artifact_of(made_run, baseline).name: 1.0}
    truth |= {artifact_of(made_run, m).name: 1.0 / m.speedup.value for m in models}

    def certify() -> tuple[list[str], str]:
        device = FakeDevice(latency=truth, noise=0.0, seed=0)
        monkeypatch.setattr(places, "open_place", lambda *_: device)
        found = json.loads(face("certify", made_run, "--json", "-q").out)
        return [m["agrees"] for m in found["models"]], face("certify", made_run, "-q").out

    agrees, said = certify()
    assert agrees == ["inside"] * len(models)
    assert f"{len(models)} of {len(models)} speedups agree with the run" in said
    slow = models[0]
    truth[artifact_of(made_run, slow).name] = 1.0 / (0.5 * slow.speedup.low)
    agrees, said = certify()
    assert agrees == ["differs"] + ["inside"] * (len(models) - 1)
    assert f"{len(models) - 1} of {len(models)} speedups agree with the run" in said


def test_certify_on_a_device_measures_what_the_run_lists_for_it(
    face: Face, made_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modeltailor import places
    from modeltailor.api import load_run
    from modeltailor.search.absent import TO_MEASURE
    from modeltailor.targets import FakeDevice

    summary = load_run(made_run).summary
    *_, listed = (key for key in summary.front if key != summary.baseline)
    (made_run / TO_MEASURE).write_text(json.dumps({"models": [{"key": listed}]}))
    device = FakeDevice(latency=lambda path: 0.2 + path.stat().st_size / 100_000, noise=0.0, seed=0)
    monkeypatch.setattr(places, "open_place", lambda *_: device)
    said = face("certify", made_run, "--target", "ssh://board", "--json")
    assert [m["key"] for m in json.loads(said.out)["models"]] == [listed]
    assert "measuring 1 model of to-measure.json" in said.err
    here = face("certify", made_run, "--target", "local", "--json", "-q")  # the list speaks of the other device
    assert len(json.loads(here.out)["models"]) > 1
    (made_run / TO_MEASURE).write_text("[]")
    assert "is not a list of models to measure" in face("certify", made_run, "--target", "ssh://board").error(7)


def test_agreement_is_of_intervals() -> None:
    from modeltailor.certification import agreement

    stated = (2.0, 1.9, 2.1)
    assert agreement(stated, (2.1, 1.5, 2.9)) == "inside"
    assert agreement(stated, (2.2, 2.1, 2.3)) == "overlaps"
    assert agreement(stated, (1.8, 1.7, 1.9)) == "overlaps"
    assert agreement(stated, (2.2, 2.11, 2.3)) == "differs"
    assert agreement(stated, (1.8, 1.7, 1.89)) == "differs"


def test_certify_measures_with_the_shapes_of_the_run(
    face: Face, made_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modeltailor import certification
    from modeltailor.api import load_run
    from modeltailor.targets import FakeDevice

    seen: set[tuple[int, ...]] = set()

    class Device(FakeDevice):
        def time(self, artifacts, inputs, plan):  # type: ignore[no-untyped-def]
            seen.update(v.shape for v in inputs.values())
            return super().time(artifacts, inputs, plan)

    run = load_run(made_run)
    run.history.run.model["input_shapes"] = {"x": [5, 16]}
    certification.certify_run(run, Device(latency=lambda path: 0.2 + path.stat().st_size / 100_000))
    assert seen == {(5, 16)}


def test_a_list_of_the_original_alone_means_the_front(
    face: Face, made_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modeltailor import places
    from modeltailor.api import load_run
    from modeltailor.search import absent
    from modeltailor.targets import FakeDevice

    summary = load_run(made_run).summary
    device = FakeDevice(latency=lambda path: 0.2 + path.stat().st_size / 100_000)
    monkeypatch.setattr(places, "open_place", lambda *_: device)
    monkeypatch.setattr(absent, "read_to_measure", lambda _: (summary.baseline,))
    said = face("certify", made_run, "--target", "raspberry-pi-5", "--json", "-q")
    assert said.code == 0, said.err
    assert {m["key"] for m in json.loads(said.out)["models"]} == set(summary.front) - {summary.baseline}
