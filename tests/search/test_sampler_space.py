"""The search space as values and as Optuna parameters."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltailor.errors import ConfigError
from modeltailor.search.sampler import Decision, Encoding, SearchSpace

_OPTIONS = ("fp32", "w8a8", "w4a8", "w3a8", "w2a8", "w4")


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    n = draw(st.integers(1, 45))
    counts = draw(st.lists(st.integers(1, 6), min_size=n, max_size=n))
    decisions = tuple(Decision(name=f"layer{i}", options=_OPTIONS[:k]) for i, k in enumerate(counts))
    structures = ("original", "half", "short")[: draw(st.integers(1, 3))]
    absent = (("short", tuple(d.name for d in decisions[::3])),) if len(structures) == 3 else ()
    encoding = draw(st.sampled_from(["name", "ordinal", "packed"]))
    return SearchSpace(decisions=decisions, structures=structures, absent=absent, encoding=encoding)


@given(spaces(), st.integers(0, 2**32 - 1))
def test_a_recipe_survives_the_way_through_optuna_parameters(space: SearchSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    structure = int(rng.integers(len(space.structures)))
    vector = rng.integers(np.array(space.n_options))
    vector[~space.present()[structure]] = 0
    name, assignment = space.assignment_of(structure, vector)
    params = space.params_of(name, assignment)
    assert set(params) == set(space.distributions())
    for parameter, distribution in space.distributions().items():
        assert distribution._contains(distribution.to_internal_repr(params[parameter]))
    back = space.indices_of_params(params)
    assert back is not None
    assert back[0] == structure
    np.testing.assert_array_equal(back[1], vector)
    assert space.suggest(optuna.trial.FixedTrial(params)) == (name, assignment)


def test_sites_that_a_structure_lacks_make_no_difference() -> None:
    space = SearchSpace(
        decisions=(Decision(name="a", options=("fp32", "w8a8")), Decision(name="b", options=("fp32", "w8a8"))),
        structures=("original", "short"),
        absent=(("short", ("b",)),),
    )
    assert space.size == 4 + 2
    one = space.params_of("short", {"a": "w8a8", "b": "w8a8"})
    two = space.params_of("short", {"a": "w8a8", "b": "fp32"})
    assert one == two
    assert space.suggest(optuna.trial.FixedTrial(one)) == ("short", {"a": "w8a8"})


def test_named_parameters_are_readable_and_packed_ones_leave_a_readable_attribute() -> None:
    decisions = tuple(Decision(name=f"conv{i}", options=_OPTIONS) for i in range(50))
    named = SearchSpace(decisions=decisions)
    assert named.params_of(*named.uniform("w4a8"))["conv7"] == "w4a8"
    packed = SearchSpace(decisions=decisions, encoding="packed")
    assert len(packed.distributions()) == 3
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    _, assignment = packed.suggest(trial)
    assert trial.user_attrs["formats"] == assignment


@pytest.mark.parametrize(("encoding", "value"), [("name", "w16"), ("ordinal", 6), ("packed", 10**9)])
def test_parameters_of_another_space_are_not_read(encoding: Encoding, value: object) -> None:
    space = SearchSpace(decisions=(Decision(name="a", options=_OPTIONS),), encoding=encoding)
    (name,) = space.distributions()
    assert space.indices_of_params({name: value}) is None
    assert space.indices_of_params({}) is None


def test_wrong_spaces_and_recipes_are_refused() -> None:
    with pytest.raises(ConfigError, match="distinct"):
        Decision(name="a", options=("w8", "w8"))
    with pytest.raises(ConfigError, match="taken"):
        Decision(name="structure", options=("w8",))
    one = Decision(name="a", options=("fp32", "w8"))
    with pytest.raises(ConfigError, match="named twice"):
        SearchSpace(decisions=(one, one))
    with pytest.raises(ConfigError, match="not there"):
        SearchSpace(decisions=(one,), absent=(("short", ("a",)),))
    space = SearchSpace(decisions=(one,))
    with pytest.raises(ConfigError, match="no option here"):
        space.params_of("original", {"a": "w2"})
    with pytest.raises(ConfigError, match="not in the search space"):
        space.params_of("original", {"b": "w8"})
