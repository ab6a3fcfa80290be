"""A stand-in for a small board: processes here held to a share of the processor and a little memory.

By cgroup version 2 where its controllers are there and may be written, by version 1 else; where neither may be, by
affinity to one core and a limit of memory for each process alone, which is weaker and said so.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Confinement", "confine"]

_ROOT = Path("/sys/fs/cgroup")
_QUOTA_US = 1_000  # the least that the kernel takes: a core is slow throughout instead of fast and then stopped


@dataclass(slots=True)
class Confinement:
    """A room that processes are put into; what they start stays in it.

    Attributes:
        how: the means in use, for people: ``cgroup v2``, ``cgroup v1`` or ``affinity and rlimit``.
        cores: share of processors that is allowed.
        memory_bytes: memory that is allowed; of all processes together in a cgroup, of each one otherwise.
    """

    how: str
    cores: float | None
    memory_bytes: int | None
    _folders: tuple[Path, ...] = field(default=())

    def add(self, pid: int) -> None:
        """Put a process into the room; what it starts from now on is in it too."""
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(pid), encoding="ascii")
        if not self._folders:
            if self.cores is not None and sys.platform == "linux":
                os.sched_setaffinity(pid, sorted(os.sched_getaffinity(pid))[: max(1, int(self.cores))])
            if self.memory_bytes is not None and sys.platform == "linux":
                resource.prlimit(pid, resource.RLIMIT_DATA, (self.memory_bytes, self.memory_bytes))


def _quota(cores: float) -> tuple[int, int]:
    """Microseconds of processor time, and the period in which they may be used, between 1 ms and 1 s."""
    period_us = min(1_000_000, max(_QUOTA_US, round(_QUOTA_US / cores)))
    return max(_QUOTA_US, round(cores * period_us)), period_us


def _version_2(name: str, cores: float | None, memory_bytes: int | None) -> tuple[Path, ...]:
    root = next((r for r in (_ROOT, _ROOT / "unified") if (r / "cgroup.controllers").is_file()), None)
    if root is None:
        raise OSError("no cgroup version 2")
    wanted = {c for c, asked in (("cpu", cores), ("memory", memory_bytes)) if asked is not None}
    if not wanted <= set((root / "cgroup.controllers").read_text(encoding="ascii").split()):
        raise OSError("controllers are not there")
    (root / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in sorted(wanted)), encoding="ascii")
    folder = root / name
    folder.mkdir()
    try:
        if cores is not None:
            quota_us, period_us = _quota(cores)
            (folder / "cpu.max").write_text(f"{quota_us} {period_us}", encoding="ascii")
        if memory_bytes is not None:
            (folder / "memory.max").write_text(str(memory_bytes), encoding="ascii")
    except OSError:
        folder.rmdir()
        raise
    return (folder,)


def _version_1(name: str, cores: float | None, memory_bytes: int | None) -> tuple[Path, ...]:
    made: list[Path] = []
    try:
        if cores is not None:
            made.append(_ROOT / "cpu" / name)
            made[-1].mkdir()
            quota_us, period_us = _quota(cores)
            (made[-1] / "cpu.cfs_period_us").write_text(str(period_us), encoding="ascii")
            (made[-1] / "cpu.cfs_quota_us").write_text(str(quota_us), encoding="ascii")
        if memory_bytes is not None:
            made.append(_ROOT / "memory" / name)
            made[-1].mkdir()
            (made[-1] / "memory.limit_in_bytes").write_text(str(memory_bytes), encoding="ascii")
    except OSError:
        _remove(made)
        raise
    return tuple(made)


def _remove(folders: list[Path] | tuple[Path, ...]) -> None:
    for folder in folders:
        for _ in range(100):  # a process that has just been killed is still in it for a moment
            with contextlib.suppress(FileNotFoundError):
                try:
                    folder.rmdir()
                except OSError:
                    time.sleep(0.02)
                    continue
            break


@contextlib.contextmanager
def confine(*, cores: float | None = None, memory_bytes: int | None = None) -> Iterator[Confinement]:
    """Make a room for processes; whoever puts them in ends them before it is left.

    Args:
        cores: share of processors for all of them together, for instance 0.5; ``None`` for no limit.
        memory_bytes: memory for all of them together; ``None`` for no limit.

    Raises:
        ValueError: a limit is not above zero.
    """
    if (cores is not None and cores <= 0) or (memory_bytes is not None and memory_bytes <= 0):
        raise ValueError(f"limits must be > 0; got {cores} cores and {memory_bytes} bytes")
    name = f"modeltailor-{os.getpid()}-{time.monotonic_ns()}"
    how, folders = "affinity and rlimit", tuple[Path, ...]()
    for text, make in (("cgroup v2", _version_2), ("cgroup v1", _version_1)):
        try:
            how, folders = text, make(name, cores, memory_bytes)
            break
        except OSError:
            continue
    else:
        how = "affinity and rlimit"
    try:
        yield Confinement(how=how, cores=cores, memory_bytes=memory_bytes, _folders=folders)
    finally:
        _remove(folders)
