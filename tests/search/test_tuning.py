"""How settings are settled: what is worth its bits is taken, what the device or the clock rules out is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from modeltailor.compress import Format, Settings, Site
from modeltailor.search.options import FormatChoice
from modeltailor.search.probing import Probed
from modeltailor.search.records import AccuracyRecord, IntervalRecord, TrialRecord
from modeltailor.search.tuning import candidates, is_kept, probing_recipes, settle, variants

START = Settings()
WEIGHTS = 80_000
CONV = Site(name="c", kind="conv", weight_shape=(8, 8, 3, 3), weight_elements=576, macs=1000, position=0)
MATRIX = Site(name="m", kind="matmul", weight_shape=(64, 64), weight_elements=4096, macs=4096, position=1)


def fields(*names: str, site: Site = CONV, probed: Probed = Probed()) -> list[str]:  # noqa: B008
    return [d.field for d in variants([site], map(Format.parse, names), START, probed)]


def test_only_what_matters_to_the_formats_is_varied() -> None:
    assert fields("w8a8", "w4a8") == [
        "activation_symmetric", "range_method", "per_channel", "bias_correction", "equalize", "rounding",
    ]  # fmt: skip
    assert "range_method" not in fields("w8", "w4")
    matrix = fields("w8a8-dynamic", site=MATRIX)
    assert "smoothing" in matrix
    assert "equalize" not in matrix
    assert "range_method" not in matrix
    assert "block_symmetric" in fields("w4-block32", site=MATRIX)
    assert "per_channel" not in fields("w4-block32", site=MATRIX)


def test_what_the_probe_found_slow_is_not_varied() -> None:
    assert "per_channel" not in fields("w8a8", probed=Probed(per_tensor_pays=False))


def test_rounding_of_large_networks_is_not_learned_within_a_search() -> None:
    large = replace(CONV, weight_elements=1 << 22)
    assert "rounding" in fields("w8a8")
    assert "rounding" not in fields("w8a8", site=large)


def quiet(settings: Settings, recipe: Mapping[str, str]) -> tuple[float, int]:
    """A network with a known answer: entropy halves the loss; one scale a tensor doubles it and saves a tenth."""
    loss = 0.01 if recipe["c"] == "w8a8" else 0.1
    loss *= {"entropy": 0.5, "minmax": 1.02}.get(settings.range_method, 1.0)
    loss *= 1.0 if settings.per_channel else 2.0
    return loss, 80_000 - (0 if settings.per_channel else 8_000)


RECIPES = ({"c": "w8a8"}, {"c": "w4a8"})


def test_the_better_range_is_taken_and_its_worth_is_in_bits() -> None:
    tuned = settle(START, variants([CONV], [Format.parse("w8a8")], START, Probed()), RECIPES, WEIGHTS, quiet)
    assert tuned.settings.range_method == "entropy"
    entropy = next(t for t in tuned.tried if t.label == "ranges by entropy")
    assert entropy.taken
    assert entropy.worth == pytest.approx(math.log(2.0, 4.0))
    assert entropy.losses == pytest.approx((0.005, 0.05))
    assert "taken: ranges by entropy" in tuned.note("int8 static")


@pytest.mark.parametrize(("saved", "per_channel"), [(0, True), (4_000, True), (16_000, False)])
def test_scales_of_tensors_are_taken_where_their_bytes_outweigh_their_loss(saved: int, per_channel: bool) -> None:
    """Twice the loss is half a bit a weight: 5,000 of 80,000 bytes; a clear gain must be more than that."""

    def measure(settings: Settings, recipe: Mapping[str, str]) -> tuple[float, int]:
        return (0.01, 80_000) if settings.per_channel else (0.02, 80_000 - saved)

    dimensions = variants([CONV], [Format.parse("w8a8")], START, Probed())
    assert settle(START, dimensions, RECIPES, WEIGHTS, measure).settings.per_channel is per_channel


def test_differences_that_calibration_data_cannot_tell_change_nothing() -> None:
    def measure(settings: Settings, recipe: Mapping[str, str]) -> tuple[float, int]:
        return (0.0099 if settings != START else 0.01), 80_000

    dimensions = variants([CONV], [Format.parse("w8a8")], START, Probed())
    tuned = settle(START, dimensions, RECIPES, WEIGHTS, measure)
    assert tuned.settings == START
    assert candidates(tuned, START) == ()
    assert "none is clearly worth it" in tuned.note("int8 static")


def test_what_there_is_no_time_for_stays_as_it_is() -> None:
    asked: list[Settings] = []

    def measure(settings: Settings, recipe: Mapping[str, str]) -> tuple[float, int]:
        asked.append(settings)
        return quiet(settings, recipe)

    dimensions = variants([CONV], [Format.parse("w8a8")], START, Probed())
    tuned = settle(START, dimensions, RECIPES, WEIGHTS, measure, lambda builds: builds < 0.5)
    assert tuned.settings.range_method == "entropy"
    assert all(s.per_channel and s.rounding == "gptq" and not s.equalize for s in asked)


def test_what_cannot_be_built_is_passed_over() -> None:
    def measure(settings: Settings, recipe: Mapping[str, str]) -> tuple[float, int] | None:
        return None if settings.range_method == "percentile" else quiet(settings, recipe)

    dimensions = variants([CONV], [Format.parse("w8a8")], START, Probed())
    tuned = settle(START, dimensions, RECIPES, WEIGHTS, measure)
    assert tuned.settings.range_method == "entropy"
    assert all("percentile" not in t.label for t in tuned.tried)
    assert settle(START, dimensions, RECIPES, WEIGHTS, lambda s, r: None).settings == START


def test_settings_that_change_the_graph_have_a_candidate_without_them_behind() -> None:
    dimensions = variants([CONV], [Format.parse("w8a8")], START, Probed())

    def measure(settings: Settings, recipe: Mapping[str, str]) -> tuple[float, int]:
        loss = 0.01 * (0.25 if settings.activation_symmetric else 1.0)
        return loss * (0.5 if settings.range_method == "minmax" else 1.0), 80_000

    found = candidates(settle(START, dimensions, RECIPES, WEIGHTS, measure), START)
    assert [(s.activation_symmetric, s.range_method) for _, s in found] == [(True, "minmax"), (False, "minmax")]


def test_settings_are_judged_on_the_uniform_recipe_and_on_few_bits() -> None:
    choice = FormatChoice(
        options=(("c", ("fp32", "w8a8", "w5a8", "w4a8", "w3a8", "w2a8")), ("e", ("fp32", "w8-block32", "w8", "w4"))),
        settings=START,
        uniform="int8 static",
        notes=(),
    )
    assert probing_recipes(choice, {"c": "w8a8", "e": "w8"}) == (
        {"c": "w8a8", "e": "w8"},
        {"c": "w4a8", "e": "w4"},
    )


def record(speedup: float, difference: float) -> TrialRecord:
    about = {"evidence": "measured-here"}
    accuracy = AccuracyRecord(
        value=0.9 + difference, low=0.8, high=1.0, difference=difference, difference_low=difference - 0.004,
        difference_high=difference + 0.004, n_samples=1000,
    )  # fmt: skip
    return TrialRecord(
        number=0, key=f"{speedup}{difference}", role="baseline", recipe={}, accuracy=accuracy,
        speedup=IntervalRecord(value=speedup, low=0.98 * speedup, high=1.02 * speedup, **about),  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("speedup", "difference", "kept"), [(2.0, 0.0, True), (1.98, -0.003, True), (1.7, 0.01, False), (2.1, -0.01, False)]
)
def test_tuned_settings_stand_only_if_neither_slower_nor_less_accurate(
    speedup: float, difference: float, kept: bool
) -> None:
    assert is_kept(record(speedup, difference), record(2.0, 0.0), minimize=False) is kept
    assert is_kept(record(speedup, -difference), record(2.0, 0.0), minimize=True) is kept


def test_failed_settings_do_not_stand() -> None:
    failed = record(2.0, 0.0).model_copy(update={"outcome": "TIMEOUT"})
    assert not is_kept(failed, record(2.0, 0.0), minimize=False)
