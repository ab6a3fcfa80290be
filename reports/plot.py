"""The front as a PNG picture, drawn by matplotlib; the only door to that library.

``front.svg`` needs no library and is always written. This one is for places that take no SVG; ``modeltailor[plots]``.
The library is an extra, so its objects are ``Any`` here: types are checked alike with and without it.
"""

from __future__ import annotations

import io
from typing import Any

from modeltailor.errors import EnvironmentFault, shown
from modeltailor.reports.figure import with_intervals, worth_seeing
from modeltailor.reports.labels import Box, place_labels
from modeltailor.reports.summary import ModelAxis, ModelSummary, RunSummary
from modeltailor.reports.wording import bytes_text, ratio

__all__ = ["render_png"]

_COLOURS: dict[ModelAxis, str] = {"none": "#444444", "formats": "#0072B2", "sparsity": "#D55E00", "student": "#009E73"}
_MARKS: dict[ModelAxis, str] = {"none": "D", "formats": "o", "sparsity": "s", "student": "^"}
_NAMES: dict[ModelAxis, str] = {"none": "the original", "formats": "formats", "sparsity": "channels, zeros, ranks",
                                "student": "student or depth"}  # fmt: skip


def _library() -> Any:
    try:
        from matplotlib import figure
    except ImportError as error:
        raise EnvironmentFault(
            "ENV-11",
            "front.png",
            "needs matplotlib, which is not installed",
            "install it: pip install 'modeltailor[plots]'",
        ) from error
    return figure


def _whiskers(axes: Any, m: ModelSummary, base: float, unit: float) -> None:
    a, lat = m.accuracy.search, m.latency_ms
    axes.errorbar(
        lat.value,
        unit * a.value,
        xerr=[[max(0.0, lat.value - lat.low)], [max(0.0, lat.high - lat.value)]],
        yerr=[
            [max(0.0, unit * (a.value - base - a.difference_low))],
            [max(0.0, unit * (base + a.difference_high - a.value))],
        ],
        fmt="none", ecolor="#999999", elinewidth=1, capsize=2, zorder=2,
    )  # fmt: skip


def _names(axes: Any, summary: RunSummary, unit: float) -> None:
    """Name the chosen model, the original and the uniform settings, where there is room."""
    places = [axes.transData.transform((m.latency_ms.value, unit * m.accuracy.search.value)) for m in summary.models]
    frame, height = axes.get_window_extent(), axes.get_window_extent().height
    inside = [(float(x - frame.x0), float(height - (y - frame.y0))) for x, y in places]
    pixel = axes.figure.dpi / 100.0
    wanted = sorted(
        (m.key != summary.verdict.key, i)
        for i, m in enumerate(summary.models)
        if m.key == summary.verdict.key or m.role in ("fp32", "baseline")
    )
    texts = []
    for is_other, i in wanted:
        m = summary.models[i]
        more = "" if is_other else f", {ratio(m.speedup.value)}, {bytes_text(m.size_bytes)}"
        texts.append(shown(m.name, 34) + more)
    sizes = [
        (*inside[i], len(t) * (6.0 if other else 6.8) * pixel) for (other, i), t in zip(wanted, texts, strict=True)
    ]
    box = Box(left=0.0, top=0.0, right=float(frame.width), bottom=float(height))
    labels = place_labels(sizes, inside, box, height=12.0 * pixel, mark=6.5 * pixel)
    sides = {"start": "left", "middle": "center", "end": "right"}
    for (is_other, _), text, label in zip(wanted, texts, labels, strict=True):
        if label is not None:
            if label.far:
                ends = [(label.x, height - label.y), sizes[0][:2]]
                line = [
                    axes.transData.inverted().transform((x + frame.x0, y + frame.y0))
                    for x, y in (ends[0], (ends[1][0], height - ends[1][1]))
                ]
                axes.plot([p[0] for p in line], [p[1] for p in line], color="#777777", linewidth=0.8, zorder=3)
            at = axes.transData.inverted().transform((label.x + frame.x0, frame.y0 + height - label.y))
            axes.text(
                at[0], at[1], text.replace("$", r"\$"), fontsize=8, ha=sides[label.anchor],
                fontweight="normal" if is_other else "bold", color="#555555" if is_other else "#111111",
            )  # fmt: skip


def render_png(summary: RunSummary, *, dpi: int = 160) -> bytes:
    """Draw accuracy against latency: all trials faint, the front with its 95 % intervals, the chosen model named.

    Args:
        summary: what was found.
        dpi: pixels an inch; the picture is 7.6 by 4.6 inches.

    Raises:
        EnvironmentFault: matplotlib is not installed.
    """
    made = _library().Figure(figsize=(7.6, 4.6), layout="constrained")
    axes: Any = made.subplots()
    in_percent = summary.metric.unit in ("", "%")
    unit = 100.0 if in_percent else 1.0
    base_model = summary.model_of(summary.baseline)
    base = base_model.accuracy.search.value if base_model else 0.0
    reach = worth_seeing(summary.metric.unit, base, summary.budget.get("max_drop"))
    near = [m for m in summary.models if abs(m.accuracy.search.value - base) <= reach] or list(summary.models)
    for axis, colour in _COLOURS.items():
        points = [(t.latency_ms.value, unit * t.accuracy.value) for t in summary.trials
                  if t.latency_ms and t.accuracy and not t.on_front and t.axis == axis]  # fmt: skip
        if points:
            axes.scatter(*zip(*points, strict=True), s=12, color=colour, marker=_MARKS[axis], alpha=0.25, linewidths=0)
    for m in summary.models:
        if m.on_front:
            _whiskers(axes, m, base, unit)
        chosen = m.key == summary.verdict.key
        axes.plot(
            m.latency_ms.value, unit * m.accuracy.search.value, linestyle="none", marker=_MARKS[m.axis], zorder=4 if chosen else 3,
            markersize=9 if chosen else 7, markerfacecolor=_COLOURS[m.axis] if m.on_front else "white",
            markeredgecolor="#111111" if chosen else _COLOURS[m.axis], markeredgewidth=1.8 if chosen else 1.3,
        )  # fmt: skip
    if near:
        front = [m.accuracy.search for m in near if m.on_front]
        ends = [unit * (base + d) for a in front for d in (a.difference_low, a.difference_high)]
        low, high = with_intervals([unit * m.accuracy.search.value for m in near], ends)
        pad = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - pad, high + pad)
    axes.set_xlabel("latency, ms (95 % intervals)")
    name = shown(summary.metric.name, 30).replace("$", r"\$")
    axes.set_ylabel(f"{name}, search split, {'%' if in_percent else shown(summary.metric.unit, 20)}")
    axes.grid(visible=True, color="#e6e6e6")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    present = [axis for axis in _COLOURS if any(m.axis == axis for m in summary.models)]
    for axis in present:
        axes.plot([], [], linestyle="none", marker=_MARKS[axis], color=_COLOURS[axis], label=_NAMES[axis])
    if present:
        made.legend(frameon=False, fontsize=8, loc="outside upper left", ncols=len(present))
    made.draw_without_rendering()  # fixes the layout, on which the places of the names depend
    _names(axes, summary, unit)
    out = io.BytesIO()
    made.savefig(out, format="png", dpi=dpi, metadata={"Software": None, "Title": shown(summary.verdict.headline, 300)})
    return out.getvalue()
