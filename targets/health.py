"""Is a device fit to be measured on? Heat, battery, and what to do about them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modeltailor.errors import DeviceError

__all__ = ["HealthLimits", "wait_until_fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthLimits:
    """When a device is not measured on.

    Attributes:
        hottest_c: degrees Celsius above which it is left to cool; processors slow down somewhat higher.
        least_battery_percent: charge below which a device that runs on its battery is refused: systems save power then.
        cool_s: longest wait for it to cool, in seconds.
        poll_s: seconds between two looks.
    """

    hottest_c: float = 85.0
    least_battery_percent: float = 10.0
    cool_s: float = 300.0
    poll_s: float = 5.0


def wait_until_fit(
    name: str,
    state: Callable[[], Mapping[str, float]],
    limits: HealthLimits,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Mapping[str, float]:
    """Wait until a device is cool enough, and return its state then.

    Args:
        name: of the device.
        state: looks at the device: ``hottest_c``, ``throttled`` (1 if the system says that it slows down for heat),
            ``battery_percent``, ``discharging``, each only where it is known.
        limits: when it is fit.
        sleep: waits some seconds.

    Raises:
        DeviceError: it stays too hot, or its battery is nearly empty.
    """
    waited_s = 0.0
    while True:
        now = state()
        battery = now.get("battery_percent")
        if battery is not None and battery < limits.least_battery_percent and now.get("discharging", 1.0):
            raise DeviceError(
                "DEV-11",
                name,
                f"its battery is at {battery:.0f} %, below {limits.least_battery_percent:.0f} %; systems save power then",
                "plug it in, then start again",
            )
        heat = now.get("hottest_c")
        too_hot = heat is not None and heat > limits.hottest_c
        if not too_hot and not now.get("throttled"):
            return now
        if waited_s >= limits.cool_s:
            felt = f"is at {heat:.0f} °C" if too_hot else "slows down for heat"
            raise DeviceError(
                "DEV-10",
                name,
                f"it {felt} and did not cool below {limits.hottest_c:.0f} °C within {limits.cool_s:.0f} s",
                "let it cool or cool it; a hot processor slows down",
            )
        sleep(limits.poll_s)
        waited_s += limits.poll_s
