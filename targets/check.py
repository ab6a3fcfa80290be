"""Is a device what its profile says, and does it measure? A small network is sent there and timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from modeltailor.targets.device import Device, DeviceFacts, TimingPlan

__all__ = ["DeviceCheck", "check_device"]

_PLAN = TimingPlan(pairs=1, quads=4, block_inferences=20, block_ms=20.0, warmup_s=0.5, timeout_s=120.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCheck:
    """What a first measurement showed.

    Attributes:
        facts: device and runtime as they were found.
        latency_ms: of one inference of a small convolutional network.
        load_ms: of opening it.
        spread: the largest difference between two blocks of the same network, as a share; how noisy it is there.
        conditions: temperature, battery, load, where the device shows them.
        seconds: that the check took, files and all.
    """

    facts: DeviceFacts
    latency_ms: float
    load_ms: float
    spread: float
    conditions: Mapping[str, float]
    seconds: float


def check_device(device: Device) -> DeviceCheck:
    """Describe a device and time a small network on it.

    Raises:
        CandidateError: not even that network runs there.
        DeviceError: it cannot be reached, or is not fit to be measured on.
    """
    import onnx

    from modeltailor.targets._probe_models import conv_net

    started = time.monotonic()
    facts = device.describe()
    with tempfile.TemporaryDirectory(prefix="modeltailor-check-") as folder:
        path = Path(folder) / "check.onnx"
        onnx.save(conv_net(channels=32, side=16), path)
        inputs = {"x": np.random.default_rng(0).normal(size=(1, 32, 16, 16)).astype(np.float32)}
        timings = device.time((path,), inputs, _PLAN)
    blocks = [b for pair in timings.pairs for quad in pair.blocks_ms[0] for b in quad]
    return DeviceCheck(
        facts=facts,
        latency_ms=median(blocks),
        load_ms=timings.facts[0].load_ms,
        spread=max(blocks) / min(blocks) - 1.0,
        conditions=dict(timings.conditions),
        seconds=time.monotonic() - started,
    )
