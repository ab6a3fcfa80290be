"""What was found, and why believe it?

``summarize`` decides every number once; the renderers only format. ``write_reports`` does all of it for a run folder.
"""

from modeltailor.reports.choice import budget_of, pick
from modeltailor.reports.compare import RunComparison, compare, render_comparison
from modeltailor.reports.compare_html import render_comparison_html
from modeltailor.reports.figure import render_svg
from modeltailor.reports.html import render_html
from modeltailor.reports.markdown import render_markdown
from modeltailor.reports.model_card import render_model_card
from modeltailor.reports.summarize import summarize
from modeltailor.reports.summary import ModelSummary, RunSummary
from modeltailor.reports.tables import front_frame, outcomes_csv
from modeltailor.reports.terminal import print_summary, render_terminal, verdict_lines
from modeltailor.reports.write import read_summary, summary_json, write_parquet, write_png, write_reports

__all__ = [
    "ModelSummary",
    "RunComparison",
    "RunSummary",
    "budget_of",
    "compare",
    "front_frame",
    "outcomes_csv",
    "pick",
    "print_summary",
    "read_summary",
    "render_comparison",
    "render_comparison_html",
    "render_html",
    "render_markdown",
    "render_model_card",
    "render_svg",
    "render_terminal",
    "summarize",
    "summary_json",
    "verdict_lines",
    "write_parquet",
    "write_png",
    "write_reports",
]
