"""Optuna's own samplers beside trials that no sampler was asked for.

A run keeps its baselines and its recovered recipes in the study as finished trials without parameters. Optuna's relative
samplers (NSGA-II, NSGA-III, GP) search the parameters that all finished trials share: one trial without any leaves none, and
they draw at random from then on, without a word.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, cast

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

__all__ = ["ParticipantsSampler"]


class ParticipantsSampler(BaseSampler):
    """Shows a sampler only the trials that have parameters, or are to have them.

    Args:
        sampler: which proposes; any of Optuna's.
    """

    def __init__(self, sampler: BaseSampler) -> None:
        self.sampler = sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return what the sampler decides together."""
        return self.sampler.infer_relative_search_space(_participants(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the sampler's proposal for those parameters."""
        return self.sampler.sample_relative(_participants(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the sampler's proposal for one parameter."""
        return self.sampler.sample_independent(_participants(study), trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell the sampler that a trial begins."""
        self.sampler.before_trial(_participants(study), trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Tell the sampler how a trial ended."""
        self.sampler.after_trial(_participants(study), trial, state, values)

    def reseed_rng(self) -> None:
        """Give the sampler other random numbers."""
        self.sampler.reseed_rng()


def _participants(study: Study) -> Study:
    return cast("Study", _Participants(study))


class _Participants:
    """A study without its finished trials that have no parameters; all else is the study's own."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.get_trials()

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return _with_parameters(self._study.get_trials(deepcopy=deepcopy, states=states))

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return _with_parameters(self._study._get_trials(deepcopy=deepcopy, states=states, use_cache=use_cache))


def _with_parameters(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [t for t in trials if t.params or not t.state.is_finished()]
