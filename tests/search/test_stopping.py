from __future__ import annotations

from modeltailor.search.records import TrialRecord
from modeltailor.search.stopping import broken, flat, solved


def failed(number: int, outcome: str) -> TrialRecord:
    return TrialRecord(number=number, key=str(number), role="search", recipe={}, outcome=outcome, error="why")


def test_failures_of_one_kind_in_a_row_break_the_search_and_say_why() -> None:
    assert "CRASH" in broken([failed(i, "CRASH") for i in range(20)])
    assert broken([failed(i, "CRASH") for i in range(19)]) == ""
    assert broken([failed(i, "CRASH" if i % 2 else "HANG") for i in range(20)]) == ""


def test_a_front_that_no_longer_moves_ends_the_search() -> None:
    assert flat([0.1 * i for i in range(10)] + [0.9] * 31) != ""
    assert flat([0.5 + 0.001 * i for i in range(60)]) == ""
    assert flat([0.9] * 20) == ""


def test_with_the_budget_met_and_nothing_to_expect_the_search_ends() -> None:
    assert solved([1e-2] * 3 + [1e-5] * 6, is_met=True) != ""
    assert solved([1e-5] * 6, is_met=False) == ""
    assert solved([1e-5] * 5, is_met=True) == ""
    assert solved([1e-5] * 5 + [1e-2], is_met=True) == ""
