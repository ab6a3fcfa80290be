"""From a profile to the device that measures for it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from modeltailor.errors import ConfigError
from modeltailor.targets.device import Device, RuntimeOptions
from modeltailor.targets.health import HealthLimits
from modeltailor.targets.profile import Profile, is_port
from modeltailor.targets.retrying import Retrying

__all__ = ["open_device"]

_TOKEN = "MODELTAILOR_AGENT_TOKEN"


def open_device(profile: Profile, *, python: str = "") -> Device:
    """Return the device that measures for a profile: itself if it can be reached, else this machine in its place.

    Devices elsewhere are asked again, twice, when they or their line fail; whatever was uploaded stays there.

    Args:
        profile: whose ``reach`` says how. ``none`` is stood in for by this machine, and labelled so.
        python: interpreter with numpy and onnxruntime on devices reached by SSH; the profile's if empty.

    Raises:
        ConfigError: the address is not valid, a file that the profile names is missing, or a token is not given.
    """
    options = RuntimeOptions(provider=profile.provider, intra_op_threads=profile.threads, precision=profile.precision)
    limits = HealthLimits(hottest_c=profile.hottest_c)
    if profile.reach in ("ssh", "tcp"):
        from modeltailor.targets.agent import AgentDevice, connect_ssh, connect_tcp

        if profile.reach == "ssh":
            connect = connect_ssh(profile.address, python=python or profile.python)
        else:
            connect = connect_tcp(*_tcp_address(profile))
        version = profile.runtime_version
        return Retrying(
            AgentDevice(connect, name=profile.name, options=options, limits=limits, runtime_version=version)
        )
    if profile.reach == "adb":
        from modeltailor.targets.adb import AdbDevice
        from modeltailor.targets.adb.bridge import Adb

        program, libraries = Path(profile.perf_test), [Path(name) for name in profile.libraries]
        adb = Adb(profile.address)
        return Retrying(
            AdbDevice(
                adb,
                program=program,
                libraries=libraries,
                name=profile.name,
                options=options,
                limits=limits,
                runtime_version=profile.runtime_version,
            )
        )
    from modeltailor.targets.local import LocalDevice

    return LocalDevice(profile)


def _tcp_address(profile: Profile) -> tuple[str, int, str]:
    host, _, port = profile.address.removeprefix("tcp://").rpartition(":")
    if not is_port(port) or not host:
        raise ConfigError("CFG-10", profile.name, f"address must be host:port; got {profile.address!r}", "mend it")
    return host, int(port), _token(profile)


def _token(profile: Profile) -> str:
    where = profile.token_file or _TOKEN
    if profile.token_file:
        try:
            text = Path(where).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                "CFG-01", where, f"cannot read the agent's token ({error.strerror})", "save what it printed"
            ) from error
    else:
        text = os.environ.get(_TOKEN, "").strip()
        if not text:
            raise ConfigError("CFG-10", _TOKEN, "is not set", "set it to the token that the agent printed")
    if not text.startswith("{"):
        return text
    try:  # the whole line that the agent printed
        return str(json.loads(text)["token"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("CFG-06", where, "holds no token", "save what the agent printed") from error
