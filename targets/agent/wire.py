"""Connections to an agent: a line of JSON, then as many bytes as it says, both ways."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from modeltailor.errors import ConfigError, DeviceError

__all__ = ["ProcessWire", "TcpWire", "Wire", "ssh_arguments"]

AGENT_FILE = Path(__file__).with_name("device_side.py")
_LARGEST_ANSWER = 64 << 20
_ADDRESS = re.compile(r"^(?:[A-Za-z0-9_.-]+@)?[A-Za-z0-9][A-Za-z0-9.-]*$")
_PROGRAM = re.compile(r"^[A-Za-z0-9_./~-]+$")
_BOOTSTRAP = (
    "import sys;r=sys.stdin.buffer;s=r.read(int(r.readline()));"
    'g={"__name__":"agent","__file__":""};exec(compile(s,"agent","exec"),g);g["bootstrap"](s,["stdio"])'
)


class Wire(Protocol):
    """A connection to one agent."""

    def ask(self, message: Mapping[str, object], body: bytes, timeout_s: float) -> dict[str, object]:
        """Send a message and return the answer.

        Raises:
            DeviceError: the agent is gone, silent, or answers nonsense.
        """
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


def _gone(where: str, why: str) -> DeviceError:
    return DeviceError(
        "DEV-06", where, f"the agent {why}", "check the device and its connection; finished work is kept"
    )


def _parse(line: bytes, where: str) -> dict[str, object]:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or "ok" not in answer:
        raise _gone(where, "answered something that is no message")
    return answer


def _head(message: Mapping[str, object], body: bytes) -> bytes:
    return json.dumps({**message, "body": len(body)}).encode() + b"\n"


class TcpWire:
    """A connection to an agent that listens on a port.

    Args:
        host: where; an agent listens on the loopback unless it was told otherwise.
        port: of the agent.
        token: that the agent printed.
    """

    def __init__(self, host: str, port: int, token: str) -> None:
        self.where = f"{host}:{port}"
        self.token = token
        try:
            self._socket = socket.create_connection((host, port), timeout=10.0)
        except OSError as error:
            raise _gone(self.where, f"cannot be reached ({error.strerror or error})") from error
        self._stream = self._socket.makefile("rb")

    def ask(self, message: Mapping[str, object], body: bytes, timeout_s: float) -> dict[str, object]:
        """Send a message and return the answer."""
        self._socket.settimeout(timeout_s)
        try:
            self._socket.sendall(_head({**message, "token": self.token}, body) + body)
            line = self._stream.readline(_LARGEST_ANSWER)
        except TimeoutError as error:
            raise _gone(self.where, f"did not answer within {timeout_s:g} s") from error
        except OSError as error:
            raise _gone(self.where, f"is gone ({error.strerror or error})") from error
        if not line.endswith(b"\n"):
            raise _gone(self.where, "closed the connection")
        return _parse(line, self.where)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._stream.close()
            self._socket.close()


class ProcessWire:
    """A connection through the pipes of a process, such as ``ssh``, that ends in a Python on the device.

    The agent's source is sent first, so nothing of ours need be installed there.

    Args:
        arguments: the command; what it runs must be Python with the bootstrap line.
        where: named in errors.
    """

    def __init__(self, arguments: Sequence[str], where: str) -> None:
        self.where = where
        source = AGENT_FILE.read_bytes()
        try:
            self._process = subprocess.Popen(
                list(arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C here must not cut the line in the middle of a message
            )
        except OSError as error:
            raise _gone(where, f"cannot be started ({error})") from error
        self._received = b""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        try:
            self._write(str(len(source)).encode() + b"\n" + source)
        except DeviceError:  # it ended at once: nobody gets this object, so nobody else can close its pipes
            self.close()
            raise

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error

    def _ended(self) -> DeviceError:
        assert self._process.stderr is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        text = (self._process.stderr.read() or b"").decode(errors="replace").strip().splitlines()
        return _gone(self.where, f"is gone ({text[-1]})" if text else "closed the connection")

    def ask(self, message: Mapping[str, object], body: bytes, timeout_s: float) -> dict[str, object]:
        """Send a message and return the answer."""
        assert self._process.stdout is not None
        self._write(_head(message, body) + body)
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise _gone(self.where, f"did not answer within {timeout_s:g} s")
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part or len(self._received) > _LARGEST_ANSWER:
                raise self._ended()
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        return _parse(line, self.where)

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def ssh_arguments(address: str, python: str = "python3") -> list[str]:
    """Return the command that starts an agent over SSH.

    Args:
        address: ``user@host``, ``host``, each with an optional ``ssh://`` in front and ``:port`` behind.
        python: interpreter on the device that has numpy and onnxruntime.

    Raises:
        ConfigError: the address or the interpreter has characters that do not belong there, or ``ssh`` is missing here.
    """
    text = address.removeprefix("ssh://")
    host, _, port = text.partition(":")
    if not _ADDRESS.match(host) or (port and not port.isdigit()):
        raise ConfigError("CFG-10", "target", f"must be ssh://user@host[:port]; got {address!r}", "mend the address")
    if not _PROGRAM.match(python):
        raise ConfigError("CFG-10", "target", f"the interpreter must be a plain path; got {python!r}", "mend the path")
    program = shutil.which("ssh")
    if program is None:
        raise ConfigError("CFG-11", "target", "there is no ssh program on this machine", "install an SSH client")
    options = [
        "-T",
        "-oBatchMode=yes",
        "-oConnectTimeout=10",
        "-oServerAliveInterval=15",
        *(["-p", port] if port else []),
    ]
    # The remote side hands this to a shell: it is a constant but for the interpreter, which was checked above.
    return [program, *options, "--", host, f"{python} -c '{_BOOTSTRAP}'"]
