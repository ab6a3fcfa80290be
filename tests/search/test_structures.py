from __future__ import annotations

from dataclasses import replace

import pytest

from modeltailor.compress import Training
from modeltailor.search.plan import SearchPlan
from modeltailor.search.stages import FactorFacts, GroupFacts, PreparedFacts
from modeltailor.search.structures import propose_structures

FACTS = PreparedFacts(
    kind="torch", digest="d", parameters=1, input_names=("x",), fixed_batch=None,
    split_sizes=(("train", 10_000),), split_digests=(), macs=2_000_000,
    groups=(
        GroupFacts(name="inner", channels=32, coupled=False, macs_share=0.6),
        GroupFacts(name="wide", channels=64, coupled=True, macs_share=0.8),
        GroupFacts(name="attention", channels=12, coupled=False, macs_share=0.2, kind="heads"),
    ),
    blocks=("b", "a", "c"),
    factors=(FactorFacts(name="inner", ranks=((0.9, 29), (0.7, 22), (0.5, 16)), macs_share=0.3),),
    resolutions=(0.75,),
)  # fmt: skip


def arms(facts: PreparedFacts = FACTS, **kwargs: object):  # type: ignore[no-untyped-def]
    plan = SearchPlan(**{"axes": ("formats", "sparsity", "student"), "time_s": 3600.0, **kwargs})  # type: ignore[arg-type]
    return propose_structures(facts, plan, cores=2)


def test_with_time_every_way_to_make_the_network_smaller_has_an_arm() -> None:
    found = [a.structure for a in arms()]
    assert any(s.keep and not s.removed for s in found)
    assert any(dict(s.keep).get("attention") == 0.75 for s in found)
    assert any(s.removed and not s.keep for s in found)
    assert any(s.removed and s.keep for s in found)
    assert any(s.ranks for s in found)
    assert any(s.sparsity for s in found)
    assert any(s.resolution == 0.75 for s in found)
    assert len({s.key for s in found}) == len(found)
    assert all(0.0 < a.work <= 1.0 for a in arms())


def test_little_time_goes_into_few_arms_of_each_open_axis() -> None:
    few = arms(replace(FACTS, macs=400_000_000), time_s=300.0)
    assert len(few) == 2
    assert {a.axis for a in few} == {"sparsity", "student"}
    assert sum(a.train_s for a in few) < 150.0


@pytest.mark.parametrize(("axis", "closed"), [("sparsity", "student"), ("student", "sparsity")])
def test_a_closed_axis_has_no_arm(axis: str, closed: str) -> None:
    found = arms(axes=("formats", axis))
    assert found
    assert not any(a.axis == closed for a in found)
    assert axis == "sparsity" or not any(a.structure.keep for a in found)


def test_an_onnx_file_gets_mild_arms_that_need_no_training() -> None:
    found = arms(replace(FACTS, kind="onnx", blocks=(), split_sizes=()))
    assert found
    assert all(a.structure.training is None and "untrained" in a.label for a in found)
    assert all(min(dict(a.structure.keep).values(), default=1.0) >= 0.9 for a in found)
    assert arms(replace(FACTS, kind="onnx"), axes=("formats", "student")) == ()


def test_how_students_learn_is_the_users_to_say() -> None:
    said = Training(temperature=2.0, features=("inner",), assistants=1)
    found = arms(training=said, epochs=3.0, seed=7)
    assert {a.structure.training for a in found} == {replace(said, epochs=3.0, seed=7)}


def test_mixtures_are_made_of_images_only_and_where_they_are_not_turned_off() -> None:
    image = replace(FACTS, is_image=True)

    def mixups(facts: PreparedFacts, **kwargs: object) -> set[float | None]:
        return {a.structure.training.mixup for a in arms(facts, **kwargs) if a.structure.training is not None}

    assert mixups(image, epochs=10.0) == {0.5}
    assert mixups(image, epochs=2.0) == {None}
    assert mixups(FACTS, epochs=10.0) == {None}
    assert mixups(image, epochs=10.0, training=Training(mixup=0.0)) == {0.0}
    assert mixups(image, epochs=2.0, training=Training(mixup=0.2)) == {0.2}
