"""The program of one isolated process; started by :class:`modeltailor.targets.isolation.Child`, never imported.

Two processes: a *guard* that stays small, adopts every orphan of the work and ends all of it when the coordinator goes,
and the *worker* that runs the calls. Only the standard library is imported before the fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import os
import pickle
import resource
import select
import signal
import struct
import sys
import time
import traceback

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FRAME = struct.Struct(">Q")


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(Exception):  # Linux only; elsewhere the guard's polling remains
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _descendants(root: int) -> list[int]:
    """Process ids below ``root``, from ``/proc``."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib stays out of the guard
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    parent = int(file.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.append(child)
            waiting.append(child)
    return found


def _reap(worker: int, status: int | None) -> int | None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, code = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == worker:
                status = code
    return status


def _end_all(worker: int, status: int | None) -> int | None:
    for _ in range(200):
        with contextlib.suppress(OSError):
            os.killpg(worker, signal.SIGKILL)
        found = _descendants(os.getpid())
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        status = _reap(worker, status)
        if not found:
            break
        time.sleep(0.005)
    return status


def _guard(worker: int, coordinator: int, life: int, result: int) -> None:
    """Wait for the worker's end or the coordinator's, then leave nothing behind."""
    poll = select.poll()
    poll.register(life, select.POLLIN | select.POLLHUP)
    step_ms = 50
    if hasattr(os, "pidfd_open"):
        poll.register(os.pidfd_open(worker), select.POLLIN)
        step_ms = 1000
    status: int | None = None
    while status is None:
        events = poll.poll(step_ms)
        status = _reap(worker, status)
        if os.getppid() != coordinator or any(handle == life for handle, _ in events):
            break
    status = _end_all(worker, status)
    with contextlib.suppress(OSError):
        os.write(result, struct.pack(">i", -1 if status is None else status))


def _read_exactly(handle: int, n: int) -> bytes:
    parts = bytearray()
    while len(parts) < n:
        part = os.read(handle, min(n - len(parts), 1 << 20))
        if not part:
            os._exit(0)  # the coordinator closed the pipe: nothing more to do
        parts += part
    return bytes(parts)


def _answer(request: bytes) -> bytes:
    name = "the call"
    try:
        name, arguments = pickle.loads(request)
        module, _, attribute = name.partition(":")
        function = getattr(importlib.import_module(module), attribute)
        value = function(**arguments)
    except BaseException as error:
        ours = any(c.__module__ == "modeltailor.errors" for c in type(error).__mro__)
        kind = "memory" if isinstance(error, MemoryError) else "ours" if ours else "other"
        text = traceback.format_exc()
        return pickle.dumps((kind, error if ours else None, type(error).__name__, str(error)[:2000], text[-20000:]))
    try:
        return pickle.dumps(("ok", value), protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return pickle.dumps(("other", None, type(error).__name__, f"result of {name} cannot be sent: {error}", ""))


def _work(requests: int, results: int) -> None:
    faulthandler.enable()
    while True:
        (size,) = _FRAME.unpack(_read_exactly(requests, _FRAME.size))
        body = _answer(_read_exactly(requests, size))
        sys.stdout.flush()
        view = memoryview(_FRAME.pack(len(body)) + body)
        while view:
            view = view[os.write(results, view) :]


def main() -> None:
    """Read the handles from the command line, fork, and run guard and worker."""
    requests, results, life, status, coordinator, memory = (int(a) for a in sys.argv[1:7])
    sys.argv = ["modeltailor-worker"]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGUSR1, lambda *_: None)  # only wakes the guard's poll
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    guard = os.getpid()
    worker = os.fork()
    if worker:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
        os.close(requests)
        os.close(results)
        _guard(worker, coordinator, life, status)
        os._exit(0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:
        os._exit(1)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    os.setpgid(0, 0)
    os.close(life)
    os.close(status)
    os.set_inheritable(requests, False)
    os.set_inheritable(results, False)
    if memory > 0:  # private writable memory; address space as such may be reserved freely
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    _work(requests, results)


if __name__ == "__main__":
    main()
