"""A synthetic device with a known truth and the troubles of a shared machine; what the statistics are tested on."""

from __future__ import annotations

import math
from collections.abc import Mapping

from modeltailor.targets.fake import FakeDevice

__all__ = ["synthetic_device"]


def synthetic_device(truth_ms: Mapping[str, float], seed: int) -> FakeDevice:
    """Return a device whose true latencies are known, as bad as shared two-core machines were found to be.

    2 % log-normal noise of single inferences, 1 % of them three times as slow, a drift of 5 % over minutes, a neighbour
    that slows everything by 30 % for half a second at a time (5 % of all time), and a factor with a sigma of 1 % that
    each process keeps for its life.

    Args:
        truth_ms: milliseconds of one inference by file name.
        seed: of all randomness.
    """
    phase = 2 * math.pi * ((seed * 0.618034) % 1.0)
    return FakeDevice(
        truth_ms,
        noise=0.02,
        spikes=0.01,
        drift=lambda t: 1.0 + 0.05 * math.sin(2 * math.pi * t / 240.0 + phase),
        bursts=0.05,
        process_effect=0.01,
        name="synthetic",
        seed=seed,
    )
