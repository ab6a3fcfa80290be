"""What trials teach about effects of either sign: options that make a network better, not only smaller."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pytest

from modeltailor.search.hypervolume import hypervolume
from modeltailor.search.sampler import CostTable, Decision, Goal, OptionCost, SearchSpace, SiteCosts, TailorSampler
from modeltailor.search.sampler.surrogate import AdditiveModel, Belief

_OPTIONS = ("fp32", "w8a8", "w4a8", "w2a8")
_DIVERGENCE = np.array([0.0, 0.0001, 0.002, 0.03])
_SITES = 20


def _told(drops: np.ndarray) -> tuple[SearchSpace, CostTable]:
    """A space in which every site moves the outputs alike, with drops ``(S, K)`` told beside."""
    space = SearchSpace(decisions=tuple(Decision(name=f"dense{i}", options=_OPTIONS) for i in range(_SITES)))
    sites = tuple(
        SiteCosts(
            site=d.name,
            options=tuple(
                OptionCost(loss=float(v), drop=float(drops[i, k]), latency_ms=1.0 / _SITES, size_bytes=s / 32 / _SITES)
                for k, (v, s) in enumerate(zip(_DIVERGENCE, (32, 8, 4, 2), strict=True))
            ),
        )
        for i, d in enumerate(space.decisions)
    )
    return space, CostTable(sites=sites)


def _effects(seed: int) -> np.ndarray:
    """Losses of single options ``(S, K)``: rounding to two bits does good at some sites."""
    found = np.random.default_rng(seed).normal(0.0, 0.004, (_SITES, 4)) * np.sqrt(_DIVERGENCE / _DIVERGENCE[-1])
    return np.asarray(found + 0.02 * _DIVERGENCE)


def _belief(drops: np.ndarray, choices: np.ndarray, losses: np.ndarray) -> Belief:
    space, table = _told(drops)
    model = AdditiveModel.of("accuracy", space, table.arrays(space), unit=0.1, ceiling=0.7)
    return model.condition(np.zeros(len(choices), dtype=np.int64), choices, losses)


def test_gains_are_learned_from_trials_and_solved_for() -> None:
    true, rng = _effects(0), np.random.default_rng(1)
    choices = rng.integers(0, 4, (80, _SITES))
    losses = true[np.arange(_SITES), choices].sum(axis=1)
    belief = _belief(np.zeros((_SITES, 4)), choices[:60], losses[:60])
    expected = belief.draw(0).own
    assert np.corrcoef(expected[:, 3], true[:, 3])[0, 1] > 0.9
    assert (expected[true[:, 3] < -0.003, 3] < 0.0).all()  # a gain, not a small price
    mean, std = belief.predict(np.zeros(20, dtype=np.int64), choices[60:])
    error = mean - losses[60:]
    assert np.abs(error).mean() < 0.3 * np.abs(losses[60:] - losses.mean()).mean()
    assert 0.3 < np.sqrt(np.mean((error / std) ** 2)) < 2.0


def test_a_drop_that_was_told_is_expected_and_corrected() -> None:
    true = _effects(2)
    none = np.zeros((0, _SITES), dtype=np.int64)
    before = _belief(true, none, np.zeros(0)).draw(0).own
    assert np.corrcoef(before[:, 3], true[:, 3])[0, 1] > 0.99
    # what was told was half of it: trials say so
    choices = np.random.default_rng(3).integers(0, 4, (40, _SITES))
    losses = true[np.arange(_SITES), choices].sum(axis=1)
    after = _belief(0.5 * true, choices, losses).draw(0).own
    assert np.abs(after[:, 3] - true[:, 3]).mean() < 0.5 * np.abs(0.5 * true[:, 3]).mean()


def test_samples_of_the_belief_spread_as_its_prediction_says() -> None:
    true, rng = _effects(4), np.random.default_rng(5)
    choices = rng.integers(0, 4, (30, _SITES))
    belief = _belief(0.5 * true, choices[:8], true[np.arange(_SITES), choices[:8]].sum(axis=1))
    draws = [belief.draw(0, rng) for _ in range(400)]
    totals = np.stack([d.total(belief.model.edges, choices[20:]) for d in draws])
    mean, std = belief.predict(np.zeros(10, dtype=np.int64), choices[20:])
    assert totals.mean(axis=0) == pytest.approx(
        mean, abs=0.002
    )  # prices of divergence are kept from turning into gifts
    assert totals.std(axis=0) == pytest.approx(std, rel=0.4)


def test_losses_that_grow_faster_than_the_divergence_are_foretold_from_uniform_formats_and_a_few() -> None:
    rng = np.random.default_rng(0)
    mixed = np.where(rng.uniform(size=(60, _SITES)) < rng.uniform(size=(60, 1)), 3, rng.integers(1, 3, (60, _SITES)))
    uniform = np.repeat(np.arange(4)[:, None], _SITES, axis=1)
    choices = np.vstack([uniform, mixed])
    losses = 0.3 * (_DIVERGENCE[choices].sum(axis=1) / 0.6) ** 1.6
    space, table = _told(np.zeros((_SITES, 4)))
    structures = np.zeros(len(choices), dtype=np.int64)
    told, errors = slice(0, 8), {}
    for spread in (0.0, 0.5):
        model = AdditiveModel.of("accuracy", space, table.arrays(space), unit=0.1)
        model = replace(model, trust=replace(model.trust, power_log_std=spread))
        belief = model.condition(structures[told], choices[told], losses[told])
        mean, std = belief.predict(structures[8:], choices[8:])
        errors[spread] = float(np.abs(mean - losses[8:]).mean())
    assert belief.scales.power > 1.2
    assert errors[0.5] < 0.5 * errors[0.0]
    assert np.sqrt(np.mean(((mean - losses[8:]) / std) ** 2)) < 2.0
    assert belief.draw(0).total(model.edges, choices[8:]) == pytest.approx(mean, abs=0.01)  # what is solved for


@pytest.mark.parametrize("seed", range(3))
def test_told_drops_find_in_twelve_trials_what_costs_alone_do_not_in_thirty(seed: int) -> None:
    true = _effects(10 + seed)

    def reached(drops: np.ndarray, n: int) -> float:
        space, table = _told(drops)
        goal = Goal(objectives=("accuracy", "size"), reference=(("accuracy", 0.1), ("size", 1.0)))
        study = optuna.create_study(
            directions=["minimize"] * 2, sampler=TailorSampler(space, table, goal=goal, seed=seed)
        )
        for option in _OPTIONS:
            study.enqueue_trial(space.params_of(*space.uniform(option)))
        for _ in range(n):
            trial = study.ask()
            _, at = space.indices_of(*space.suggest(trial))
            loss = float(true[np.arange(_SITES), at].sum())
            size = float(np.array([32, 8, 4, 2])[at].mean() / 32)
            study.tell(trial, [loss, size])
        return hypervolume([t.values for t in study.trials], (0.1, 1.0))

    assert reached(true, 12) > reached(np.zeros_like(true), 30)
