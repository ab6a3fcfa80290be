"""What device, and how much of it may be used?"""

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

__all__ = [
    "Budget",
    "Device",
    "DeviceFacts",
    "Evidence",
    "Inputs",
    "PairTimings",
    "RunFacts",
    "RuntimeOptions",
    "TimingPlan",
    "Timings",
]
