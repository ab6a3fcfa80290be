"""What a person sees while a search runs: a live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from modeltailor.live_panel import Moment, Panel, clock, moment_line, trial_line

if TYPE_CHECKING:
    from modeltailor.reports import RunSummary
    from modeltailor.search.request import Progress

__all__ = ["LiveView"]

_REDRAWS_PER_S = 0.25
"""Rare, because drawing is work on the machine that latency is measured on."""


class LiveView:
    """Shows the progress of a run on stderr; use as a context manager.

    Args:
        console: where to; a terminal gets one view that changes, anything else gets a line a step.
        title: of the view.
        quiet: show nothing.
    """

    def __init__(self, console: Console, *, title: str = "", quiet: bool = False) -> None:
        self.console = console
        self.title = title
        self.quiet = quiet
        self._live = (
            Live(console=console, refresh_per_second=_REDRAWS_PER_S, transient=True)
            if console.is_terminal and not quiet
            else None
        )
        self._summary: RunSummary | None = None
        self._best = ""
        self._last = ""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Show one step."""
        if self.quiet:
            return
        self._summarize(progress)
        last = trial_line(progress.trial) if progress.trial is not None else ""
        if self._live is None:
            self._plain(self._moment(progress, last))
            return
        self._last = last or self._last
        self._live.update(Panel(self._moment(progress, self._last)), refresh=True)

    def _moment(self, progress: Progress, last: str) -> Moment:
        return Moment(
            title=self.title or "modeltailor",
            phase=progress.phase,
            text=progress.text,
            finished=progress.finished,
            planned=progress.planned,
            elapsed_s=progress.elapsed_s,
            remaining_s=progress.remaining_s,
            taken_at=time.time(),
            last=last,
            summary=self._summary,
        )

    def _summarize(self, progress: Progress) -> None:
        history = progress.history
        news = progress.trial is not None or progress.phase == "done" or self._summary is None
        if history is not None and history.baseline is not None and news:
            from modeltailor.reports import summarize

            self._summary = summarize(history)

    def _plain(self, moment: Moment) -> None:
        self.console.print(Text(moment_line(moment)), soft_wrap=True, highlight=False)
        best = moment.summary.best if moment.summary is not None else ""
        if moment.summary is not None and best and best != self._best:
            headline = moment.summary.verdict.headline
            self.console.print(Text(f"[{clock(moment.elapsed_s)}] best so far: {headline}"), soft_wrap=True)
        self._best = best
