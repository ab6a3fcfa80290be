"""What is shown while a run goes on, here and from another process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from modeltailor.errors import ConfigError
from modeltailor.live import LiveView
from modeltailor.live_panel import Moment, Panel, clock, small_front, trial_line
from modeltailor.reports import summarize
from modeltailor.reports.synthetic import synthetic_history
from modeltailor.run_state import read_state, root_of, write_origin, write_state
from modeltailor.search.run import Progress

Face = Callable[..., Any]


def progress(**changes: Any) -> Progress:
    history = synthetic_history(30, 6, finished=False)
    given: dict[str, Any] = {
        "phase": "search", "text": "trying blocks.1 removed", "finished": 30, "planned": 60, "elapsed_s": 63.0,
        "remaining_s": 107.0, "history": history, "trial": history.trials[-1],
    }  # fmt: skip
    return Progress(**{**given, **changes})


def drawn(moment: Moment, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(Panel(moment))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_one_screen_says_what_is_tried_how_far_it_is_and_how_the_best_stands_against_the_budget(width: int) -> None:
    summary = summarize(synthetic_history(60, 20, finished=False))
    moment = Moment(
        title="runs/x", phase="search", text="trying blocks.1 removed", finished=23, planned=60, elapsed_s=63,
        remaining_s=107, last="int8 static: 2.31x", summary=summary,
    )  # fmt: skip
    lines = drawn(moment, width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert len(lines) <= 24
    for words in ("runs/x", "23/60 trials", "1:03 passed", "about 1:47 left", "trying blocks.1 removed", "best so far"):
        assert words in text
    best = summary.model_of(summary.best)
    assert best is not None
    assert sum(line.startswith(("  + ", "  x ")) for line in lines) == len(best.limits)
    row = next(line for line in lines if line.startswith(">"))
    assert f"{best.speedup.value:.2f}" in row


def test_names_of_layers_cannot_write_into_the_terminal() -> None:
    hostile = "\x1b[31m\u202e[bold]x"
    moment = Moment(title=hostile, phase="search", text=hostile, last=hostile, planned=1)
    text = "\n".join(drawn(moment, 80))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]" in text


def test_the_small_front_keeps_what_decides() -> None:
    summary = summarize(synthetic_history(120, 10))
    rows = small_front(summary, 5)
    front = [m for m in summary.models if m.on_front]
    assert len(front) > 5
    assert len(rows) <= 5
    keys = {m.key for m in rows}
    assert summary.verdict.key in keys
    assert min(front, key=lambda m: m.size_bytes).key in keys
    assert max(front, key=lambda m: m.accuracy.search.value).key in keys
    assert [m.latency_ms.value for m in rows] == sorted(m.latency_ms.value for m in rows)


def test_plain_lines_name_each_step_once_and_a_new_best_when_it_comes() -> None:
    out = io.StringIO()
    with LiveView(Console(file=out, width=200, force_terminal=False), title="x") as view:
        view(progress(history=None, trial=None, phase="prepare", text="loading model and data"))
        view(progress())
        view(progress())
    lines = out.getvalue().splitlines()
    assert lines[0] == "[1:03] loading model and data"
    assert lines[1].startswith("[1:03] 30/60, about 1:47 left ")
    assert sum("best so far" in line for line in lines) == 1
    assert "\x1b" not in out.getvalue()


def test_quiet_shows_nothing() -> None:
    out = io.StringIO()
    with LiveView(Console(file=out), quiet=True) as view:
        view(progress())
    assert out.getvalue() == ""


def test_a_failed_trial_is_told_with_its_reason() -> None:
    failed = next(t for t in synthetic_history(200, 6).trials if not t.is_measured)
    assert failed.outcome in trial_line(failed)
    assert failed.error[:20] in trial_line(failed)


def test_clock() -> None:
    assert [clock(s) for s in (-3, 5, 63, 3723)] == ["0:00", "0:05", "1:03", "1:02:03"]


def test_a_run_says_who_works_in_it_and_a_dead_worker_is_noticed(tmp_path: Path) -> None:
    write_state(tmp_path, progress())
    state = read_state(tmp_path)
    assert state is not None
    assert (state.pid, state.finished, state.is_working, state.is_done) == (os.getpid(), 30, True, False)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "progress.json").write_text(state.model_copy(update={"pid": dead.pid}).model_dump_json())
    gone = read_state(tmp_path)
    assert gone is not None
    assert not gone.is_working
    (tmp_path / "progress.json").write_text(state.model_copy(update={"process_started_at": 1.0}).model_dump_json())
    reused = read_state(tmp_path)
    assert reused is not None
    assert not reused.is_working


def test_inputs_are_found_where_they_were_or_moved_along_with_the_run(tmp_path: Path) -> None:
    (tmp_path / "a" / "job").mkdir(parents=True)
    (tmp_path / "a" / "run").mkdir()
    write_origin(tmp_path / "a" / "run", tmp_path / "a" / "job", None)
    assert root_of(tmp_path / "a" / "run") == tmp_path / "a" / "job"
    (tmp_path / "a").rename(tmp_path / "b")
    assert root_of(tmp_path / "b" / "run") == tmp_path / "b" / "job"
    (tmp_path / "b" / "job").rmdir()
    with pytest.raises(ConfigError, match="--root"):
        root_of(tmp_path / "b" / "run")


def test_watch_ends_with_the_run_and_with_its_exit_code(face: Face, made_run: Path) -> None:
    write_state(made_run, progress(phase="done", text="done"))
    ended = face("watch", made_run)
    assert ended.code == (0 if json.loads((made_run / "summary.json").read_text())["best"] else 4)
    assert "[1:03]" in ended.out
    state = read_state(made_run)
    assert state is not None
    dead = state.model_copy(update={"phase": "search", "text": "trying x", "process_started_at": 1.0})
    (made_run / "progress.json").write_text(dead.model_dump_json())
    stopped = face("watch", made_run)
    assert "modeltailor resume" in stopped.error(5)
    assert face("watch", made_run, "--once").code == 0


def test_watch_follows_until_the_last_word(face: Face, made_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modeltailor.commands import watch

    write_state(made_run, progress(text="trying first"))
    steps = iter(["trying second", "done"])

    def go_on(_: float) -> None:
        text = next(steps)
        write_state(made_run, progress(text=text, phase="done" if text == "done" else "search"))

    monkeypatch.setattr(watch.time, "sleep", go_on)
    lines = face("watch", made_run).out.splitlines()
    told = [line.rpartition("left ")[2] or line for line in lines]
    assert [t for t in told if t.startswith("trying")] == ["trying first", "trying second"]
    assert lines[-1] == "[1:03] done"
