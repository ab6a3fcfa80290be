"""What a run keeps and says at its end: none, some or all of its finalists could be certified."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from modeltailor.errors import ModelError
from modeltailor.search import run
from modeltailor.search.absent import TO_MEASURE
from modeltailor.search.records import PredictedRecord
from modeltailor.search.run_folder import FINALS_AMONG, RunFolder


@pytest.mark.parametrize(
    ("certified", "kept", "note"),
    [(0, False, "could not be measured again"), (2, True, "1 of 3 finalists were not certified"), (3, True, "")],
)
def test_what_could_not_be_certified_is_said(
    certified: int, kept: bool, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = MagicMock()
    course.history.return_value = SimpleNamespace(finals=())
    course.elapsed.return_value, course.plan.time_s, course.reserve.return_value = 10.0, 60.0, 20.0
    course.timed.side_effect = lambda _, call: call()
    finals = tuple(MagicMock() for _ in range(certified))
    monkeypatch.setattr(run, "finalists_on_all", lambda *_, **__: [SimpleNamespace(key=k) for k in "abc"])
    monkeypatch.setattr(run, "certify_finalists", lambda *_, **__: finals)
    monkeypatch.setattr(run, "_note_seen_samples", lambda *_: None)
    monkeypatch.setattr(run, "_predict", lambda *_: None)
    run._finish(course)
    notes = [c.args[0] for c in course.add_notes.call_args_list]
    assert len(notes) == bool(note)
    assert all(note in n for n in notes)
    assert ("finals" in [c.args[0] for c in course.ledger.keep.call_args_list]) == kept


class Board:
    """A course whose device was not attached: its finalists are ``a`` and ``b``, and so many are certified already."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, certified: str) -> None:
        self.kept: dict[str, Any] = {"finals": list(certified), "predicted": []}
        self.course = MagicMock()
        self.course.elapsed.return_value, self.course.plan.time_s, self.course.reserve.return_value = 10.0, 60.0, 20.0
        self.course.timed.side_effect = lambda _, call: call()
        self.course.ledger.attribute.side_effect = lambda name, default=None: self.kept.get(name, default)
        self.course.ledger.keep.side_effect = self.kept.__setitem__
        self.course.ledger.records.return_value = [SimpleNamespace(number=n) for n in (0, 1, 4)]
        finals = tuple(MagicMock(key=k) for k in certified)
        self.course.history.side_effect = lambda: SimpleNamespace(
            finals=finals, predicted=tuple(self.kept["predicted"])
        )
        self.course.folder = RunFolder(folder)
        self.error: ModelError | None = None
        self.asked = 0
        monkeypatch.setattr(run, "finalists_on_all", lambda *_, **__: [SimpleNamespace(key=k) for k in "ab"])
        monkeypatch.setattr(run, "certify_finalists", lambda *_, **__: (MagicMock(key="b"),))
        monkeypatch.setattr(run, "_note_seen_samples", lambda *_: None)
        monkeypatch.setattr(run, "absent_profile", lambda _: SimpleNamespace(name="board"))
        monkeypatch.setattr(run, "predict_absent", self.predict)
        monkeypatch.setattr(run, "to_measure_text", lambda history: " ".join(p["key"] for p in history.predicted))

    def predict(self, *_: object) -> tuple[PredictedRecord, ...]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return (PredictedRecord(key="foretold", latency_ms=None),)


def listed(folder: Path) -> str:
    return (folder / TO_MEASURE).read_text() if (folder / TO_MEASURE).exists() else ""


def test_a_prediction_that_was_missed_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(tmp_path, monkeypatch, certified="ab")
    run._finish(board.course)
    assert (board.asked, listed(tmp_path)) == (1, "foretold")


def test_a_list_that_was_missed_is_written_without_predicting_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(tmp_path, monkeypatch, certified="ab")
    board.kept["predicted"] = [{"key": "before"}]
    run._finish(board.course)
    assert (board.asked, listed(tmp_path)) == (0, "before")
    (tmp_path / TO_MEASURE).write_text("of an earlier part")
    run._finish(board.course)
    assert (board.asked, listed(tmp_path)) == (0, "before")


def test_a_prediction_that_failed_is_tried_again_and_its_note_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(tmp_path, monkeypatch, certified="ab")
    board.error = ModelError("MODEL-01", "x.onnx", "cannot be read", "")
    run._finish(board.course)
    (said,) = (c.args[0] for c in board.course.add_notes.call_args_list)
    assert "could not be predicted" in said
    assert listed(tmp_path) == ""
    board.error = None
    run._finish(board.course)
    assert board.course.drop_note.call_args.args == (said,)
    assert board.course.add_notes.call_count == 1
    assert (board.asked, listed(tmp_path)) == (2, "foretold")


@pytest.mark.parametrize("fails", [False, True])
def test_predictions_are_of_the_finalists_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """What was predicted before others were certified is not taken for theirs."""
    board = Board(tmp_path, monkeypatch, certified="a")
    board.kept["predicted"] = [{"key": "before"}]
    board.error = ModelError("MODEL-01", "x.onnx", "cannot be read", "") if fails else None
    run._finish(board.course)
    assert [p["key"] for p in board.kept["predicted"]] == ([] if fails else ["foretold"])


@pytest.mark.parametrize("certified", ["a", "ab"])
def test_what_finalists_were_chosen_among_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certified: str
) -> None:
    """Also where all of them had been certified before: what was found since has been passed over now."""
    board = Board(tmp_path, monkeypatch, certified=certified)
    run._finish(board.course)
    assert board.kept[FINALS_AMONG] == [0, 1, 4]


def test_without_a_certificate_what_was_found_since_goes_on_counting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(tmp_path, monkeypatch, certified="a")
    monkeypatch.setattr(run, "certify_finalists", lambda *_, **__: ())
    run._finish(board.course)
    assert FINALS_AMONG not in board.kept
