"""Quantities as people write them: ``2 ms``, ``200 KB``, ``20m``. KB and MB are powers of ten, KiB and MiB of two."""

from __future__ import annotations

import math
import re

__all__ = ["parse_duration_s", "parse_latency_ms", "parse_size_bytes"]

_NUMBER = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ]*)\s*$")
_LATENCY = {"": 1.0, "ms": 1.0, "s": 1000.0, "us": 0.001, "µs": 0.001}
_SIZE = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_DURATION = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def _parse(text: object, units: dict[str, float] | dict[str, int], example: str, fold: bool) -> float:
    if isinstance(text, bool) or not isinstance(text, (int, float, str)):
        raise ValueError(f"must be a quantity such as {example}; got {text!r}")
    m = _NUMBER.match(str(text))
    unit = (m[2].lower() if fold else m[2]) if m else ""
    if m is None or unit not in units:
        raise ValueError(f"must be a quantity such as {example}; got {text!r}")
    value = float(m[1]) * units[unit]
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"must be finite and > 0; got {text!r}")
    return value


def parse_latency_ms(text: object) -> float:
    """Return milliseconds of ``2 ms``, ``150us``, ``0.5 s`` or a bare number of milliseconds.

    >>> parse_latency_ms("2 ms"), parse_latency_ms("150us"), parse_latency_ms(3)
    (2.0, 0.15, 3.0)
    """
    return _parse(text, _LATENCY, "2 ms", fold=False)


def parse_size_bytes(text: object) -> int:
    """Return bytes of ``200 KB``, ``64 MiB`` or a bare number of bytes.

    >>> parse_size_bytes("200 KB"), parse_size_bytes("1 KiB")
    (200000, 1024)
    """
    return round(_parse(text, _SIZE, "200 KB", fold=True))


def parse_duration_s(text: object) -> float:
    """Return seconds of ``90s``, ``20m``, ``2h`` or a bare number of seconds.

    >>> parse_duration_s("20m")
    1200.0
    """
    return _parse(text, _DURATION, "20m", fold=True)
