"""The fake device tells the truth that it was given, plus exactly the troubles that were asked for."""

import math
from pathlib import Path

import numpy as np
import pytest

from modeltailor.errors import CandidateError, DeviceError
from modeltailor.targets import FakeDevice, TimingPlan
from modeltailor.targets.retrying import Retrying

A, B = Path("a.onnx"), Path("b.onnx")
PLAN = TimingPlan(pairs=3, quads=4)
TRUTH = {"a.onnx": 1.0, "b.onnx": 0.5}


def all_blocks(timings, index):
    return [b for p in timings.pairs for q in p.blocks_ms[index] for b in q]


def test_without_troubles_every_block_is_the_truth():
    timings = FakeDevice(TRUTH).time((A, B), {}, PLAN)
    assert set(all_blocks(timings, 0)) == {1.0}
    assert set(all_blocks(timings, 1)) == {0.5}
    assert FakeDevice(lambda path: len(path.name)).time((A,), {}, PLAN).pairs[0].blocks_ms[0][0] == (6, 6)


def test_same_seed_same_times():
    def run(seed):
        return FakeDevice(TRUTH, noise=0.02, bursts=0.1, process_effect=0.01, seed=seed).time((A, B), {}, PLAN)

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_drift_moves_later_blocks_and_bursts_take_their_share():
    drifting = all_blocks(FakeDevice(TRUTH, drift=0.1).time((A, B), {}, PLAN), 0)
    assert drifting == sorted(drifting)
    assert drifting[-1] > 1.2 * drifting[0]
    plan = TimingPlan(pairs=200, quads=8)
    slow = np.mean(np.array(all_blocks(FakeDevice(TRUTH, bursts=0.2).time((A, B), {}, plan), 0)) > 1.1)
    assert 0.15 < slow < 0.25


def test_process_effect_is_constant_within_a_process_only():
    timings = FakeDevice(TRUTH, process_effect=0.01).time((A, B), {}, TimingPlan(pairs=50, quads=2))
    for pair in timings.pairs:
        assert len({b for q in pair.blocks_ms[1] for b in q}) == 1
    logs = [math.log(p.blocks_ms[1][0][0] / 0.5) for p in timings.pairs]
    assert 0.006 < float(np.std(logs)) < 0.014


def test_failures_and_unknown_files_are_named():
    device = FakeDevice(TRUTH, failures={"b.onnx": CandidateError("CRASH:SEGV", "", "killed by SIGSEGV")})
    with pytest.raises(CandidateError) as caught:
        device.time((A, B), {}, PLAN)
    assert (caught.value.code, caught.value.where) == ("CRASH:SEGV", "b.onnx")
    with pytest.raises(CandidateError, match=r"c\.onnx"):
        device.time((A, Path("c.onnx")), {}, PLAN)
    assert device.calls == [(A, B), (A, Path("c.onnx"))]


def test_retrying_asks_again_for_the_device_s_faults_only():
    class Flaky(FakeDevice):
        left = 2

        def time(self, artifacts, inputs, plan):
            if self.left:
                self.left -= 1
                raise DeviceError("DEV-01", "flaky", "gone")
            return super().time(artifacts, inputs, plan)

    assert Retrying(Flaky(TRUTH), attempts=3, wait_s=0).time((A, B), {}, PLAN).pairs
    with pytest.raises(DeviceError):
        Retrying(Flaky(TRUTH), attempts=2, wait_s=0).time((A, B), {}, PLAN)
    broken = FakeDevice(TRUTH, failures={"b.onnx": CandidateError("OOM", "", "out of memory")})
    with pytest.raises(CandidateError):
        Retrying(broken, attempts=3, wait_s=0).time((A, B), {}, PLAN)
    assert len(broken.calls) == 1


@pytest.mark.parametrize(("code", "tries"), [("DEV-06", 3), ("DEV-05", 1), ("DEV-10", 1), ("DEV-11", 1), ("DEV-13", 1)])
def test_what_was_waited_for_is_not_waited_for_again(code, tries):
    class Failing(FakeDevice):
        def time(self, artifacts, inputs, plan):
            self.calls.append(tuple(artifacts))
            raise DeviceError(code, "board", "is hot")

    device = Failing(TRUTH)
    with pytest.raises(DeviceError):
        Retrying(device, attempts=3, wait_s=0).time((A, B), {}, PLAN)
    assert len(device.calls) == tries
