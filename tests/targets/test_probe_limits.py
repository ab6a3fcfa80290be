"""A probe on slow boards and bad lines: what time ran out for is no finding, and what was measured is kept."""

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import modeltailor.targets.probe as probing
from modeltailor import places
from modeltailor.commands.targets_probe import command
from modeltailor.errors import CandidateError, DeviceError
from modeltailor.search.probing import read_table
from modeltailor.targets import FakeDevice
from modeltailor.targets.probe import probe

LATE = CandidateError("TIMEOUT", "", "took longer than 90 s and was stopped")
CRASH = CandidateError("CRASH:SEGV", "", "the process was killed by SIGSEGV")
GONE = DeviceError("DEV-06", "", "the agent is gone", "check the device")


def board(**failures):
    """A device whose files fail as named, ``conv_3`` for ``conv-3.onnx``; the same to a cache whatever fails."""
    return FakeDevice(lambda _: 1.0, failures={f"{k.replace('_', '-')}.onnx": e for k, e in failures.items()})


def kinds_kept(folder):
    (file,) = folder.glob("probe-*.json")
    return {e["kind"] for e in json.loads(file.read_text())["entries"]}


@pytest.mark.parametrize("failures", [{"conv_3": LATE}, {"conv_0": LATE}, {"conv_1": CRASH, "conv_3": LATE}])
def test_time_that_ran_out_is_no_finding_and_the_other_kinds_go_on(tmp_path, failures):
    table = probe(board(**failures), kinds=("conv", "matmul"), cache=tmp_path)
    assert table.left_out == ("conv",)
    assert {e.kind for e in table.entries} == {"matmul"}
    assert "was not measured" in table.reason("w8a8", "conv")
    assert kinds_kept(tmp_path) == {"matmul"}
    later = board()
    again = probe(later, kinds=("conv", "matmul"), cache=tmp_path)
    assert len(later.calls) == 1
    assert again.left_out == ()
    assert all(e.ms is not None for e in again.tried("w8a8", "conv"))


def test_threads_that_time_ran_out_for_are_left_out():
    table = probe(board(), kinds=(), with_threads={1: board(), 2: board(threads_0=LATE)})
    assert [e.detail for e in table.entries] == ["1 threads"]
    assert table.left_out == ("threads",)


class Slow(FakeDevice):
    """Takes seconds for each process, by a clock of its own; stopped where that is more than it may take."""

    def __init__(self, clock, trial_s):
        super().__init__(lambda _: 1.0)
        self.clock, self.trial_s = clock, trial_s
        self.limits = {}

    def time(self, artifacts, inputs, plan):
        self.limits[artifacts[0].stem.removesuffix("-0")] = plan.timeout_s
        needed = self.trial_s * len(artifacts)
        self.clock.now += min(needed, plan.timeout_s)
        if needed > plan.timeout_s:
            raise CandidateError("TIMEOUT", artifacts[-1].name, "took longer")
        return super().time(artifacts, inputs, plan)


@pytest.fixture
def clock(monkeypatch):
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(probing, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_limit_of_a_call_grows_with_its_processes(clock):
    device = Slow(clock, 1.0)
    table = probe(device, limit_s=10_000.0)
    assert table.left_out == ()
    assert device.limits["conv"] == device.limits["bandwidth"] == 90.0
    assert 90.0 < device.limits["channels"] < device.limits["matmul"] <= 150.0


def test_slow_board_gets_further_with_each_probe_within_a_minute_over_the_limit(clock, tmp_path):
    for number, (left_out, kept) in enumerate(((("conv",), {"matmul"}), ((), {"matmul", "conv"}))):
        began = clock.now
        table = probe(Slow(clock, 7.0), kinds=("matmul", "conv"), cache=tmp_path, limit_s=60.0)
        assert (table.left_out, kinds_kept(tmp_path)) == (left_out, kept), number
        assert clock.now - began <= 120.0
    began = clock.now
    table = probe(Slow(clock, 1000.0), limit_s=60.0)
    assert clock.now - began <= 120.0
    assert table.entries == ()


def test_board_that_is_gone_in_the_middle_leaves_what_was_measured(tmp_path):
    with pytest.raises(DeviceError, match="the agent is gone"):
        probe(board(matmul_0=GONE), kinds=("conv", "depthwise", "matmul"), cache=tmp_path)
    assert kinds_kept(tmp_path) == {"conv", "depthwise"}
    later = board()
    probe(later, kinds=("conv", "depthwise", "matmul"), cache=tmp_path)
    assert [c[0].name for c in later.calls] == ["matmul-0.onnx"]


def test_what_is_known_is_measured_afresh_and_not_lost_before_there_is_something_new(tmp_path):
    probe(board(), kinds=("conv",), cache=tmp_path)
    with pytest.raises(DeviceError):
        probe(board(conv_0=GONE), kinds=("conv",), cache=tmp_path, afresh=True)
    assert kinds_kept(tmp_path) == {"conv"}
    probe(board(conv_1=CRASH), kinds=("conv",), cache=tmp_path, afresh=True)
    assert probe(board(), kinds=("conv",), cache=tmp_path).tried("bf16", "conv")[0].error


def test_multiple_of_channels_that_were_not_measured_is_not_known():
    table = probe(board(), kinds=("conv",))
    assert table.channel_multiple("w8a8") is None
    assert read_table(table, []).channel_multiple == 8
    some = probe(board(**{f"channels_{n}": CRASH for n in range(6, 12)}), kinds=("channels",))
    assert (some.channel_multiple("fp32"), some.channel_multiple("w8a8")) == (16, None)


@pytest.mark.parametrize(("failures", "said"), [({}, True), ({"channels_0": LATE}, False)])
def test_command_says_nothing_of_channels_that_it_did_not_reach(tmp_path, monkeypatch, failures, said):
    monkeypatch.setenv("MODELTAILOR_CACHE", str(tmp_path))
    monkeypatch.setattr(places, "open_place", lambda *_: board(**failures))
    monkeypatch.setattr(places, "open_with_threads", lambda *_: {})
    done = CliRunner().invoke(command, [])
    assert done.exit_code == 0, done.exception
    assert ("channels of int8 convolutions" in done.output) == said
    assert ("not reached in time: channels" in done.output) != said


def test_command_keeps_what_is_known_if_a_board_that_is_measured_afresh_is_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELTAILOR_CACHE", str(tmp_path))
    monkeypatch.setattr(places, "open_with_threads", lambda *_: {})
    for device, arguments in ((board(), []), (board(conv_0=GONE), ["--afresh"])):
        monkeypatch.setattr(places, "open_place", lambda *_, device=device: device)
        done = CliRunner().invoke(command, arguments)
    assert isinstance(done.exception, DeviceError)
    assert "matmul" in kinds_kept(tmp_path / "probes")
