"""Costs as tables and arrays, goals from budgets, and the front that the prior expects."""

from __future__ import annotations

import numpy as np
import pytest

from modeltailor.errors import ConfigError
from modeltailor.search.landscapes import make_landscape
from modeltailor.search.sampler import (
    Conversion,
    CostTable,
    Decision,
    Goal,
    OptionCost,
    SearchSpace,
    SiteCosts,
    StructureCost,
    encoding_for,
    front,
    make_sampler,
)
from modeltailor.targets import Budget

_SPACE = SearchSpace(
    decisions=tuple(Decision(name=n, options=("fp32", "w8a8")) for n in ("a", "b", "c")),
    structures=("original", "short"),
    absent=(("short", ("b",)),),
)
_OPTIONS = (
    OptionCost(latency_ms=2.0, size_bytes=40.0, domain="float"),
    OptionCost(loss=0.01, latency_ms=1.0, size_bytes=10.0, domain="int8"),
)
_TABLE = CostTable(
    sites=tuple(SiteCosts(site=n, options=_OPTIONS) for n in ("a", "b", "c")),
    fixed_latency_ms=0.5,
    conversions=(
        Conversion(first="a", second="b", latency_ms=0.25),
        Conversion(first="b", second="c", latency_ms=0.25),
    ),
    structures=(
        StructureCost(structure="short", loss=0.02, latency_scale=0.5, site_scale=(("c", 0.25, 1.0),), train_s=60.0),
    ),
)


def test_prior_adds_up_sites_conversions_and_what_is_fixed() -> None:
    arrays = _TABLE.arrays(_SPACE)
    mixed = np.array([[0, 1, 0], [1, 1, 1]])
    np.testing.assert_allclose(arrays.predict("latency", 0, mixed), [0.5 + 2 + 1 + 2 + 0.5, 3.5])
    np.testing.assert_allclose(arrays.predict("accuracy", 0, mixed), [0.01, 0.03])
    np.testing.assert_allclose(arrays.predict("size", 0, mixed), [90.0, 30.0])


def test_a_structure_scales_its_sites_and_lacks_some() -> None:
    arrays = _TABLE.arrays(_SPACE)
    short = np.array([[1, 0, 0]])
    np.testing.assert_allclose(arrays.predict("latency", 1, short), [0.5 + 0.5 * 1.0 + 0.25 * 2.0])
    np.testing.assert_allclose(arrays.predict("accuracy", 1, short), [0.03])
    assert arrays.train_s.tolist() == [0.0, 60.0]


def test_a_table_must_price_every_option() -> None:
    with pytest.raises(ConfigError, match="must price 2 options"):
        CostTable(sites=_TABLE.sites[:2]).arrays(_SPACE)
    with pytest.raises(ConfigError, match="finite"):
        OptionCost(latency_ms=float("nan"))


def test_unknown_losses_are_guessed_from_sizes() -> None:
    free = tuple(OptionCost(size_bytes=b) for b in (32.0, 8.0, 4.0))
    space = SearchSpace(decisions=(Decision(name="a", options=("fp32", "w8a8", "w4a8")),))
    loss = CostTable(sites=(SiteCosts(site="a", options=free),)).arrays(space).base[0, 0]
    assert loss[0] == 0.0
    assert loss[1] == pytest.approx(0.001)
    assert loss[2] == pytest.approx(0.02, rel=0.05)


def test_limits_come_from_the_budget_in_the_units_of_the_study() -> None:
    budget = Budget(latency_ms=2.0, size_bytes=100, min_accuracy=0.85, max_drop=1.0, memory_bytes=10**9)
    goal = Goal.of(("accuracy", "latency", "size"), budget, latency_ms=4.0, metric=0.88)
    assert dict(goal.limits) == {"accuracy": 0.01, "latency": 0.5, "size": 100.0}
    tighter = Goal.of(("accuracy", "latency"), Budget(min_accuracy=0.875), latency_ms=4.0, metric=0.88)
    assert dict(tighter.limits)["accuracy"] == pytest.approx(0.005)
    worse = Goal.of(("accuracy", "latency"), Budget(min_accuracy=12.0), latency_ms=4.0, metric=11.0, minimize=True)
    assert dict(worse.limits)["accuracy"] == pytest.approx(1.0)
    with pytest.raises(ConfigError, match="2 to 4"):
        Goal(objectives=("size",))
    with pytest.raises(ConfigError, match="no objective"):
        Goal(limits=(("memory", 1.0),))


def test_expected_front_spreads_over_size_and_loss() -> None:
    landscape = make_landscape(20, interactions=True, told="exact")
    recipes = front(landscape.space, landscape.told, 10)
    values = np.array([landscape.evaluate(r) for r in recipes])
    assert len(recipes) == 10
    assert values[:, 2].min() < 0.12
    assert values[:, 2].max() > 0.25
    uniform = np.array(
        [landscape.evaluate(landscape.space.uniform(o)[1]) for o in ("w8a8", "w4a8", "w2a8", "w8", "w4")]
    )
    assert not any((u < v).all() for u in uniform for v in values)


def test_parameters_are_named_while_that_is_cheap() -> None:
    assert encoding_for("tailor", 20) == "name"
    assert encoding_for("tailor", 1000) == "packed"
    assert encoding_for("tpe", 1000) == "ordinal"
    with pytest.raises(ConfigError):
        make_sampler("tailor", space=_SPACE)
