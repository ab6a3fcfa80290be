"""How numbers are written. ``templates/rule.js`` holds the same rules for the browser; a test compares both."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal

from modeltailor.search.scale import UNITS, is_score

__all__ = [
    "amount",
    "axis_text",
    "bytes_text",
    "change",
    "change_text",
    "counted_in",
    "fixed",
    "metric_text",
    "ms_text",
    "percent",
    "points",
    "ratio",
    "seconds_text",
    "stage_text",
]

MINUS = "\u2212"


def fixed(value: float, digits: int) -> str:
    """``value`` with ``digits`` decimals; ties go away from zero, as in JavaScript's ``toFixed``.

    What floats add beyond twelve digits is left off before: 1.8749999999999933 is 1.875, however it was computed.
    """
    text = str(Decimal(float(f"{abs(value):.12g}")).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP))
    return f"{MINUS}{text}" if value < 0 and float(text) != 0 else text


def amount(value: float) -> str:
    """Three significant digits, never an exponent: ``0.358``, ``12.3``, ``1204``."""
    if value == 0:
        return "0"
    return fixed(value, max(0, min(6, 2 - math.floor(math.log10(abs(value))))))


def axis_text(text: str) -> str:
    """A number at an axis, without idle zeros: ``0.3`` for ``0.300``."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def ms_text(value: float) -> str:
    """Milliseconds; seconds from 10,000 ms on."""
    return f"{amount(value)} ms" if abs(value) < 10_000 else f"{amount(value / 1000)} s"


def bytes_text(value: float) -> str:
    """Bytes in decimal units (1 KB = 1000 bytes)."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if abs(value) >= size:
            return f"{amount(value / size)} {unit}"
    return f"{fixed(value, 0)} B"


def ratio(value: float) -> str:
    """A factor: ``2.61×``."""
    return f"{fixed(value, 2 if abs(value) < 10 else 1)}×"


def percent(share: float, digits: int = 0) -> str:
    """A share of 1 as percent."""
    return f"{fixed(100 * share, digits)} %"


def counted_in(unit: str, original: float | None, *, minimize: bool) -> str:
    """The unit of a metric in a report: what the job says; else none for what can be a share, whose points are percent.

    Args:
        unit: that the metric or the job gives it.
        original: the original's value; ``None`` before it was measured.
        minimize: whether a smaller metric is better.
    """
    if unit or is_score(0.0 if original is None else original, minimize=minimize):
        return unit
    return UNITS


def points(value: float) -> str:
    """Signed points of the metric: ``+0.12``, ``−0.40``."""
    text = fixed(value, 2)
    return text if text.startswith(MINUS) else f"+{text}"


def change(value: float, unit: str = "") -> str:
    """A signed change of the metric, given in points (percent of 1), without its unit: ``−0.40``, ``−0.42``."""
    if unit in ("", "%"):
        return points(value)
    text = amount(value / 100)
    return text if text.startswith(MINUS) else f"+{text}"


def change_text(value: float, unit: str = "", *, signed: bool = True) -> str:
    """A change of the metric, given in points, with its unit: ``−0.40 points``, ``−0.42 dB``."""
    text = change(value, unit) if signed else change(abs(value), unit)[1:]
    return f"{text} {'points' if unit in ('', '%') else unit}"


def metric_text(value: float, unit: str = "") -> str:
    """The metric: percent of 1 unless it has a unit of its own."""
    return percent(value, 2) if unit in ("", "%") else f"{amount(value)} {unit}"


def seconds_text(value: float) -> str:
    """A span of time: ``48 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = int(value + 0.5)
    if whole < 60:
        return f"{fixed(value, 0 if value >= 10 else 1)} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


_STAGES = {
    "prepare": "preparing data and fp32",
    "structure": "training structures",
    "recovery": "learning again with formats",
    "profile": "profiling layers",
    "sensitivity": "sensitivities",
    "build": "building files",
    "score": "scoring accuracy",
    "latency": "measuring latency",
    "finals": "final measurement",
    "predict": "predicting for the absent device",
}


def stage_text(stage: str) -> str:
    """What a stage of a run does, in words; unknown stages keep their name."""
    return _STAGES.get(stage, stage)
