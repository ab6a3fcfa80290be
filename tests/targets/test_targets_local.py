"""This machine as a device: faults name the file, limits hold, labels are honest."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from modeltailor.errors import CandidateError, DeviceError
from modeltailor.targets import LocalDevice, TimingPlan, load_profile
from modeltailor.targets.agent import device_side
from modeltailor.targets.agent.device_side import BARE_MODEL
from modeltailor.targets.lock import measurement_token

SHORT = TimingPlan(pairs=1, quads=2, block_inferences=5, block_ms=2.0, warmup_s=0.05)


@pytest.fixture
def device():
    return LocalDevice(load_profile("desktop-cpu"))


def test_hanging_candidate_times_out_by_name(device, models, one_image):
    start = time.monotonic()
    with pytest.raises(CandidateError) as caught:
        device.time((models["small"], models["endless"]), one_image, replace(SHORT, timeout_s=3.0))
    assert (caught.value.code, caught.value.where) == ("TIMEOUT", "endless.onnx")
    assert time.monotonic() - start < 25


def test_refused_file_is_unsupported_with_the_runtime_s_reason(device, models, one_image):
    with pytest.raises(CandidateError) as caught:
        device.time((models["small"], models["garbage"]), one_image, SHORT)
    assert (caught.value.code, caught.value.where) == ("UNSUPPORTED", "garbage.onnx")
    assert "ONNX Runtime cannot load it" in caught.value.what


def test_crash_of_the_runtime_itself_is_named_and_survived(device, models, one_image):
    with pytest.raises(CandidateError) as caught:
        device.time((models["small"], models["crashing"]), one_image, SHORT)
    assert (caught.value.code, caught.value.where) == ("CRASH:ABRT", "crashing.onnx")
    assert "Fatal Python error: Aborted" in caught.value.detail
    assert device.time((models["small"],), one_image, SHORT).pairs


def test_wrong_input_is_the_candidate_s_fault(device, models):
    with pytest.raises(CandidateError, match="'x'"):
        device.time((models["small"],), {"z": np.zeros((1, 3, 16, 16), np.float32)}, SHORT)


def test_peak_memory_follows_the_weights(device, models, one_image, save_heavy):
    plan = replace(SHORT, memory=True)
    small = device.time((models["small"],), one_image, plan).facts[0]
    big = device.time((save_heavy(20_000_000),), {"v": np.ones((1, 1024), np.float32)}, plan).facts[0]
    assert max(small.peak_load_bytes, small.peak_run_bytes) < 10_000_000
    assert 20_000_000 < big.peak_load_bytes < 160_000_000
    assert 17_000_000 < big.peak_run_bytes < 160_000_000


def test_bare_runtime_model_is_an_identity():
    model = onnx.load_from_string(BARE_MODEL)
    onnx.checker.check_model(model)
    assert [n.op_type for n in model.graph.node] == ["Identity"]


def test_only_the_local_profile_claims_the_device():
    assert LocalDevice(load_profile("desktop-cpu")).describe().evidence == "measured-on-device"
    for name in ("phone", "embedded", "gpu"):
        facts = LocalDevice(load_profile(name)).describe()
        assert facts.evidence == "measured-here"
        assert facts.options.provider == "CPUExecutionProvider"


def test_threads_of_the_profile_reach_the_runtime_and_the_fingerprint(device):
    two = LocalDevice(device.profile.model_copy(update={"threads": 2}))
    assert two.describe().options.intra_op_threads == 2
    assert two.describe().fingerprint != device.describe().fingerprint


def test_missing_provider_is_the_device_s_fault(device, models, one_image):
    absent = LocalDevice(device.profile.model_copy(update={"provider": "CUDAExecutionProvider"}))
    with pytest.raises(DeviceError, match="CUDAExecutionProvider"):
        absent.time((models["small"],), one_image, SHORT)


def test_stand_in_keeps_the_memory_of_the_device(models, one_image, save_heavy):
    profile = load_profile("embedded")
    assert profile.memory_bytes is not None
    little = profile.memory_bytes.model_copy(update={"value": 520_000_000.0})
    stand_in = LocalDevice(profile.model_copy(update={"memory_bytes": little}))
    stand_in.time((models["small"],), one_image, SHORT)
    with pytest.raises(CandidateError) as caught:
        stand_in.time((save_heavy(270_000_000),), {"v": np.ones((1, 1024), np.float32)}, SHORT)
    assert caught.value.code in ("OOM", "UNSUPPORTED")
    assert caught.value.where == "heavy.onnx"


def test_slow_models_get_shorter_blocks_rather_than_a_timeout(device, models, one_image):
    greedy = TimingPlan(pairs=1, quads=8, block_inferences=20, block_ms=5000.0, warmup_s=0.1, timeout_s=8.0)
    start = time.monotonic()
    timings = device.time((models["small"], models["wide"]), one_image, greedy)
    assert len(timings.pairs[0].blocks_ms[1]) >= 2
    assert time.monotonic() - start < 25


class SlowClock:
    """A clock that a model of known pace moves on; no time passes."""

    def __init__(self, monkeypatch, pace_ms):
        self.now_s, self.calls, self.pace_ms = 100.0, 0, pace_ms
        clock = SimpleNamespace(perf_counter=lambda: self.now_s, perf_counter_ns=lambda: round(self.now_s * 1e9))
        monkeypatch.setattr(device_side, "time", clock)

    def run(self):
        self.now_s += self.pace_ms(self.calls) / 1e3
        self.calls += 1


@pytest.mark.parametrize(
    ("pace_ms", "steady", "calls", "seconds"),
    [
        (lambda n: 500.0, True, range(10, 13), (5.0, 6.5)),  # slower than the usual limit, and settled all the same
        (lambda n: 0.4, True, range(1200, 1600), (0.5, 0.6)),  # half a second at least
        (lambda n: 30.0 * 0.96 ** (n // 5), False, range(60, 200), (2.0, 2.4)),  # ever faster: never steady, and said
        (lambda n: 9000.0, True, range(3, 5), (27.0, 36.0)),  # half a minute at most, give or take a call
    ],
)
def test_warm_up_ends_settled_or_in_time(monkeypatch, pace_ms, steady, calls, seconds):
    clock = SlowClock(monkeypatch, pace_ms)
    settled, _ = device_side.settle(clock.run, 0.5, 2.0)
    assert settled == steady
    assert clock.calls in calls
    assert seconds[0] <= clock.now_s - 100.0 <= seconds[1]


def test_two_runs_do_not_measure_at_once(device, models, one_image):
    waiting = LocalDevice(device.profile, wait_s=0.2)
    with measurement_token("local"), pytest.raises(DeviceError, match="another run"):
        waiting.time((models["small"],), one_image, SHORT)
    assert waiting.time((models["small"],), one_image, SHORT).pairs
    with measurement_token("local"), measurement_token("another device", wait_s=0.0):
        pass


def test_conditions_tell_what_the_machine_suffered(device, models, one_image):
    conditions = dict(device.time((models["small"],), one_image, SHORT).conditions)
    always = {"steal_share", "busy_share", "load_average_1m", "major_page_faults", "preemptions"}
    assert always <= set(conditions)
    assert set(conditions) - always <= {"hottest_c", "battery_percent", "discharging", "frequency_share"}
    assert 0 <= conditions["steal_share"] <= 1
    assert 0 < conditions["busy_share"] <= 1
