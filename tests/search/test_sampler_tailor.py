"""The sampler in Optuna studies: what it finds, and that the same history gives the same next recipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest

from modeltailor.errors import ConfigError
from modeltailor.search.hypervolume import hypervolume
from modeltailor.search.landscapes import make_landscape
from modeltailor.search.sampler import (
    PASSED_OVER,
    SAMPLERS,
    CostTable,
    Decision,
    Goal,
    OptionCost,
    SearchSpace,
    SiteCosts,
    StructureCost,
    TailorSampler,
    make_sampler,
    solve,
)

_OPTIONS = ("fp32", "w8a8", "w4a8", "w2a8")
_REFERENCE = (0.1, 1.0, 1.0)


def _problem(
    n_sites: int = 8, structures: tuple[str, ...] = ("original",)
) -> tuple[SearchSpace, CostTable, np.ndarray]:
    rng = np.random.default_rng(0)
    share = rng.lognormal(size=n_sites)
    share /= share.sum()
    true = np.stack([
        rng.lognormal(size=(n_sites, 1)) / n_sites * np.array([0.0, 0.002, 0.02, 0.5]),
        share[:, None] * np.array([1.0, 0.45, 0.45, 0.45]),
        share[:, None] * np.array([32, 8, 4, 2]) / 32,
    ])  # fmt: skip
    guess = true * np.stack(
        [rng.lognormal(-0.4, 0.4, true.shape[1:]), np.ones(true.shape[1:]), np.ones(true.shape[1:])]
    )
    sites = tuple(
        SiteCosts(
            site=f"conv{i}",
            options=tuple(
                OptionCost(loss=float(a), latency_ms=float(b), size_bytes=float(c)) for a, b, c in guess[:, i].T
            ),
        )
        for i in range(n_sites)
    )  # fmt: skip
    space = SearchSpace(
        decisions=tuple(Decision(name=f"conv{i}", options=_OPTIONS) for i in range(n_sites)), structures=structures
    )
    return space, CostTable(sites=sites), true


def _evaluate(space: SearchSpace, true: np.ndarray, trial: optuna.Trial) -> list[float]:
    structure, vector = space.indices_of(*space.suggest(trial))
    own = true[:, np.arange(space.n_sites), vector].sum(axis=1)
    shrink = 1.0 - 0.3 * structure
    return [float(own[0] + 0.01 * structure), float(own[1] * shrink), float(own[2] * shrink)]


def _run(sampler: optuna.samplers.BaseSampler, space: SearchSpace, true: np.ndarray, n: int) -> optuna.Study:
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    for _ in range(n):
        trial = study.ask()
        study.tell(trial, _evaluate(space, true, trial))
    return study


def _reached(study: optuna.Study) -> float:
    return hypervolume([t.values for t in study.trials], _REFERENCE)


def test_twenty_trials_reach_more_than_four_hundred_at_random() -> None:
    space, costs, true = _problem()
    ours = _run(TailorSampler(space, costs, seed=1), space, true, 20)
    others = _run(make_sampler("random", seed=1), space, true, 400)
    assert _reached(ours) > _reached(others)


def test_no_recipe_is_proposed_twice_until_all_are_tried() -> None:
    decisions = tuple(Decision(name=f"conv{i}", options=("fp32", "w8a8", "w4a8")) for i in range(3))
    space = SearchSpace(decisions=decisions)
    costs = CostTable(
        sites=tuple(
            SiteCosts(site=d.name, options=tuple(OptionCost(loss=0.01 * k, size_bytes=3.0 - k) for k in range(3)))
            for d in decisions
        )
    )
    study = optuna.create_study(
        directions=["minimize"] * 2,
        sampler=TailorSampler(space, costs, goal=Goal(objectives=("accuracy", "size"))),
    )
    seen = set()
    study.enqueue_trial(space.params_of(*space.uniform("w4a8")))
    running = [study.ask() for _ in range(3)]  # trials that are running count as tried, too
    for _ in range(space.size):
        trial = running.pop(0)
        seen.add(tuple(sorted(space.suggest(trial)[1].items())))
        study.tell(trial, [0.01, 1.0])
        if len(seen) + len(running) < space.size:
            running.append(study.ask())
        for waiting in running:
            space.suggest(waiting)
        if not running:
            break
    assert len(seen) == space.size


_NEXT = """
import sys, optuna
from modeltailor.search.landscapes import make_landscape
from modeltailor.search.sampler import TailorSampler
storage, seed = sys.argv[1], int(sys.argv[2])
landscape = make_landscape(20, interactions=True)
sampler = TailorSampler(landscape.space, landscape.told, seed=seed)
study = optuna.load_study(study_name="a", storage=storage, sampler=sampler)
print(landscape.space.params_of(*landscape.space.suggest(study.ask())))
"""


def test_the_same_history_gives_the_same_next_recipe_in_another_process_too(tmp_path: Path) -> None:
    landscape = make_landscape(20, interactions=True)
    sampler = TailorSampler(landscape.space, landscape.told, seed=3)
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    for _ in range(9):
        trial = study.ask()
        study.tell(trial, landscape.evaluate(landscape.space.suggest(trial)[1]))
    proposals = []
    for i in range(2):
        storage = f"sqlite:///{tmp_path}/{i}.db"
        copy = optuna.create_study(study_name="a", storage=storage, directions=["minimize"] * 3)
        copy.add_trials(study.trials)
        command = [sys.executable, "-c", _NEXT, storage, "3"]
        proposals.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    here = landscape.space.params_of(*landscape.space.suggest(study.ask()))
    assert proposals[0] == proposals[1] == f"{here}\n"


def test_a_study_goes_on_from_storage_as_if_never_interrupted(tmp_path: Path) -> None:
    space, costs, true = _problem()
    storage = f"sqlite:///{tmp_path}/study.db"
    whole = _run(TailorSampler(space, costs, seed=5), space, true, 8)
    optuna.create_study(study_name="a", storage=storage, directions=["minimize"] * 3)
    for n in (5, 3):
        study = optuna.load_study(study_name="a", storage=storage, sampler=TailorSampler(space, costs, seed=5))
        for _ in range(n):
            trial = study.ask()
            study.tell(trial, _evaluate(space, true, trial))
    assert [t.params for t in study.trials] == [t.params for t in whole.trials]


def test_proposals_aim_at_the_budget() -> None:
    space, costs, true = _problem()
    least = solve(true[0], true[2:], [0.15])
    assert least is not None
    loss = 2.0 * float(true[0, np.arange(space.n_sites), least].sum())
    goal = Goal(limits=(("accuracy", loss), ("size", 0.15)))
    study = _run(TailorSampler(space, costs, goal=goal, seed=0), space, true, 16)
    inside = [t for t in study.trials if t.values[0] <= loss and t.values[2] <= 0.15]
    assert len(inside) >= 4
    assert min(t.number for t in inside) <= 4


def test_limits_are_aimed_at_with_the_upper_end_of_the_interval() -> None:
    space, costs, true = _problem()
    goal = Goal(limits=(("accuracy", 0.01), ("size", 0.25)))
    margin = 0.007  # what the interval adds to the measured loss
    study = optuna.create_study(directions=["minimize"] * 3, sampler=TailorSampler(space, costs, goal=goal, seed=0))
    for _ in range(18):
        trial = study.ask()
        values = _evaluate(space, true, trial)
        trial.set_constraint("drop", 100 * (values[0] + margin - 0.01))
        trial.set_constraint("size", values[2] / 0.25 - 1.0)
        study.tell(trial, values)
    aimed = [t for t in study.trials[6:] if t.number % 4 != 3]
    kept = [t for t in aimed if all(c <= 0 for c in t.constraints.values())]
    assert len(kept) >= 0.7 * len(aimed)


def test_dear_structures_wait_until_formats_gain_little_and_then_get_their_turn() -> None:
    names = ("original", "small")
    space, costs, true = _problem(structures=names)
    for train_s, first in ((0.0, 4), (20.0, 19)):
        small = StructureCost(
            structure="small", loss=0.01, loss_std=0.01, latency_scale=0.7, size_scale=0.7, train_s=train_s
        )
        table = CostTable(sites=costs.sites, structures=(small,))
        study = _run(TailorSampler(space, table, seed=0), space, true, 20)
        numbers = [t.number for t in study.trials if t.params["structure"] == "small"]
        assert numbers
        assert numbers[0] <= first
        if train_s:
            assert numbers[0] > 1
    never = TailorSampler(space, table, seed=0, affordable=lambda name: False)
    assert all(t.params["structure"] == "original" for t in _run(never, space, true, 6).trials)


def test_of_many_structures_the_good_are_tried_and_those_that_fail_are_given_up() -> None:
    names = ("original", *(f"s{i}" for i in range(9)))
    space, costs, true = _problem(structures=names)
    told = tuple(
        StructureCost(structure=n, loss=0.002 if n == "s4" else 0.05, loss_std=0.01, latency_scale=0.6, size_scale=0.6)
        for n in names[1:]
    )
    table = CostTable(sites=costs.sites, structures=told)
    study = optuna.create_study(directions=["minimize"] * 3, sampler=TailorSampler(space, table, seed=0))
    proposed = []
    for _ in range(14):
        trial = study.ask()
        structure, vector = space.indices_of(*space.suggest(trial))
        proposed.append(names[structure])
        if names[structure] == "s4":
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            loss, latency, size = true[:, np.arange(space.n_sites), vector].sum(axis=1).tolist()
            scale = 0.6 if structure else 1.0
            study.tell(trial, [loss + 0.05 * (structure > 0), latency * scale, size * scale])
    assert proposed[0] == "s4"
    assert proposed.count("s4") == 2
    assert len(set(proposed)) >= 3


def test_failed_and_unreadable_trials_do_no_harm() -> None:
    space, costs, true = _problem()
    study = optuna.create_study(directions=["minimize"] * 3, sampler=TailorSampler(space, costs))
    study.add_trial(optuna.trial.create_trial(values=[0.0, 1.0, 1.0]))  # a baseline without parameters
    failed = []
    for _ in range(3):
        trial = study.ask()
        failed.append(space.suggest(trial))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    trial = study.ask()
    assert space.suggest(trial) not in failed
    study.tell(trial, _evaluate(space, true, trial))


@pytest.mark.parametrize("passed_over", [True, False])
def test_a_structure_is_given_up_for_failures_not_for_lack_of_time(passed_over: bool) -> None:
    space, costs, true = _problem(structures=("original", "small"))
    study = optuna.create_study(directions=["minimize"] * 3, sampler=TailorSampler(space, costs))
    for _ in range(3):
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.FAIL, params=space.params_of("small", {}),
                distributions=space.distributions(), user_attrs={PASSED_OVER: True} if passed_over else {},
            )
        )  # fmt: skip
    proposed = set()
    for _ in range(12):
        trial = study.ask()
        proposed.add(space.suggest(trial)[0])
        study.tell(trial, _evaluate(space, true, trial))
    assert proposed == ({"original", "small"} if passed_over else {"original"})


def test_a_study_with_other_objectives_is_refused() -> None:
    space, costs, _ = _problem()
    for directions in (["minimize"] * 2, ["maximize", "minimize", "minimize"]):
        study = optuna.create_study(directions=directions, sampler=TailorSampler(space, costs))
        with pytest.raises(ConfigError, match="must minimise"):
            space.suggest(study.ask())


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n != "gp"])
def test_every_sampler_respects_the_space_and_takes_constraints(name: str) -> None:
    space, costs, true = _problem(structures=("original", "small"))
    sampler = make_sampler(name, seed=0, space=space, costs=costs)  # type: ignore[arg-type]
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    for _ in range(14):
        trial = study.ask()
        values = _evaluate(space, true, trial)
        trial.set_constraint("size", values[2] - 0.3)
        study.tell(trial, values)
    assert all(t.values[2] <= 0.3 for t in study.best_trials)


@pytest.mark.parametrize(("name", "before"), [("nsga2", 50), ("nsga3", 50), ("gp", 10)])
def test_optunas_samplers_propose_though_baselines_stand_in_the_study_without_parameters(
    name: str, before: int
) -> None:
    """Optuna searches what all finished trials share: one without parameters used to leave nothing, and chance decided."""
    space, costs, true = _problem()
    sampler = make_sampler(name, seed=0, space=space, costs=costs)  # type: ignore[arg-type]
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    study.add_trial(optuna.trial.create_trial(values=[0.0, 1.0, 1.0]))
    for _ in range(before + 1):
        trial = study.ask()
        study.tell(trial, _evaluate(space, true, trial))
    study.add_trial(optuna.trial.create_trial(values=[0.1, 0.9, 1.0]))  # a recipe that learned again
    together = study.ask().relative_params  # what NSGA mutates is left out here and drawn by itself
    assert set(together) <= set(space.distributions())
    assert len(together) > space.n_sites // 2


def test_unknown_samplers_and_missing_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match="not known"):
        make_sampler("annealing")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs a search space"):
        make_sampler("tailor")


@pytest.mark.parametrize("loss_limit", [0.0, -0.01])
def test_a_budget_without_any_loss_still_gets_proposals(loss_limit: float) -> None:
    space, costs, true = _problem()
    goal = Goal(limits=(("accuracy", loss_limit), ("size", 1e-9)))
    sampler = TailorSampler(space, costs, goal=goal, seed=0)
    study = _run(sampler, space, true, 6)
    assert len({tuple(t.params.values()) for t in study.trials}) == 6
    assert all(np.isfinite(g) for g in sampler.expected_gains)
