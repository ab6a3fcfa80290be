"""What can be decided: which structure, and which format at each site. A frozen value, and its Optuna parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import BaseTrial, Trial

from modeltailor.errors import ConfigError

__all__ = ["FORMATS_ATTRIBUTE", "PASSED_OVER", "STRUCTURE", "Assignment", "Decision", "Encoding", "SearchSpace"]

Assignment = dict[str, str]
"""Chosen option by site name."""

Encoding = Literal["name", "ordinal", "packed"]
"""How a site's choice is written as an Optuna parameter.

``name``: one categorical parameter a site, its value the option's name. ``ordinal``: one integer a site, the option's
index (for samplers that use order, as TPE does). ``packed``: one integer for a run of sites, mixed radix, with the
readable choice in the user attribute ``formats`` (for a thousand sites: every parameter costs the storage a write).
"""

PASSED_OVER = "passed_over"
"""Name of the user attribute of trials that were asked for and not evaluated, for lack of time: they failed at nothing."""

STRUCTURE = "structure"
"""Name of the Optuna parameter that holds the structure's name."""

FORMATS_ATTRIBUTE = "formats"
"""Name of the user attribute that holds the readable choice where parameters are packed."""

_PACKED_LIMIT = 2**53  # Optuna keeps a parameter as a float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One choice: a site and its options.

    Attributes:
        name: of the site; also the name of its Optuna parameter.
        options: names of the formats, best first by convention (``fp32`` or ``w8a8`` before ``w2a8``).
    """

    name: str
    options: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise ConfigError("CFG-08", self.name, f"options must be distinct and at least one; got {self.options}")
        if self.name == STRUCTURE:
            raise ConfigError("CFG-08", self.name, "this name is taken by the choice of structure", "rename the site")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """All decisions of a search.

    Choices are handled as index vectors: entry ``i`` is the index of the option chosen at ``decisions[i]``. Sites that
    a structure lacks always have index 0, so that equal recipes are equal vectors.

    Attributes:
        decisions: the sites in the order of execution.
        structures: names of the structures; the first is the original network.
        absent: sites that a structure lacks, by structure name.
        encoding: how choices become Optuna parameters.
    """

    decisions: tuple[Decision, ...]
    structures: tuple[str, ...] = ("original",)
    absent: tuple[tuple[str, tuple[str, ...]], ...] = ()
    encoding: Encoding = "name"

    def __post_init__(self) -> None:
        names = [d.name for d in self.decisions]
        if len(set(names)) != len(names):
            raise ConfigError("CFG-08", "search space", "a site is named twice", "name each site once")
        if not self.structures or len(set(self.structures)) != len(self.structures):
            raise ConfigError("CFG-08", "search space", "structures must be distinct and at least one")
        unknown = {s for s, _ in self.absent} - set(self.structures)
        unknown |= {site for _, sites in self.absent for site in sites} - set(names)
        if unknown:
            raise ConfigError("CFG-08", "search space", f"absent names what is not there: {sorted(unknown)}")

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return len(self.decisions)

    @property
    def n_options(self) -> tuple[int, ...]:
        """Number of options by site."""
        return tuple(len(d.options) for d in self.decisions)

    @property
    def size(self) -> int:
        """Number of different recipes."""
        lacking = dict(self.absent)
        return sum(
            math.prod(len(d.options) for d in self.decisions if d.name not in lacking.get(s, ()))
            for s in self.structures
        )

    def present(self) -> NDArray[np.bool_]:
        """Which structure has which site, shape ``(structures, sites)``."""
        mask = np.ones((len(self.structures), self.n_sites), dtype=np.bool_)
        column = {d.name: i for i, d in enumerate(self.decisions)}
        for structure, sites in self.absent:
            mask[self.structures.index(structure), [column[s] for s in sites]] = False
        return mask

    def indices_of(self, structure: str, assignment: Mapping[str, str]) -> tuple[int, NDArray[np.int64]]:
        """Return structure index and canonical index vector; sites that are not named get their first option.

        Raises:
            ConfigError: the structure, a site or an option does not exist.
        """
        unknown = set(assignment) - {d.name for d in self.decisions}
        if structure not in self.structures or unknown:
            raise ConfigError(
                "CFG-08", "recipe", f"not in the search space: {sorted(unknown) or structure}", "use its own names"
            )
        vector = np.zeros(self.n_sites, dtype=np.int64)
        for i, decision in enumerate(self.decisions):
            option = assignment.get(decision.name, decision.options[0])
            if option not in decision.options:
                raise ConfigError(
                    "CFG-08",
                    decision.name,
                    f"'{option}' is no option here",
                    f"use one of {', '.join(decision.options)}",
                )
            vector[i] = decision.options.index(option)
        index = self.structures.index(structure)
        vector[~self.present()[index]] = 0
        return index, vector

    def assignment_of(self, structure_index: int, vector: NDArray[np.int64]) -> tuple[str, Assignment]:
        """Return structure name and option by site name, without the sites that the structure lacks."""
        present = self.present()[structure_index]
        chosen = {d.name: d.options[int(vector[i])] for i, d in enumerate(self.decisions) if present[i]}
        return self.structures[structure_index], chosen

    def uniform(self, option: str, structure: str | None = None) -> tuple[str, Assignment]:
        """Return the recipe that takes ``option`` at every site that has it, and the first option elsewhere."""
        chosen = {d.name: option if option in d.options else d.options[0] for d in self.decisions}
        return structure or self.structures[0], chosen

    # --- as Optuna parameters -----------------------------------------------------------------------------------------

    def _runs(self) -> list[tuple[str, int, int]]:
        """Runs of sites that share one packed parameter: name, first, one past the last."""
        runs, first, product = [], 0, 1
        for i, n in enumerate(self.n_options):
            if product * n >= _PACKED_LIMIT:
                runs.append((first, i))
                first, product = i, 1
            product *= n
        runs.append((first, self.n_sites))
        return [(f"{FORMATS_ATTRIBUTE}[{a}:{b}]", a, b) for a, b in runs if b > a]

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distributions by parameter name. A choice of one is no parameter."""
        found: dict[str, BaseDistribution] = {}
        if len(self.structures) > 1:
            found[STRUCTURE] = CategoricalDistribution(self.structures)
        if self.encoding == "packed":
            n_options = self.n_options
            for name, a, b in self._runs():
                top = math.prod(n_options[a:b]) - 1
                if top > 0:
                    found[name] = IntDistribution(0, top)
            return found
        for d in self.decisions:
            if len(d.options) > 1:
                ordinal = self.encoding == "ordinal"
                found[d.name] = (
                    IntDistribution(0, len(d.options) - 1) if ordinal else CategoricalDistribution(d.options)
                )
        return found

    def params_of(self, structure: str, assignment: Mapping[str, str]) -> dict[str, Any]:
        """Return the Optuna parameters of a recipe, for ``study.enqueue_trial``.

        Raises:
            ConfigError: the structure, a site or an option does not exist.
        """
        return self.params_of_indices(*self.indices_of(structure, assignment))

    def params_of_indices(self, structure_index: int, vector: NDArray[np.int64]) -> dict[str, Any]:
        """Return the Optuna parameters of a recipe given as indices."""
        params: dict[str, Any] = {}
        if len(self.structures) > 1:
            params[STRUCTURE] = self.structures[structure_index]
        if self.encoding == "packed":
            n_options = self.n_options
            for name, a, b in self._runs():
                if math.prod(n_options[a:b]) > 1:
                    number = 0
                    for n, digit in zip(n_options[a:b], vector[a:b].tolist(), strict=True):
                        number = number * n + digit
                    params[name] = number
            return params
        for d, i in zip(self.decisions, vector.tolist(), strict=True):
            if len(d.options) > 1:
                params[d.name] = i if self.encoding == "ordinal" else d.options[i]
        return params

    def indices_of_params(self, params: Mapping[str, Any]) -> tuple[int, NDArray[np.int64]] | None:
        """Read a recipe back from Optuna parameters; ``None`` if they are incomplete or not of this space."""
        vector = np.zeros(self.n_sites, dtype=np.int64)
        try:
            index = self.structures.index(params[STRUCTURE]) if len(self.structures) > 1 else 0
            if self.encoding == "packed":
                n_options = self.n_options
                for name, a, b in self._runs():
                    number = int(params[name]) if math.prod(n_options[a:b]) > 1 else 0
                    for i in range(b - 1, a - 1, -1):
                        number, vector[i] = divmod(number, n_options[i])
                    if number:
                        return None
            else:
                for i, d in enumerate(self.decisions):
                    if len(d.options) > 1:
                        value = params[d.name]
                        vector[i] = int(value) if self.encoding == "ordinal" else d.options.index(value)
        except (KeyError, ValueError):
            return None
        if (vector < 0).any() or (vector >= np.array(self.n_options, dtype=np.int64)).any():
            return None
        vector[~self.present()[index]] = 0
        return index, vector

    def suggest_structure(self, trial: BaseTrial) -> str:
        """Ask the trial for the structure alone; :meth:`suggest` will say the same one."""
        if len(self.structures) == 1:
            return self.structures[0]
        return str(trial.suggest_categorical(STRUCTURE, self.structures))

    def suggest(self, trial: BaseTrial) -> tuple[str, Assignment]:
        """Ask the trial for every parameter and return structure name and option by site name.

        Works with any sampler, with enqueued trials and with ``FixedTrial``. With packed parameters the readable choice
        is kept in the user attribute ``formats``.
        """
        params: dict[str, Any] = {}
        for name, distribution in self.distributions().items():
            if isinstance(distribution, CategoricalDistribution):
                params[name] = trial.suggest_categorical(name, distribution.choices)
            elif isinstance(distribution, IntDistribution):
                params[name] = trial.suggest_int(name, distribution.low, distribution.high)
        found = self.indices_of_params(params)
        if found is None:
            raise ConfigError("CFG-08", "trial", "its parameters are not of this search space", "start a new study")
        structure, assignment = self.assignment_of(*found)
        if self.encoding == "packed" and isinstance(trial, Trial):
            trial.set_user_attr(FORMATS_ATTRIBUTE, assignment)
        return structure, assignment
