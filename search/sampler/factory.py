"""One door to every sampler the product offers."""

from __future__ import annotations

import optuna
from optuna.samplers import BaseSampler

from modeltailor.errors import ConfigError
from modeltailor.search.plan import SamplerName
from modeltailor.search.sampler.costs import CostTable
from modeltailor.search.sampler.goal import Goal
from modeltailor.search.sampler.participants import ParticipantsSampler
from modeltailor.search.sampler.space import Encoding, SearchSpace
from modeltailor.search.sampler.tailor import TailorSampler

__all__ = ["SAMPLERS", "encoding_for", "make_sampler"]

SAMPLERS: tuple[SamplerName, ...] = ("tailor", "tpe", "nsga2", "nsga3", "gp", "random")


_MOST_NAMED = 64
"""Sites up to which every choice is a parameter of its own: SQLite writes some 1.4 ms a parameter and trial."""


def encoding_for(name: SamplerName, n_sites: int) -> Encoding:
    """Return how a space is best written as parameters: readable names while they are cheap, order where it is used."""
    if name != "tailor":
        return "ordinal"
    return "name" if n_sites <= _MOST_NAMED else "packed"


def make_sampler(
    name: SamplerName,
    *,
    seed: int = 0,
    space: SearchSpace | None = None,
    costs: CostTable | None = None,
    goal: Goal | None = None,
) -> BaseSampler:
    """Return the sampler of that name.

    Constraints reach every one of them through ``trial.set_constraint`` (at most 0 is feasible): set each constraint on
    each trial, a trial without any counts as feasible. ``tailor`` also needs the space and the costs, and takes the
    budget from the goal's limits.

    Args:
        name: ``tailor``, ``tpe``, ``nsga2``, ``nsga3``, ``gp`` or ``random``.
        seed: of everything that is drawn.
        space: what can be decided; ``tailor`` only.
        costs: the additive prior; ``tailor`` only.
        goal: objectives and budget; ``tailor`` only.

    Raises:
        ConfigError: no sampler has that name, or ``tailor`` lacks its space or costs.
    """
    match name:
        case "tailor":
            if space is None or costs is None:
                raise ConfigError("CFG-08", "sampler", "'tailor' needs a search space and a cost table", "pass both")
            return TailorSampler(space, costs, goal=goal, seed=seed)
        case "tpe":
            return ParticipantsSampler(optuna.samplers.TPESampler(seed=seed))
        case "nsga2":
            return ParticipantsSampler(optuna.samplers.NSGAIISampler(seed=seed))
        case "nsga3":
            return ParticipantsSampler(optuna.samplers.NSGAIIISampler(seed=seed))
        case "gp":
            return ParticipantsSampler(optuna.samplers.GPSampler(seed=seed))
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
        case _:
            raise ConfigError("CFG-10", "sampler", f"'{name}' is not known", f"use one of {', '.join(SAMPLERS)}")
