"""What device, and how much of it may be used?"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from modeltailor.targets.budget import Budget
from modeltailor.targets.device import (
    Device,
    DeviceFacts,
    Evidence,
    Inputs,
    PairTimings,
    RunFacts,
    RuntimeOptions,
    TimingPlan,
    Timings,
)

if TYPE_CHECKING:
    from modeltailor.targets.fake import FakeDevice
    from modeltailor.targets.isolation import Child
    from modeltailor.targets.local import LocalDevice
    from modeltailor.targets.profile import Figure, Profile, list_profiles, load_profile
    from modeltailor.targets.reach import open_device

__all__ = [
    "Budget",
    "Child",
    "Device",
    "DeviceFacts",
    "Evidence",
    "FakeDevice",
    "Figure",
    "Inputs",
    "LocalDevice",
    "PairTimings",
    "Profile",
    "RunFacts",
    "RuntimeOptions",
    "TimingPlan",
    "Timings",
    "list_profiles",
    "load_profile",
    "open_device",
]

_LATE = {
    "Child": "isolation",
    "FakeDevice": "fake",
    "Figure": "profile",
    "LocalDevice": "local",
    "Profile": "profile",
    "list_profiles": "profile",
    "load_profile": "profile",
    "open_device": "reach",
}


def __getattr__(name: str) -> object:
    """Import what needs heavier libraries at its first use."""
    if name in _LATE:
        return getattr(importlib.import_module(f"modeltailor.targets.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
