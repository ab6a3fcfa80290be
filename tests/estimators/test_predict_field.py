"""Calibration on synthetic devices whose truth is known."""

import numpy as np
import pytest

from modeltailor.estimators.predict import (
    KnownItems,
    PathTerms,
    Pool,
    TwoPathRoofline,
    band_factor,
    completed,
    learn_costs,
    near,
    needed_factors,
    pooled_field,
    same,
    smoothed,
    widened,
)

N_ITEMS = 120


def synthetic_devices(seed: int, n_devices: int, noise: float = 0.02):
    """Latencies of two kinds of device: bound by launches, or by work; and the items' work and nodes."""
    rng = np.random.default_rng(seed)
    work, nodes = np.exp(rng.normal(0, 0.6, N_ITEMS)), rng.integers(5, 40, N_ITEMS) / 20
    share = rng.uniform(0.1, 0.9, n_devices)
    level = np.exp(rng.normal(1, 1, n_devices))
    clean = np.log(level[:, None] * (share[:, None] * work + (1 - share[:, None]) * nodes))
    return clean + noise * rng.standard_normal(clean.shape), clean, np.stack([np.log(work), np.log(nodes)], axis=1)


def error_of(mixture, truth):
    return float(np.median(np.abs(mixture.median() - truth)))


@pytest.fixture(scope="module")
def field():
    log_ms, _, features = synthetic_devices(0, 12)
    return pooled_field(Pool.of(log_ms), features), features


def test_more_measurements_come_nearer(field):
    unseen, _ = field
    truth = synthetic_devices(1, 1)[0][0]
    truth = synthetic_same_items(truth)
    everything = np.arange(N_ITEMS)
    errors = []
    for k in (0, 1, 3, 10):
        measured = np.array(unseen.choose(k, everything, everything), dtype=np.intp)
        errors.append(error_of(unseen.posterior(measured, truth[measured], everything), truth))
    assert errors[3] < 0.05
    assert errors[3] < errors[1] <= errors[0]


def synthetic_same_items(_unused):
    """A device outside the pool over the items of seed 0."""
    _, _, features = synthetic_devices(0, 12)
    return 1.7 + np.log(0.35 * np.exp(features[:, 0]) + 0.65 * np.exp(features[:, 1]))


def test_the_choice_does_not_repeat_and_takes_what_is_given_first(field):
    unseen, _ = field
    everything = np.arange(N_ITEMS)
    chosen = unseen.choose(6, everything, everything, given=[7])
    assert chosen[0] == 7
    assert len(set(chosen)) == len(chosen) == 7


def test_without_measurements_the_band_is_as_wide_as_devices_differ(field):
    unseen, _ = field
    none = np.array([], dtype=np.intp)
    band = widened(unseen.posterior(none, np.array([]), np.arange(N_ITEMS)), 1.0)
    assert np.all(band.high - band.low > 2.0)  # a factor of seven at the least


def test_a_runtime_that_executes_something_else_is_recognised():
    log_ms, _, features = synthetic_devices(0, 12)
    left = np.random.default_rng(3).normal(0, 1, (N_ITEMS, 1))  # what the other runtime still executes
    unseen = pooled_field(Pool.of(log_ms), features, [(left, left)])
    plain = pooled_field(Pool.of(log_ms), features)
    truth, everything = 2.0 + left[:, 0], np.arange(N_ITEMS)
    measured = np.array(unseen.choose(10, everything, everything))
    found = error_of(unseen.posterior(measured, truth[measured], everything), truth)
    assert found < 0.1 < error_of(plain.posterior(measured, truth[measured], everything), truth)


def test_conformal_factor_gives_the_promised_share():
    log_ms, clean, features = synthetic_devices(5, 24)
    log_ms = log_ms + 0.08 * np.random.default_rng(6).standard_normal(log_ms.shape)
    everything = np.arange(N_ITEMS)

    def predicted(device, left_out):
        pool = Pool.of(log_ms[[d for d in range(24) if d not in left_out]])
        unseen = pooled_field(pool, features)
        measured = np.array(unseen.choose(8, everything, everything))
        rest = np.setdiff1d(everything, measured)
        return unseen.posterior(measured, log_ms[device][measured], rest), log_ms[device][rest]

    inside = []
    for device in range(4):
        needed = [needed_factors(*predicted(other, {device, other})) for other in range(4, 12)]
        mixture, truth = predicted(device, {device})
        inside.append(widened(mixture, band_factor(needed)).holds(truth).mean())
    assert 0.7 < np.mean(inside) < 0.9
    assert clean.shape == log_ms.shape


def test_band_factor_counts_devices_not_items():
    few, many = np.full(2, 3.0), np.full(1000, 1.0)
    assert band_factor([few, many], share=0.8) == 3.0
    assert band_factor([few, many, many, many, many, many], share=0.8) == 1.0


def test_table_is_completed_near_the_truth_and_keeps_what_was_measured():
    log_ms, _, features = synthetic_devices(0, 12)
    holes = np.random.default_rng(1).random(log_ms.shape) < 0.3
    table = np.where(holes, np.nan, log_ms)
    filled = completed(table, near(features, 0.05))
    assert np.array_equal(filled[~holes], log_ms[~holes])
    assert np.median(np.abs(filled - log_ms)[holes]) < 0.06


def test_a_twin_among_the_known_devices_is_found():
    log_ms, _, features = synthetic_devices(0, 12)
    rng = np.random.default_rng(2)
    peculiar = log_ms[4] + 0.3 * rng.standard_normal(N_ITEMS)  # something that no feature explains
    table = np.concatenate([log_ms, peculiar[None]])
    model = KnownItems(log_ms=table, own=near(features, 0.05) + same([str(i) for i in range(N_ITEMS)], 0.01),
                       trust=np.ones(13))  # fmt: skip
    truth, everything = peculiar + 1.1, np.arange(N_ITEMS)
    measured = np.array(model.choose(10, everything, everything))
    assert error_of(model.posterior(measured, truth[measured], everything), truth) < 0.03


def test_smoothing_takes_noise_out():
    log_ms, clean, features = synthetic_devices(0, 6, noise=0.2)
    design = np.stack([np.ones(N_ITEMS), *features.T, *(features**2).T, features[:, 0] * features[:, 1]], axis=1)
    better = smoothed(log_ms, design)
    assert np.abs(better - clean).mean() < 0.4 * np.abs(log_ms - clean).mean()


@pytest.mark.parametrize("launch_bound", [True, False])
def test_roofline_finds_which_path_binds(launch_bound):
    rng = np.random.default_rng(4)
    nodes, work = rng.integers(10, 30, 300).astype(float), np.exp(rng.normal(0, 0.5, 300))
    ones = np.ones(300)
    truth = np.log(np.maximum(0.2 * nodes, (0.3 if launch_bound else 9.0) * work) + 0.5)
    model = TwoPathRoofline(
        launch=PathTerms(amounts=np.stack([ones, nodes], axis=1), shares=(0.2, 0.8), spreads=(0.8, 0.4)),
        work=PathTerms(amounts=np.stack([ones, work], axis=1), shares=(0.2, 0.8), spreads=(0.8, 0.4)),
    )
    everything = np.arange(300)
    measured = np.array(model.choose(8, everything, everything, seed=0))
    noisy = truth[measured].copy()
    noisy[3] += 0.7  # one measurement was disturbed
    assert error_of(model.posterior(measured, noisy, everything), truth) < 0.06


def test_costs_learnt_from_devices_carry_to_unseen_networks_and_devices():
    rng = np.random.default_rng(8)
    amounts = rng.gamma(0.7, 1.0, (40, 4)) + 0.01
    costs = rng.normal([-1, 0, 1, -0.5], 0.4, (30, 4)) + rng.normal(0, 1, (30, 1))
    log_ms = np.log(np.exp(costs) @ amounts.T) + 0.03 * rng.standard_normal((30, 40))
    known, unseen = np.arange(30), np.arange(30, 40)
    population = learn_costs(log_ms[:29][:, known], amounts[known], np.ones(29), np.zeros(4))
    measured = np.array(population.choose(6, amounts, known))
    assert set(measured) <= set(known)
    mixture = population.posterior(amounts[measured], log_ms[29][measured], amounts[unseen])
    assert np.median(np.abs(mixture.median() - log_ms[29][unseen])) < 0.06
    assert np.allclose(population.mean - population.mean.mean(), [-0.875, 0.125, 1.125, -0.375], atol=0.25)
