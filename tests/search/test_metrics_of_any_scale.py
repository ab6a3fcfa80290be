"""Metrics without a natural scale: an error of 2,000 and one of 0.004 are searched, judged and raced alike."""

from __future__ import annotations

import pytest

from modeltailor.compress import Format, Recipe, Structure, Training
from modeltailor.errors import ConfigError
from modeltailor.search.front import Figures, margins, nearest, recommend, violations, weighed_excess
from modeltailor.search.racing import Race
from modeltailor.search.records import AccuracyRecord, IntervalRecord, SiteRecord, TrialRecord
from modeltailor.search.recoveries import Recovery, propose_recovery
from modeltailor.search.sampler.goal import Goal, allowed_loss, worthless_loss
from modeltailor.search.scale import is_score, settled, usual_worthless_loss
from modeltailor.targets import Budget

SCALES = (1e-3, 1.0, 1e3)
USUAL = Budget(max_drop_share=0.01)
NAMES = ("first", "a", "b", "last")
ELEMENTS = {"first": 500, "a": 20_000, "b": 40_000, "last": 500}


def accuracy(original: float, rise: float, half: float = 0.0) -> AccuracyRecord:
    value = original + rise
    return AccuracyRecord(
        value=value, low=value - half, high=value + half, difference=rise, difference_low=rise - half,
        difference_high=rise + half, n_samples=1000,
    )  # fmt: skip


def timed(value: float) -> IntervalRecord:
    return IntervalRecord(value=value, low=value, high=value, evidence="measured-here")


def model(
    key: str, original: float, rise: float, speed: float, size: int, *, half: float = 0.0, test: float | None = None
) -> Figures:
    return Figures(
        key=key, accuracy=accuracy(original, rise, half), latency_ms=timed(2.0 / speed), speedup=timed(speed),
        size_bytes=size, test=None if test is None else accuracy(original, test),
    )  # fmt: skip


@pytest.mark.parametrize("original", [0.004, 2.0, 2000.0])
def test_without_a_limit_an_error_may_grow_by_a_hundredth_of_itself(original: float) -> None:
    kept, grown = (model("a", original, share * original, 2.0, 100) for share in (0.009, 0.011))
    assert not violations(kept, USUAL, minimize=True)
    (margin,) = violations(grown, USUAL, minimize=True)
    assert (margin.limit, margin.allowed) == ("drop", pytest.approx(original))  # points: hundredths of the unit
    unsure = model("a", original, 0.009 * original, 2.0, 100, half=0.002 * original)
    assert violations(unsure, USUAL, minimize=True)
    assert violations(model("a", original, 0.0, 2.0, 100, test=0.011 * original), USUAL, minimize=True)
    assert violations(model("a", original, 2.5 * original, 2.0, 100), USUAL, minimize=True)


@pytest.mark.parametrize("original", [0.004, 2.0, 2000.0])
def test_without_a_limit_a_faster_model_is_recommended_at_any_scale(original: float) -> None:
    models = [
        model("original", original, 0.0, 1.0, 400),
        model("good", original, 0.005 * original, 2.0, 100),
        model("ruined", original, 2.5 * original, 4.0, 50),
    ]
    found = recommend(models, USUAL, minimize=True)
    assert found is not None
    assert found.key == "good"
    race = Race(rivals=tuple(models[:2]), budget=USUAL, minimize=True)
    assert race.bar(size_bytes=50, speedup=4.0) == pytest.approx(0.01 * original)
    goal = Goal.of(("accuracy", "latency"), USUAL, latency_ms=2.0, metric=original, minimize=True)
    assert dict(goal.limits)["accuracy"] == pytest.approx(0.01 * original)


def test_of_a_score_the_share_is_the_point_that_it_was() -> None:
    for loss, test in ((0.004, None), (0.0101, None), (0.02, 0.0), (0.0, 0.02)):
        scored = Figures(
            key="a", accuracy=accuracy(0.9, -loss), latency_ms=timed(1.0), speedup=timed(2.0), size_bytes=1,
            test=None if test is None else accuracy(0.9, -test),
        )  # fmt: skip
        assert margins(scored, USUAL) == margins(scored, Budget(max_drop=1.0))
    assert allowed_loss(USUAL, 0.9) == allowed_loss(Budget(max_drop=1.0), 0.9) == 0.01
    assert settled(USUAL, 0.9) == Budget(max_drop=1.0)
    assert allowed_loss(USUAL, 25.0) == pytest.approx(0.25)  # larger is better, and no share


def test_a_budget_is_settled_by_the_original() -> None:
    assert settled(USUAL, 2000.0, minimize=True) == Budget(max_drop=2000.0)
    assert settled(USUAL, 0.0, minimize=True) == Budget(max_drop=1.0)  # nothing is a share of no error
    explicit = Budget(max_drop=3.0, size_bytes=7)
    assert settled(explicit, 2000.0, minimize=True) == explicit
    assert not USUAL.is_empty
    assert USUAL.limits_metric
    with pytest.raises(ConfigError, match="max_drop_share"):
        Budget(max_drop_share=-0.01)


@pytest.mark.parametrize("scale", SCALES)
def test_the_nearest_model_is_the_same_at_any_scale(scale: float) -> None:
    original = 4.0 * scale
    slow = model("slow", original, 0.0, 1.0, 100)  # takes twice as long as is allowed
    for rise, expected in ((0.1, "near"), (3.0, "slow")):
        near = model("near", original, rise * original, 2.0, 100)
        budget = Budget(latency_ms=1.0, max_drop=100 * 0.01 * original)
        assert getattr(nearest([slow, near], budget, minimize=True), "key", "") == expected
        least = Budget(latency_ms=1.0, min_accuracy=1.01 * original)
        assert getattr(nearest([slow, near], least, minimize=True), "key", "") == expected


def test_a_score_without_a_mistake_is_one_however_its_value_was_got() -> None:
    assert all(is_score((1.0 - k / 1000) + k / 1000) for k in range(1001))
    assert not is_score(1.01)
    assert not is_score(0.5, minimize=True)


@pytest.mark.parametrize("original", [0.0, 0.3, 0.9, 1.0])
def test_a_point_of_a_score_weighs_a_tenth_of_a_limit(original: float) -> None:
    for points in (0.01, 1.0, 7.3):
        assert weighed_excess(points, original) == points / 10.0


@pytest.mark.parametrize("scale", SCALES)
def test_what_makes_an_error_worthless_weighs_as_much_as_twice_a_limit(scale: float) -> None:
    lost = usual_worthless_loss(scale, minimize=True)
    assert lost == worthless_loss(Budget(), scale, minimize=True)
    assert weighed_excess(100.0 * lost, scale, minimize=True) == pytest.approx(1.0)


def record(
    number: int, original: float, rise: float, speedup: float, bits: int, *, role: str = "search",
    structure: Structure | None = None, recovery: Training | None = None, minimize: bool = True,
) -> TrialRecord:  # fmt: skip
    names = {} if bits == 32 else {n: Format.parse(f"w{bits}a8") for n in NAMES}
    recipe = Recipe(structure=structure or Structure(), formats=tuple(names.items()), recovery=recovery)
    sites = tuple(
        SiteRecord(site=n, kind="conv", format=f"w{bits}a8", storage_bits=bits, stored_bytes=ELEMENTS[n] * bits // 8,
                   weight_elements=ELEMENTS[n], executed_kernel="QLinearConv")
        for n in NAMES
    )  # fmt: skip
    half = 0.001 * usual_worthless_loss(original, minimize=minimize) / 0.1
    return TrialRecord(
        number=number, key=recipe.key, role=role, recipe=recipe.to_plain(),  # type: ignore[arg-type]
        size_bytes=10_000 + sum(ELEMENTS.values()) * bits // 8, latency_ms=timed(speedup), speedup=timed(speedup),
        accuracy=accuracy(original, rise if minimize else -rise, half), sites=sites,
    )  # fmt: skip


def proposed(scale: float, box: float, *, minimize: bool = True) -> Recovery | None:
    """What learns again in a run whose losses are those of a score times ``scale``."""
    original = 0.2 * scale if minimize else 0.9
    options = dict.fromkeys(NAMES, ("fp32", "w8a8", "w4a8", "w3a8", "w2a8"))
    cut, learned = Structure(removed=("x",)), Training(epochs=1.0)
    history = [
        record(0, original, 0.0, 1.0, 32, role="fp32", minimize=minimize),
        record(1, original, 0.0, 2.0, 8, role="baseline", minimize=minimize),
        record(2, original, 0.0015 * scale, 2.0, 4, minimize=minimize),
        record(3, original, 0.001 * scale, 2.2, 8, structure=cut, minimize=minimize),
        record(4, original, 0.003 * scale, 2.2, 4, structure=cut, recovery=learned, minimize=minimize),
    ]
    return propose_recovery(
        history, options=options, training=Training(epochs=2.0), reference=(box * scale, 1.1, 1.1), minimize=minimize
    )


@pytest.mark.parametrize("box", [0.1, 0.01, 0.004, 0.002])
def test_what_learns_again_does_not_depend_on_the_scale_of_the_metric(box: float) -> None:
    as_score = proposed(1.0, box, minimize=False)
    assert as_score is not None
    for scale in SCALES:
        found = proposed(scale, box)
        assert found is not None, scale
        assert found.recipe == as_score.recipe, scale
        assert found.gain == pytest.approx(as_score.gain, rel=1e-6)
