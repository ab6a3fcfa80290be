"""What the search does with what a sampler proposes."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import MagicMock

import optuna
import pytest
from optuna.trial import TrialState

from modeltailor.compress import Settings, Structure
from modeltailor.search.groundwork import Groundwork
from modeltailor.search.ledger import Ledger
from modeltailor.search.loop import SearchLoop
from modeltailor.search.options import FormatChoice
from modeltailor.search.records import RunHistory, RunRecord
from modeltailor.search.sampler import PASSED_OVER, Decision, SearchSpace
from modeltailor.search.structures import Arm
from modeltailor.targets import Budget

RUN = RunRecord(
    job={}, budget={}, profile={}, device={}, metric={"name": "accuracy"}, model={}, splits={}, axes=("formats",),
    environment={}, seed=0, started_at="",
)  # fmt: skip
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
