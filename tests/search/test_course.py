"""What the parts of a run share: which failures of an earlier part are worth another try."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from modeltailor.search.course import Course
from modeltailor.search.records import PlaceRecord, RunRecord, TrialRecord


def trial(role: str, outcome: str, *, number: int = 1, there: str = "MEASURED") -> TrialRecord:
    return TrialRecord(
        number=number, key="k", role=role, recipe={}, outcome=outcome,  # type: ignore[arg-type]
        elsewhere={"board": PlaceRecord(outcome=there)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("record", "patience_s", "again"),
    [
        (trial("fp32", "OOM"), 300.0, True),
        (trial("fp32", "MEASURED"), 300.0, False),
        (trial("fp32", "MEASURED", there="OOM"), 300.0, True),
        (trial("baseline", "TIMEOUT"), 300.0, False),
        (trial("baseline", "TIMEOUT"), 900.0, True),
        (trial("baseline", "EVAL"), 900.0, False),
        (trial("fp32", "OOM", number=5), 900.0, False),
        (trial("baseline", "TIMEOUT", number=5), 900.0, False),
    ],
)
def test_failures_of_an_earlier_part_are_tried_again_where_that_may_help(
    record: TrialRecord, patience_s: float, again: bool
) -> None:
    part = SimpleNamespace(_first_number=5, _patience_before=300.0, plan=SimpleNamespace(trial_timeout_s=patience_s))
    assert Course._deserves_another_try(part, record) == again  # type: ignore[arg-type]


def test_a_note_that_does_not_hold_any_more_is_taken_back_and_the_others_stay() -> None:
    record = RunRecord(
        job={}, budget={}, profile={}, device={}, metric={}, model={}, splits={}, axes=(), environment={}, seed=0,
        started_at="", notes=("one", "two"),
    )  # fmt: skip
    attributes = {"run": record.model_dump_json()}
    part = SimpleNamespace(study=SimpleNamespace(user_attrs=attributes, set_user_attr=attributes.__setitem__))
    Course.drop_note(part, "one")  # type: ignore[arg-type]
    Course.drop_note(part, "never said")  # type: ignore[arg-type]
    assert RunRecord.model_validate_json(attributes["run"]).notes == ("two",)
