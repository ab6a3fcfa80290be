"""What a person sees while a search runs: a live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from modeltailor.search.run import Progress

__all__ = ["LiveView"]


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"


class LiveView:
    """Shows the progress of a run on stderr; use as a context manager.

    Args:
        console: where to; a terminal gets one view that changes, anything else gets a line a step.
        quiet: show nothing.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal and not quiet else None
        )

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
        line = self._line(progress)
        if self._live is None:
            self.console.print(line, soft_wrap=True, highlight=False)
            return
        if progress.history is not None and progress.history.baseline is not None:
            from modeltailor.reports import render_terminal, summarize

            table = Text(render_terminal(summarize(progress.history), width=self.console.width))
            self._live.update(Group(table, line), refresh=True)
        else:
            self._live.update(line, refresh=True)

    def _line(self, progress: Progress) -> Text:
        head = f"[{_clock(progress.elapsed_s)}]"
        if progress.phase in ("baselines", "search") and progress.planned:
            head += f" {progress.finished}/{progress.planned}, about {_clock(progress.remaining_s)} left"
        trial = progress.trial
        if trial is None:
            return Text(f"{head} {progress.text}")
        name = trial.label or trial.key[:8]
        if not trial.is_measured or trial.speedup is None or trial.accuracy is None:
            return Text(f"{head} {name}: {trial.outcome} while {trial.stage}: {trial.error}")
        figures = f"{trial.speedup.value:.2f}x, {trial.accuracy.value:.4f}, {trial.size_bytes / 1000:,.1f} KB"
        return Text(f"{head} {name}: {figures}")
