from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeltailor.reports import RunSummary, render_html, summarize
from modeltailor.reports.synthetic import synthetic_history
from modeltailor.search.records import RunHistory

Drive = Callable[[RunSummary, Path], dict[str, Any]]

_BROWSER = Path(__file__).parent / "browser"


@pytest.fixture(scope="session")
def history() -> RunHistory:
    return synthetic_history()


@pytest.fixture(scope="session")
def summary(history: RunHistory) -> RunSummary:
    return summarize(history)


@pytest.fixture(scope="session")
def large() -> RunSummary:
    """500 trials, 200 layers, at least 60 models to choose from."""
    return summarize(synthetic_history(500, 200, 240, seed=1))


@pytest.fixture(scope="session")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real run: that of ``MODELTAILOR_RUN``, else of a short demo made here."""
    if given := os.environ.get("MODELTAILOR_RUN"):
        return Path(given).resolve()
    folder = tmp_path_factory.mktemp("demo") / "run"
    command = [sys.executable, "-m", "modeltailor.cli", "demo", "-q", "--time", "60s", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode in (0, 4), done.stderr
    return folder


@pytest.fixture(scope="session")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Drive:
    """Opens a report in headless Chromium, uses everything on it, and returns what was seen.

    Needs Chromium, node, and npm for two packages. Set ``MODELTAILOR_SCREENSHOTS`` to a folder to keep pictures of the pages.
    """
    tool = tmp_path_factory.mktemp("browser")
    for name in ("package.json", "drive.mjs"):
        shutil.copy(_BROWSER / name, tool / name)
    subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=tool, check=True, capture_output=True)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "install Chromium, or set CHROMIUM to its path"

    def driven(summary: RunSummary, folder: Path) -> dict[str, Any]:
        report = folder / "report.html"
        report.write_text(render_html(summary))
        shots = os.environ.get("MODELTAILOR_SCREENSHOTS")
        command = ["node", str(tool / "drive.mjs"), chromium, str(report), *([shots] if shots else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen

    return driven
