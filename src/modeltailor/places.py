"""From what a person writes after ``--target`` to the device that measures."""

from __future__ import annotations

import os
import re
from pathlib import Path

from modeltailor.errors import ConfigError
from modeltailor.targets import Device, Profile, load_profile, open_device

__all__ = ["open_place", "open_with_threads", "profile_of"]

_TCP = "tcp://"
_TOKEN = "MODELTAILOR_AGENT_TOKEN"
_LAST_PORT = 65535
_LOCAL = "desktop-cpu"
_MOST_ELSEWHERE = 4  # threads that are tried on a device whose number of cores is not known
_UNSAFE = re.compile(r"[^a-z0-9._-]+")


def profile_of(text: str, folder: Path) -> Profile:
    """Return the profile that ``text`` means.

    Args:
        text: a profile's name or file, an address (``ssh://user@host``, ``adb://SERIAL``), or ``local`` for this machine.
        folder: where relative paths start.

    Raises:
        ConfigError: there is no such profile, or the address is not one.
    """
    return load_profile(_LOCAL if text == "local" else text, folder=folder)


def open_place(text: str, folder: Path) -> Device:
    """Return the device that measures for ``text``; see :func:`profile_of`.

    ``tcp://host:port`` is an agent that listens there (``modeltailor agent``); its token stands in the environment
    variable ``MODELTAILOR_AGENT_TOKEN``.

    Raises:
        ConfigError: there is no such profile, or it cannot be reached that way.
        DeviceError: the device does not answer.
    """
    if text.startswith(_TCP):
        return _listening(text)
    return open_device(profile_of(text, folder))


def open_with_threads(text: str, folder: Path) -> dict[int, Device]:
    """Return the device that ``text`` means with one thread, two, four and so on, by count; see :func:`open_place`.

    On this machine the counts end at its processors, elsewhere at four.
    """
    profile = None if text.startswith(_TCP) else profile_of(text, folder)
    here = profile is not None and profile.reach in ("local", "none")
    most = (os.cpu_count() or 1) if here else _MOST_ELSEWHERE
    counts = [1 << k for k in range(most.bit_length()) if 1 << k <= most]
    if profile is None:
        return {n: _listening(text, n) for n in counts}
    return {n: open_device(profile.model_copy(update={"threads": n})) for n in counts}


def _listening(text: str, threads: int = 1) -> Device:
    from modeltailor.targets import RuntimeOptions
    from modeltailor.targets.agent import AgentDevice, connect_tcp

    host, colon, port = text.removeprefix(_TCP).rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > _LAST_PORT:
        raise ConfigError("CFG-10", "--target", f"must be tcp://host:port; got '{text}'", "name host and port")
    token = os.environ.get(_TOKEN, "")
    if not token:
        raise ConfigError("CFG-10", _TOKEN, "is not set", "set it to the token that the agent printed")
    name = _UNSAFE.sub("-", host.lower()).strip("-.")[:64] or "agent"
    options = RuntimeOptions(intra_op_threads=threads)
    return AgentDevice(connect_tcp(host, int(port), token), name=name, options=options)
