"""The front as an SVG picture for papers and pull requests: own geometry, no drawing library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from xml.sax.saxutils import escape

from modeltailor.errors import shown
from modeltailor.reports.labels import Box, place_labels
from modeltailor.reports.summary import ModelSummary, RunSummary, TrialPoint
from modeltailor.reports.wording import axis_text, bytes_text, fixed, ratio

__all__ = ["Scale", "marker", "render_svg", "tick_texts", "ticks", "with_intervals", "worth_seeing"]

_WIDTH, _HEIGHT = 760, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 54, 52
_COLOURS = {"none": "#444444", "formats": "#0072B2", "sparsity": "#D55E00", "student": "#009E73"}


def ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Round values that divide ``low`` to ``high`` into about ``count`` steps."""
    span = high - low
    if not span > 0:
        return (low,)
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return tuple((first + i) * step for i in range(int((high - first * step) / step + 1e-9) + 1))


def tick_texts(values: Sequence[float]) -> tuple[str, ...]:
    """What stands at the marks of an axis: as many decimals as tell neighbours apart, without idle zeros."""
    step = min((b - a for a, b in pairwise(values)), default=abs(values[0]) if values else 1.0) or 1.0
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    return tuple(axis_text(fixed(v, digits)) for v in values)


def worth_seeing(unit: str, base: float, max_drop: float | None) -> float:
    """How far from the original's value of the metric a model is worth seeing; others stick to the picture's edge.

    Args:
        unit: of the metric.
        base: the original's value.
        max_drop: largest allowed loss in points, if there is one: four times of it is worth seeing at least.
    """
    scale = 1.0 if unit in ("", "%") else abs(base) or 1.0
    return max(0.05 * scale, 0.04 * (max_drop or 0.0))


def with_intervals(values: Sequence[float], ends: Sequence[float]) -> tuple[float, float]:
    """The span of values and of the ends of their intervals, of which the values alone keep a third at least."""
    low, high = min(values), max(values)
    room = high - low or math.inf
    return max(low - room, min([low, *ends])), min(high + room, max([high, *ends]))


class Scale:
    """Maps values onto a stretch of the picture, with some room at both ends; what lies outside sticks to the edge."""

    def __init__(self, values: list[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        pad = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        self.low, self.high, self.start, self.end = low - pad, high + pad, start, end

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def marker(axis: str, x: float, y: float, size: float, style: str) -> str:
    """A mark as SVG: squares for channels, triangles for students, a diamond for the original, circles for formats."""
    match axis:
        case "sparsity":
            shape = f"M{x - size:.1f},{y - size:.1f}h{2 * size:.1f}v{2 * size:.1f}h{-2 * size:.1f}Z"
        case "student":
            shape = f"M{x:.1f},{y - 1.2 * size:.1f}L{x + 1.15 * size:.1f},{y + size:.1f}H{x - 1.15 * size:.1f}Z"
        case "none":
            r = 1.25 * size
            shape = f"M{x:.1f},{y - r:.1f}L{x + r:.1f},{y:.1f}L{x:.1f},{y + r:.1f}L{x - r:.1f},{y:.1f}Z"
        case _:
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" {style}/>'
    return f'<path d="{shape}" {style}/>'


def _frame(x: Scale, y: Scale, metric: str) -> list[str]:
    parts = []
    across, up = ticks(x.low, x.high, 7), ticks(y.low, y.high, 6)
    for t, text in zip(across, tick_texts(across), strict=True):
        parts.append(f'<line x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="#e6e6e6"/>')
        parts.append(f'<text x="{x(t):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{text}</text>')
    for t, text in zip(up, tick_texts(up), strict=True):
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}" stroke="#e6e6e6"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(t) + 4:.1f}" text-anchor="end">{text}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 12}" text-anchor="middle">latency, ms (95 % intervals)</text>')
    parts.append(f'<text x="{_LEFT - 48}" y="{_TOP - 14}">{escape(metric)}, search split</text>')
    return parts


def _whiskers(m: ModelSummary, x: Scale, y: Scale, base: float, unit: float) -> str:
    a, lat = m.accuracy.search, m.latency_ms
    cx, cy = x(lat.value), y(unit * a.value)
    ends = _interval(m, base, unit)
    low, high = map(y, ends)
    bars = [f"M{x(v):.1f},{cy - 3:.1f}v6" for v in (lat.low, lat.high) if x.low <= v <= x.high]
    bars += [f"M{cx - 3:.1f},{y(v):.1f}h6" for v in ends if y.low <= v <= y.high]  # without: it goes on outside
    return (
        f'<path d="M{x(lat.low):.1f},{cy:.1f}H{x(lat.high):.1f}M{cx:.1f},{low:.1f}V{high:.1f}{"".join(bars)}" '
        f'stroke="#999999" stroke-width="1" fill="none"/>'
    )


def _interval(m: ModelSummary, base: float, unit: float) -> tuple[float, float]:
    a = m.accuracy.search
    return unit * (base + a.difference_low), unit * (base + a.difference_high)


def _names(summary: RunSummary, x: Scale, y: Scale, unit: float) -> list[str]:
    """Name the chosen model, the original and the uniform settings, where there is room."""
    places = [(x(m.latency_ms.value), y(unit * m.accuracy.search.value)) for m in summary.models]
    named = [i for i, m in enumerate(summary.models) if m.role in ("fp32", "baseline") or m.key == summary.verdict.key]
    named.sort(key=lambda i: summary.models[i].key != summary.verdict.key)
    texts = []
    for i in named:
        m = summary.models[i]
        more = f", {ratio(m.speedup.value)}, {bytes_text(m.size_bytes)}" if m.key == summary.verdict.key else ""
        texts.append(shown(m.name, 34) + more)
    wanted = [(*places[i], 6.6 * len(text)) for i, text in zip(named, texts, strict=True)]
    frame = Box(left=_LEFT - 4, top=_TOP - 10, right=_WIDTH - 4, bottom=_HEIGHT - _BOTTOM)
    parts = []
    for i, text, label in zip(named, texts, place_labels(wanted, places, frame), strict=True):
        if label is not None:
            weight = ' font-weight="700" fill="#111111"' if summary.models[i].key == summary.verdict.key else ""
            if label.far:
                end = label.x + (-3 if label.anchor == "start" else 3)
                parts.append(
                    f'<path d="M{places[i][0]:.1f},{places[i][1]:.1f}L{end:.1f},{label.y - 4:.1f}" '
                    f'stroke="#777777" fill="none"/>'
                )
            anchor = "" if label.anchor == "start" else f' text-anchor="{label.anchor}"'
            parts.append(f'<text x="{label.x:.1f}" y="{label.y:.1f}"{anchor}{weight}>{escape(text)}</text>')
    return parts


def render_svg(summary: RunSummary) -> str:
    """Draw accuracy against latency: all trials faint, the front with intervals, the chosen model named."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'font-family="system-ui, Helvetica, Arial, sans-serif" font-size="12" fill="#333333" role="img">'
        f"<title>{escape(shown(summary.verdict.headline, 300))}</title>"
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>'
    )
    measured: list[TrialPoint] = [t for t in summary.trials if t.latency_ms and t.accuracy]
    if not measured:
        return f'{head}<text x="{_LEFT}" y="{_TOP}">Nothing has been measured yet.</text></svg>\n'
    in_percent = summary.metric.unit in ("", "%")
    unit = 100.0 if in_percent else 1.0
    name = shown(summary.metric.name, 30) + (" in %" if in_percent else f" in {shown(summary.metric.unit, 20)}")
    base_model = summary.model_of(summary.baseline)
    base = base_model.accuracy.search.value if base_model else 0.0
    front = [m for m in summary.models if m.on_front]
    # the picture is about what is worth having: a collapsed model sticks to its edge
    reach = worth_seeing(summary.metric.unit, base, summary.budget.get("max_drop"))
    focus = [v for m in summary.models if abs((v := m.accuracy.search.value) - base) <= reach]
    focus = focus if len(focus) > 1 else [m.accuracy.search.value for m in summary.models]
    spans = [v for m in front for v in (m.latency_ms.low, m.latency_ms.high)]
    across = with_intervals([t.latency_ms.value for t in measured if t.latency_ms], spans)
    x = Scale([*across], _LEFT, _WIDTH - _RIGHT)
    low, high = unit * min(focus), unit * max(focus)
    ends = [v for m in front if low <= unit * m.accuracy.search.value <= high for v in _interval(m, base, unit)]
    y = Scale([*with_intervals((low, high), ends)], _HEIGHT - _BOTTOM, _TOP)
    parts = [head, *_frame(x, y, name)]
    for t in measured:
        if t.latency_ms and t.accuracy and not t.on_front:
            style = f'fill="{_COLOURS[t.axis]}" fill-opacity="0.22"'
            parts.append(marker(t.axis, x(t.latency_ms.value), y(unit * t.accuracy.value), 3, style))
    parts += [_whiskers(m, x, y, base, unit) for m in front]
    for m in summary.models:
        chosen = m.key == summary.verdict.key
        filled = _COLOURS[m.axis] if m.on_front else "#ffffff"
        edge, width = ("#111111", 2) if chosen else (_COLOURS[m.axis], 1.5)
        style = f'fill="{filled}" stroke="{edge}" stroke-width="{width}"'
        cx, cy = x(m.latency_ms.value), y(unit * m.accuracy.search.value)
        parts.append(marker(m.axis, cx, cy, 6.5 if chosen else 5, style))
    parts += _names(summary, x, y, unit)
    legend = _LEFT + 150
    present = {t.axis for t in measured}
    for axis, text in (("none", "the original"), ("formats", "formats"), ("sparsity", "channels, zeros, ranks"),
                       ("student", "student or depth")):  # fmt: skip
        if axis not in present:
            continue
        parts.append(marker(axis, legend, _TOP - 18, 5, f'fill="{_COLOURS[axis]}"'))
        parts.append(f'<text x="{legend + 10}" y="{_TOP - 14}">{text}</text>')
        legend += 30 + 7 * len(text)
    return "\n".join((*parts, "</svg>", ""))
