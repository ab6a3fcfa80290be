"""What the search does with what a sampler proposes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import MagicMock

import optuna
import pytest
from optuna.trial import TrialState
from tests.search.placed_records import placed_record

from modeltailor.compress import Format, Recipe, Settings, Structure, Training
from modeltailor.search.executor import Task
from modeltailor.search.groundwork import Groundwork
from modeltailor.search.ledger import Ledger
from modeltailor.search.loop import SearchLoop
from modeltailor.search.options import FormatChoice
from modeltailor.search.records import RunHistory, RunRecord
from modeltailor.search.sampler import PASSED_OVER, Decision, SearchSpace, TailorSampler
from modeltailor.search.structures import Arm, RecoveryPlan
from modeltailor.targets import Budget

RUN = RunRecord(
    job={}, budget={}, profile={}, device={}, metric={"name": "accuracy"}, model={}, splits={}, axes=("formats",),
    environment={}, seed=0, started_at="",
)  # fmt: skip


FP32 = placed_record(0, Structure(), 0.0, 1.0, 1_000_000, bits=32, role="fp32")
INT8 = placed_record(1, Structure(), 0.0, 0.5, 250_000, role="baseline")
SMALL = Arm(label="small", axis="student", structure=Structure(width=0.5), train_s=600.0, work=0.5)


def searching(space: SearchSpace, study: optuna.Study, *, time_s: float) -> SearchLoop:
    course = MagicMock()
    course.study = study
    course.ledger = Ledger(study, objectives=("accuracy", "latency", "size"), budget=Budget())
    course.plan = SimpleNamespace(time_s=time_s, trials=1000, sampler="random")
    course.elapsed.return_value, course.reserve.return_value, course.used_up.return_value = 0.0, 0.0, ""
    course.history.return_value = RunHistory(run=RUN, trials=())
    course.metric.minimize, course.request.budget, course.request.others = False, Budget(), ()
    course.executor.submit.side_effect = AssertionError("nothing may be evaluated")
    choice = FormatChoice(options=(("a", ("fp32", "w8a8")),), settings=Settings(), uniform="", notes=())
    return SearchLoop(course, Groundwork(space=space, choice=choice, arms={"small": SMALL}, recoveries=None))


def test_a_structure_that_there_is_no_time_to_train_is_not_begun_whichever_sampler_proposes_it() -> None:
    space = SearchSpace(decisions=(Decision(name="a", options=("fp32", "w8a8")),), structures=("small",))
    study = optuna.create_study(directions=["minimize"] * 3, sampler=optuna.samplers.RandomSampler(seed=0))
    assert searching(space, study, time_s=500.0).run() == (
        "what the sampler proposes would have to be trained, and there is no time left for that"
    )
    assert {t.state for t in study.trials} == {TrialState.FAIL}
    assert all(PASSED_OVER in t.user_attrs for t in study.trials)  # no structure is given up for it
    with pytest.raises(AssertionError, match="nothing may be evaluated"):
        searching(space, study, time_s=700.0).run()


def test_what_was_queued_with_formats_that_are_no_choice_any_more_is_settled_and_passed_over() -> None:
    """Baselines that were measured after a resume can change which formats pay."""
    space = SearchSpace(decisions=(Decision(name="a", options=("fp32", "w8a8-dynamic")),))
    study = optuna.create_study(directions=["minimize"] * 3, sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({"a": "w8a8"})
    with pytest.raises(AssertionError, match="nothing may be evaluated"):  # of the next one, which can be read
        searching(space, study, time_s=500.0).run()
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.RUNNING]


class Begun(Exception):
    """A trial was about to be evaluated."""


SPACE = SearchSpace(
    decisions=(Decision(name="a", options=("fp32", "w8a8")),), structures=("original", "planned", "deep")
)
PLANNED = Arm(label="planned", axis="student", structure=Structure(removed=("x",)), train_s=100.0, work=0.8)
DEEP = Arm(
    label="deep", axis="student", structure=Structure(removed=("x", "y")), train_s=100.0, work=0.6, is_spare=True
)


def stalled(
    monkeypatch: pytest.MonkeyPatch,
    *,
    left_s: float,
    trials: int = 1000,
    reason: str | None = "nothing moves the front",
    formats: int = 7,
    lost: float = 0.004,
    recoveries: RecoveryPlan | None = None,
) -> tuple[SearchLoop, list[Task]]:
    """A search in which the structure of the plan is trained, with so much time left.

    Its formats of 4 bits have ``lost`` so much; ``reason`` is why it would stop, ``None``: what it finds itself.
    """
    study = optuna.create_study(directions=["minimize"] * 3, sampler=optuna.samplers.RandomSampler(seed=0))
    few_arms = searching(SPACE, study, time_s=1000.0)
    arms = {"planned": PLANNED, "deep": DEEP}
    loop = SearchLoop(few_arms.course, replace(few_arms.ground, arms=arms, recoveries=recoveries))
    tasks: list[Task] = []

    def submit(task: Task) -> None:
        tasks.append(task)
        raise Begun

    loop.course.executor.submit.side_effect = submit  # type: ignore[attr-defined]
    loop.course.elapsed.return_value = 1000.0 - left_s  # type: ignore[attr-defined]
    loop.course.time_left.return_value = True  # type: ignore[attr-defined]
    loop.course.worthless_loss.return_value = 0.1  # type: ignore[attr-defined]
    loop.course.plan.trials = trials
    whole = placed_record(2, PLANNED.structure, 0.002, 0.36, 220_000, training_s=80.0)
    few = placed_record(3, PLANNED.structure, lost, 0.36, 120_000, bits=4)
    alike = [few.model_copy(update={"number": n, "key": f"{few.key}{n}"}) for n in range(3, 3 + formats)]
    for r in (FP32, INT8, whole, *alike):
        loop.course.ledger.add(r)
    study.enqueue_trial({"structure": "planned", "a": "w8a8"}, user_attrs={"seed_label": "planned"})
    trial = study.ask()
    loop.ground.space.suggest(trial)
    study.tell(trial, [0.002, 0.36, 220_000.0])
    if reason is not None:
        monkeypatch.setattr(loop, "_nothing_to_gain", lambda records: reason)
    return loop, tasks


def test_where_nothing_moves_the_front_and_time_is_left_another_structure_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, tasks = stalled(monkeypatch, left_s=200.0)
    with pytest.raises(Begun):
        loop.run()
    (task,) = tasks
    assert task.recipe.structure == DEEP.structure
    assert (task.role, task.label) == ("seed", "deep")
    assert task.deadline_s is not None
    assert 100.0 < task.deadline_s <= 150.0


def test_its_training_leaves_time_for_its_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, tasks = stalled(monkeypatch, left_s=90.0)
    with pytest.raises(Begun):
        loop.run()
    assert tasks[0].deadline_s is not None
    assert tasks[0].deadline_s < 90.0


@pytest.mark.parametrize("short", [{"left_s": 40.0}, {"left_s": 200.0, "trials": 12}])
def test_without_time_or_trials_for_another_structure_the_search_stops_as_it_would(
    monkeypatch: pytest.MonkeyPatch, short: dict[str, float]
) -> None:
    loop, tasks = stalled(monkeypatch, **short)  # type: ignore[arg-type]
    assert loop.run() == "nothing moves the front"
    assert not tasks


def test_where_the_trials_will_be_through_before_the_time_is_another_structure_is_trained_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, tasks = stalled(monkeypatch, left_s=400.0, trials=30, reason="")
    with pytest.raises(Begun):
        loop.run()
    assert tasks[0].recipe.structure == DEEP.structure
    many, begun = stalled(monkeypatch, left_s=400.0, trials=1000, reason="")
    with pytest.raises(Begun):
        many.run()
    assert begun[0].recipe.structure != DEEP.structure  # a thousand trials need all the time


def test_a_structure_beyond_the_plan_is_begun_by_no_sampler_and_costs_none_of_its_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in range(8):
        loop, tasks = stalled(monkeypatch, left_s=40.0, reason="")
        loop.course.study.sampler = optuna.samplers.RandomSampler(seed=seed)
        with pytest.raises(Begun):
            loop.run()
        assert tasks[0].recipe.structure != DEEP.structure
        closed = [t for t in loop.course.study.trials if PASSED_OVER in t.user_attrs]
        assert all(set(t.params) == {"structure"} for t in closed)


@pytest.mark.parametrize(("gain_a_trial", "is_begun"), [(0.0, True), (1e-5, True), (3e-3, False)])
def test_a_structure_that_promises_clearly_more_a_second_than_formats_gave_is_not_put_off(
    monkeypatch: pytest.MonkeyPatch, gain_a_trial: float, is_begun: bool
) -> None:
    loop, tasks = stalled(monkeypatch, left_s=400.0, reason="", formats=21)
    loop.course.ledger.keep("hypervolume", [[600.0 + n, 0.5 + gain_a_trial * n] for n in range(24)])
    with pytest.raises(Begun):
        loop.run()
    assert (tasks[0].recipe.structure == DEEP.structure) is is_begun


def test_a_few_formats_do_not_tell_what_further_ones_give(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, tasks = stalled(monkeypatch, left_s=400.0, reason="", formats=9)
    loop.course.ledger.keep("hypervolume", [[600.0 + n, 0.5] for n in range(12)])
    with pytest.raises(Begun):
        loop.run()
    assert tasks[0].recipe.structure != DEEP.structure


def just_learned(
    monkeypatch: pytest.MonkeyPatch,
    *,
    left_s: float,
    train_s: float = 1.0,
    most: int = 4,
    reason: str | None = "nothing moves the front",
    seconds: dict[str, float] | None = None,
) -> tuple[SearchLoop, list[Task], list[Recipe]]:
    """A stalled search right after a recipe of 3 bits learned again; one of 4 bits would gain by it, too."""
    plan = RecoveryPlan(training=Training(), train_s=train_s, most=most)
    loop, tasks = stalled(monkeypatch, left_s=left_s, reason=reason, lost=0.02, recoveries=plan)
    recipes: list[Recipe] = []

    def add(recipe: Recipe, loss: float, **changes: object) -> None:
        number = loop.course.ledger.next_number()
        record = placed_record(number, recipe.structure, loss, 0.36, 120_000)
        plain = {"key": recipe.key, "recipe": recipe.to_plain()}
        loop.course.ledger.add(record.model_copy(update={**plain, **changes}))

    def evaluate(recipe: Recipe, role: str, label: str, *, deadline_s: float) -> None:
        recipes.append(recipe)
        add(recipe, 0.0035)

    loop.course.evaluate = evaluate  # type: ignore[assignment,method-assign]
    three = Recipe(structure=PLANNED.structure, formats=(("a", Format.parse("w3a8")),), recovery=plan.training)
    add(three, 0.018, seconds=seconds or {})
    return loop, tasks, recipes


def is_of_four_bits(recipe: Recipe) -> bool:
    return recipe.recovery is not None and [f.name for _, f in recipe.formats] == ["w4a8"]


def test_where_nothing_moves_the_front_recipes_learn_again_without_waiting_for_further_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, tasks, recipes = just_learned(monkeypatch, left_s=10.0)
    assert loop.run() == "nothing moves the front"  # once nothing is left that would gain by learning
    assert len(recipes) == 1
    assert is_of_four_bits(recipes[0])
    assert not tasks


@pytest.mark.parametrize("short", [{"train_s": 11.0}, {"most": 1}])
def test_a_stalled_search_lets_no_more_recipes_learn_than_there_is_time_and_leave_for(
    monkeypatch: pytest.MonkeyPatch, short: dict[str, float]
) -> None:
    loop, tasks, recipes = just_learned(monkeypatch, left_s=10.0, **short)  # type: ignore[arg-type]
    assert loop.run() == "nothing moves the front"
    assert not recipes
    assert not tasks


def test_what_was_expected_before_a_recipe_learned_again_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _, recipes = just_learned(monkeypatch, left_s=10.0, reason=None)
    sampler = MagicMock(spec=TailorSampler)
    sampler.expected_gains = [0.0] * 6
    loop.course.study.sampler = sampler
    monkeypatch.setattr("modeltailor.search.loop.is_met_on_all", lambda *_, **__: True)
    monkeypatch.setattr(loop, "_try_next", MagicMock(side_effect=Begun))
    with pytest.raises(Begun):  # a further proposal, instead of the end
        loop.run()
    assert [is_of_four_bits(r) for r in recipes] == [True]
    assert sampler.expected_gains == []
    sampler.expected_gains[:] = [0.0] * 6
    assert loop.run() == "the budget is met, and no recipe is expected to move the front any more"
    assert len(recipes) == 1


def test_where_every_recipe_was_tried_those_that_would_gain_by_it_still_learn_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, tasks, recipes = just_learned(monkeypatch, left_s=10.0, reason="")
    number = loop.course.ledger.next_number()
    loop.course.ledger.add(placed_record(number, PLANNED.structure, 0.0, 0.8, 900_000, bits=32, role="seed"))
    assert loop.run() == "the search has tried every recipe it can tell apart"
    assert [is_of_four_bits(r) for r in recipes] == [True]
    assert not tasks


@pytest.mark.parametrize(
    ("train_s", "seconds", "is_recipe"),
    [(1.0, {}, True), (150.0, {}, False), (1.0, {"recovery": 150.0}, False), (150.0, {"recovery": 1.0}, True)],
)
def test_of_a_recipe_and_a_structure_that_promises_more_a_second_is_trained(
    monkeypatch: pytest.MonkeyPatch, train_s: float, seconds: dict[str, float], is_recipe: bool
) -> None:
    loop, tasks, recipes = just_learned(monkeypatch, left_s=200.0, train_s=train_s, seconds=seconds)
    with pytest.raises(Begun):  # the structure's turn comes at last
        loop.run()
    assert [is_of_four_bits(r) for r in recipes] == [True] * is_recipe
    assert [t.recipe.structure for t in tasks] == [DEEP.structure]
