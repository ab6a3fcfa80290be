"""``modeltailor predict``: files in, numbers with bands or reasons out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from click.testing import CliRunner

from modeltailor.commands.predict import command
from modeltailor.durable import sha256_file
from modeltailor.errors import ConfigError, DeviceError, ModelError, NoFeasibleModel
from modeltailor.estimators.predict import (
    Measured,
    executed_files,
    forecast,
    points_of,
    read_measurements,
    read_trace,
    suggest_measurements,
)
from modeltailor.prediction import predict_models, refuse
from modeltailor.targets import RuntimeOptions, load_profile

Chain = Callable[..., Path]

BOARD = """
name: my-board
title: My board
kind: embedded
runtime: ONNX Runtime
peak_gops:
  fp32: {value: 20, origin: inferred, source: made up}
bandwidth_gbps: {value: 5, origin: inferred, source: made up}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, chain: Chain) -> list[Path]:
    """Seven chains, from small to large, of 1x1 and 3x3 convolutions."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "board.yaml").write_text(BOARD)
    shapes = [([3, 16, 16], 3), ([3, 8, 8], 1), ([3, 64, 64], 3), ([3, 32, 32], 1), ([3, 24, 24, 24], 3),
              ([3, 48], 3), ([3, 64, 64, 64], 1)]  # fmt: skip
    return [chain(folder / f"m{i}.onnx", widths, kernel=kernel) for i, (widths, kernel) in enumerate(shapes)]


def run(*arguments: object, code: int = 0) -> dict[str, object]:
    done = CliRunner().invoke(command, [*map(str, arguments), "--json"])
    if code == 0:
        assert done.exception is None, done.output
    return json.loads(done.stdout)


def test_nothing_measured_gives_wide_bands_and_says_so(files: list[Path]) -> None:
    found = run(*files, "--target", files[0].parent / "board.yaml")
    assert found["measurements"] == 0
    assert "nothing measured on the device" in str(found["basis"])
    for model in found["models"]:
        value, low, high = model["latency_ms"]
        assert low < value < high
        assert high / low > 3
        assert model["evidence"] == "predicted"
    assert found["models"][0]["over_first"] is None
    assert all(0 <= m["chance_of_slower"] <= 1 for m in found["models"][1:])
    small, large = found["models"][1], found["models"][2]
    assert small["over_first"][2] < 1 < large["over_first"][1]  # the level moves both alike, so these are told apart
    assert small["chance_of_slower"] < 0.05
    assert large["chance_of_slower"] > 0.95


def test_measurements_narrow_the_bands_and_keep_their_own_label(files: list[Path], tmp_path: Path) -> None:
    board = files[0].parent / "board.yaml"
    before = {m["model"]: m["latency_ms"] for m in run(*files, "--target", board)["models"]}
    slower = {f: 1.8 * before[str(f)][0] for f in (files[0], files[2])}
    table = tmp_path / "on-my-board.csv"
    table.write_text(f"model,latency_ms,noise\n{files[0]},{slower[files[0]]},0.01\n{files[2]},{slower[files[2]]},\n")
    found = run(*files, "--target", board, "--measured", table)
    by_name = {Path(m["model"]).name: m for m in found["models"]}
    assert by_name["m0.onnx"]["latency_ms"][0] == slower[files[0]]
    assert by_name["m0.onnx"]["evidence"] == by_name["m2.onnx"]["evidence"] == "measured-on-device"
    assert by_name["m2.onnx"]["over_first"][0] == pytest.approx(slower[files[2]] / slower[files[0]])
    rest = [m for m in found["models"] if m["evidence"] == "predicted"]
    assert len(rest) == len(files) - 2
    widths = [m["latency_ms"][2] / m["latency_ms"][1] for m in rest]
    were = [before[m["model"]][2] / before[m["model"]][1] for m in rest]
    assert all(w < b for w, b in zip(widths, were, strict=True))
    assert median(widths) < 0.5 * median(were)


def test_a_profile_may_name_its_measurements(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "seen.yaml").write_text(f"measurements:\n  - {{model: {files[0]}, latency_ms: 1.5}}\n")
    (tmp_path / "board.yaml").write_text(BOARD + "measured: seen.yaml\n")
    found = predict_models(files[:2], str(tmp_path / "board.yaml"), folder=tmp_path)
    assert found.measurements == 1
    assert found.models[0].evidence == "measured-on-device"


def test_suggestions_begin_with_ones_own_model_and_leave_out_what_is_measured(files: list[Path]) -> None:
    board = load_profile(files[0].parent / "board.yaml")
    first = suggest_measurements(files, board, 3)
    assert first[0].model == 0
    assert len({s.model for s in first}) == 3
    spreads = [first[0].spread_before, *(s.spread_after for s in first)]
    assert spreads == sorted(spreads, reverse=True)
    measured = [Measured(model=files[i], latency_ms=1.0) for i in (0, first[1].model)]
    more = suggest_measurements(files, board, 2, measured)
    assert {s.model for s in more}.isdisjoint({0, first[1].model})
    assert more[0].spread_before == pytest.approx(first[1].spread_after)


def test_an_accelerator_is_refused_until_a_profile_of_a_run_shows_where_nodes_run(
    files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "npu.yaml").write_text(BOARD + "provider: qnn\n")
    npu = str(tmp_path / "npu.yaml")
    refused = predict_models(files[:2], npu, folder=tmp_path)
    assert all(m.latency_ms is None and m.kind == "placement" and "Conv" in m.reason for m in refused.models)
    with pytest.raises(DeviceError, match="DEV-20"):
        refuse(refused)
    trace = tmp_path / "trace.json"
    kernels = executed_files(files[:1], load_profile(npu))[0].work.kernels
    events = [
        {"cat": "Node", "name": f"{k.name}_kernel_time", "dur": 40 + i,
         "args": {"op_name": operator, "provider": "QNNExecutionProvider"}}
        for i, k in enumerate(kernels) for operator in {k.operator, "Relu"}
    ]  # fmt: skip
    trace.write_text(json.dumps(events))
    placed = predict_models(files[:2], npu, folder=tmp_path, profiles=[f"{files[0]}={trace}"])
    assert all(m.latency_ms is not None for m in placed.models)


def test_a_profile_of_one_run_teaches_the_rates(files: list[Path], tmp_path: Path) -> None:
    """A device ten times as slow as its profile says: its kernels' times tell that without any whole measurement."""
    board = load_profile(files[0].parent / "board.yaml")
    before = forecast(files, board).estimates
    kernels = executed_files([files[2]], board)[0].work.kernels
    slow = [10 * 2e-6 * k.padded_macs / (20 * 0.4) + 0.003 for k in kernels]
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps([
        {"cat": "Node", "name": f"{k.name}_kernel_time", "dur": 1000 * ms,
         "args": {"op_name": k.operator, "provider": "CPUExecutionProvider"}}
        for k, ms in zip(kernels, slow, strict=True)
    ]))  # fmt: skip
    after = forecast(files, board, traces=[read_trace(files[2], trace)]).estimates
    moved = math.log(after[2].value / before[2].value)
    assert moved > math.log(4)
    assert after[2].high / after[2].low < before[2].high / before[2].low


def test_the_runtimes_own_profile_is_read(files: list[Path], tmp_path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(files[2], options, providers=["CPUExecutionProvider"])
    for _ in range(5):
        session.run(None, {"x": np.zeros((1, 3, 16, 16), np.float32)})
    trace = read_trace(files[2], Path(session.end_profiling()))
    kernels = executed_files([files[2]], load_profile(files[0].parent / "board.yaml"))[0].work.kernels
    assert [(k.name, k.operator) for k in trace.kernels] == [(k.name, k.operator) for k in kernels]
    assert all(k.ms > 0 and k.provider == "CPUExecutionProvider" for k in trace.kernels)


def test_nodes_without_names_are_known_in_a_profile(tmp_path: Path) -> None:
    """A profile calls them by operator and number, a graph by what they write."""
    import onnx
    import onnxruntime

    helper = onnx.helper
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["a"]), helper.make_node("Softmax", ["x"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["c"], axis=1), helper.make_node("Sigmoid", ["c"], ["d"]),
        helper.make_node("Softmax", ["d"], ["e"], name="named"), helper.make_node("Add", ["e", "c"], ["y"]),
    ]  # fmt: skip
    shapes = {"x": [8, 4096], "y": [8, 8192]}
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in shapes.items())
    model = tmp_path / "m.onnx"
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=opset, ir_version=10), model)
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for _ in range(3):
        session.run(None, {"x": np.zeros((8, 4096), np.float32)})
    trace = read_trace(model, Path(session.end_profiling()))
    (tmp_path / "board.yaml").write_text(BOARD)
    work = executed_files([model], load_profile(str(tmp_path / "board.yaml")))[0].work
    assert {t.name for t in trace.kernels} & {k.name for k in work.kernels} == {"named"}
    points = points_of([(trace, work)])
    assert points.repeats.sum() == len(trace.kernels) == len(nodes)
    for kernel, log_ms in zip(points.kernels, points.log_ms, strict=True):
        times = {
            t.ms for t in trace.kernels if (t.operator, t.written_bytes) == (kernel.operator, kernel.written_bytes)
        }
        assert math.exp(log_ms) == pytest.approx(times.pop())
        assert not times


def test_a_microcontroller_refuses_what_does_not_fit_with_the_bytes(files: list[Path], tmp_path: Path) -> None:
    flash = 4 * 9 * (3 * 64 + 64 * 64)  # of m2, in fp32
    arena = 4 * 256 * 128
    limits = "".join(f"{k}_bytes: {{{{value: {{}}, origin: spec, source: made up}}}}\n" for k in ("memory", "flash"))
    (tmp_path / "mcu.yaml").write_text(BOARD + limits.format(arena, flash))
    assert predict_models([files[2]], str(tmp_path / "mcu.yaml"), folder=tmp_path).models[0].latency_ms is not None
    (tmp_path / "mcu.yaml").write_text(BOARD + limits.format(arena - 1, flash - 1))
    refused = predict_models([files[2]], str(tmp_path / "mcu.yaml"), folder=tmp_path)
    assert refused.models[0].reason.count("(1 too many)") == 2
    with pytest.raises(NoFeasibleModel, match="GOAL-03"):
        refuse(refused)


def test_weights_count_as_they_are_stored(tmp_path: Path, chain: Chain) -> None:
    from modeltailor.compress import Format
    from modeltailor.compress.formats import Composer

    composer = Composer(chain(tmp_path / "a.onnx", [3, 64, 64]), {"x": np.ones((2, 3, 16, 16), np.float32)})
    formats = {s.name: Format.parse("w4a8") for s in composer.sites}
    (tmp_path / "w4.onnx").write_bytes(composer.compose(formats).model_bytes)
    full, packed = executed_files([tmp_path / "a.onnx", tmp_path / "w4.onnx"], load_profile("raspberry-pi-5"))
    assert packed.graph.stored_bytes < 0.16 * full.graph.stored_bytes
    assert {k.number_format for k in packed.work.kernels if k.macs} == {"int8"}  # unpacked at load, computed in 8 bits
    assert packed.work.macs == full.work.macs


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.csv", "model,latency_ms\nm.onnx,-1\n", "greater than 0"),
        ("a.csv", "model,latency_ms\nnowhere.onnx,1\n", "not there"),
        ("a.csv", "model,ms\nm.onnx,1\n", "latency_ms"),
        ("a.csv", "", "no measured latencies"),
        ("a.yaml", "measurements:\n  - {model: m.onnx, latency_ms: 1, speed: 2}\n", "speed"),
        ("a.json", "[1]", "no measured latencies"),
        ("a.json", "{", "no measured latencies"),
        ("a.json", '{"rounds": []}', "no measured latencies"),
    ],
)
def test_wrong_files_of_measurements_are_refused(tmp_path: Path, chain: Chain, name: str, text: str, what: str) -> None:
    chain(tmp_path / "m.onnx", [3, 8])
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=what):
        read_measurements(tmp_path / name)


def test_what_bench_and_certify_wrote_is_read(tmp_path: Path, chain: Chain) -> None:
    chain(tmp_path / "m.onnx", [3, 8])
    interval = {"value": 2.0, "low": 1.9, "high": 2.1}
    row = {"path": "m.onnx", "measured": {"latency_ms": interval}}
    (tmp_path / "bench.json").write_text(json.dumps({"rounds": [{"batch": 1, "rows": [row]}]}))
    (bench,) = read_measurements(tmp_path / "bench.json")
    assert (bench.latency_ms, bench.noise) == (2.0, pytest.approx(math.log(2.1 / 1.9) / 3.92))
    for folder in ("artifacts", "certified"):
        (tmp_path / folder).mkdir()
    made = chain(tmp_path / "artifacts" / "made.onnx", [3, 8])
    sha256 = sha256_file(made)
    made.rename(tmp_path / "artifacts" / f"{sha256[:16]}.onnx")
    certificate = {"fingerprint": "f", "models": [{"sha256": sha256, "latency_ms": [2.0, 1.9, 2.1]}]}
    (tmp_path / "certified" / "board.json").write_text(json.dumps(certificate))
    (certified,) = read_measurements(tmp_path / "certified" / "board.json")
    assert certified.latency_ms == bench.latency_ms
    assert certified.model.name == f"{sha256[:16]}.onnx"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({}, ""),
        ({"evidence": "measured-here"}, "another machine stood in"),
        ({"sha256": "0" * 64}, "not the file that was measured any more"),
        ({"shape": [8, 3, 16, 16]}, "not the shape that is predicted"),
    ],
)
def test_latencies_of_another_machine_file_or_shape_are_refused(
    tmp_path: Path, chain: Chain, change: dict[str, object], what: str
) -> None:
    model = chain(tmp_path / "m.onnx", [3, 8])
    interval = {"value": 2.0, "low": 1.9, "high": 2.1, "evidence": change.get("evidence", "measured-on-device")}
    row = {
        "path": "m.onnx", "sha256": change.get("sha256", sha256_file(model)), "measured": {"latency_ms": interval},
    }  # fmt: skip
    one = {"batch": 1, "shapes": [["x", change.get("shape", [1, 3, 16, 16])]], "rows": [row]}
    (tmp_path / "bench.json").write_text(json.dumps({"rounds": [one]}))
    if not what:
        assert read_measurements(tmp_path / "bench.json")[0].latency_ms == 2.0
        return
    with pytest.raises(ConfigError, match=what):
        read_measurements(tmp_path / "bench.json")


def test_of_several_batches_the_one_that_is_predicted_is_read(tmp_path: Path, chain: Chain) -> None:
    chain(tmp_path / "m.onnx", [3, 8])

    def one(batch: int, ms: float) -> dict[str, object]:
        row = {"path": "m.onnx", "measured": {"latency_ms": {"value": ms, "low": ms, "high": ms}}}
        return {"batch": batch, "shapes": [["x", [batch, 3, 16, 16]]], "rows": [row]}

    (tmp_path / "bench.json").write_text(json.dumps({"rounds": [one(8, 16.0), one(1, 2.0)]}))
    assert read_measurements(tmp_path / "bench.json")[0].latency_ms == 2.0
    assert read_measurements(tmp_path / "bench.json", {"x": (8, 3, 16, 16)})[0].latency_ms == 16.0


def test_missing_models_and_free_shapes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        predict_models([tmp_path / "none.onnx"], "raspberry-pi-5", folder=tmp_path)
    with pytest.raises(ConfigError, match="CFG-15"):
        predict_models([Path(__file__)], "raspberry-pi-5", folder=tmp_path, profiles=["no-equals-sign"])


def test_the_table_names_bands_and_evidence(files: list[Path]) -> None:
    said = CliRunner().invoke(command, [*map(str, files[:2]), "--target", "raspberry-pi-5", "--suggest", "2"])
    assert said.exit_code == 0, said.output
    assert "80 % band" in said.output
    assert said.output.count("predicted") >= 2
    assert "measure next" in said.output
    assert "measure then" in said.output


def test_channels_are_filled_up_to_the_vector_of_the_device(tmp_path: Path, chain: Chain) -> None:
    model = chain(tmp_path / "a.onnx", [3, 12])
    narrow, wide = (
        executed_files([model], load_profile("raspberry-pi-5").model_copy(update={"instructions": (i,)}))[0].work
        for i in ("asimd", "avx512f")
    )
    assert narrow.kernels[0].padded_macs == narrow.macs  # 12 channels fill three registers of four
    assert wide.kernels[0].padded_macs == narrow.macs * 16 // 12
    assert RuntimeOptions().provider == load_profile("raspberry-pi-5").provider
