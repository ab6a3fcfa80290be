"""ONNX Runtime's ``onnxruntime_perf_test``: how it is called, and what it writes.

The program loads a model, runs it once, then as often as asked, and appends a line a run to a result file:
``model,seconds,peak bytes,cpu percent,index``. See onnxruntime/test/perftest in ONNX Runtime's sources.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from modeltailor.targets.agent.device_side import CPU_PROVIDER, precision_settings
from modeltailor.targets.device import RuntimeOptions
from modeltailor.targets.providers import perf_test_name

__all__ = ["Ran", "arguments", "read", "version_in"]

_LEVELS = {"none": "0", "basic": "1", "extended": "2", "all": "99"}
_SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6}
_VERSION = re.compile(rb"VERS_(1\.\d{1,2}\.\d{1,2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What one start of the program told.

    Attributes:
        times_ms: milliseconds of each run, the warm-up run left out.
        peak_bytes: peak resident memory of the process; ``None`` if it did not say.
        load_ms: creating the session; ``None`` if it did not say.
        first_ms: first inference; ``None`` if it did not say.
        per_second: inferences a second of all callers; ``None`` if it did not say.
    """

    times_ms: tuple[float, ...]
    peak_bytes: int | None
    load_ms: float | None
    first_ms: float | None
    per_second: float | None


def arguments(
    options: RuntimeOptions, model: str, result: str, *, runs: int = 0, seconds: float = 0.0, callers: int = 1
) -> list[str]:
    """Return the arguments for so many runs, or for so many seconds with concurrent callers.

    Nodes that the provider cannot run make the program fail, instead of running on the CPU without a word.
    """
    spin = "1" if options.spinning else "0"
    session, provider = precision_settings(options.provider, options.precision)
    entries = [f"session.intra_op.allow_spinning|{spin}", f"session.inter_op.allow_spinning|{spin}"]
    if options.provider != CPU_PROVIDER:
        entries.append("session.disable_cpu_ep_fallback|1")
    entries += [f"{key}|{value}" for key, value in session.items()]
    how = ["-m", "times", "-r", str(runs)] if runs else ["-m", "duration", "-t", str(max(1, math.ceil(seconds)))]
    return [
        *how,
        *("-c", str(callers)),
        *("-x", str(options.intra_op_threads)),
        *("-y", "1"),
        *("-o", _LEVELS[options.optimization]),
        *("-e", perf_test_name(options.provider)),
        *("-C", " ".join(entries)),
        *(("-i", " ".join(f"{key}|{value}" for key, value in provider.items())) if provider else ()),
        model,
        result,
    ]


def _said_ms(text: str, what: str) -> float | None:
    found = re.search(rf"{what}[^:\n]*:\s*([0-9.eE+-]+)\s*([a-z]+)", text)
    if found is None or found[2] not in _SECONDS:
        return None
    return float(found[1]) * _SECONDS[found[2]] * 1e3


def read(printed: str, result: str) -> Ran:
    """Read what the program printed and wrote.

    Raises:
        ValueError: the result file is not what the program writes.
    """
    times: list[float] = []
    peak: int | None = None
    for line in result.splitlines():
        fields = line.rsplit(",", 4)
        if len(fields) != 5:
            continue
        seconds = float(fields[1])
        if not (math.isfinite(seconds) and seconds > 0.0):
            raise ValueError(f"a run took {seconds} s")
        times.append(seconds * 1e3)
        peak = max(peak or 0, int(fields[2])) or None
    rate = re.search(r"inferences per second:\s*([0-9.eE+-]+)", printed)
    return Ran(
        times_ms=tuple(times),
        peak_bytes=peak,
        load_ms=_said_ms(printed, "Session creation time cost"),
        first_ms=_said_ms(printed, "First inference time cost"),
        per_second=float(rate[1]) if rate else None,
    )


def version_in(*files: bytes) -> str:
    """Read the version of ONNX Runtime off its program or library; empty if it is not there."""
    for content in files:
        found = _VERSION.search(content)
        if found:
            return found[1].decode()
    return ""
