"""What a study's values are, and what is asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modeltailor.errors import ConfigError
from modeltailor.search.front import Objective
from modeltailor.search.scale import DEFAULT_LOSS, drop_points, usual_worthless_loss
from modeltailor.targets import Budget

__all__ = ["DEFAULT_LOSS", "LEAST_TARGET", "Goal", "allowed_loss", "worthless_loss"]

_BEYOND = 1.25
"""What a budget allows must be worth something: losses count for nothing only from so many times that on."""

LEAST_TARGET = 0.02
"""Of what is worth anything: limits aim no lower. A box that a limit of no loss cuts to nothing has no volume to gain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the study's objectives are and what is asked of them.

    Attributes:
        objectives: in the order of the study's values, all minimised; ``accuracy`` stands for the loss of it (0..1).
        limits: the user's budget by objective, in the study's units.
        reference: values from which on a model is worth nothing, by objective. By default a loss of 0.1 and, of the
            others, what the original costs (its measured value once there is one).
        loss_ceiling: the largest possible loss (accuracy of the original less that of guessing), if known.
        evaluation_s: seconds of one trial without training, to weigh it against training.
    """

    objectives: tuple[Objective, ...] = ("accuracy", "latency", "size")
    limits: tuple[tuple[Objective, float], ...] = ()
    reference: tuple[tuple[Objective, float], ...] = ()
    loss_ceiling: float | None = None
    evaluation_s: float = 1.0

    def __post_init__(self) -> None:
        if len(set(self.objectives)) != len(self.objectives) or not 2 <= len(self.objectives) <= 4:
            raise ConfigError("CFG-08", "goal", f"needs 2 to 4 distinct objectives; got {self.objectives}")
        unknown = {o for o, _ in (*self.limits, *self.reference)} - set(self.objectives)
        if unknown:
            raise ConfigError("CFG-08", "goal", f"limits what is no objective: {sorted(unknown)}", "add it, or drop it")

    @staticmethod
    def of(
        objectives: Sequence[Objective],
        budget: Budget,
        *,
        latency_ms: float,
        metric: float,
        minimize: bool = False,
        reference: Sequence[tuple[Objective, float]] = (),
        loss_ceiling: float | None = None,
        evaluation_s: float = 1.0,
        elsewhere: float | None = None,
    ) -> Goal:
        """Return the goal of a study whose latencies are ratios to the original.

        Args:
            objectives: in the order of the study's values.
            budget: the user's limits.
            latency_ms: of the original.
            metric: value of the original.
            minimize: whether a smaller metric is better.
            reference: values from which on a model is worth nothing.
            loss_ceiling: the largest possible loss.
            evaluation_s: seconds of one trial without training.
            elsewhere: limit of the time on further devices, as a ratio to the original.
        """
        limits: list[tuple[Objective, float]] = []
        allowed = allowed_loss(budget, metric, minimize=minimize)
        if allowed is not None:
            limits.append(("accuracy", allowed))
        if budget.latency_ms is not None:
            limits.append(("latency", budget.latency_ms / latency_ms))
        if budget.size_bytes is not None:
            limits.append(("size", float(budget.size_bytes)))
        if budget.memory_bytes is not None:
            limits.append(("memory", float(budget.memory_bytes)))
        if elsewhere is not None:
            limits.append(("elsewhere", elsewhere))
        return Goal(
            objectives=tuple(objectives),
            limits=tuple((o, v) for o, v in limits if o in objectives),
            reference=tuple(reference),
            loss_ceiling=loss_ceiling,
            evaluation_s=evaluation_s,
        )


def allowed_loss(budget: Budget, metric: float, *, minimize: bool = False) -> float | None:
    """Return the largest loss of the metric that a budget allows, in the metric's unit; ``None`` without a limit.

    Args:
        budget: the user's limits.
        metric: value of the original.
        minimize: whether a smaller metric is better.
    """
    losses = []
    points = drop_points(budget, metric, minimize=minimize)
    if points is not None:
        losses.append(points / 100.0)
    if budget.min_accuracy is not None:
        losses.append(budget.min_accuracy - metric if minimize else metric - budget.min_accuracy)
    return min(losses, default=None)


def worthless_loss(budget: Budget, metric: float, *, minimize: bool = False) -> float:
    """Return the loss of the metric from which on a model is worth nothing to this user, in the metric's unit.

    Of a score between 0 and 1 it is :data:`DEFAULT_LOSS`, of anything else half of what the original has; more where the
    budget allows more.

    Args:
        budget: the user's limits.
        metric: value of the original.
        minimize: whether a smaller metric is better.
    """
    usual = usual_worthless_loss(metric, minimize=minimize)
    return max(usual, _BEYOND * (allowed_loss(budget, metric, minimize=minimize) or 0.0))
