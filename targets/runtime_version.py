"""Is the runtime of a device the one that its profile speaks of?"""

from __future__ import annotations

import re

from modeltailor.errors import DeviceError

__all__ = ["accepts", "refuse_other_runtime"]


def _numbers(text: str) -> tuple[int, ...]:
    found = re.search(r"\d+(?:\.\d+)*", text)
    return tuple(int(n) for n in found[0].split(".")) if found else ()


def accepts(wanted: str, runtime: str) -> bool:
    """Whether a runtime is of the wanted version.

    Args:
        wanted: ``>=1.18`` for that one or newer, ``1.32`` for it and every ``1.32.x``, empty for any.
        runtime: name and version, as in ``onnxruntime 1.32.0``; one without a number is taken for any.
    """
    have, asked = _numbers(runtime), _numbers(wanted)
    if not asked or not have:
        return True
    return have >= asked if wanted.startswith(">=") else have[: len(asked)] == asked


def refuse_other_runtime(name: str, runtime: str, wanted: str) -> None:
    """Refuse a device with another runtime than is wanted.

    Raises:
        DeviceError: its version is another one; names both.
    """
    if not accepts(wanted, runtime):
        rule = f"{wanted[2:]} or newer is needed" if wanted.startswith(">=") else f"its profile speaks of {wanted}"
        raise DeviceError(
            "DEV-13", name, f"it has {runtime}; {rule}", "install that version there, or mend the profile"
        )
