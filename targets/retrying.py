"""A device that is asked again when it, and not a candidate, fails."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from modeltailor.errors import DeviceError
from modeltailor.targets.device import Device, DeviceFacts, Inputs, TimingPlan, Timings

__all__ = ["Retrying"]

_FINAL = {"DEV-05", "DEV-10", "DEV-11", "DEV-12", "DEV-13"}
"""Busy and hot devices were waited for already; an empty battery and another runtime are the same a second later."""


class Retrying:
    """Wraps a device: a :class:`DeviceError` while timing is tried again, unless that cannot help.

    A candidate's own failure never is.

    Args:
        device: the device.
        attempts: tries in all.
        wait_s: pause before the second try, doubled for each further one.
    """

    def __init__(self, device: Device, *, attempts: int = 3, wait_s: float = 1.0) -> None:
        self.device = device
        self.attempts = attempts
        self.wait_s = wait_s

    def describe(self) -> DeviceFacts:
        """Say what device is wrapped."""
        return self.device.describe()

    def time(self, artifacts: Sequence[Path], inputs: Inputs, plan: TimingPlan) -> Timings:
        """Time the artifacts, again if the device fails; see :class:`~modeltailor.targets.Device`."""
        for attempt in range(self.attempts - 1):
            try:
                return self.device.time(artifacts, inputs, plan)
            except DeviceError as error:
                if error.code in _FINAL:
                    raise
                time.sleep(self.wait_s * 2**attempt)
        return self.device.time(artifacts, inputs, plan)

    def close(self) -> None:
        """Close the wrapped device."""
        self.device.close()
