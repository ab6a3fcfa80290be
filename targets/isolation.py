"""One isolated process for work that may crash, hang, or eat the memory.

The process is started by ``exec`` (never by a bare fork), has a session of its own, limits on memory and threads, and
dies with its coordinator. Requests and results travel as pickles over pipes between our own processes only.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from modeltailor.errors import CandidateError, EnvironmentFault

__all__ = ["Child", "current_limits"]

_PROGRAM = Path(__file__).with_name("_child.py")
_FRAME = struct.Struct(">Q")
_LOG_KEPT = 16_384
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_OUT_OF_MEMORY = (
    "std::bad_alloc",
    "DefaultCPUAllocator",
    "MemoryError",
    "Failed to allocate memory",
    "libgomp: Thread",
)
_DEAF_S = 3.0


def current_limits() -> tuple[str, ...]:
    """Say how processes are contained on this system, for the report."""
    return ("session", "guard", *(("subreaper", "pdeathsig") if sys.platform == "linux" else ()))


@dataclass(slots=True)
class _Process:
    """Handles of one running process; ends of pipes that are ours."""

    popen: subprocess.Popen[bytes]
    requests: int
    results: int
    life: int
    status: int
    log: int
    tail: bytearray = field(default_factory=bytearray)

    def drain_log(self) -> bool:
        """Read what the process printed; ``False`` at its end."""
        try:
            part = os.read(self.log, 1 << 16)
        except BlockingIOError:
            return True
        self.tail += part
        if len(self.tail) > 2 * _LOG_KEPT:
            del self.tail[:-_LOG_KEPT]
        return bool(part)

    def log_text(self) -> str:
        """The last part of what the process printed."""
        with contextlib.suppress(OSError):
            for _ in range(64):
                before = len(self.tail)
                if not self.drain_log() or len(self.tail) == before:
                    break
        return self.tail[-_LOG_KEPT:].decode(errors="replace")

    def end(self) -> None:
        """Kill everything that the process started, and the process."""
        for handle in (self.life, self.requests, self.results):
            with contextlib.suppress(OSError):
                os.close(handle)
        try:
            self.popen.wait(_DEAF_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()
        for handle in (self.status, self.log):
            with contextlib.suppress(OSError):
                os.close(handle)


def _start(memory_bytes: int | None, threads: int) -> _Process:
    environment = dict(os.environ)
    environment.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in sys.path)
    environment["PYTHONHASHSEED"] = "0"  # the same recipe must give the same bytes
    pipes = [os.pipe() for _ in range(5)]
    (request_r, request_w), (result_r, result_w), (life_r, life_w), (status_r, status_w), (log_r, log_w) = pipes
    theirs = (request_r, result_w, life_r, status_w)
    numbers = (*theirs, os.getpid(), memory_bytes or 0)
    try:
        popen = subprocess.Popen(
            [sys.executable, "-P", "-u", str(_PROGRAM), *map(str, numbers)],
            stdin=subprocess.DEVNULL,
            stdout=log_w,
            stderr=log_w,
            pass_fds=theirs,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        for pipe in pipes:
            for handle in pipe:
                os.close(handle)
        raise EnvironmentFault(
            "ENV-02", sys.executable, f"cannot start a process ({error})", "free resources"
        ) from error
    for handle in (*theirs, log_w):
        os.close(handle)
    for handle in (request_w, result_r, log_r, status_r):
        os.set_blocking(handle, False)
    return _Process(popen=popen, requests=request_w, results=result_r, life=life_w, status=status_r, log=log_r)


class Child:
    """One isolated process, started at the first call, used again, and replaced after any fault.

    Args:
        memory_bytes: limit of private writable memory; ``None`` for no limit.
        threads: thread count for OpenMP and BLAS in the process.
        name: named in errors.
    """

    def __init__(self, *, memory_bytes: int | None = None, threads: int = 1, name: str = "worker") -> None:
        self._memory_bytes = memory_bytes
        self._threads = threads
        self._name = name
        self._process: _Process | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Id of the running process, ``None`` before the first call and after a fault."""
        return None if self._process is None else self._process.popen.pid

    def call(self, function: str, /, *, timeout_s: float, **arguments: object) -> object:
        """Run ``function`` with ``arguments`` in the process and return what it returns.

        Args:
            function: ``"package.module:name"``, importable in the process.
            timeout_s: wall-clock limit of the call, start of the process included.
            arguments: passed by name; must be picklable.

        Raises:
            CandidateError: ``CRASH:<signal>``, ``CRASH:EXIT`` (no answer), ``OOM``, ``TIMEOUT`` or ``EVAL``
                (raised an exception); ``detail`` holds the traceback and the end of what was printed.
            ModelTailorError: the function raised it itself.
        """
        body = pickle.dumps((function, arguments), protocol=pickle.HIGHEST_PROTOCOL)
        with self._lock:
            if self._process is not None and self._process.popen.poll() is not None:
                self._discard()  # it died between two calls
            if self._process is None:
                self._process = _start(self._memory_bytes, self._threads)
            process = self._process
            try:
                answer = _exchange(process, _FRAME.pack(len(body)) + body, time.monotonic() + timeout_s)
            except BaseException:  # Ctrl-C included: nothing may run on unwatched
                self._discard()
                raise
            if isinstance(answer, bytes):
                return self._value(function, answer, process)
            log = process.log_text()
            self._discard()
        if answer is None:
            raise self._fault("TIMEOUT", function, f"took longer than {timeout_s:g} s and was stopped", log)
        raise self._death(function, answer, log)

    def _discard(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def close(self) -> None:
        """End the process and all that it started. Safe to call twice."""
        with self._lock:
            self._discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fault(self, code: str, function: str, what: str, detail: str) -> CandidateError:
        error = CandidateError(code, f"{self._name} {function.rpartition(':')[2]}", what)
        error.detail = detail
        return error

    def _death(self, function: str, status: int, log: str) -> CandidateError:
        if any(word in log for word in _OUT_OF_MEMORY):
            return self._fault("OOM", function, self._memory_text(), log)
        if status >= 0 and os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            name = signal.Signals(number).name.removeprefix("SIG")
            return self._fault(f"CRASH:{name}", function, f"the process was killed by SIG{name}", log)
        if status >= 0:
            code = os.WEXITSTATUS(status)
            return self._fault("CRASH:EXIT", function, f"the process left with status {code} and no result", log)
        return self._fault("CRASH:KILL", function, "the process and its guard were killed", log)

    def _memory_text(self) -> str:
        limit = "" if self._memory_bytes is None else f" (limit {self._memory_bytes:,} bytes)"
        return f"out of memory{limit}"

    def _value(self, function: str, answer: bytes, process: _Process) -> object:
        message = pickle.loads(answer)  # from our own process, which runs our own code
        if message[0] == "ok":
            return message[1]
        kind, raised, type_name, text, trace = message
        detail = f"{trace}\n{process.log_text()}".strip()
        if kind == "ours":
            raised.detail = detail
            raise raised
        if kind == "memory" or any(word in text for word in _OUT_OF_MEMORY):
            self._discard()  # what is left of its heap is not to be trusted
            raise self._fault("OOM", function, f"{self._memory_text()}: {text}".rstrip(": "), detail)
        raise self._fault("EVAL", function, f"{type_name}: {text}", detail)


def _whole(received: bytearray) -> bytes | None:
    if len(received) < _FRAME.size:
        return None
    (size,) = _FRAME.unpack_from(received)
    return bytes(received[_FRAME.size :]) if len(received) - _FRAME.size >= size else None


def _rest(process: _Process, received: bytearray) -> bytes | int:
    """The worker is gone: return its last answer if that is whole, else its wait status (-1 if unknown)."""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(process.results, 1 << 20):
            received += part
    answer = _whole(received)
    if answer is not None:
        return answer
    status = os.read(process.status, 4)
    return int(struct.unpack(">i", status)[0]) if len(status) == 4 else -1


def _exchange(process: _Process, request: bytes, deadline: float) -> bytes | int | None:
    """Send a request and return the answer's body, the wait status of a dead worker, or ``None`` at the deadline."""
    waiting = memoryview(request)
    received = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.requests, selectors.EVENT_WRITE)
        for handle in (process.results, process.status, process.log):
            selector.register(handle, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if key.fd == process.requests:
                    try:
                        waiting = waiting[os.write(process.requests, waiting[: 1 << 16]) :]
                    except BrokenPipeError:
                        waiting = waiting[:0]
                    if not waiting:
                        selector.unregister(process.requests)
                elif key.fd == process.log:
                    if not process.drain_log():
                        selector.unregister(process.log)
                elif key.fd == process.status:
                    return _rest(process, received)
                else:
                    part = os.read(process.results, 1 << 20)
                    received += part
                    if not part:  # the worker is ending; the guard will say how
                        selector.unregister(process.results)
                    elif (answer := _whole(received)) is not None:
                        return answer
    return None
