"""One study of one sampler on a space with an evaluator, and the hypervolume that it reaches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import optuna

from modeltailor.search.hypervolume import hypervolume, non_dominated
from modeltailor.search.plan import SamplerName
from modeltailor.search.sampler import CostTable, Goal, SearchSpace, make_sampler

__all__ = ["Row", "Values", "curve", "fresh_curve", "run_study"]

Values = tuple[float, float, float]
Row = dict[str, object]


def run_study(
    name: SamplerName,
    space: SearchSpace,
    costs: CostTable,
    goal: Goal,
    evaluate: Callable[[dict[str, str]], Values],
    uniform: Sequence[str],
    n: int,
    seed: int,
) -> tuple[list[Values], list[dict[str, str]], float]:
    """Values and assignments of ``n`` evaluations, the uniform formats first, and the median seconds of one proposal."""
    encoding = "packed" if name == "tailor" and space.n_sites > 200 else "name" if name == "tailor" else "ordinal"
    space = replace(space, encoding=encoding)
    sampler = make_sampler(name, seed=seed, space=space, costs=costs, goal=goal)
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    for option in uniform:
        study.enqueue_trial(space.params_of(*space.uniform(option)))
    values, assignments, seconds = [], [], []
    for _ in range(n):
        trial = study.ask()
        started = time.process_time()
        _, assignment = space.suggest(trial)
        seconds.append(time.process_time() - started)
        assignments.append(dict(assignment))
        values.append(evaluate(assignment))
        study.tell(trial, values[-1])
    return values, assignments, statistics.median(seconds[len(uniform) :])


def curve(values: Sequence[Values], reference: Sequence[float], marks: Sequence[int]) -> list[float]:
    """Hypervolume after so many evaluations."""
    return [hypervolume(values[:k], reference) for k in marks]


def fresh_curve(
    values: Sequence[Values],
    assignments: Sequence[dict[str, str]],
    fresh: Callable[[dict[str, str]], float],
    reference: Sequence[float],
    marks: Sequence[int],
) -> list[float]:
    """Hypervolume of the fronts found, with the loss on samples that the search did not see.

    More evaluations find luckier scores on the samples that they see; what counts is what the models on the front are
    worth on others.
    """
    found = []
    for k in marks:
        on_front = non_dominated(np.array(values[:k]))
        kept = [(v, a) for v, a, keep in zip(values, assignments, on_front, strict=False) if keep]
        found.append(hypervolume([(fresh(a), v[1], v[2]) for v, a in kept], reference))
    return found
