"""Devices elsewhere: a small agent on the device's side, and the device as seen from here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeltailor.targets.agent.device import AgentDevice, connect_ssh, connect_tcp

__all__ = ["AgentDevice", "connect_ssh", "connect_tcp"]


def __getattr__(name: str) -> object:
    """Import late: the device's side is used on this machine too, without the rest."""
    if name in __all__:
        return getattr(importlib.import_module("modeltailor.targets.agent.device"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
