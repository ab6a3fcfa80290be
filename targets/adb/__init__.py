"""Android devices over adb, measured by ONNX Runtime's own perf-test program. Untested on hardware so far."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeltailor.targets.adb.device import AdbDevice

__all__ = ["AdbDevice"]


def __getattr__(name: str) -> object:
    """Import late: most runs need no phone."""
    if name in __all__:
        return getattr(importlib.import_module("modeltailor.targets.adb.device"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
