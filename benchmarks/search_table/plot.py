"""Hypervolume by evaluations, one panel a landscape or network, as SVG: medians as lines, the spread as bands."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from html import escape

from search_table.studies import Row

__all__ = ["plot"]

_COLOURS = {"tailor": "#c2410c", "tpe": "#1d4ed8", "nsga2": "#15803d", "random": "#737373"}
_WIDTH, _HEIGHT, _LEFT = 300, 200, 60
_Curves = dict[str, Mapping[str, Sequence[float]]]


def plot(results: Sequence[Row]) -> str:
    """Draw all rows that have a curve."""
    panels: dict[str, _Curves] = {}
    for row in results:
        if row["part"] == "toys":
            title = f"{row['sites']} sites, {'pairs' if row['interactions'] else 'additive'}, told: {row['told']}"
            at = row["share_of_true_hypervolume"]
        elif "losses" in row:
            title, at = f"{row['part']}, losses {row['losses']}", row["hypervolume"]
        else:
            continue
        assert isinstance(at, dict)
        panels.setdefault(title, {})[str(row["sampler"])] = at
    out = io.StringIO()
    rows = -(-len(panels) // 3)
    width, height = 3 * (_WIDTH + _LEFT), rows * (_HEIGHT + 60) + 10
    out.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
              ' font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>')  # fmt: skip
    for i, (title, curves) in enumerate(panels.items()):
        _panel(out, _LEFT + (i % 3) * (_WIDTH + _LEFT), 30 + (i // 3) * (_HEIGHT + 60), title, curves)
    out.write("</svg>")
    return out.getvalue()


def _panel(out: io.StringIO, x0: int, y0: int, title: str, curves: _Curves) -> None:
    values = sorted(v for curve in curves.values() for row in curve.values() for v in row)
    counts = sorted({int(k) for curve in curves.values() for k in curve})
    low = values[len(values) // 20]
    high = values[-1]
    inner = _WIDTH - 20

    def at(k: float, value: float) -> str:
        x = x0 + inner * math.log(k / counts[0]) / max(math.log(counts[-1] / counts[0]), 1e-9)
        return f"{x:.1f},{y0 + _HEIGHT * (1 - (max(value, low) - low) / max(high - low, 1e-12)):.1f}"

    out.write(f'<text x="{x0}" y="{y0 - 8}">{escape(title)}</text>')
    out.write(f'<rect x="{x0}" y="{y0}" width="{inner}" height="{_HEIGHT}" fill="none" stroke="#999"/>')
    for tick in (low, (low + high) / 2, high):
        y = at(counts[0], tick).split(",")[1]
        out.write(
            f'<text x="{x0 - 46}" y="{float(y) + 4}">{tick:.4f}</text><path d="M{x0},{y} h{inner}" stroke="#ddd"/>'
        )
    for j, (name, curve) in enumerate(curves.items()):
        points = {int(k): sorted(v) for k, v in curve.items()}
        band = [at(k, v[0]) for k, v in points.items()] + [at(k, v[-1]) for k, v in reversed(points.items())]
        line = " ".join(at(k, v[len(v) // 2]) for k, v in points.items())
        colour = _COLOURS[name]
        out.write(f'<polygon points="{" ".join(band)}" fill="{colour}" opacity="0.15"/>')
        out.write(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.write(f'<text x="{x0 + 60 * j}" y="{y0 + _HEIGHT + 30}" fill="{colour}">{escape(name)}</text>')
    for k in (counts[0], *(c for c in (36, 96, 200) if counts[0] < c < counts[-1]), counts[-1]):
        out.write(f'<text x="{at(k, low).split(",")[0]}" y="{y0 + _HEIGHT + 14}">{k}</text>')
