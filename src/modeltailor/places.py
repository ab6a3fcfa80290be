"""From what a person writes after ``--target`` to the device that measures."""

from __future__ import annotations

import os
from pathlib import Path

from modeltailor.targets import Device, Profile, load_profile, open_device

__all__ = ["open_place", "open_with_threads", "profile_of"]

_LOCAL = "desktop-cpu"
_MOST_ELSEWHERE = 4  # threads that are tried on a device whose number of cores is not known


def profile_of(text: str, folder: Path) -> Profile:
    """Return the profile that ``text`` means.

    Args:
        text: a profile's name or file, an address (``ssh://user@host``, ``tcp://host:port``,
            ``adb://SERIAL``), or ``local`` for this machine.
        folder: where relative paths start.

    Raises:
        ConfigError: there is no such profile, or the address is not one.
    """
    return load_profile(_LOCAL) if text == "local" else load_profile(text, folder=folder)


def open_place(text: str, folder: Path) -> Device:
    """Return the device that measures for ``text``; see :func:`profile_of`.

    ``tcp://host:port`` is an agent that listens there (``modeltailor agent``); its token stands in the environment
    variable ``MODELTAILOR_AGENT_TOKEN``.

    Raises:
        ConfigError: there is no such profile, or it cannot be reached that way.
    """
    return open_device(profile_of(text, folder))


def open_with_threads(text: str, folder: Path) -> dict[int, Device]:
    """Return the device that ``text`` means with one thread, two, four and so on, by count; see :func:`open_place`.

    On this machine the counts end at its processors, elsewhere at four.
    """
    profile = profile_of(text, folder)
    most = (os.cpu_count() or 1) if profile.reach in ("local", "none") else _MOST_ELSEWHERE
    counts = [1 << k for k in range(most.bit_length()) if 1 << k <= most]
    return {n: open_device(profile.model_copy(update={"threads": n})) for n in counts}
