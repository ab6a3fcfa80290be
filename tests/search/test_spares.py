"""Which structure is trained beyond the plan, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.search.placed_records import placed_record

from modeltailor.compress import Structure
from modeltailor.search.plan import SearchPlan
from modeltailor.search.points import was_trained
from modeltailor.search.records import TrialRecord
from modeltailor.search.spares import Spare, propose_spare
from modeltailor.search.stages import FactorFacts, GroupFacts, PreparedFacts
from modeltailor.search.structures import Arm, propose_structures, spare_structures

BOX = (0.1, 1.1, 1.1)
FACTS = PreparedFacts(
    kind="torch", digest="d", parameters=1, input_names=("x",), fixed_batch=None,
    split_sizes=(("train", 10_000),), split_digests=(), macs=40_000_000,
    groups=(GroupFacts(name="inner", channels=32, coupled=False, macs_share=0.6),),
    blocks=tuple("abcdefg"), factors=(FactorFacts(name="inner", ranks=((0.5, 16),), macs_share=0.3),),
)  # fmt: skip


def arm(removed: str, work: float, *, spare: bool = True, train_s: float = 100.0) -> Arm:
    structure = Structure(removed=tuple(removed))
    return Arm(label=removed, structure=structure, axis="student", work=work, train_s=train_s, is_spare=spare)


PLANNED = arm("ab", 0.78, spare=False)
FP32 = placed_record(0, Structure(), 0.0, 1.0, 1_000_000, bits=32, role="fp32")
INT8 = placed_record(1, Structure(), 0.0, 0.5, 250_000, role="baseline")
CUT = placed_record(2, PLANNED.structure, 0.002, 0.36, 220_000, training_s=117.0)
CUT4 = placed_record(3, PLANNED.structure, 0.004, 0.36, 120_000, bits=4)
HISTORY = (FP32, INT8, CUT, CUT4)
DEEPER = arm("abc", 0.67)


def proposed(history: tuple[TrialRecord, ...], *arms: Arm, seconds: float = 500.0) -> Spare | None:
    return propose_spare(history, arms, reference=BOX, worthless_loss=0.1, seconds=seconds)


def test_more_of_what_paid_is_expected_to_pay_and_takes_as_long_as_its_like() -> None:
    found = proposed(HISTORY, PLANNED, DEEPER)
    assert found is not None
    assert found.arm is DEEPER
    assert 0.001 < found.gain < 0.2
    assert found.train_s == pytest.approx(150.0 * 0.67)


def test_what_saved_nothing_where_it_was_tried_is_not_tried_again() -> None:
    slow = placed_record(2, PLANNED.structure, 0.002, 0.5, 220_000, training_s=117.0)
    assert proposed((FP32, INT8, slow), PLANNED, replace(DEEPER, work=0.99)) is None


def test_where_structures_lost_much_a_deeper_cut_is_expected_to_lose_more() -> None:
    bad = placed_record(2, PLANNED.structure, 0.06, 0.36, 220_000, training_s=117.0)
    good, poor = proposed(HISTORY, PLANNED, DEEPER), proposed((FP32, INT8, bad), PLANNED, DEEPER)
    assert good is not None
    assert poor is None or poor.gain < good.gain


def test_what_is_cut_in_two_ways_saves_what_each_saved_alone() -> None:
    keep = Structure(keep=(("g", 0.75),))
    narrow = Arm(label="narrow", structure=keep, axis="sparsity", work=0.64, train_s=100.0)
    thin = placed_record(5, keep, 0.002, 0.46, 215_000, training_s=117.0)
    both = Structure(keep=keep.keep, removed=PLANNED.structure.removed)
    arms = (PLANNED, narrow, Arm(label="both", structure=both, axis="student", work=0.5, train_s=100.0, is_spare=True))
    # 0.36 * 0.46 / 0.5 = 0.331, and nothing else of it is better than what there is: a box up to there gains nothing
    found = propose_spare((*HISTORY, thin), arms, reference=(0.1, 0.332, 1.1), worthless_loss=0.1, seconds=500.0)
    assert found is not None
    assert propose_spare((*HISTORY, thin), arms, reference=(0.1, 0.331, 1.1), worthless_loss=0.1, seconds=500.0) is None


def test_a_way_that_nothing_like_it_was_tried_of_is_trusted_no_more_than_its_axis() -> None:
    keep = Structure(keep=(("g", 0.75),))
    narrow = Arm(label="narrow", structure=keep, axis="sparsity", work=0.64, train_s=100.0)
    useless = placed_record(
        5, keep, 0.002, 0.5, 240_000, training_s=117.0
    )  # the runtime is no faster for fewer channels
    low_rank = Arm(
        label="low rank",
        structure=Structure(ranks=(("a", 4),)),
        axis="sparsity",
        work=0.63,
        train_s=100.0,
        is_spare=True,
    )
    assert proposed((*HISTORY, useless), PLANNED, narrow, low_rank) is None
    assert proposed((FP32, INT8), low_rank) is not None


def test_the_gain_a_second_decides() -> None:
    narrow = Arm(
        label="narrow", structure=Structure(keep=(("g", 0.5),)), axis="sparsity", work=0.2, train_s=1.0, is_spare=True
    )
    deepest = arm("abcdefg", 0.4)
    found = proposed(HISTORY, PLANNED, DEEPER, deepest, narrow)
    each = {a.label: s for a in (DEEPER, deepest, narrow) if (s := proposed(HISTORY, PLANNED, a)) is not None}
    assert found is not None
    assert found.arm.label == max(each, key=lambda n: each[n].gain / each[n].train_s)
    assert len(each) == 3


def test_there_must_be_time_for_the_better_part_of_its_training() -> None:
    assert proposed(HISTORY, PLANNED, DEEPER, seconds=0.61 * 100.5) is not None
    assert proposed(HISTORY, PLANNED, DEEPER, seconds=0.59 * 100.5) is None


def test_what_came_from_the_cache_says_nothing_about_the_time_of_training() -> None:
    cached = placed_record(2, PLANNED.structure, 0.002, 0.36, 220_000, training_s=0.3)
    found = proposed((FP32, INT8, cached), PLANNED, DEEPER)
    assert found is not None
    assert found.train_s == DEEPER.train_s


def test_the_export_of_weights_from_the_cache_says_nothing_about_the_time_of_training() -> None:
    cached = placed_record(2, PLANNED.structure, 0.002, 0.36, 220_000, training_s=6.0, reused=("structure", "latency"))
    again = cached.model_copy(update={"number": 3, "key": "again", "seconds": {"structure": 6.0, "recovery": 50.0}})
    found = proposed((FP32, INT8, cached, again), PLANNED, DEEPER)
    assert found is not None
    assert found.train_s == DEEPER.train_s
    assert not was_trained(cached)
    assert was_trained(again)
    assert not was_trained(again.model_copy(update={"reused": ("structure", "recovery")}))


def test_nothing_is_tried_twice_even_if_it_failed() -> None:
    failed = placed_record(4, DEEPER.structure, 0.0, 1.0, 0, outcome="NONFINITE")
    assert proposed((*HISTORY, failed), PLANNED, DEEPER) is None
    assert proposed(HISTORY, PLANNED) is None
    assert proposed((FP32,), PLANNED, DEEPER) is None  # nothing but the original says nothing


def test_a_structure_of_the_plan_that_its_time_did_not_reach_is_one_of_them() -> None:
    found = proposed(HISTORY, PLANNED, replace(DEEPER, is_spare=False))
    assert found is not None


def test_the_spare_structures_are_those_that_the_plan_has_no_time_for() -> None:
    short, long = SearchPlan(time_s=600.0), SearchPlan(time_s=100_000.0)
    planned, spare = propose_structures(FACTS, short, cores=2), spare_structures(FACTS, short, cores=2)
    assert planned
    assert spare
    assert all(a.is_spare for a in spare)
    assert not any(a.is_spare for a in planned)
    assert not {a.label for a in planned} & {a.label for a in spare}
    assert {a.structure.training for a in (*planned, *spare)} == {planned[0].structure.training}
    everything = propose_structures(FACTS, long, cores=2)
    assert [a.label for a in everything] == [a.label for a in (*planned, *spare)]
    assert spare_structures(FACTS, long, cores=2) == ()
    assert spare_structures(replace(FACTS, kind="onnx"), short, cores=2) == ()
    assert spare_structures(replace(FACTS, split_sizes=()), short, cores=2) == ()
