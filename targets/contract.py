"""What every device must hold, as a suite that plug-in authors can run.

Use it in a test module of your own::

    class TestMyDevice(DeviceContract):
        @pytest.fixture
        def case(self, tmp_path):
            device = MyDevice()
            yield DeviceCase(device=device, fast=..., slow=..., broken=..., inputs=...)
            device.close()

``slow`` must take at least twice the time of ``fast``; ``broken`` is a file that the device cannot run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from modeltailor.errors import CandidateError
from modeltailor.targets.device import Device, Inputs, TimingPlan, Timings

__all__ = ["DeviceCase", "DeviceContract"]

_SHORT = TimingPlan(pairs=1, quads=3, block_inferences=10, block_ms=3.0, warmup_s=0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCase:
    """A device under test and files for it.

    Attributes:
        device: fresh.
        fast: a file that it runs.
        slow: one that takes at least twice as long.
        broken: one that it cannot run.
        inputs: arrays by input name, good for ``fast`` and ``slow``.
        plan: how much to measure in each check.
    """

    device: Device
    fast: Path
    slow: Path
    broken: Path
    inputs: Inputs
    plan: TimingPlan = _SHORT


def _middle_ms(quads: Sequence[tuple[float, float]]) -> float:
    return median(block for quad in quads for block in quad)


def _latency_ms(timings: Timings, index: int) -> float:
    return median(_middle_ms(pair.blocks_ms[index]) for pair in timings.pairs)


class DeviceContract:
    """Checks for pytest; derive a class and give it a fixture ``case``."""

    def test_is_a_device(self, case: DeviceCase) -> None:
        """It has the protocol's methods."""
        assert isinstance(case.device, Device)

    def test_facts_are_stable(self, case: DeviceCase) -> None:
        """Two looks at one device see the same facts, and none is empty."""
        facts = case.device.describe()
        assert facts == case.device.describe()
        assert all((facts.name, facts.runtime, facts.processor, facts.fingerprint))

    def test_measuring_does_not_change_the_facts(self, case: DeviceCase) -> None:
        """The fingerprint that caches are keyed by stays."""
        before = case.device.describe()
        case.device.time((case.fast,), case.inputs, case.plan)
        assert case.device.describe() == before

    def _check_shape(self, timings: Timings, artifacts: Sequence[Path], plan: TimingPlan) -> None:
        assert len(timings.pairs) == plan.pairs
        assert len(timings.facts) == len(artifacts)
        for pair in timings.pairs:
            assert len(pair.blocks_ms) == len(pair.baseline_blocks_ms) == len(pair.steady) == len(artifacts)
            for own, enclosing in zip(pair.blocks_ms, pair.baseline_blocks_ms, strict=True):
                assert 1 <= len(own) == len(enclosing) <= plan.quads
                for value in (v for quad in (*own, *enclosing) for v in quad):
                    assert math.isfinite(value)
                    assert value > 0

    def test_one_artifact(self, case: DeviceCase) -> None:
        """A single file is its own baseline."""
        timings = case.device.time((case.fast,), case.inputs, case.plan)
        self._check_shape(timings, (case.fast,), case.plan)

    def test_several_artifacts_in_two_pairs(self, case: DeviceCase) -> None:
        """Every artifact has its blocks in every pair, in the order given, and the slower one is slower."""
        plan = replace(case.plan, pairs=2)
        artifacts = (case.fast, case.slow, case.fast)
        timings = case.device.time(artifacts, case.inputs, plan)
        self._check_shape(timings, artifacts, plan)
        assert _latency_ms(timings, 1) > 1.3 * _latency_ms(timings, 0)
        assert _latency_ms(timings, 1) > 1.3 * _latency_ms(timings, 2)

    def test_baseline_blocks_are_of_the_baseline(self, case: DeviceCase) -> None:
        """With the slow file first, the enclosing blocks are the slow ones."""
        timings = case.device.time((case.slow, case.fast), case.inputs, case.plan)
        pair = timings.pairs[0]
        assert _middle_ms(pair.baseline_blocks_ms[1]) > 1.3 * _middle_ms(pair.blocks_ms[1])

    def test_memory_only_when_asked(self, case: DeviceCase) -> None:
        """Peaks are figures in bytes when asked for, and absent otherwise."""
        without = case.device.time((case.fast,), case.inputs, case.plan).facts[0]
        assert without.peak_load_bytes is None
        assert without.peak_run_bytes is None
        asked = case.device.time((case.fast,), case.inputs, replace(case.plan, memory=True)).facts[0]
        assert isinstance(asked.peak_load_bytes, int)
        assert isinstance(asked.peak_run_bytes, int)
        assert asked.load_ms > 0
        assert asked.first_inference_ms > 0

    def test_single_inferences_and_callers_only_when_asked(self, case: DeviceCase) -> None:
        """Single times are as many as asked for, about as long as the blocks say; callers get a rate."""
        without = case.device.time((case.fast,), case.inputs, case.plan).facts[0]
        assert without.singles_ms == ()
        assert without.runs_per_second is None
        timings = case.device.time((case.fast, case.slow), case.inputs, replace(case.plan, singles=40, callers=2))
        for index, facts in enumerate(timings.facts):
            assert len(facts.singles_ms) == 40
            assert 0.2 < median(facts.singles_ms) / _latency_ms(timings, index) < 5.0
            assert facts.runs_per_second is not None
            assert facts.runs_per_second > 0
        assert median(timings.facts[1].singles_ms) > median(timings.facts[0].singles_ms)

    def test_broken_candidate_is_named_and_the_device_goes_on(self, case: DeviceCase) -> None:
        """The error names the file; the device measures the next one."""
        for artifacts in ((case.fast, case.broken), (case.broken, case.fast)):
            caught: CandidateError | None = None
            try:
                case.device.time(artifacts, case.inputs, case.plan)
            except CandidateError as error:
                caught = error
            assert caught is not None, "a file that cannot run must raise CandidateError"
            assert case.broken.name in caught.where
        self._check_shape(case.device.time((case.fast,), case.inputs, case.plan), (case.fast,), case.plan)

    def test_absent_file_is_named(self, case: DeviceCase) -> None:
        """A file that does not exist is a candidate's fault, not the device's."""
        absent = case.fast.with_name("absent.onnx")
        caught: CandidateError | None = None
        try:
            case.device.time((case.fast, absent), case.inputs, case.plan)
        except CandidateError as error:
            caught = error
        assert caught is not None, "an absent file must raise CandidateError"
        assert absent.name in caught.where

    def test_files_stay_as_they_are(self, case: DeviceCase) -> None:
        """Measuring writes nothing beside the artifacts."""
        before = {p: p.read_bytes() for p in sorted(case.fast.parent.iterdir()) if p.is_file()}
        case.device.time((case.fast, case.slow), case.inputs, case.plan)
        assert before == {p: p.read_bytes() for p in sorted(case.fast.parent.iterdir()) if p.is_file()}

    def test_close_twice(self, case: DeviceCase) -> None:
        """Closing again does no harm."""
        case.device.close()
        case.device.close()
