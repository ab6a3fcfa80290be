"""From a profile to the device that measures for it."""

from __future__ import annotations

from modeltailor.errors import ConfigError
from modeltailor.targets.device import Device, RuntimeOptions
from modeltailor.targets.profile import Profile

__all__ = ["open_device"]


def open_device(profile: Profile, *, python: str = "python3") -> Device:
    """Return the device that measures for a profile: itself if it can be reached, else this machine in its place.

    Args:
        profile: whose ``reach`` says how. ``none`` is stood in for by this machine, and labelled so.
        python: interpreter with numpy and onnxruntime on devices reached by SSH.

    Raises:
        ConfigError: the address is not valid, or the profile is reached in a way that is not supported.
    """
    if profile.reach == "ssh":
        from modeltailor.targets.agent import AgentDevice, connect_ssh

        options = RuntimeOptions(provider=profile.provider, intra_op_threads=profile.threads)
        return AgentDevice(connect_ssh(profile.address, python=python), name=profile.name, options=options)
    if profile.reach == "adb":
        raise ConfigError("CFG-10", profile.name, "devices cannot be reached by adb yet", "use reach: none, or ssh")
    from modeltailor.targets.local import LocalDevice

    return LocalDevice(profile)
