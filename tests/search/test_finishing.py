"""What a run keeps and says at its end: none, some or all of its finalists could be certified."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from modeltailor.search import run


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
