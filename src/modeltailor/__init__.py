"""modeltailor: tailor a neural network to a device and a budget.

>>> import modeltailor
>>> run = modeltailor.tailor("job.yaml", out="runs/mine")   # doctest: +SKIP
>>> run.best                                                # doctest: +SKIP
>>> run.front                                               # doctest: +SKIP
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modeltailor.api import load_run, tailor
    from modeltailor.job import Job, load_job, parse_job
    from modeltailor.run import Run
    from modeltailor.targets import Budget

__all__ = ["Budget", "Job", "Run", "load_job", "load_run", "parse_job", "tailor"]

try:
    __version__ = version("modeltailor")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_HOME = {
    "Budget": "targets",
    "Run": "run",
    "load_run": "api",
    "tailor": "api",
    "Job": "job",
    "load_job": "job",
    "parse_job": "job",
}


def __getattr__(name: str) -> Any:
    # Heavy rooms load when they are asked for: `import modeltailor` stays instant.
    if name not in _HOME:
        raise AttributeError(f"module 'modeltailor' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"modeltailor.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
