"""The front in the terminal: rich tables, plain columns when the output is not a terminal."""

from __future__ import annotations

import io
import shutil
from typing import IO, TYPE_CHECKING

from modeltailor.errors import shown
from modeltailor.reports.absent import absent_text
from modeltailor.reports.devices import devices_text
from modeltailor.reports.summary import ModelSummary, RunSummary
from modeltailor.reports.verdict import limit_sentence
from modeltailor.reports.wording import bytes_text, change, metric_text, ms_text, ratio

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["print_summary", "render_terminal", "verdict_lines"]

_BESIDE_THE_FRONT = "Chosen, beside the front: what is there misses a limit, or ties with it"


def _table(models: list[ModelSummary], summary: RunSummary, title: str, plain: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=None if plain else box.SIMPLE_HEAD,
                  pad_edge=False, padding=(0, 1))  # fmt: skip
    table.add_column("")
    table.add_column("model", overflow="ellipsis", no_wrap=True, max_width=44)
    names = ("speedup", "latency", "file", summary.metric.name, "change", "test", "budget")
    for name in names:
        table.add_column(Text(shown(name, 20)), justify="right", no_wrap=True)
    for m in models:
        best = m.key == summary.best
        test = m.accuracy.test
        half = (m.speedup.high - m.speedup.low) / 2
        table.add_row(
            Text(">" if best else ""),
            Text(shown(m.name, 60)),
            Text(f"{ratio(m.speedup.value)} ±{half:.2f}" if half > 0 else ratio(m.speedup.value)),
            Text(ms_text(m.latency_ms.value)),
            Text(bytes_text(m.size_bytes)),
            Text(metric_text(m.accuracy.search.value, summary.metric.unit)),
            Text(change(100 * m.accuracy.search.difference, summary.metric.unit)),
            Text(metric_text(test.value, summary.metric.unit) if test else "-"),
            Text("kept" if m.meets_budget else "missed", style="green" if m.meets_budget else "red"),
            style="bold" if best else "",
        )
    return table


def print_summary(summary: RunSummary, file: IO[str] | None = None, *, width: int | None = None) -> None:
    """Print the front, the uniform baselines and the verdict.

    Args:
        summary: what was found.
        file: where to; standard output by default. Colours and rules only if it is a terminal.
        width: columns; the terminal's by default, 120 if there is none.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file, highlight=False, soft_wrap=False)
    plain = not console.is_terminal
    console = Console(
        file=file, highlight=False, width=width or (120 if plain else shutil.get_terminal_size((120, 40)).columns)
    )
    front = [m for key in summary.front if (m := summary.model_of(key))]
    uniforms = [m for m in summary.models if m.role in ("fp32", "baseline") and not m.on_front]
    if front:
        console.print(_table(front, summary, f"Front ({len(front)} model{'s' * (len(front) != 1)})", plain))
    if uniforms:
        console.print(_table(uniforms, summary, "Uniform settings that are not on the front", plain))
    chosen = summary.model_of(summary.verdict.key)
    if chosen and chosen not in (*front, *uniforms):
        console.print(_table([chosen], summary, _BESIDE_THE_FRONT, plain))
    console.print()
    console.print(Text(shown(summary.verdict.headline, 500), style="bold"))
    for check in chosen.limits if chosen else ():
        style = "green" if check.met else "red"
        console.print(Text(f"  {'+' if check.met else 'x'} {limit_sentence(check, summary.metric)}", style=style))
    for sentence in summary.verdict.sentences:
        console.print(Text(shown(sentence, 600)))
    for line in (*devices_text(summary), *absent_text(summary)):
        console.print(Text(line))


def render_terminal(summary: RunSummary, *, width: int = 120) -> str:
    """The same as plain text."""
    out = io.StringIO()
    print_summary(summary, out, width=width)
    return out.getvalue()


def verdict_lines(summary: RunSummary) -> list[str]:
    """Headline and limits, one a line, for places with no room for tables."""
    return [shown(summary.verdict.headline, 500), *(shown(t, 300) for t in summary.verdict.limits)]
