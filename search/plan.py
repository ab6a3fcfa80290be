"""How long, how many and along which axes to search."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from modeltailor.compress import Training
from modeltailor.errors import ConfigError

__all__ = ["AXES", "Axis", "SamplerName", "SearchPlan"]

Axis = Literal["formats", "sparsity", "student"]
SamplerName = Literal["tailor", "tpe", "nsga2", "nsga3", "gp", "random"]

AXES: tuple[Axis, ...] = ("formats", "sparsity", "student")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """The search's own limits.

    Attributes:
        trials: candidates to evaluate in the whole study, baselines included; a resumed run does not start over.
        time_s: seconds of wall clock for the whole run, training and the final measurement included.
        seed: of everything that is drawn.
        axes: what may be changed.
        sampler: which sampler proposes.
        recovery: whether recipes may learn again with their formats.
        training: how changed networks learn, but for how long.
        epochs: passes over the train split for one structure or recovery; ``None``: as many as the time allows.
        trial_timeout_s: a candidate whose build or scoring takes longer has failed.
        memory_limit_bytes: of each child process.
    """

    trials: int = 60
    time_s: float = 1200.0
    seed: int = 0
    axes: tuple[Axis, ...] = AXES
    sampler: SamplerName = "tailor"
    recovery: bool = True
    training: Training = field(default_factory=Training)
    epochs: float | None = None
    trial_timeout_s: float = 300.0
    memory_limit_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ConfigError("CFG-15", "search.trials", f"must be at least 1; got {self.trials}", "give more trials")
        if not (math.isfinite(self.time_s) and self.time_s >= 10.0):
            raise ConfigError(
                "CFG-15", "search.time", f"must be at least 10 s, one baseline; got {self.time_s:g} s", "give more time"
            )
        if not self.axes:
            raise ConfigError("CFG-08", "search.axes", "must name at least one axis", f"use {', '.join(AXES)}")
