"""From which loss on a model is worth nothing, and which loss a budget allows."""

from __future__ import annotations

import pytest

from modeltailor.search.sampler.goal import DEFAULT_LOSS, allowed_loss, worthless_loss
from modeltailor.targets import Budget


@pytest.mark.parametrize(
    ("budget", "metric", "minimize", "allowed"),
    [
        (Budget(), 0.9, False, None),
        (Budget(max_drop=2.0), 0.9, False, 0.02),
        (Budget(min_accuracy=0.85), 0.9, False, 0.05),
        (Budget(max_drop=2.0, min_accuracy=0.85), 0.9, False, 0.02),
        (Budget(min_accuracy=4.0), 3.4, True, 0.6),
        (Budget(min_accuracy=0.95), 0.9, False, -0.05),
    ],
)
def test_what_a_budget_allows(budget: Budget, metric: float, minimize: bool, allowed: float | None) -> None:
    assert allowed_loss(budget, metric, minimize=minimize) == (None if allowed is None else pytest.approx(allowed))


def test_a_score_between_0_and_1_loses_ten_points_at_most() -> None:
    for budget in (Budget(), Budget(max_drop=1.0), Budget(min_accuracy=0.95)):
        assert worthless_loss(budget, 0.9) == DEFAULT_LOSS


def test_what_the_budget_allows_is_worth_something() -> None:
    assert worthless_loss(Budget(max_drop=20.0), 0.9) > 0.2
    assert worthless_loss(Budget(min_accuracy=0.5), 0.9) > 0.4


@pytest.mark.parametrize("metric", [0.002, 0.3, 40.0])
def test_errors_are_judged_by_their_own_size(metric: float) -> None:
    assert worthless_loss(Budget(), metric, minimize=True) == pytest.approx(metric / 2)
    assert worthless_loss(Budget(min_accuracy=3 * metric), metric, minimize=True) > 2 * metric
    assert worthless_loss(Budget(), 0.0, minimize=True) == DEFAULT_LOSS
