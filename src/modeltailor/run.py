"""A run that exists on disk, for notebooks and programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modeltailor.targets import Budget

if TYPE_CHECKING:
    import pandas as pd

    from modeltailor.exporting import ExportedModel
    from modeltailor.reports import ModelSummary, RunSummary
    from modeltailor.search.records import RunHistory

__all__ = ["Picture", "Run"]


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG picture that a notebook shows.

    Attributes:
        svg: the document.
    """

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> Path:
        """Write the picture and return its path.

        Raises:
            OSError: it cannot be written.
        """
        Path(path).write_text(self.svg, encoding="utf-8")
        return Path(path)


class Run:
    """A run that exists on disk.

    Every figure comes from ``summary``, the same value that all reports are made of.

    >>> from modeltailor.reports.synthetic import synthetic_history   # a made-up run; yours is load_run("runs/mine")
    >>> run = Run("runs/made-up", synthetic_history(60))
    >>> run.best.meets_budget
    True
    >>> list(run.front.columns[:4])
    ['name', 'best', 'axis', 'speedup']
    >>> len(run.outcomes)
    60

    Args:
        folder: the run folder.
        history: its records; read from the folder if not given.
        budget: limits to judge by; those of the run if not given.

    Raises:
        StudyConflict: it is no run folder.
    """

    def __init__(self, folder: str | Path, history: RunHistory | None = None, budget: Budget | None = None) -> None:
        from modeltailor.reports import summarize
        from modeltailor.reports.write import find_files
        from modeltailor.search.run_folder import RunFolder

        self.folder = Path(folder)
        self.history = history if history is not None else RunFolder(self.folder).read()
        self.summary: RunSummary = summarize(self.history, budget, find_files(self.folder, self.history))

    @property
    def front(self) -> pd.DataFrame:
        """The Pareto front, one row a model, fastest first, indexed by key.

        >>> from modeltailor.reports.synthetic import synthetic_history
        >>> front = Run("runs/made-up", synthetic_history(60)).front
        >>> bool((front["latency_ms"].diff().dropna() >= 0).all())
        True
        >>> int(front["best"].sum())
        1
        """
        from modeltailor.reports import front_frame

        return front_frame(self.summary)

    @property
    def outcomes(self) -> pd.DataFrame:
        """Every trial, one row each, indexed by number: figures, or the stage and words of its failure.

        >>> from modeltailor.reports.synthetic import synthetic_history
        >>> outcomes = Run("runs/made-up", synthetic_history(60)).outcomes
        >>> outcomes.loc[0, "role"], float(outcomes.loc[0, "difference"])
        ('fp32', 0.0)
        >>> failed = outcomes[outcomes["outcome"] != "MEASURED"]
        >>> bool(failed["latency_ms"].isna().all())
        True
        """
        import io

        import pandas as pd

        from modeltailor.reports import outcomes_csv

        text = io.StringIO(outcomes_csv(self.summary))
        return pd.read_csv(text, dtype={"key": "str"}).set_index("trial")

    @property
    def best(self) -> ModelSummary | None:
        """The recommended model, or ``None`` if no model keeps the budget."""
        return self.summary.model_of(self.summary.best) if self.summary.best else None

    @property
    def best_path(self) -> Path | None:
        """The recommended model's file."""
        return self.folder / self.summary.file if self.summary.best else None

    def pick(self, budget: Budget) -> ModelSummary | None:
        """The best model of the run under another budget; ``None`` if none keeps it.

        >>> from modeltailor.reports.synthetic import synthetic_history
        >>> run = Run("runs/made-up", synthetic_history(60))
        >>> small = run.pick(Budget(size_bytes=60_000))
        >>> small.size_bytes <= 60_000
        True
        >>> run.pick(Budget(size_bytes=10)) is None
        True
        """
        from modeltailor.reports import pick

        return pick(self.summary, budget)

    def under(self, budget: Budget) -> Run:
        """The same run judged by another budget; nothing is searched or written.

        >>> from modeltailor.reports.synthetic import synthetic_history
        >>> run = Run("runs/made-up", synthetic_history(60)).under(Budget(max_drop=3.0))
        >>> run.summary.budget["max_drop"]
        3.0
        """
        return Run(self.folder, self.history, budget)

    def plot(self) -> Picture:
        """The front as a picture: accuracy against latency, intervals as whiskers, the chosen model named.

        >>> from modeltailor.reports.synthetic import synthetic_history
        >>> Run("runs/made-up", synthetic_history(60)).plot().svg.startswith("<svg")
        True
        """
        from modeltailor.reports import render_svg

        return Picture(render_svg(self.summary))

    def export(self, to: str | Path, key: str = "best", *, unpack: bool = False) -> ExportedModel:
        """Write a model into a folder with its card, a program that runs it, and checksums.

        Args:
            to: a folder that is empty or not there.
            key: of the model, or the start of it; the recommended one by default.
            unpack: see :func:`modeltailor.exporting.export_model`.

        Raises:
            ConfigError: no such model, or the folder holds something.
            StudyConflict: the model's file is gone or was changed.
            ModelError: the unpacked form gives other outputs.
        """
        from modeltailor.exporting import export_model, find_model

        return export_model(self, find_model(self.summary, key), Path(to), unpack=unpack)

    def report(self) -> Path:
        """Write all reports again and return the HTML file's path."""
        from modeltailor.reports import write_reports

        self.summary = write_reports(self.folder, self.history)
        return self.folder / "report.html"

    def __repr__(self) -> str:
        return f"<Run {self.folder}: {self.summary.verdict.headline}>"

    def _repr_html_(self) -> str:
        from html import escape

        limits = "".join(f"<li>{escape(text)}</li>" for text in self.summary.verdict.limits)
        table = self.front.drop(columns=["file", "sha256"], errors="ignore").to_html(float_format="{:.4g}".format)
        return (
            f"<p><b>{escape(self.summary.verdict.headline)}</b></p><ul>{limits}</ul>"
            f"<div style='max-width:760px'>{self.plot().svg}</div>{table}"
        )
