"""A stand-in board for tests: an ``sshd`` in a network namespace of its own, held to a slow core and little memory."""

from __future__ import annotations

import contextlib
import getpass
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modeltailor.targets.confine import Confinement, confine

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
_BOARDS = itertools.count()


def why_not() -> str:
    """Why there can be no board here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "ssh", "ssh-keygen", SSHD):
        if shutil.which(program) is None:
            return f"there is no {program}"
    return ""


@dataclass(frozen=True, slots=True)
class Board:
    address: str
    namespace: str
    room: Confinement
    folder: Path

    def kill_agents(self) -> int:
        """End whatever an agent runs as on the board, as a board that crashes would; returns how many processes."""
        found = [pid for pid, line in self._processes() if b"device_side" in line or b"bootstrap" in line]
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        return len(found)

    def measures(self) -> bool:
        """Whether a model is held by a worker there now."""
        return any(b"worker" in line for _, line in self._processes())

    def _processes(self) -> list[tuple[int, bytes]]:
        found = []
        inside = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False)
        for pid in inside.stdout.split():
            with contextlib.suppress(OSError):
                found.append((int(pid), Path(f"/proc/{pid}/cmdline").read_bytes()))
        return found


def _run(*arguments: str) -> None:
    subprocess.run(arguments, check=True, capture_output=True)


@contextlib.contextmanager
def board(folder: Path, monkeypatch, *, cores: float | None = None, memory_bytes: int | None = None) -> Iterator[Board]:
    """Start a board that ``ssh`` reaches as ``user@10.77.x.2``, with keys of its own; nothing outside it is touched."""
    # A namespace and its links go some time after they are deleted: no board takes the names of one before.
    number = (os.getpid() + 97 * next(_BOARDS)) % 100_000
    name, net = f"mt{number}", f"10.77.{number % 250}"
    for key in ("host", "user"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
    Path("/run/sshd").mkdir(exist_ok=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "authorized").chmod(0o600)
    (folder / "sshd_config").write_text(
        f"ListenAddress {net}.2\nHostKey {folder}/host\nPidFile {folder}/sshd.pid\nAuthorizedKeysFile {folder}/authorized\n"
        f"PermitRootLogin prohibit-password\nPasswordAuthentication no\nUsePAM no\nStrictModes no\nLogLevel ERROR\n"
        f"SetEnv HOME={folder}/home\n"
    )
    (folder / "home").mkdir()
    (folder / "known").write_text(f"{net}.2 {(folder / 'host.pub').read_text()}")
    program = folder / "bin" / "ssh"  # the ssh of this machine with a configuration of its own
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\nexec {shutil.which('ssh')} -F none -i {folder}/user -o IdentitiesOnly=yes "
        f'-o UserKnownHostsFile={folder}/known -o StrictHostKeyChecking=yes "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    with confine(cores=cores, memory_bytes=memory_bytes) as room:
        try:
            _run("ip", "netns", "add", name)
            _run("ip", "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
            _run("ip", "addr", "add", f"{net}.1/24", "dev", f"{name}a")
            _run("ip", "link", "set", f"{name}a", "up")
            for line in (f"addr add {net}.2/24 dev {name}b", f"link set {name}b up", "link set lo up"):
                _run("ip", "-n", name, *line.split())
            sshd = subprocess.Popen(
                ["ip", "netns", "exec", name, SSHD, "-D", "-e", "-f", str(folder / "sshd_config")],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            room.add(sshd.pid)
            deadline = time.monotonic() + 15
            while not (folder / "sshd.pid").exists():
                assert sshd.poll() is None, "sshd does not start"
                assert time.monotonic() < deadline, "sshd does not start"
                time.sleep(0.05)
            yield Board(f"ssh://{getpass.getuser()}@{net}.2", name, room, folder)
        finally:
            inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
            for pid in inside.split():
                with contextlib.suppress(OSError):
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(NameError):
                sshd.wait()
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
