"""``modeltailor resume`` on a run that ends at once says which limit still binds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeltailor.commands import running
from modeltailor.search.ledger import Ledger
from modeltailor.search.run_folder import RunFolder
from modeltailor.targets import Budget

Face = Callable[..., Any]


@pytest.fixture
def ended(made_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of 24 trials and 600 s; a search that goes on with it finds that it is over."""
    from modeltailor.api import load_run

    (made_run / "job.yaml").write_text("model: m.py:build\ndata: d.py:load\nsearch: {trials: 24, time: 600s}\n")
    _keep(made_run, "stopped_at", {"trials": 24, "time_s": 600.0})
    monkeypatch.setattr(running, "search_in_view", lambda *_, out, **__: load_run(out))
    return made_run


def _keep(run: Path, name: str, value: object) -> None:
    study = RunFolder(run).study()
    Ledger(study, objectives=("accuracy", "latency", "size"), budget=Budget(), minimize=False).keep(name, value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], ["all 24 trials are done", "--trials"]),
        (["--time", "40m"], ["all 24 trials are done", "--trials"]),
        (["--trials", "50"], ["the time of 600 s is used up", "--time"]),
        (["--trials", "50", "--time", "300s"], ["the time of 300 s is used up", "--time"]),
    ],
)
def test_resume_names_the_limit_that_binds(face: Face, ended: Path, given: list[str], words: list[str]) -> None:
    said = face("resume", ended, "--root", ".", *given)
    assert said.code == 0, said.err
    (line,) = [ln for ln in said.err.splitlines() if ln.startswith("nothing was added")]
    for word in words:
        assert word in line
    assert "nothing was added" not in face("resume", ended, "--root", ".", *given, "-q").err


def test_resume_says_that_nothing_more_was_given(face: Face, ended: Path) -> None:
    job = ended / "job.yaml"
    job.write_text(job.read_text().replace("trials: 24", "trials: 60"))
    _keep(ended, "stopped_at", {"trials": 60, "time_s": 600.0})
    said = face("resume", ended, "--root", ".")
    assert "nothing was added: neither more trials nor more time were given" in said.err
    assert "--trials, --time or both" in said.err


def test_resume_says_why_a_search_that_went_on_stopped_again(
    face: Face, ended: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modeltailor.api import load_run

    def search(*_: Any, out: Path, **__: Any) -> Any:
        _keep(out, "stopped_at", {"trials": 50, "time_s": 2400.0})
        _keep(out, "stopped", "the search has tried every recipe it can tell apart")
        return load_run(out)

    monkeypatch.setattr(running, "search_in_view", search)
    said = face("resume", ended, "--root", ".", "--trials", "50", "--time", "40m", "--json")
    assert "nothing was added: the search has tried every recipe it can tell apart" in said.err
    assert json.loads(said.out)["search"]["n_trials"] == 24


def test_a_run_that_was_stopped_by_hand_needs_no_explanation(face: Face, ended: Path) -> None:
    _keep(ended, "stopped", "")
    assert "nothing was added" not in face("resume", ended, "--root", ".").err
