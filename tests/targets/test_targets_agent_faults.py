"""What goes wrong with devices elsewhere: lines, disks, clocks, heat, runtimes, and models in several files."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from modeltailor.errors import CandidateError, DeviceError, ModelError
from modeltailor.targets import LocalDevice, RuntimeOptions, TimingPlan, load_profile
from modeltailor.targets.agent import AgentDevice, device_side
from modeltailor.targets.agent.clock import ClockCheck
from modeltailor.targets.agent.device_side import fall_back, left_behind
from modeltailor.targets.agent.upload import Pace, pack, send
from modeltailor.targets.health import HealthLimits, wait_until_fit
from modeltailor.targets.retrying import Retrying
from modeltailor.targets.runtime_version import accepts
from modeltailor.targets.session import refuse_fall_back

SHORT = TimingPlan(pairs=1, quads=2, block_inferences=5, block_ms=2.0, warmup_s=0.05, timeout_s=30)


class Board:
    """An agent of this process behind a wire that can break; ``clock`` distorts its clock."""

    def __init__(self, folder, **hello):
        self.agent = device_side.Agent(str(folder))
        self.hello = hello
        self.breaks_after = None
        self.clock = lambda: None
        self.puts = []
        self.connections = 0

    def connect(self):
        self.connections += 1
        return self

    def ask(self, message, body, timeout_s):
        if message["verb"] == "put":
            self.puts.append((message["offset"], len(body)))
            if self.breaks_after is not None and len(self.puts) > self.breaks_after:
                self.breaks_after = None
                raise DeviceError("DEV-06", "board", "the agent is gone")
        try:
            answer = {"ok": True, **self.agent.answer(message, body, lambda: True)}
        except device_side.Refusal as refusal:
            return {"ok": False, "code": refusal.code, "what": refusal.what, "index": refusal.index}
        if message["verb"] == "hello":
            answer |= self.hello
        clock_s = self.clock()
        return answer if clock_s is None else {**answer, "clock_s": clock_s}

    def close(self):
        pass


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path / "board")


def device_of(board, **how) -> AgentDevice:
    return AgentDevice(board.connect, name="board", limits=HealthLimits(hottest_c=200.0), **how)


# -- models in several files -------------------------------------------------------------------------------------------


def outside(folder, save_heavy, location="w.bin"):
    model = onnx.load(save_heavy(400_000))
    folder.mkdir()
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    if location != "w.bin":
        model = onnx.load(folder / "m.onnx", load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "location":
                entry.value = location
        (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def test_external_data_travels_by_its_hash(board, tmp_path, save_heavy):
    path = outside(tmp_path / "outside", save_heavy)
    before = path.read_bytes()
    timings = device_of(board).time((path,), {"v": np.ones((1, 1024), np.float32)}, SHORT)
    assert timings.pairs
    assert path.read_bytes() == before
    assert hashlib.sha256((path.parent / "w.bin").read_bytes()).hexdigest() in pack(path).needs
    board.puts.clear()
    device_of(board).time((path,), {"v": np.ones((1, 1024), np.float32)}, SHORT)
    assert not board.puts


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "missing.bin", "link.bin"])
def test_external_data_that_leads_elsewhere_is_refused(tmp_path, save_heavy, location):
    (tmp_path / "secret").write_bytes(b"x" * 400_000)
    path = outside(tmp_path / "outside", save_heavy, location)
    (path.parent / "link.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(CandidateError, match="external data"):
        pack(path)


# -- the line and the disk ---------------------------------------------------------------------------------------------


def test_upload_goes_on_where_the_line_broke(board, tmp_path, save_heavy):
    path = save_heavy(3_000_000)
    board.breaks_after = 2
    device = Retrying(device_of(board), attempts=2, wait_s=0.0)
    assert device.time((path,), {"v": np.ones((1, 1024), np.float32)}, SHORT).pairs
    assert board.connections == 2
    sent = [(offset, n) for offset, n in board.puts if n > 10_000]
    broken = sent.pop(2)  # asked again after the line came back
    assert broken[0] == sent[2][0]
    assert [offset for offset, _ in sent] == [sum(n for _, n in sent[:i]) for i in range(len(sent))]


def test_slow_line_gets_small_pieces_and_quick_one_large_ones():
    clock = SimpleNamespace(now=0.0)

    def line(bytes_per_s):
        sizes = []

        def put(sha, offset, size, piece):
            clock.now += len(piece) / bytes_per_s
            sizes.append(len(piece))
            done = offset + len(piece)
            return -1 if done == size else done

        pace = Pace(1 << 14, 4 << 20)
        send("board", {"a": bytes(3 << 20)}, [0], put, pace, clock=lambda: clock.now)
        return sizes

    assert max(line(10e6)) > 1 << 20
    slow = line(4000.0)
    assert max(slow[4:]) / 4000.0 <= 16.0  # seconds of a piece, once the line is known
    assert sum(slow) == 3 << 20


def test_file_that_does_not_get_further_is_given_up():
    with pytest.raises(DeviceError, match="does not get further than 7"):
        send("board", {"a": bytes(100)}, [7], lambda *_: 7, Pace(10, 20))


def test_full_disk_is_the_device_s_fault_and_says_so(board, models, one_image, monkeypatch):
    monkeypatch.setattr(device_side.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DeviceError, match="disk is full") as caught:
        device_of(board).time((models["small"],), one_image, SHORT)
    assert caught.value.code == "DEV-08"


# -- runtime, clock, heat, battery -------------------------------------------------------------------------------------


def test_peak_memory_is_absent_where_the_system_does_not_tell(tmp_path, save_heavy, monkeypatch):
    from modeltailor.targets import _measure

    # Weights that no memory this process has freed can hold: a small model may fit where another one was.
    heavy, inputs = save_heavy(80_000_000), {"v": np.ones((1, 1024), np.float32)}
    np.savez(tmp_path / "x.npz", **inputs)
    options = {"threads": 1, "spinning": False, "provider": "CPUExecutionProvider", "precision": []}
    worker = device_side._Worker()
    told = worker.memory(str(heavy), str(tmp_path / "x.npz"), options)
    assert told["run_bytes"] > 0
    monkeypatch.setattr(device_side.os, "access", lambda *_: False)
    assert worker.memory(str(heavy), str(tmp_path / "x.npz"), options) == {"load_bytes": None, "run_bytes": None}
    assert _measure.memory(heavy, inputs, RuntimeOptions()) is None


def test_inputs_are_no_memory_of_the_model(tmp_path, save_heavy):
    small = save_heavy(4096)
    np.savez(tmp_path / "x.npz", v=np.ones((1, 1024), np.float32), w=np.ones(25_000_000, np.float32))
    options = {"threads": 1, "spinning": False, "provider": "CPUExecutionProvider", "precision": []}
    code = (
        "import json, sys; from modeltailor.targets.agent.device_side import _Worker; "
        "print(json.dumps(_Worker().memory(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))"
    )
    command = [sys.executable, "-c", code, str(small), str(tmp_path / "x.npz"), json.dumps(options)]
    told = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert told["run_bytes"] < 50_000_000  # the inputs are twice that


def test_old_runtime_is_refused(tmp_path):
    with pytest.raises(DeviceError, match=r"1\.14\.1; 1\.18 or newer is needed"):
        device_of(Board(tmp_path, runtime="onnxruntime 1.14.1")).describe()


def test_runtime_that_the_profile_does_not_speak_of_is_refused(tmp_path):
    board = Board(tmp_path, runtime="onnxruntime 1.31.2")
    assert device_of(board, runtime_version="1.31").describe().runtime == "onnxruntime 1.31.2"
    for wanted in ("1.32", ">=1.32", "1.31.1"):
        with pytest.raises(DeviceError, match=r"it has onnxruntime 1\.31\.2") as caught:
            device_of(board, runtime_version=wanted).describe()
        assert caught.value.code == "DEV-13"
    mine = load_profile("local").model_copy(update={"runtime_version": "0.9"})
    with pytest.raises(DeviceError, match=r"its profile speaks of 0\.9"):
        LocalDevice(mine).describe()
    stood_in = load_profile("pixel-8").model_copy(update={"runtime_version": "0.9"})
    assert LocalDevice(stood_in).describe().evidence == "measured-here"


@pytest.mark.parametrize(
    ("wanted", "runtime", "fits"),
    [
        ("", "onnxruntime 1.2", True),
        ("1.32", "onnxruntime 1.32.0", True),
        ("1.3", "onnxruntime 1.32.0", False),
        (">=1.9", "onnxruntime 1.18.0", True),
        (">=1.18.1", "onnxruntime 1.18.0", False),
        (">=1.18", "onnxruntime-gpu 2.0", True),
        ("1.32", "onnxruntime (version unknown)", True),
    ],
)
def test_versions_are_numbers_not_text(wanted, runtime, fits):
    assert accepts(wanted, runtime) == fits


def test_other_runtime_after_a_new_connection_is_refused(board, models, one_image):
    device = device_of(board)
    device.time((models["small"],), one_image, SHORT)
    device.close()
    board.hello = {"runtime": "onnxruntime 1.99.0"}
    with pytest.raises(DeviceError, match=r"came back as onnxruntime 1\.99\.0"):
        device.time((models["small"],), one_image, SHORT)
    board.hello = {}
    assert device.time((models["small"],), one_image, SHORT).pairs


@pytest.mark.parametrize(
    ("speed", "seconds", "caught"), [(1.0, 600, False), (1.1, 60, True), (0.5, 10, True), (-1.0, 2, True)]
)
def test_clock_that_runs_differently_is_caught(speed, seconds, caught):
    now = SimpleNamespace(ours=100.0)
    check = ClockCheck("board", ours=lambda: now.ours)
    check.look(5.0)
    now.ours += seconds
    if caught:
        with pytest.raises(DeviceError, match="clock"):
            check.look(5.0 + speed * seconds)
    else:
        check.look(5.0 + speed * seconds)


def test_lying_clock_ends_the_measurement(board, models, one_image):
    ticks = iter(range(0, 10_000, 50))
    board.clock = lambda: float(next(ticks))
    with pytest.raises(DeviceError, match="its clock moved by"):
        device_of(board).time((models["small"],), one_image, SHORT)


def test_hot_device_is_waited_for_and_then_refused():
    heat = iter([95.0, 91.0, 84.0])
    waits = []
    limits = HealthLimits(hottest_c=85.0, cool_s=60.0, poll_s=5.0)
    assert wait_until_fit("b", lambda: {"hottest_c": next(heat)}, limits, sleep=waits.append)["hottest_c"] == 84.0
    assert waits == [5.0, 5.0]
    waits.clear()
    with pytest.raises(DeviceError, match="95 °C and did not cool") as caught:
        wait_until_fit("b", lambda: {"hottest_c": 95.0}, limits, sleep=waits.append)
    assert caught.value.code == "DEV-10"
    assert sum(waits) == 60.0
    with pytest.raises(DeviceError, match="slows down for heat"):
        wait_until_fit("b", lambda: {"throttled": 1.0}, limits, sleep=waits.append)


@pytest.mark.parametrize(("state", "fit"), [
    ({"battery_percent": 5.0, "discharging": 1.0}, False), ({"battery_percent": 5.0}, False),
    ({"battery_percent": 5.0, "discharging": 0.0}, True), ({"battery_percent": 50.0, "discharging": 1.0}, True), ({}, True),
])  # fmt: skip
def test_empty_battery_is_refused(state, fit):
    if fit:
        assert wait_until_fit("b", lambda: state, HealthLimits()) == state
    else:
        with pytest.raises(DeviceError, match="battery is at 5 %"):
            wait_until_fit("b", lambda: state, HealthLimits())


# -- providers that fall back ------------------------------------------------------------------------------------------


def node(name, op, provider, size=100_000):
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "args": {"op_name": op, "provider": provider, "output_size": str(size)},
    }


def test_nodes_that_ran_elsewhere_are_named_and_shape_work_is_not():
    events = [
        {"cat": "Session", "name": "model_run", "args": {}},
        node("conv1", "Conv", "CUDAExecutionProvider"),
        node("shape", "Shape", "CPUExecutionProvider", 16),
        node("big", "Concat", "CPUExecutionProvider"),
        node("conv2", "QLinearConv", "CPUExecutionProvider", 10),
    ]
    nodes, n_there = left_behind(events, "CUDAExecutionProvider")
    assert nodes == ["big (Concat, CPUExecutionProvider)", "conv2 (QLinearConv, CPUExecutionProvider)"]
    assert n_there == 1
    assert fall_back(events, "CUDAExecutionProvider").startswith("2 nodes do not run on CUDA")
    assert fall_back(events[:3], "CUDAExecutionProvider") == ""
    assert fall_back(events[3:], "CUDAExecutionProvider").startswith("no node runs on CUDA")


def test_provider_that_takes_no_node_is_refused_here_and_there(board, models, one_image):
    azure = RuntimeOptions(provider="AzureExecutionProvider")  # present in this build, and runs nothing of ours
    with pytest.raises(ModelError, match="no node runs on AzureExecutionProvider"):
        refuse_fall_back(models["small"], one_image, azure)
    refuse_fall_back(models["small"], one_image, RuntimeOptions())
    local = LocalDevice(load_profile("desktop-cpu").model_copy(update={"provider": azure.provider}))
    for device in (local, device_of(board, options=azure)):
        with pytest.raises(CandidateError, match="no node runs on Azure") as caught:
            device.time((models["small"],), one_image, replace(SHORT, timeout_s=60))
        assert (caught.value.code, caught.value.where) == ("UNSUPPORTED", "small.onnx")
        device.close()
