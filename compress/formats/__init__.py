"""Per-layer formats that stock ONNX Runtime executes. Heavy libraries enter with the first name that is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeltailor.compress.formats.composer import Composed, Composer, executed_kernels, kernels_agree
    from modeltailor.compress.formats.graph import PreparedGraph, prepare

__all__ = ["Composed", "Composer", "PreparedGraph", "executed_kernels", "kernels_agree", "prepare"]

_HOMES = {
    "Composed": "composer",
    "Composer": "composer",
    "PreparedGraph": "graph",
    "executed_kernels": "composer",
    "kernels_agree": "composer",
    "prepare": "graph",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
