import numpy as np
import pytest

from modeltailor.compress.formats.adaround import adaptively_rounded
from modeltailor.compress.formats.bias_correction import bias_shift, centered
from modeltailor.compress.formats.codebook import integer_levels, shared_values
from modeltailor.compress.formats.gptq import compensated, descended, rounding_loss
from modeltailor.compress.formats.grid import Grid
from modeltailor.compress.formats.mse_scale import refit_scale, search_offset_scale, search_scale
from modeltailor.compress.formats.nearest import rounded


@pytest.fixture(scope="module")
def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights ``[2, 8, 24]``, second moments and means of correlated, positive inputs."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(2, 24, 24))
    inputs = np.maximum(rng.normal(size=(2, 4000, 24)) @ mixing, 0)
    second = np.einsum("gni,gnj->gij", inputs, inputs) / 4000
    weight = rng.normal(size=(2, 8, 24)).astype(np.float32)
    return weight, second.astype(np.float32), inputs.mean(axis=1).astype(np.float32)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_compensation_beats_nearest_and_descent_never_hurts(problem, bits: int) -> None:
    weight, second, _ = problem
    grid = Grid.of_bits(bits)
    scale = search_scale(weight, np.ones((2, 24), np.float32), grid, per_channel=True)
    steps = weight / scale[:, :, None]
    nearest = rounding_loss(steps, rounded(weight, scale, grid), second).sum()
    once = compensated(steps, second, grid)
    after = descended(steps, once, second, grid, damping=1e-9)
    assert rounding_loss(steps, once, second).sum() < 0.9 * nearest
    assert rounding_loss(steps, after, second).sum() <= rounding_loss(steps, once, second).sum() * (1 + 1e-5)
    assert after.min() >= grid.low
    assert after.max() <= grid.high
    np.testing.assert_array_equal(after, np.rint(after))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_learned_rounding_beats_nearest_by_row_and_compensation_in_all(problem, bits: int) -> None:
    weight, second, _ = problem
    before = weight.copy(), second.copy()
    grid = Grid.of_bits(bits)
    scale = search_scale(weight, np.ones((2, 24), np.float32), grid, per_channel=True)
    steps = weight / scale[:, :, None]
    nearest = rounding_loss(steps, rounded(weight, scale, grid), second)
    learned = adaptively_rounded(steps, second, grid)
    loss = rounding_loss(steps, learned, second)
    assert (loss <= nearest * (1 + 1e-6)).all()
    assert loss.sum() < 0.8 * nearest.sum()
    assert loss.sum() < 1.1 * rounding_loss(steps, compensated(steps, second, grid), second).sum()
    inside = (steps > grid.low) & (steps < grid.high)
    assert (np.abs(learned - steps)[inside] < 1).all()  # the integer below or the one above
    assert learned.min() >= grid.low
    assert learned.max() <= grid.high
    np.testing.assert_array_equal(learned, np.rint(learned))
    np.testing.assert_array_equal(learned, adaptively_rounded(steps, second, grid))
    np.testing.assert_array_equal(weight, before[0])
    np.testing.assert_array_equal(second, before[1])


def test_learned_rounding_keeps_zeros_and_tables(problem) -> None:
    weight, second, _ = problem
    free = np.random.default_rng(1).random(weight.shape) < 0.4
    sparse = np.where(free, weight, 0).astype(np.float32)
    table = Grid.of_levels(np.array([-90, -30, -8, 0, 11, 28, 77]))
    steps = sparse * np.float32(40)
    learned = adaptively_rounded(steps, second, table, free=free)
    assert not learned[~free].any()
    assert set(np.unique(learned)) <= {-90, -30, -8, 0, 11, 28, 77}
    assert rounding_loss(steps, learned, second).sum() < rounding_loss(steps, table.nearest(steps), second).sum()


def test_a_zero_point_fits_lopsided_rows_better() -> None:
    weight = np.random.default_rng(0).gamma(2.0, size=(1, 16, 32)).astype(np.float32)
    grid = Grid(-8, 7)
    scale, zero = search_offset_scale(weight, grid)
    integers = np.clip(np.rint(weight / scale[:, :, None]) + zero[:, :, None], -8, 7)
    error = (((integers - zero[:, :, None]) * scale[:, :, None] - weight) ** 2).mean()
    plain = search_scale(weight, np.ones((1, 32), np.float32), grid, per_channel=True)
    symmetric = ((rounded(weight, plain, grid) * plain[:, :, None] - weight) ** 2).mean()
    assert error < 0.5 * symmetric
    np.testing.assert_array_equal(zero, np.rint(zero))


def test_searched_scale_beats_the_range_at_few_bits(problem) -> None:
    weight, _, _ = problem
    grid = Grid.of_bits(3)
    ones = np.ones((2, 24), np.float32)
    plain = (np.abs(weight).max(axis=2) / 3).astype(np.float32)
    found = search_scale(weight, ones, grid, per_channel=True)

    def error(scale: np.ndarray) -> float:
        return float(((rounded(weight, scale, grid) * scale[:, :, None] - weight) ** 2).sum())

    assert error(found) < error(plain)
    one = search_scale(weight, ones, grid, per_channel=False)
    assert len(np.unique(one)) == 1


def test_refit_scale_is_the_least_squares_solution(problem) -> None:
    weight, second, _ = problem
    grid = Grid.of_bits(3)
    scale = search_scale(weight, np.ones((2, 24), np.float32), grid, per_channel=True)
    integers = rounded(weight, scale, grid)
    best = refit_scale(weight, integers, second, scale, per_channel=True)

    def loss(s: np.ndarray) -> np.ndarray:
        return rounding_loss(weight, integers * s[:, :, None], second)

    assert (loss(best) <= loss(scale) * (1 + 1e-5)).all()
    assert (loss(best) <= loss(best * np.float32(1.02)) * (1 + 1e-5)).all()
    assert (loss(best) <= loss(best * np.float32(0.98)) * (1 + 1e-5)).all()


def test_bias_correction_removes_the_mean_error(problem) -> None:
    weight, second, first = problem
    changed = weight + np.float32(0.1)
    shift = bias_shift(weight, changed, first).reshape(2, 8)
    mean_error = ((changed - weight) @ first[:, :, None])[:, :, 0] + shift
    np.testing.assert_allclose(mean_error, 0, atol=1e-4)
    covariance = centered(second, first)
    assert (np.linalg.eigvalsh(covariance) > -1e-3).all()


def test_tables_are_small_and_close() -> None:
    values = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    ones = np.ones_like(values)
    errors = []
    for bits in (2, 3, 4):
        table = shared_values(values, ones, 1 << bits)
        assert len(table) == 1 << bits
        nearest = table[np.abs(values[:, None] - table[None]).argmin(axis=1)]
        errors.append(float(((values - nearest) ** 2).mean()))
    # Lloyd-Max for a Gaussian: 0.1175, 0.03454, 0.009497
    np.testing.assert_allclose(errors, [0.1175, 0.0345, 0.0095], rtol=0.1)
    levels, step = integer_levels(values, ones, 3)
    assert levels.dtype == np.int8
    assert np.abs(levels).max() == 127
    assert step > 0


def test_grid_of_levels_takes_the_nearest() -> None:
    grid = Grid.of_levels(np.array([5, -3, 0]))
    np.testing.assert_array_equal(grid.nearest(np.array([-9.0, -1.6, -1.4, 2.4, 2.6, 99.0])), [-3, -3, 0, 0, 5, 5])


def test_moments_that_rounding_made_indefinite_are_used_all_the_same() -> None:
    """Inputs that hardly vary about a large mean: what is left after centering has negative eigenvalues."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(24, 24))
    second = (noise + noise.T).astype(np.float32)[None]
    assert np.linalg.eigvalsh(second).min() < -1
    steps = rng.normal(size=(1, 8, 24)).astype(np.float32) * 3
    grid = Grid.of_bits(4)
    for found in (compensated(steps, second, grid), compensated(steps, np.zeros_like(second), grid)):
        assert np.isfinite(found).all()
        assert found.min() >= grid.low
        assert found.max() <= grid.high
