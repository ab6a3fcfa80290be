"""What was measured on a device that is not attached: whose it is, how often it counts, and that it is kept."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from modeltailor.certification import Certificate, certify_run
from modeltailor.commands.predict import command
from modeltailor.durable import sha256_file
from modeltailor.errors import ConfigError, ModelError
from modeltailor.estimators import Estimate
from modeltailor.estimators.predict import (
    Measured,
    NoEstimate,
    TracedKernel,
    constants_of,
    executed_files,
    forecast,
    read_measurements,
    suggest_measurements,
)
from modeltailor.estimators.predict.traces import Trace
from modeltailor.prediction import predict_models
from modeltailor.reports.synthetic import synthetic_history
from modeltailor.run import Run
from modeltailor.search.absent import predict_absent
from modeltailor.targets import DeviceFacts, FakeDevice, Profile, load_profile
from modeltailor.targets.profile import Figure

Chain = Callable[..., Path]
_Z80, _Z95 = 1.2816, 1.96


def figure(value: float) -> Figure:
    return Figure(value=value, origin="inferred", source="made for a test")


def board(**changes: object) -> Profile:
    made = {
        "name": "made-up", "title": "Made up", "kind": "embedded", "runtime": "none",
        "peak_gops": {"fp32": figure(20.0)}, "bandwidth_gbps": figure(5.0),
    }  # fmt: skip
    return Profile.model_validate({**made, **changes})


BARE = {"peak_gops": {}, "bandwidth_gbps": None}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, chain: Chain) -> list[Path]:
    """Seven chains; the third and the last are the largest."""
    folder = tmp_path_factory.mktemp("files")
    shapes = [([3, 16, 16], 3), ([3, 8, 8], 1), ([3, 64, 64], 3), ([3, 32, 32], 1), ([3, 24, 24, 24], 3),
              ([3, 48], 3), ([3, 64, 64, 64], 1)]  # fmt: skip
    return [chain(folder / f"m{i}.onnx", widths, kernel=kernel) for i, (widths, kernel) in enumerate(shapes)]


def values_of(estimates: Sequence[Estimate | NoEstimate]) -> list[Estimate]:
    assert all(isinstance(e, Estimate) for e in estimates), estimates
    return [e for e in estimates if isinstance(e, Estimate)]


def noise_of(estimate: Estimate) -> float:
    return math.log(estimate.high / estimate.low) / (2 * _Z80)


# -- a profile without figures ----------------------------------------------------------------------------------------


def test_without_figures_what_was_measured_stays_and_the_rest_is_predicted_with_wide_bands(files: list[Path]) -> None:
    measured = [Measured(model=files[0], latency_ms=0.2, noise=0.01)]
    found = forecast(files, board(**BARE), measured)
    first, *others = values_of(found.estimates)
    assert (first.value, first.evidence) == (0.2, "measured-on-device")
    stated = values_of(forecast(files, board(), measured).estimates)
    for bare, known in zip(others, stated[1:], strict=True):
        assert bare.evidence == "predicted"
        assert bare.high / bare.low > known.high / known.low
    assert others[1].low > 0.2 > others[0].high  # far more work, and far less
    assert found.over[0] is None
    assert all(o is not None for o in found.over[1:])
    assert found.measurements == 1


def test_without_figures_and_measurements_there_is_no_number(files: list[Path]) -> None:
    found = forecast(files[:2], board(**BARE))
    assert all(isinstance(e, NoEstimate) and "neither a rate nor a bandwidth" in e.reason for e in found.estimates)
    assert found.over == (None, None)
    suggested = suggest_measurements(files, board(**BARE), 2)
    assert [s.model for s in suggested] == [0, 1]
    assert all(s.spread_before == s.spread_after == 0.0 for s in suggested)


def test_without_figures_a_profile_of_a_run_tells_the_level_too(files: list[Path]) -> None:
    kernels = executed_files([files[2]], board(**BARE))[0].work.kernels
    timed = tuple(
        TracedKernel(name=k.name, operator=k.operator, provider="CPUExecutionProvider", ms=40.0) for k in kernels
    )
    found = forecast(files, board(**BARE), traces=[Trace(model=files[2], kernels=timed)])
    assert found.measurements == 0
    estimate = values_of(found.estimates)[2]
    assert estimate.evidence == "predicted"
    assert 40.0 < estimate.value < 160.0
    strange = TracedKernel(name="strange", operator="Erf", provider="CPUExecutionProvider", ms=40.0)
    silent = forecast(files, board(**BARE), traces=[Trace(model=files[2], kernels=(strange,))])
    assert all(isinstance(e, NoEstimate) for e in silent.estimates)  # it tells of no kernel


def test_without_figures_one_measurement_sets_the_level_of_a_device_that_nobody_would_guess(files: list[Path]) -> None:
    """A thousand times as slow as the guess: the one that is measured tells that of all that do the same work."""
    usual = values_of(forecast(files, board()).estimates)
    slow = [1000.0 * e.value for e in usual]
    found = values_of(forecast(files, board(**BARE), [Measured(model=files[2], latency_ms=slow[2])]).estimates)
    assert all(abs(math.log(found[i].value / slow[i])) < math.log(3.0) for i in (0, 4, 5))  # also of 3x3 windows
    assert all(e.low < s < e.high for i, (e, s) in enumerate(zip(found, slow, strict=True)) if i in (0, 4, 5))


def test_constants_are_guessed_on_request_alone() -> None:
    assert constants_of(board(**BARE)) is None
    guessed, stated = constants_of(board(**BARE), bare=True), constants_of(board(), bare=True)
    assert guessed is not None
    assert stated is not None
    assert (guessed.covariance.diagonal() > stated.covariance.diagonal()).all()
    plain = constants_of(board())
    assert plain is not None
    assert (plain.covariance == stated.covariance).all()  # what is stated is as sure as ever


# -- one file measured several times ----------------------------------------------------------------------------------


def test_a_file_that_was_measured_again_is_one_measurement(files: list[Path], tmp_path: Path, chain: Chain) -> None:
    """Three calls of bench, each with the original first: its entries must not foretell each other."""
    wanted = chain(tmp_path / "depthwise.onnx", [64, 64, 64], depthwise=True)
    usual = values_of(forecast(files, board()).estimates)
    factors = [2.8, 0.3, 1.2, 0.75, 0.8, 0.9, 0.35]  # by which the device is slower than its profile has it
    once = [
        Measured(model=m, latency_ms=e.value * f, noise=0.01) for m, e, f in zip(files, usual, factors, strict=True)
    ]
    copy = Path(shutil.copy(files[0], tmp_path / "copy.onnx"))  # under another name
    again = [
        dataclasses.replace(once[0], model=model, latency_ms=once[0].latency_ms * factor)
        for model, factor in ((files[0], 0.9999), (copy, 1.0001))
    ]
    expected = forecast([wanted, files[0]], board(), once)
    found = forecast([wanted, files[0]], board(), [*once, *again])
    assert expected.widened_by > 1.3
    assert found.widened_by == pytest.approx(expected.widened_by, rel=0.02)
    assert found.measurements == expected.measurements == len(files)
    estimate = values_of(found.estimates)[1]
    assert estimate.evidence == "measured-on-device"
    assert estimate.value == pytest.approx(once[0].latency_ms, rel=1e-4)
    assert noise_of(estimate) == pytest.approx(0.01 / math.sqrt(3), rel=0.01)


def test_entries_count_by_precision_and_what_they_differ_by_is_noise(files: list[Path]) -> None:
    def of(*entries: tuple[float, float]) -> Estimate:
        measured = [Measured(model=files[1], latency_ms=ms, noise=noise) for ms, noise in entries]
        return values_of(forecast([files[1]], board(), measured).estimates)[0]

    weighted = of((2.0, 0.01), (2.02, 0.02))
    assert math.log(weighted.value) == pytest.approx(0.8 * math.log(2.0) + 0.2 * math.log(2.02))
    assert noise_of(weighted) == pytest.approx(1 / math.sqrt(1e4 + 2.5e3), rel=0.01)
    apart = of((2.0, 0.01), (2.4, 0.01))
    assert noise_of(apart) == pytest.approx(math.log(1.2) / math.sqrt(2), rel=0.01)
    vague = of((2.0, 0.01), (2.6, 0.5))  # its distance is within what it says of itself
    assert vague.value == pytest.approx(2.0, rel=0.001)
    assert noise_of(vague) < 0.012
    exact = of((2.0, 0.0), (2.2, 0.0))
    assert exact.value == pytest.approx(math.sqrt(2.0 * 2.2))
    assert math.isfinite(exact.high)
    assert noise_of(exact) > 0.05
    assert of((2.0, 0.02), (2.0, 0.02)) == of((2.0, 0.02))  # the same file of measurements, given twice
    assert of((2.0, 0.0)).low == 2.0


def test_a_profiles_own_measurements_given_again_count_once(files: list[Path], tmp_path: Path) -> None:
    entry = f"  - {{model: {files[0]}, latency_ms: 1.5}}\n"
    (tmp_path / "seen.yaml").write_text("measurements:\n" + entry)
    (tmp_path / "more.yaml").write_text(f"measurements:\n{entry}  - {{model: {files[0]}, latency_ms: 1.52}}\n")
    text = json.dumps({**board().to_plain(), "measured": "seen.yaml"})
    (tmp_path / "board.yaml").write_text(text)
    found = predict_models(
        files[:2], str(tmp_path / "board.yaml"), folder=tmp_path, measured=[tmp_path / "more.yaml"], suggest=1
    )
    assert found.measurements == 1
    assert "1 measured on the device" in found.basis
    assert found.models[0].latency_ms is not None
    assert found.models[0].latency_ms[0] == pytest.approx(math.sqrt(1.5 * 1.52))
    assert [s.model for s in found.suggested] == [str(files[1])]


def test_suggestions_count_a_file_that_was_measured_again_once(files: list[Path]) -> None:
    once = [Measured(model=files[0], latency_ms=1.0), Measured(model=files[2], latency_ms=4.0)]
    again = [*once, Measured(model=files[0], latency_ms=1.1), Measured(model=files[0], latency_ms=0.9)]
    assert suggest_measurements(files, board(), 3, again) == suggest_measurements(files, board(), 3, once)


def test_a_measured_file_that_is_gone_is_named(files: list[Path], tmp_path: Path) -> None:
    gone = [Measured(model=tmp_path / "gone.onnx", latency_ms=1.0)]
    for call in (lambda: forecast(files, board(), gone), lambda: suggest_measurements(files, board(), 1, gone)):
        with pytest.raises(ModelError, match=r"gone\.onnx"):
            call()


# -- measured, though the profile says that it cannot run ---------------------------------------------------------------


SMALL = {"memory_bytes": figure(100_000.0)}  # too little for the third and the last


def test_what_was_measured_there_keeps_its_figure_though_it_should_not_fit(files: list[Path]) -> None:
    tight = board(**SMALL)
    found = forecast(files, tight)
    unfit = [i for i, e in enumerate(found.estimates) if isinstance(e, NoEstimate)]
    assert 2 in unfit
    assert 0 not in unfit
    measured = forecast(
        files, tight, [Measured(model=files[2], latency_ms=5.0), Measured(model=files[0], latency_ms=1.0)]
    )
    estimate = measured.estimates[2]
    assert isinstance(estimate, Estimate)
    assert (estimate.value, estimate.evidence) == (5.0, "measured-on-device")
    over = measured.over[2]
    assert over is not None
    assert over.ratio.value == pytest.approx(5.0)
    assert over.ratio.evidence == "measured-on-device"
    assert [i for i, e in enumerate(measured.estimates) if isinstance(e, NoEstimate)] == [i for i in unfit if i != 2]
    first = forecast([files[2], files[0]], tight, [Measured(model=files[2], latency_ms=5.0)])
    assert first.over[1] is not None  # the first has a number now, so the others are compared with it


def test_models_that_do_not_fit_are_not_suggested_and_have_no_say(files: list[Path]) -> None:
    tight = board(**SMALL)
    large, small = [files[2], files[6]], [files[i] for i in (0, 1, 4, 5)]
    found = suggest_measurements([*large, *small], tight, 6)
    alone = suggest_measurements(small, tight, 6)
    assert [s.model for s in found] == [s.model + len(large) for s in alone]
    assert [(s.spread_before, s.spread_after) for s in found] == [(s.spread_before, s.spread_after) for s in alone]
    assert suggest_measurements(large, tight, 2) == ()
    bare = suggest_measurements([*large, *small], tight.model_copy(update=BARE), 2)
    assert [s.model for s in bare] == [2, 3]
    measured = [Measured(model=files[2], latency_ms=5.0)]  # which shows that it does fit
    assert {s.model for s in suggest_measurements([*large, *small], tight, 6, measured)} == {2, 3, 4, 5}


def test_the_command_says_that_nothing_is_left_to_measure(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "board.yaml").write_text(json.dumps(board(**SMALL).to_plain()))
    (tmp_path / "seen.csv").write_text(f"model,latency_ms\n{files[0]},1.5\n")
    arguments = [str(files[0]), str(files[2]), "--target", str(tmp_path / "board.yaml"), "--suggest", "2"]
    said = CliRunner().invoke(command, arguments)
    assert "measure next: " in said.output
    assert "measure then" not in said.output  # the other does not fit
    said = CliRunner().invoke(command, [*arguments, "--measured", str(tmp_path / "seen.csv")])
    assert said.exit_code == 0, said.output
    assert [line[:19] for line in said.output.splitlines() if "measure next" in line] == ["measure next: none "]
    asked_not = CliRunner().invoke(command, [*arguments[:-2], "--measured", str(tmp_path / "seen.csv")])
    assert "measure next" not in asked_not.output


# -- whose latencies they are -----------------------------------------------------------------------------------------


X86, ARM = ["avx2", "avx512f", "avx512_vnni"], ["asimd", "asimdhp", "asimddp"]


def bench_file(path: Path, model: Path, instructions: Sequence[str] | None) -> Path:
    interval = {"value": 2.0, "low": 1.9, "high": 2.1, "evidence": "measured-on-device"}
    row = {"path": str(model), "sha256": sha256_file(model), "measured": {"latency_ms": interval}}
    one: dict[str, object] = {"batch": 1, "shapes": [["x", [1, 3, 16, 16]]], "rows": [row]}
    if instructions is not None:
        one["facts"] = {"name": "raspberry-pi-5", "instructions": instructions}
    path.write_text(json.dumps({"rounds": [one]}))
    return path


@pytest.mark.parametrize(
    ("measured", "stated", "refused"),
    [
        (X86, ARM, True),
        (ARM, X86, True),
        (["i8mm", "bf16"], ["amx_int8"], True),
        (ARM, ["asimd"], False),
        (["avx2"], ["avx512f"], False),
        (["bf16"], ARM, False),
        (X86, [], False),
        ([], ARM, False),
        (None, ARM, False),
    ],
)
def test_latencies_of_another_sort_of_processor_are_refused(
    files: list[Path], tmp_path: Path, measured: list[str] | None, stated: list[str], refused: bool
) -> None:
    path = bench_file(tmp_path / "bench.json", files[0], measured)
    profile = board(instructions=stated)
    assert len(read_measurements(path)) == 1
    if not refused:
        assert read_measurements(path, profile=profile)[0].latency_ms == 2.0
        return
    with pytest.raises(ConfigError, match="CFG-06") as error:
        read_measurements(path, profile=profile)
    assert "\n" not in str(error.value)
    for word in ("x86", "Arm", "made-up", "Measure on the device itself"):
        assert word in str(error.value)


def test_what_this_computer_measured_is_no_measurement_of_a_board(files: list[Path], tmp_path: Path) -> None:
    path = bench_file(tmp_path / "bench.json", files[0], X86)
    with pytest.raises(ConfigError, match="raspberry-pi-5 is Arm"):
        predict_models(files[:2], "raspberry-pi-5", folder=tmp_path, measured=[path])
    history = synthetic_history(n_trials=24, n_front=5)
    pi = load_profile("raspberry-pi-5").model_copy(update={"measured": str(path)})
    run = history.run.model_copy(update={"profile": pi.to_plain()})
    with pytest.raises(ConfigError, match="raspberry-pi-5 is Arm"):
        predict_absent(dataclasses.replace(history, run=run), lambda _: files[0], {"x": (1, 3, 16, 16)})
    assert bench_file(path, files[0], ARM)
    found = predict_models(files[:2], "raspberry-pi-5", folder=tmp_path, measured=[path])
    assert found.models[0].evidence == "measured-on-device"


# -- certificates -------------------------------------------------------------------------------------------------------


class Board(FakeDevice):
    """A device that names its instruction sets."""

    def describe(self) -> DeviceFacts:
        return dataclasses.replace(super().describe(), instructions=tuple(ARM))


@pytest.fixture
def certified(tmp_path: Path, chain: Chain) -> SimpleNamespace:
    """A run with real files, certified on a board: its certificate, and where that lies."""
    made = synthetic_history(n_trials=24, n_front=5)
    artifacts = tmp_path / "run" / "artifacts"
    artifacts.mkdir(parents=True)
    trials = []
    for i, trial in enumerate(made.trials):
        file = chain(artifacts / "made.onnx", [3, 4 + i, 8], kernel=1)
        sha256 = sha256_file(file)
        file.rename(artifacts / f"{sha256[:16]}.onnx")
        trials.append(trial.model_copy(update={"sha256": sha256}) if trial.is_measured else trial)
    model = {**made.run.model, "input_shapes": {"x": [1, 3, 16, 16]}}
    history = dataclasses.replace(made, trials=tuple(trials), run=made.run.model_copy(update={"model": model}))
    run = Run(tmp_path / "run", history)
    device = Board(lambda path: 0.2 + path.stat().st_size / 100_000, evidence="measured-on-device", name="board")
    certificate = certify_run(run, device)
    (path,) = (tmp_path / "run" / "certified").iterdir()
    return SimpleNamespace(run=run, certificate=certificate, path=path, artifacts=artifacts)


def change(path: Path, **fields: object) -> None:
    """Give a certificate other fields; ``None`` takes one away."""
    kept = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({k: v for k, v in kept.items() if v is not None}))


def test_a_certificate_tells_the_originals_latency_the_shapes_and_the_processor(certified: SimpleNamespace) -> None:
    made: Certificate = certified.certificate
    original = certified.run.summary.model_of(certified.run.summary.baseline)
    assert made.baseline is not None
    assert made.baseline.sha256 == original.sha256
    value, low, high = made.baseline.latency_ms
    assert low <= value == made.baseline_ms <= high
    assert made.shapes == (("x", (1, 3, 16, 16)),)
    assert made.instructions == tuple(ARM)
    kept = json.loads(certified.path.read_text())
    assert kept["baseline"]["sha256"] == original.sha256
    assert kept["shapes"] == [["x", [1, 3, 16, 16]]]


def test_the_original_of_a_certificate_is_one_more_measurement(certified: SimpleNamespace) -> None:
    made: Certificate = certified.certificate
    found = read_measurements(certified.path)
    assert len(found) == len(made.models) + 1
    first = found[0]
    assert made.baseline is not None
    value, low, high = made.baseline.latency_ms
    assert sha256_file(first.model) == made.baseline.sha256
    assert first.latency_ms == value
    assert first.noise == pytest.approx(min(math.log(high / low) / (2 * _Z95), 1.0))
    change(certified.path, baseline=None, shapes=None, instructions=None)  # as an older version wrote it
    assert [m.model for m in read_measurements(certified.path)] == [m.model for m in found[1:]]


def test_a_certificate_of_other_shapes_is_refused(certified: SimpleNamespace) -> None:
    assert read_measurements(certified.path, {"x": (1, 3, 16, 16)})
    change(certified.path, shapes=[["x", [8, 3, 16, 16]]])
    with pytest.raises(ConfigError, match=r"not the shape that is predicted.*--shape x=8,3,16,16"):
        read_measurements(certified.path)
    assert read_measurements(certified.path, {"x": (8, 3, 16, 16)})


@pytest.mark.parametrize("which", ["baseline", "model"])
def test_a_certificate_of_a_file_that_has_changed_is_refused(certified: SimpleNamespace, which: str) -> None:
    made: Certificate = certified.certificate
    assert made.baseline is not None
    sha256 = made.baseline.sha256 if which == "baseline" else made.models[0].sha256
    file = certified.artifacts / f"{sha256[:16]}.onnx"
    file.write_bytes(file.read_bytes() + b"\x00")
    with pytest.raises(ConfigError, match="not the file that was measured any more"):
        read_measurements(certified.path)


def test_a_certificate_of_another_sort_of_processor_is_refused(certified: SimpleNamespace) -> None:
    arm, x86 = board(instructions=ARM), board(instructions=X86)
    assert read_measurements(certified.path, profile=arm)
    with pytest.raises(ConfigError, match="made-up is x86"):
        read_measurements(certified.path, profile=x86)
    change(certified.path, instructions=None)
    assert read_measurements(certified.path, profile=x86)


@pytest.mark.parametrize("facts", [[], "x", {"instructions": [1]}, {"instructions": 3}])
def test_facts_that_are_no_facts_are_refused_in_one_line(files: list[Path], tmp_path: Path, facts: object) -> None:
    path = bench_file(tmp_path / "bench.json", files[0], ARM)
    data = json.loads(path.read_text())
    data["rounds"][0]["facts"] = facts
    path.write_text(json.dumps(data))
    if not facts:
        assert read_measurements(path, profile=board(instructions=ARM))
        return
    with pytest.raises(ConfigError, match="no measured latencies"):
        read_measurements(path, profile=board(instructions=ARM))
