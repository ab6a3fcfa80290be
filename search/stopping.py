"""When a search stops before its trials and its time are used up, and why; one sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from modeltailor.search.records import TrialRecord

__all__ = ["broken", "flat", "solved"]

_BREAKER = 20
"""So many failures of one kind in a row mean: it is not the candidates."""

_PATIENCE = 30
"""Trials without a gain."""

_LEAST_GROWTH = 1e-3
_SOLVED_GAIN = 1e-4
_SOLVED_PROPOSALS = 6


def broken(records: Sequence[TrialRecord]) -> str:
    """Return the reason to stop if the last trials all failed alike, else an empty text."""
    last = records[-_BREAKER:]
    if len(last) == _BREAKER and not any(r.is_measured for r in last) and len({r.outcome for r in last}) == 1:
        return f"{_BREAKER} trials in a row failed with {last[0].outcome}: {last[0].error}"
    return ""


def flat(hypervolumes: Sequence[float]) -> str:
    """Return the reason to stop if the last trials did not move the front, else an empty text.

    Args:
        hypervolumes: reached after each trial of the search, baselines left out.
    """
    if len(hypervolumes) <= _PATIENCE or hypervolumes[-1] <= 0.0:
        return ""
    if hypervolumes[-1] <= hypervolumes[-1 - _PATIENCE] * (1.0 + _LEAST_GROWTH):
        return f"the last {_PATIENCE} trials moved the front by less than {_LEAST_GROWTH:.1%}"
    return ""


def solved(expected_gains: Sequence[float], *, is_met: bool) -> str:
    """Return the reason to stop if the budget is met and nothing better is expected, else an empty text.

    Args:
        expected_gains: of the last proposals, as shares of the hypervolume's box.
        is_met: whether some model keeps the budget.
    """
    last = expected_gains[-_SOLVED_PROPOSALS:]
    if is_met and len(last) == _SOLVED_PROPOSALS and max(last) < _SOLVED_GAIN:
        return "the budget is met, and no recipe is expected to move the front any more"
    return ""
