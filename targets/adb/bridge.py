"""The ``adb`` program: fixed argument lists to a device of a checked serial number, and what can go wrong with it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modeltailor.errors import ConfigError, DeviceError

__all__ = ["Adb", "Said"]

_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")
_MARK = "modeltailor-exit:"
_PUSH_S = 600.0
_SHORT_S = 30.0
_GONE = (
    "not found",
    "offline",
    "unauthorized",
    "no devices",
    "closed",
    "protocol fault",
    "cannot connect",
    "no permissions",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a command on the device left behind.

    Attributes:
        code: its exit status; 128 and a signal's number if a signal ended it.
        text: everything that it printed.
    """

    code: int
    text: str

    @property
    def last_line(self) -> str:
        """The last line that is not empty."""
        return next((line.strip() for line in reversed(self.text.splitlines()) if line.strip()), "")


class Adb:
    """One device behind the ``adb`` program of this machine.

    Args:
        serial: as ``adb devices`` shows it; a prefix ``adb://`` is dropped.
        program: name or path of adb.

    Raises:
        ConfigError: the serial number has characters that do not belong there, or there is no adb here.
    """

    def __init__(self, serial: str, *, program: str = "adb") -> None:
        self.serial = serial.removeprefix("adb://")
        if not _SERIAL.match(self.serial):
            raise ConfigError("CFG-10", "target", f"must be adb://SERIAL; got {serial!r}", "see adb devices")
        found = shutil.which(program)
        if found is None:
            raise ConfigError(
                "CFG-11", "target", f"there is no {program} program here", "install Android's platform tools"
            )
        self.program = found

    def shell(self, arguments: Sequence[str], *, timeout_s: float = _SHORT_S) -> Said:
        """Run a command on the device; each argument reaches it as it is.

        Raises:
            DeviceError: the device or its line is gone.
        """
        # adb hands one string to the device's shell: every argument is quoted, and the rest of the string is constant.
        line = " ".join(shlex.quote(a) for a in arguments) + f" 2>&1; echo {_MARK}$?"
        text = self._run(["shell", line], timeout_s)
        body, mark, code = text.rpartition(_MARK)
        if not mark or not code.strip().isdigit():
            raise self._gone("cut the connection in the middle of a command")
        return Said(code=int(code), text=body)

    def push(self, source: Path, target: str) -> None:
        """Copy a file to the device.

        Raises:
            DeviceError: the device is gone, or its disk is full.
        """
        self._run(["push", str(source.absolute()), target], _PUSH_S)

    def _run(self, arguments: Sequence[str], timeout_s: float) -> str:
        try:
            done = subprocess.run(
                [self.program, "-s", self.serial, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
                check=False,
                start_new_session=True,  # a Ctrl-C here must not cut the line in the middle of a message
            )
        except subprocess.TimeoutExpired as error:
            raise self._gone(f"did not answer within {timeout_s:g} s") from error
        except OSError as error:
            raise self._gone(f"cannot be reached ({error})") from error
        said = done.stderr.decode(errors="replace").strip()
        text = done.stdout.decode(errors="replace")
        if done.returncode == 0 or (arguments[0] == "shell" and _MARK in text):
            return text
        why = next((line for line in reversed((text + "\n" + said).splitlines()) if line.strip()), "no reason given")
        if "No space left" in why:
            raise DeviceError("DEV-08", self.serial, "its disk is full", "free space on the device")
        if any(word in why for word in _GONE):
            raise self._gone(f"is gone ({why.strip()})")
        raise DeviceError("DEV-06", self.serial, f"adb {arguments[0]} failed: {why.strip()}", "try it by hand")

    def _gone(self, why: str) -> DeviceError:
        return DeviceError(
            "DEV-06", self.serial, f"the device {why}", "check the cable, the screen's question, and adb devices"
        )
