"""What does a built model cost, and what is it worth?

Latency statistics, accuracy, sensitivity, and the executed-precision audit. Names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeltailor.estimators.accuracy import Accuracy, judge, run_split
    from modeltailor.estimators.estimate import Estimate
    from modeltailor.estimators.latency import Measurement, budget_verdict, certify, compare, screen
    from modeltailor.estimators.sensitivity import sensitivities

__all__ = [
    "Accuracy",
    "Estimate",
    "Measurement",
    "budget_verdict",
    "certify",
    "compare",
    "judge",
    "run_split",
    "screen",
    "sensitivities",
]

_HOMES = {
    **dict.fromkeys(("Accuracy", "judge", "run_split"), "accuracy"),
    **dict.fromkeys(("Measurement", "budget_verdict", "certify", "compare", "screen"), "latency"),
    "Estimate": "estimate",
    "sensitivities": "sensitivity",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'modeltailor.estimators' has no attribute '{name}'")
    return getattr(importlib.import_module(f"modeltailor.estimators.{_HOMES[name]}"), name)
