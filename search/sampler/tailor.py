"""The sampler: solve what the costs say, try it, learn, solve again.

Each proposal conditions one additive model an objective on the finished trials, solves the knapsack along the whole
front for the expected costs and for samples of them (Thompson sampling gives variety where the costs are unsure), and
takes the recipe whose expected gain of hypervolume, exactly computed, is largest per second that it costs. Structures
are arms: what training one would open up is weighed by what its next trials would gain together.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import ThreadpoolController

from modeltailor.errors import ConfigError
from modeltailor.search.front import Objective
from modeltailor.search.hypervolume import Boxes, cut_boxes, non_dominated
from modeltailor.search.sampler.costs import CostArrays, CostTable
from modeltailor.search.sampler.draw import Draw
from modeltailor.search.sampler.goal import DEFAULT_LOSS, LEAST_TARGET, Goal
from modeltailor.search.sampler.knapsack import PairCosts, distinct, front_choices
from modeltailor.search.sampler.space import PASSED_OVER, SearchSpace
from modeltailor.search.sampler.surrogate import AdditiveModel, Belief

__all__ = ["TailorSampler"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_CONSTRAINTS: Mapping[str, tuple[Objective, bool]] = {
    "latency": ("latency", True),
    "size": ("size", True),
    "memory": ("memory", True),
    "elsewhere": ("elsewhere", True),
    "drop": ("accuracy", False),
    "accuracy": ("accuracy", False),
}
"""Objective behind a constraint's name, and whether its excess is a share of the limit or points of the metric."""

_WEIGHTINGS = 192  # weighted sums that are minimised a proposal, over all structures


_EXACT = 96  # candidates a structure whose uncertainty is computed
_CURIOSITY = 0.3  # share of the uncertainty that may attract: more of it explored more than it gained on the landscapes
_MOST_ARMS = 4  # structures whose candidates are looked at closely in one proposal
_MOST_FAILURES = 2  # a structure that failed so often, and never worked, is given up
_HORIZON = 6  # trials over which the training of a structure is written off


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _History:
    """The trials of a study as arrays: what is measured, and what has been proposed in any way."""

    structures: Indices
    choices: Indices
    values: Floats
    constraints: tuple[Mapping[str, float], ...]
    other_values: Floats
    failed: Indices
    pending_structures: Indices
    pending_choices: Indices
    taken: frozenset[bytes]


@functools.cache
def _algebra() -> ThreadpoolController:
    """Threads of the linear algebra: one is quicker than two on matrices of this size, and rounds alike everywhere."""
    return ThreadpoolController()


def _key(structure: int, choice: Indices) -> bytes:
    return structure.to_bytes(4, "little") + choice.astype(np.int16).tobytes()


class TailorSampler(BaseSampler):
    """An Optuna sampler that knows the costs of the decisions and learns the rest.

    The next recipe is a function of the seed, the trial's number and the history in the study; the sampler keeps no
    state of its own, so a study can be resumed in another process.

    Args:
        space: what can be decided.
        costs: the additive prior.
        goal: the study's objectives, budget and reference.
        seed: of everything that is drawn.
        affordable: tells whether a structure that has not been tried may be proposed: there is still time to train it, and it
            is not for others to begin. All may by default.

    Attributes:
        expected_gains: of this object's proposals, in order, each as a share of the box up to the target; for those who
            want to know when to stop. Proposals do not depend on it.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: CostTable,
        *,
        goal: Goal | None = None,
        seed: int = 0,
        affordable: Callable[[str], bool] | None = None,
    ) -> None:
        self.space = space
        self.costs = costs
        self.goal = goal or Goal()
        self.seed = seed
        self.affordable = affordable
        self.expected_gains: list[float] = []
        self._arrays: CostArrays = costs.arrays(space)
        self._distributions = space.distributions()
        self._decoded: dict[int, tuple[int, Indices] | None] = {}  # finished trials do not change: a cache, no state

    def __str__(self) -> str:
        return f"TailorSampler(seed={self.seed})"

    # --- Optuna's interface -------------------------------------------------------------------------------------------

    def reseed_rng(self) -> None:
        """Nothing to do: randomness comes from the seed and the trial's number, which differ between threads anyway."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All decisions are proposed together."""
        return dict(self._distributions)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter that is not of the search space is drawn at random."""
        seed = zlib.crc32(f"{self.seed}/{trial.number}/{param_name}".encode())
        return RandomSampler(seed=seed).sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose the next recipe.

        Raises:
            ConfigError: the study's objectives are not those of the goal.
        """
        if len(study.directions) != len(self.goal.objectives) or any(d.name != "MINIMIZE" for d in study.directions):
            raise ConfigError(
                "CFG-08", "study", f"must minimise {', '.join(self.goal.objectives)}, in this order",
                "create it with directions=['minimize'] * the number of objectives",
            )  # fmt: skip
        if not search_space:
            return {}
        with _algebra().limit(limits=1, user_api="blas"):
            structure, choice = self.propose(self._history(study, trial), trial.number)
        params = self.space.params_of_indices(structure, choice)
        return {name: params[name] for name in search_space}

    # --- history ------------------------------------------------------------------------------------------------------

    def _decode(self, trial: FrozenTrial) -> tuple[int, Indices] | None:
        if trial.number in self._decoded:
            return self._decoded[trial.number]
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        found = self.space.indices_of_params(params)
        if trial.state.is_finished():
            self._decoded[trial.number] = found
        return found

    def _history(self, study: Study, asking: FrozenTrial) -> _History:
        m = len(self.goal.objectives)
        done: list[tuple[int, Indices]] = []
        pending: list[tuple[int, Indices]] = []
        values: list[Sequence[float]] = []
        others: list[Sequence[float]] = []  # baselines that were stored without parameters
        constraints: list[Mapping[str, float]] = []
        failed: list[int] = []
        taken: set[bytes] = set()
        for trial in study.get_trials(deepcopy=False):
            if trial.number == asking.number:
                continue
            recipe = self._decode(trial)
            measured = trial.state == TrialState.COMPLETE and bool(np.isfinite(trial.values).all())
            if recipe is None:
                if measured:
                    others.append(trial.values)
                continue
            if PASSED_OVER in trial.user_attrs:
                continue
            taken.add(_key(*recipe))
            if measured:
                done.append(recipe)
                values.append(trial.values)
                constraints.append(trial.constraints)
            elif trial.state == TrialState.RUNNING:
                pending.append(recipe)
            elif trial.state == TrialState.FAIL:
                failed.append(recipe[0])
        s = self.space.n_sites
        return _History(
            structures=np.array([t for t, _ in done], dtype=np.int64),
            choices=np.array([c for _, c in done], dtype=np.int64).reshape(-1, s),
            values=np.array(values, dtype=np.float64).reshape(-1, m),
            constraints=tuple(constraints),
            other_values=np.array(others, dtype=np.float64).reshape(-1, m),
            failed=np.array(failed, dtype=np.int64),
            pending_structures=np.array([t for t, _ in pending], dtype=np.int64),
            pending_choices=np.array([c for _, c in pending], dtype=np.int64).reshape(-1, s),
            taken=frozenset(taken),
        )

    # --- the proposal -------------------------------------------------------------------------------------------------

    def reference_of(self, history: _History) -> Floats:
        """The values from which on a model is worth nothing, in the order of the objectives."""
        given = dict(self.goal.reference)
        origin = np.zeros((1, self.space.n_sites), dtype=np.int64)
        at_origin = np.flatnonzero((history.structures == 0) & (history.choices == 0).all(axis=1))
        out = np.empty(len(self.goal.objectives))
        for m, objective in enumerate(self.goal.objectives):
            if objective in given:
                out[m] = given[objective]
            elif objective == "accuracy":
                out[m] = DEFAULT_LOSS
            elif len(at_origin):
                out[m] = history.values[at_origin[0], m]
            else:
                out[m] = self._arrays.predict(objective, 0, origin)[0]
        return out

    def _limits(self, history: _History) -> Floats:
        """The values to aim at so that the limits are kept: where a constraint is judged on more than the value, less.

        A budget is kept on the upper end of an interval. By how much that end lies over the value is read off the
        constraints of the trials nearest to the limit.
        """
        limits = dict(self.goal.limits)
        out = np.array([limits.get(o, np.inf) for o in self.goal.objectives])
        for key, (objective, relative) in _CONSTRAINTS.items():
            if objective not in limits:
                continue
            m = self.goal.objectives.index(objective)
            unit = limits[objective] if relative else 0.01
            rows = [i for i, c in enumerate(history.constraints) if key in c]
            kept_at = np.array([history.values[i, m] - unit * history.constraints[i][key] for i in rows])
            if rows:
                nearest = np.argsort(np.abs(history.values[rows, m] - limits[objective]), kind="stable")[:5]
                out[m] = min(out[m], max(float(np.median(kept_at[nearest])), 0.1 * limits[objective]))
        return out

    def _beliefs(self, history: _History, reference: Floats) -> list[Belief]:
        beliefs = []
        for m, objective in enumerate(self.goal.objectives):
            model = AdditiveModel.of(
                objective, self.space, self._arrays, unit=float(max(abs(reference[m]), 1e-12)),
                ceiling=self.goal.loss_ceiling if objective == "accuracy" else None,
            )  # fmt: skip
            beliefs.append(model.condition(history.structures, history.choices, history.values[:, m]))
        return beliefs

    def propose(self, history: _History, number: int) -> tuple[int, Indices]:
        """Return structure index and choices of the next recipe after ``history``, for the trial of that number."""
        rng = np.random.default_rng([self.seed, number])
        whole = self.reference_of(history)
        beliefs = self._beliefs(history, whole)
        target = whole.copy()
        if self.goal.limits and number % 4 != 3:  # a share of the trials keeps the whole front in view
            # A limit may be what the original reaches or better (no loss at all): what is aimed at stays a box.
            target = np.clip(self._limits(history), LEAST_TARGET * whole, whole)
        boxes = cut_boxes(self._believed(history, beliefs), target)
        tried = set(history.structures.tolist()) | set(history.pending_structures.tolist())
        best: tuple[float, int, Indices, float] | None = None
        for t in self._arms(history, tried, beliefs, boxes, rng):
            found = self._best_of_structure(t, t in tried, beliefs, boxes, history, rng)
            if found is not None and (best is None or found[0] > best[0]):
                best = (found[0], t, found[1], found[2])
        if best is None:
            self.expected_gains.append(0.0)
            return self._fallback(history, rng)
        self.expected_gains.append(max(0.0, best[3]) / float(np.prod(np.abs(target))))
        return best[1], best[2]

    def _believed(self, history: _History, beliefs: list[Belief]) -> Floats:
        """Where the trials are believed to lie: a lucky measurement must not stand in the way of what is better.

        Running trials stand where they are expected.
        """
        structures = np.concatenate([history.structures, history.pending_structures])
        if not len(structures):
            return history.other_values
        choices = np.vstack([history.choices, history.pending_choices])
        smoothed = np.stack([b.predict(structures, choices)[0] for b in beliefs], axis=1)
        return np.vstack([smoothed, history.other_values])

    def _open(self, history: _History, tried: set[int]) -> list[int]:
        """Structures that may be proposed: not those that only failed, nor those there is no time to train."""
        names, known = self.space.structures, set(history.structures.tolist())
        hopeless = {
            t for t in range(len(names)) if t and t not in known and (history.failed == t).sum() >= _MOST_FAILURES
        }
        return [
            t
            for t in range(len(names))
            if t not in hopeless and (t == 0 or t in tried or self.affordable is None or self.affordable(names[t]))
        ]

    def _arms(
        self, history: _History, tried: set[int], beliefs: list[Belief], boxes: Boxes, rng: np.random.Generator
    ) -> list[int]:
        """The few structures that a first look at their expected fronts finds most worth their seconds."""
        arms = self._open(history, tried)
        if len(arms) <= _MOST_ARMS:
            return arms
        edges, rates = beliefs[0].model.edges, []
        for t in arms:
            draws = [b.draw(t) for b in beliefs]
            choices = self._solve(draws, beliefs, 24, rng)
            values = [b.model.bend(d.total(edges, choices)) for b, d in zip(beliefs, draws, strict=True)]
            points = np.stack(values, axis=1)
            new = [_key(t, c) not in history.taken for c in choices]
            gains = np.where(new, boxes.gains(points), 0.0)
            rates.append(self._rate(t, t in tried, gains, points, boxes))
        order = np.argsort(-np.round(np.array(rates) / max(*rates, 1e-300), 9), kind="stable")
        return [arms[i] for i in order[:_MOST_ARMS]]

    def _best_of_structure(
        self, t: int, is_trained: bool, beliefs: list[Belief], boxes: Boxes, history: _History, rng: np.random.Generator
    ) -> tuple[float, Indices, float] | None:
        """The recipe of largest expected gain a second in one structure, and that gain; ``None`` if all are taken."""
        expected = [b.draw(t) for b in beliefs]
        candidates = self._candidates(t, expected, beliefs, history, rng)
        candidates = candidates[[_key(t, c) not in history.taken for c in candidates]]
        if not len(candidates):
            return None
        edges = beliefs[0].model.edges
        guess = np.stack(
            [b.model.bend(d.total(edges, candidates)) for b, d in zip(beliefs, expected, strict=True)], axis=1
        )
        order = self._promising(guess, boxes)
        candidates = candidates[order]
        structures = np.full(len(candidates), t, dtype=np.int64)
        predicted = [b.predict(structures, candidates) for b in beliefs]
        mean = np.stack([m for m, _ in predicted], axis=1)
        gains = boxes.expected_gains(mean, _CURIOSITY * np.stack([s for _, s in predicted], axis=1))
        if gains.max() <= 0.0:
            # Nothing is expected to gain: come as near to the target as can be.
            gains = -1e9 - (np.maximum(mean / boxes.reference - 1.0, 0.0)).max(axis=1)
            best = int(np.argmax(np.round(gains, 9)))
            return float(gains[best]), candidates[best], 0.0
        best = int(np.argmax(np.round(gains / gains.max(), 9)))
        return self._rate(t, is_trained, gains, mean, boxes), candidates[best], float(gains[best])

    def _rate(self, t: int, is_trained: bool, gains: Floats, mean: Floats, boxes: Boxes) -> float:
        """Expected gain a second of the structure's next trials; training is written off over several of them."""
        train_s = float(self._arrays.train_s[t])
        if is_trained or train_s <= 0.0:
            return float(gains.max()) / self.goal.evaluation_s
        # Gains of a set are less than their sum; expected values stand in for the trials to come.
        points: list[Floats] = []
        total, best = float(gains.max()), int(np.argmax(gains))
        free = boxes
        for _ in range(_HORIZON - 1):
            points.append(mean[best])
            free = _add_point(free, points[-1])
            further = free.gains(mean)
            best = int(np.argmax(further))
            total += float(further[best])
        return total / (train_s + _HORIZON * self.goal.evaluation_s)

    def _promising(self, guess: Floats, boxes: Boxes) -> Indices:
        """The candidates worth a closer look: those that gain by expectation, then those nearest to the front."""
        gains = boxes.gains(guess)
        near = -np.maximum(guess / boxes.reference, 0.0).sum(axis=1)
        ranked = np.lexsort((-near, -np.round(gains / max(gains.max(), 1e-300), 9)))
        on_front = non_dominated(guess)
        ranked = np.concatenate([ranked[on_front[ranked]], ranked[~on_front[ranked]]])
        out: Indices = ranked[:_EXACT].astype(np.int64)
        return out

    def _candidates(
        self, t: int, expected: list[Draw], beliefs: list[Belief], history: _History, rng: np.random.Generator
    ) -> Indices:
        """Fronts of the expected and of sampled costs, and neighbours of what they and the history hold."""
        tried = set(history.structures.tolist()) | set(history.pending_structures.tolist())
        share = max(24, _WEIGHTINGS // min(4, len(self._open(history, tried))))
        found = [self._solve(expected, beliefs, share // 2, rng)]

        for _ in range(2):
            found.append(self._solve([b.draw(t, rng) for b in beliefs], beliefs, share // 4, rng))
        own = history.choices[history.structures == t]
        if len(own):
            own = own[non_dominated(history.values[history.structures == t])]
        base = np.vstack([*found, own])
        base[:, ~self._arrays.present[t]] = 0
        found.append(self._neighbours(base, share, rng))
        everything = np.vstack([base, found[-1]])
        everything[:, ~self._arrays.present[t]] = 0
        return distinct(everything)

    def _solve(self, draws: list[Draw], beliefs: list[Belief], n: int, rng: np.random.Generator) -> Indices:
        versions = list(itertools.product(*(d.linear() for d in draws)))
        found = []
        for version in versions:
            pairs = PairCosts(edges=beliefs[0].model.edges, costs=np.stack([p for _, p in version]))
            costs = np.stack([own for own, _ in version])
            share = -(-n // len(versions))
            found.append(front_choices(costs, self._arrays.allowed, rng, n_weightings=share, pairs=pairs))
        return np.concatenate(found)

    def _neighbours(self, base: Indices, n: int, rng: np.random.Generator) -> Indices:
        """Recipes that differ from others at one to three sites."""
        out = base[rng.integers(len(base), size=n)].copy()
        options = np.array(self.space.n_options)
        for row in out:
            sites = rng.integers(self.space.n_sites, size=int(rng.integers(1, 4)))
            row[sites] = rng.integers(options[sites])
        return out

    def _fallback(self, history: _History, rng: np.random.Generator) -> tuple[int, Indices]:
        """A random recipe that has not been tried; if there is none left, any."""
        options = np.array(self.space.n_options)
        arms = self._open(history, set(history.structures.tolist()))
        t, choice = 0, np.zeros(self.space.n_sites, dtype=np.int64)
        for _ in range(1000):
            t = int(rng.choice(arms))
            choice = rng.integers(options)
            choice[~self._arrays.present[t]] = 0
            if _key(t, choice) not in history.taken:
                break
        return t, choice


def _add_point(boxes: Boxes, point: Floats) -> Boxes:
    """What is left of disjoint boxes once ``point`` dominates a corner of them."""
    inside = (point < boxes.upper).all(axis=1)
    lower, upper = [boxes.lower[~inside]], [boxes.upper[~inside]]
    low, high = boxes.lower[inside].copy(), boxes.upper[inside].copy()
    for j in range(boxes.lower.shape[1]):
        # The slab below the point in coordinate j stays free; the rest goes on to the next coordinate.
        cut = np.clip(point[j], low[:, j], high[:, j])
        slab_high = high.copy()
        slab_high[:, j] = cut
        keep = slab_high[:, j] > low[:, j]
        lower.append(low[keep].copy())
        upper.append(slab_high[keep])
        low[:, j] = cut
    return Boxes(lower=np.concatenate(lower), upper=np.concatenate(upper), reference=boxes.reference)
