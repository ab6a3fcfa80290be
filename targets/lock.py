"""The measurement token: of all runs on this machine, one measures on a device at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from modeltailor.canonical import content_key
from modeltailor.errors import DeviceError

__all__ = ["measurement_token"]


@contextlib.contextmanager
def measurement_token(device: str, *, wait_s: float = 900.0) -> Iterator[None]:
    """Hold the token of a device; the kernel takes it back when the holder dies.

    Args:
        device: what is measured on, for instance ``local``.
        wait_s: longest wait for another holder.

    Raises:
        DeviceError: another process held it for all that time.
    """
    path = Path(tempfile.gettempdir()) / f"modeltailor-{os.getuid()}-{content_key(device)}.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise DeviceError(
                        "DEV-05",
                        device,
                        f"another run has been measuring on it for {wait_s:g} s",
                        "wait for it, or stop it",
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(handle)
