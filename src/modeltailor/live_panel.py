"""How the state of a run looks in a terminal: one screen from one :class:`Moment`, or one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from modeltailor.errors import shown

if TYPE_CHECKING:
    from modeltailor.reports import ModelSummary, RunSummary
    from modeltailor.search.records import TrialRecord

__all__ = ["Moment", "Panel", "clock", "moment_line", "small_front", "trial_line"]

_MOST_ROWS = 7
_TITLES = {
    "prepare": "loading",
    "baselines": "uniform baselines",
    "costs": "what each format costs",
    "search": "searching",
    "finals": "measuring the finalists",
    "done": "done",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is known of a run at one time.

    Attributes:
        title: of the view, for instance the run folder.
        phase: of the run.
        text: what is being tried now.
        finished: trials finished.
        planned: trials planned in all.
        elapsed_s: seconds that the run has taken.
        remaining_s: expected seconds to the end.
        taken_at: ``time.time()`` when the seconds held.
        working: whether the run goes on; if so, its clock is shown running.
        last: the last finished trial in a line; empty if none has.
        summary: everything measured so far, or ``None`` before the first baseline.
    """

    title: str
    phase: str
    text: str
    finished: int = 0
    planned: int = 0
    elapsed_s: float = 0.0
    remaining_s: float = 0.0
    taken_at: float = 0.0
    working: bool = True
    last: str = ""
    summary: RunSummary | None = None


def clock(seconds: float) -> str:
    """``1:03``, ``1:02:03``."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def trial_line(trial: TrialRecord) -> str:
    """One finished trial: what it is and its figures, or why it failed."""
    name = shown(trial.label or trial.key[:8], 40)
    if not trial.is_measured or trial.speedup is None or trial.accuracy is None:
        return f"{name}: {trial.outcome} while {trial.stage}: {shown(trial.error, 160)}"
    return f"{name}: {trial.speedup.value:.2f}x, {trial.accuracy.value:.4f}, {trial.size_bytes / 1000:,.1f} KB"


def moment_line(moment: Moment) -> str:
    """The state in one line, for places that are no terminal."""
    head = f"[{clock(moment.elapsed_s)}]"
    if moment.phase in ("baselines", "search") and moment.planned:
        head += f" {moment.finished}/{moment.planned}, about {clock(moment.remaining_s)} left"
    return f"{head} {shown(moment.last or moment.text)}"


def small_front(summary: RunSummary, most: int = _MOST_ROWS) -> list[ModelSummary]:
    """The few models of the front that tell most, fastest first.

    Always the recommended or nearest one, the fastest, the smallest and the most accurate; then evenly among the rest.
    """
    front = [m for key in summary.front if (m := summary.model_of(key)) is not None]
    if len(front) <= most:
        return front
    sign = -1.0 if summary.metric.minimize else 1.0
    chosen = {
        *(m.key for m in front if m.key == summary.verdict.key),
        front[0].key,
        min(front, key=lambda m: m.size_bytes).key,
        max(front, key=lambda m: sign * m.accuracy.search.value).key,
    }
    step = len(front) / most
    for i in range(most):
        if len(chosen) < most:
            chosen.add(front[int(i * step)].key)
    return [m for m in front if m.key in chosen]


@dataclass(frozen=True, slots=True)
class Panel:
    """One screen. Renders with the clock of the moment of drawing."""

    moment: Moment

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw progress, the best so far against the budget, the small front, and the last trial."""
        yield Group(*self._parts(options.max_width))

    def _parts(self, width: int) -> Iterator[RenderableType]:
        moment = self.moment
        passed = time.time() - moment.taken_at if moment.working and moment.taken_at else 0.0
        yield Text.assemble((shown(moment.title, 60), "bold"), "  ", _TITLES.get(moment.phase, moment.phase))
        if moment.planned:
            yield self._progress(width, passed)
        if moment.phase != "done" and moment.text:
            yield Text(f"now   {shown(moment.text, max(20, width - 8))}", no_wrap=True, overflow="ellipsis")
        if moment.last:
            yield Text(
                f"last  {shown(moment.last, max(20, width - 8))}", style="dim", no_wrap=True, overflow="ellipsis"
            )
        if moment.summary is not None:
            yield Text("")
            yield from _best(moment.summary, so_far=moment.phase != "done")
            if moment.summary.front:
                yield Text("")
                yield _front_table(moment.summary, width)

    def _progress(self, width: int, passed: float) -> Table:
        moment = self.moment
        row = Table.grid(padding=(0, 2))
        share = 1.0 if moment.phase == "done" else min(1.0, moment.finished / moment.planned)
        bar = ProgressBar(total=1.0, completed=share, width=min(30, max(8, width - 60)))
        times = f"{clock(moment.elapsed_s + passed)} passed"
        if moment.phase not in ("prepare", "done"):
            times += f", about {clock(moment.remaining_s - passed)} left"
        row.add_row(bar, f"{moment.finished}/{moment.planned} trials", times)
        return row


def _best(summary: RunSummary, *, so_far: bool) -> Iterator[Text]:
    from modeltailor.reports.verdict import limit_sentence

    yield Text(f"{'best so far: ' if so_far else ''}{shown(summary.verdict.headline, 400)}", style="bold")
    chosen = summary.model_of(summary.verdict.key)
    for check in chosen.limits if chosen is not None else ():
        mark, style = ("+", "green") if check.met else ("x", "red")
        yield Text(f"  {mark} {limit_sentence(check, summary.metric)}", style=style)


def _front_table(summary: RunSummary, width: int) -> Table:
    from modeltailor.reports.wording import bytes_text, change, metric_text, ms_text, ratio

    unit = summary.metric.unit
    rows = small_front(summary)
    hidden = len(summary.front) - len(rows)
    # a narrow terminal keeps the columns that decide
    columns: list[tuple[str, int, Callable[[ModelSummary], RenderableType]]] = [
        ("speedup", 0, lambda m: ratio(m.speedup.value)),
        ("latency", 76, lambda m: ms_text(m.latency_ms.value)),
        ("file", 0, lambda m: bytes_text(m.size_bytes)),
        (shown(summary.metric.name, 12), 88, lambda m: metric_text(m.accuracy.search.value, unit)),
        ("change", 0, lambda m: change(100 * m.accuracy.search.difference, unit)),
        ("budget", 0, _kept),
    ]
    columns = [c for c in columns if width >= c[1]]
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    table.add_column("", width=1)
    name_width = min(36, max(10, width - 4 - 11 * len(columns)))
    table.add_column("front" + (f" (+{hidden})" if hidden else ""), no_wrap=True, overflow="ellipsis", width=name_width)
    for name, _, _ in columns:
        table.add_column(Text(name), justify="right", no_wrap=True)
    for m in rows:
        is_best = m.key == summary.best
        cells = [Text(c) if isinstance(c, str) else c for c in (show(m) for _, _, show in columns)]
        table.add_row(">" if is_best else "", Text(shown(m.name, 60)), *cells, style="bold" if is_best else "")
    return table


def _kept(model: ModelSummary) -> Text:
    return Text("kept", style="green") if model.meets_budget else Text("missed", style="red")
