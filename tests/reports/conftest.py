from __future__ import annotations

import pytest

from modeltailor.reports import RunSummary, summarize
from modeltailor.reports.synthetic import synthetic_history
from modeltailor.search.records import RunHistory


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
