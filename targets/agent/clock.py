"""Does the clock of a device run like ours? Times measured with one that does not are worth nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

from modeltailor.errors import DeviceError

__all__ = ["ClockCheck"]

_TOLERANCE = 0.02
_JITTER_S = 0.5


class ClockCheck:
    """Compares intervals between two looks at a device's clock with ours.

    Clocks are read with each answer, so a look is late by what the line takes. Over short intervals only a clock that
    runs backwards or jumps is caught, over minutes one that runs 2 % fast or slow.

    Args:
        name: of the device.
        ours: our own clock, in seconds.
    """

    def __init__(self, name: str, ours: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.ours = ours
        self._first: tuple[float, float] | None = None

    def look(self, theirs_s: float) -> None:
        """Take note of the device's clock.

        Raises:
            DeviceError: since the first look it ran differently from ours.
        """
        now = self.ours()
        if self._first is None:
            self._first = now, theirs_s
            return
        our_start, their_start = self._first
        ours, theirs = now - our_start, theirs_s - their_start
        if abs(theirs - ours) > _TOLERANCE * ours + _JITTER_S:
            raise DeviceError(
                "DEV-09",
                self.name,
                f"its clock moved by {theirs:.1f} s while ours moved by {ours:.1f} s",
                "its times cannot be used; mend its clock",
            )
