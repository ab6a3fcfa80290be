"""All reports of a run, written into its folder. Each file is whole: the old one stays until the new one is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from modeltailor.durable import write_bytes, write_text
from modeltailor.reports.figure import render_svg
from modeltailor.reports.html import render_html
from modeltailor.reports.markdown import render_markdown
from modeltailor.reports.model_card import render_model_card
from modeltailor.reports.plot import render_png
from modeltailor.reports.summarize import summarize
from modeltailor.reports.summary import RunSummary
from modeltailor.reports.tables import outcomes_csv, outcomes_parquet
from modeltailor.search.records import RunHistory

__all__ = ["find_files", "read_summary", "summary_json", "write_parquet", "write_png", "write_reports"]


def summary_json(summary: RunSummary) -> str:
    """The summary as JSON text: ASCII, so that no reader stumbles over what names hold."""
    return json.dumps(summary.model_dump(mode="json"), ensure_ascii=True, allow_nan=False, indent=1) + "\n"


def read_summary(path: Path) -> RunSummary:
    """Read ``summary.json`` back.

    Raises:
        pydantic.ValidationError: it is not one, or of another schema version.
    """
    return RunSummary.model_validate_json(path.read_bytes())


def find_files(folder: Path, history: RunHistory) -> dict[str, str]:
    """Where each measured model lies in a run folder, by key: ``front/`` before ``artifacts/``; empty if nowhere."""
    found: dict[str, str] = {}
    front = sorted((folder / "front").glob("*.onnx")) if (folder / "front").is_dir() else []
    for trial in history.trials:
        if not trial.is_measured or trial.key in found:
            continue
        artifact = folder / "artifacts" / f"{trial.sha256[:16]}.onnx"
        public = next((f for f in front if f.stem.split("-")[-1] == trial.key[:8]), None)
        if public is not None:
            found[trial.key] = f"front/{public.name}"
        else:
            found[trial.key] = f"artifacts/{artifact.name}" if artifact.exists() else ""
    return found


def write_reports(folder: Path, history: RunHistory) -> RunSummary:
    """Summarize a run and write all its reports.

    These are ``summary.json``, ``outcomes.csv``, ``report.html``, ``report.md``, ``MODEL_CARD.md`` and ``front.svg``.

    Args:
        folder: the run folder; must exist.
        history: its records.

    Raises:
        OSError: the disk is full or not writable; the old files stay.
    """
    summary = summarize(history, files=find_files(folder, history))
    renderers: tuple[tuple[str, Callable[[RunSummary], str]], ...] = (
        ("summary.json", summary_json),
        ("outcomes.csv", outcomes_csv),
        ("report.html", render_html),
        ("report.md", render_markdown),
        ("MODEL_CARD.md", render_model_card),
        ("front.svg", render_svg),
    )
    for name, render in renderers:
        write_text(folder / name, render(summary))
    return summary


def write_png(folder: Path, summary: RunSummary) -> Path:
    """Write ``front.png`` beside the reports and return its path.

    Raises:
        EnvironmentFault: matplotlib is not installed (``modeltailor[plots]``).
    """
    place = folder / "front.png"
    write_bytes(place, render_png(summary))
    return place


def write_parquet(folder: Path, summary: RunSummary) -> Path:
    """Write ``outcomes.parquet`` beside the reports and return its path.

    Raises:
        EnvironmentFault: pyarrow is not installed (``modeltailor[parquet]``).
    """
    place = folder / "outcomes.parquet"
    write_bytes(place, outcomes_parquet(summary))
    return place
