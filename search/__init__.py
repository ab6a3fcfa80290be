"""Which recipe next?

``run_search`` runs a search; ``RunFolder`` reads one back. Names load on first use, because some bring Optuna.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeltailor.search.executor import Executor, FakeExecutor, Task
    from modeltailor.search.front import Figures, Margin, margins, nearest, pareto_front, recommend, violations
    from modeltailor.search.ledger import Ledger
    from modeltailor.search.local_executor import LocalExecutor
    from modeltailor.search.plan import AXES, SearchPlan
    from modeltailor.search.records import FinalRecord, RunHistory, RunRecord, TrialRecord
    from modeltailor.search.request import Progress, RunRequest
    from modeltailor.search.run import run_search
    from modeltailor.search.run_folder import RunFolder

__all__ = [
    "AXES",
    "Executor",
    "FakeExecutor",
    "Figures",
    "FinalRecord",
    "Ledger",
    "LocalExecutor",
    "Margin",
    "Progress",
    "RunFolder",
    "RunHistory",
    "RunRecord",
    "RunRequest",
    "SearchPlan",
    "Task",
    "TrialRecord",
    "margins",
    "nearest",
    "pareto_front",
    "recommend",
    "run_search",
    "violations",
]

_HOMES = {
    **dict.fromkeys(("Executor", "FakeExecutor", "Task"), "executor"),
    "LocalExecutor": "local_executor",
    **dict.fromkeys(("Figures", "Margin", "margins", "nearest", "pareto_front", "recommend", "violations"), "front"),
    **dict.fromkeys(("AXES", "SearchPlan"), "plan"),
    **dict.fromkeys(("FinalRecord", "RunHistory", "RunRecord", "TrialRecord"), "records"),
    **dict.fromkeys(("Progress", "RunRequest"), "request"),
    "run_search": "run",
    "Ledger": "ledger",
    "RunFolder": "run_folder",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'modeltailor.search' has no attribute '{name}'")
    return getattr(importlib.import_module(f"modeltailor.search.{_HOMES[name]}"), name)
