"""Two runs side by side as one HTML page: no script, no network, the style of ``report.html``."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template

from modeltailor.errors import shown
from modeltailor.reports.compare import RunComparison, SharedModel
from modeltailor.reports.figure import Scale, marker, tick_texts, ticks, worth_seeing
from modeltailor.reports.summary import RunSummary
from modeltailor.reports.wording import bytes_text, change, fixed, metric_text, ms_text, ratio

__all__ = ["render_comparison_html"]

_WIDTH = 720
_LONGEST_FOREST = 40


@cache
def _template(name: str) -> str:
    return files("modeltailor.reports.templates").joinpath(name).read_text(encoding="utf-8")


def _text(value: object, longest: int = 120) -> str:
    return escape(shown(value, longest))


def _table(head: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table of cells that are HTML already; the flag of a head says whether its column is text."""
    heads = "".join(f'<th scope="col"{" class=l" if left else ""}>{_text(h, 60)}</th>' for h, left in head)
    body = "".join(
        f"<tr>{''.join(f'<td{_class(i, left)}>{c}</td>' for i, (c, (_, left)) in enumerate(zip(row, head, strict=True)))}</tr>"
        for row in rows
    )
    return f'<table><caption class="skip">{_text(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def _class(position: int, left: bool) -> str:
    return ' class="name l"' if position == 0 else ' class="l"' if left else ""


def _recommended(comparison: RunComparison, a: RunSummary, b: RunSummary) -> str:
    unit, rows = a.metric.unit, []
    for label, run in ((comparison.a, a), (comparison.b, b)):
        m, base = run.model_of(run.best), run.model_of(run.baseline)
        cells = [f"<strong>{_text(label, 60)}</strong><br>{_text(run.verdict.headline, 300)}"]
        if m is None:
            cells += ["–"] * 4
        else:
            test = m.accuracy.test or m.accuracy.search
            cells += [
                f"{ratio(m.speedup.value)} <small>{ratio(m.speedup.low)} to {ratio(m.speedup.high)}</small>",
                ms_text(m.latency_ms.value), bytes_text(m.size_bytes),
                f"{metric_text(test.value, unit)} <small>{change(100 * test.difference, unit)}</small>",
            ]  # fmt: skip
        cells.append(ms_text(base.latency_ms.value) if base else "–")
        rows.append(cells)
    head = (("run", True), ("speedup", False), ("latency", False), ("file", False), (a.metric.name, False),
            ("fp32’s latency", False))  # fmt: skip
    table = _table(head, rows, "Recommended models")
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Recommended models">{table}</div>'


def _reach(run: RunSummary) -> float:
    base = run.model_of(run.baseline)
    return worth_seeing(run.metric.unit, base.accuracy.search.value if base else 0.0, run.budget.get("max_drop"))


def _fronts(comparison: RunComparison, a: RunSummary, b: RunSummary) -> str:
    """Speedup against the change of the metric, both fronts; A round, B triangles."""
    unit = a.metric.unit
    scale = 100.0 if unit in ("", "%") else 1.0
    runs = [(comparison.a, a, "formats", "var(--c-formats)"), (comparison.b, b, "student", "var(--c-sparsity)")]
    points = [(r, m) for r in runs for m in r[1].models if m.on_front or m.key == r[1].best]
    if not points:
        return '<p class="note">Nothing was measured yet.</p>'
    reach = max(_reach(a), _reach(b))
    near = [d for _, m in points if abs(d := m.accuracy.search.difference) <= reach] or [0.0]
    height, left, bottom = 380, 66, 336
    x = Scale([m.speedup.value for _, m in points], left, _WIDTH - 20)
    y = Scale([scale * d for d in (*near, 0.0)], bottom, 30)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Both fronts: speedup across, change of the metric up">'
    ]
    across, up = ticks(x.low, x.high, 7), ticks(y.low, y.high, 5)
    for t, text in zip(across, tick_texts(across), strict=True):
        parts.append(f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="20" y2="{bottom}"/>'
                     f'<text x="{x(t):.1f}" y="{bottom + 18}" text-anchor="middle">{text}×</text>')  # fmt: skip
    for t, text in zip(up, tick_texts(up), strict=True):
        parts.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - 20}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
                     f'<text x="{left - 8}" y="{y(t) + 4:.1f}" text-anchor="end">{text}</text>')  # fmt: skip
    what = "points" if scale == 100.0 else shown(unit, 20)
    parts.append(
        f'<text class="title" x="{left}" y="12">{_text(a.metric.name, 30)} against fp32, {escape(what)}, search split</text>'
    )
    parts.append(f'<text class="title" x="{_WIDTH - 20}" y="{height - 8}" text-anchor="end">speed of fp32</text>')
    for (label, run, axis, colour), m in points:
        cx, cy = x(m.speedup.value), y(scale * m.accuracy.search.difference)
        best = m.key == run.best
        name = f"{shown(label, 40)}: {shown(m.name, 60)}, {ratio(m.speedup.value)}, {bytes_text(m.size_bytes)}"
        if best:
            parts.append(
                f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="11" fill="none" stroke="var(--ink)" stroke-width="2"/>'
            )
        mark = marker(axis, cx, cy, 5.5, f'fill="{colour}"')
        parts.append(f"<g><title>{escape(name)}</title>{mark}</g>")
    parts.append("</svg>")
    marks = [(label, marker(axis, 0, 0, 6, f'fill="{colour}"')) for label, _, axis, colour in runs]
    legend = "".join(
        f'<li><svg viewBox="-8 -8 16 16" aria-hidden="true">{mark}</svg>{_text(label, 60)}</li>'
        for label, mark in marks
    )
    ring = '<svg viewBox="-8 -8 16 16" aria-hidden="true"><circle r="7" fill="none" stroke="var(--ink)" stroke-width="2"/></svg>'
    return f'{"".join(parts)}<ul class="legend">{legend}<li>{ring}recommended</li></ul>'


def _forest(shared: Sequence[SharedModel], name_b: str) -> str:
    """One line a shared model: the ratio of its speedups with its interval; what crosses 1 is not told apart."""
    rows = sorted(shared, key=lambda s: (s.p_value, s.name))[:_LONGEST_FOREST]
    if not rows:
        return ""
    left, row, top = 320, 24, 26
    height = top + row * len(rows) + 34
    values = [v for s in rows for v in (s.ratio.low, s.ratio.high)]
    x = Scale([*values, 0.99, 1.01], left, _WIDTH - 16)
    bottom = top + row * len(rows)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Ratio of speedups, 95 % intervals; a table follows">'
    ]
    across = ticks(x.low, x.high, 5)
    for t, text in zip(across, tick_texts(across), strict=True):
        parts.append(f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{top - 6}" y2="{bottom}"/>'
                     f'<text x="{x(t):.1f}" y="{bottom + 18}" text-anchor="middle">{text}</text>')  # fmt: skip
    parts.append(f'<path class="edge" d="M{x(1.0):.1f},{top - 8}V{bottom}"/>')
    other = _text(name_b, 24)
    parts.append(f'<text x="{left}" y="12">← slower in {other}</text>')
    parts.append(f'<text x="{_WIDTH - 16}" y="12" text-anchor="end">faster in {other} →</text>')
    for i, s in enumerate(rows):
        y = top + row * i + row / 2
        colour, inside = ("var(--bad)", "var(--bad)") if s.speed_differs else ("var(--soft)", "var(--bg)")
        weight = ' class="title"' if s.speed_differs else ""
        parts += [
            f'<text x="{left - 12}" y="{y + 4:.1f}" text-anchor="end"{weight}>{_text(s.name, 40)}</text>',
            f'<path d="M{x(s.ratio.low):.1f},{y:.1f}H{x(s.ratio.high):.1f}" stroke="{colour}" stroke-width="2"/>',
            f'<circle cx="{x(s.ratio.value):.1f}" cy="{y:.1f}" r="4.5" fill="{inside}" stroke="{colour}" stroke-width="2"/>',
        ]
    more = len(shared) - len(rows)
    rest = f'<p class="note">{more} more in the table.</p>' if more > 0 else ""
    return (
        '<div class="chart forest" tabindex="0" role="region" aria-label="Ratios of speedups as a picture">'
        f"{''.join(parts)}</svg></div>{rest}"
    )


def _shared(comparison: RunComparison, unit: str) -> str:
    if not comparison.shared:
        return ""
    rows = []
    for s in comparison.shared:
        file = "same bytes" if s.same_file else f"{bytes_text(s.size_a)}, {bytes_text(s.size_b)}"
        real = '<strong class="no">yes</strong>' if s.speed_differs else "no"
        word = "real" if s.accuracy_differs else "noise" if abs(s.accuracy_points) >= 0.005 else ""
        gained = f"{change(s.accuracy_points, unit)} <small>{word}</small>"
        rows.append(
            [_text(s.name), ratio(s.speedup_a.value), ratio(s.speedup_b.value),
             f"{fixed(s.ratio.value, 3)} <small>{fixed(s.ratio.low, 3)} to {fixed(s.ratio.high, 3)}</small>",
             f"{real} <small>p = {s.p_value:.2g}</small>", file, gained]
        )  # fmt: skip
    head = (("model", True), (shown(comparison.a, 24), False), (shown(comparison.b, 24), False),
            ("ratio, 95 %", False), ("real?", False), ("file", False), ("accuracy", False))  # fmt: skip
    return _table(head, rows, "Models that stand in both reports")


def _facts(comparison: RunComparison) -> str:
    if not comparison.facts:
        return "<p>In nothing that was recorded.</p>"
    head = (("condition", True), (comparison.a, True), (comparison.b, True))
    return _table(
        head, [[_text(f.fact, 60), _text(f.a), _text(f.b)] for f in comparison.facts], "Conditions that differ"
    )


def render_comparison_html(comparison: RunComparison, a: RunSummary, b: RunSummary) -> str:
    """Write a comparison as one HTML file that opens offline.

    Args:
        comparison: what :func:`modeltailor.reports.compare` found.
        a: the first run.
        b: the second run.
    """
    style = _template("report.css")
    real = sum(s.speed_differs for s in comparison.shared)
    warnings = "".join(
        f"<li class=missed><b aria-hidden=true>!</b><span>{_text(w, 300)}</span></li>" for w in comparison.warnings
    )
    note = (
        "The ratio is the speedup in the second run over that in the first. Many comparisons at once find differences by "
        f"chance, so p values are adjusted for their number (Holm); below 5 % a difference is called real: {real} of "
        f"{len(comparison.shared)} here."
    )
    return Template(_template("compare.html")).substitute(
        title=f"{_text(comparison.a, 60)} against {_text(comparison.b, 60)} – modeltailor",
        subtitle=f"{_text(comparison.a, 60)} against {_text(comparison.b, 60)}",
        headline=_text(comparison.sentences[0], 400),
        sentences="".join(f"<p>{_text(s, 500)}</p>" for s in comparison.sentences[1:]),
        warnings=f'<ul class="limits" aria-label="Mind">{warnings}</ul>' if warnings else "",
        recommended=_recommended(comparison, a, b),
        fronts=_fronts(comparison, a, b),
        shared_note=escape(note if comparison.shared else "No model of one run has its like in the other."),
        forest=_forest(comparison.shared, comparison.b),
        shared=_shared(comparison, a.metric.unit),
        facts=_facts(comparison),
        style=style,
        style_hash=f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}",
    )
