"""A study on this machine and on a board with half a core behind a real SSH server, whose agent dies in the middle."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest

import modeltailor

sys.path.insert(0, str(Path(__file__).parents[1] / "targets"))
from board import board, why_not  # type: ignore[import-not-found]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is one")]


def test_two_fronts_and_a_killed_agent_costs_nothing(trained_digits: Path, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "board"
    folder.mkdir()
    data = modeltailor.load_job(trained_digits / "job.yaml").model_dump(mode="json", exclude={"target"})
    data["search"] |= {"trials": 10, "time": 200.0, "axes": ["formats"]}
    with board(folder, monkeypatch, cores=0.5, memory_bytes=512_000_000) as there:
        (tmp_path / "half.yaml").write_text(
            f"name: half\ntitle: half a core\nkind: embedded\nruntime: onnxruntime\nreach: ssh\n"
            f"address: {there.address}\npython: {sys.executable}\nhottest_c: 120\n"
        )
        data["targets"] = ["desktop-cpu", str(tmp_path / "half.yaml")]
        killed: list[int] = []
        over = threading.Event()

        def kill() -> None:  # while a worker measures there, a few times, with room for a retry between
            while not over.wait(0.3) and len(killed) < 3:
                if there.measures():
                    killed.append(there.kill_agents())
                    over.wait(30.0)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            run = modeltailor.tailor(data, out=tmp_path / "run", root=trained_digits, cache=tmp_path / "cache")
        finally:
            over.set()
            killer.join()
    assert len(killed) >= 2
    assert all(killed)
    assert len(run.history.trials) == 10 or "time" in run.history.stopped or "search has" in run.history.stopped
    for trial in run.history.trials:
        assert trial.is_measured, trial.error
        assert trial.elsewhere["half"].is_measured, trial.elsewhere["half"].error
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {d["name"]: d["evidence"] for d in summary["devices"]} == dict.fromkeys(
        ("desktop-cpu", "half"), "measured-on-device"
    )
    assert all(d["front"] for d in summary["devices"])
    assert summary["on_all"]["agreement"] in ("same", "tied", "compromise")
    print(summary["on_all"]["sentence"])
    for device in summary["devices"]:
        print(
            device["name"], len(device["front"]), device["best_name"], device["best_speedup"], device["best_latency_ms"]
        )
    assert (tmp_path / "run" / "best-half.onnx").is_file()
    assert (tmp_path / "run" / "best-on-all.onnx").is_file()
