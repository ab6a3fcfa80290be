"""The main job on a tiny real network: every room, in a minute."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import modeltailor
from modeltailor.compress import recipe_from_plain
from modeltailor.errors import StudyConflict
from modeltailor.search import RunFolder
from modeltailor.targets import DeviceFacts, FakeDevice, Inputs, RuntimeOptions, TimingPlan, Timings


def device() -> FakeDevice:
    return FakeDevice(latency=lambda path: 0.2 + path.stat().st_size / 100_000, noise=0.0, seed=0)


@pytest.fixture(scope="module")
def run(trained_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> modeltailor.Run:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    job = modeltailor.load_job(trained_digits / "job.yaml", ("search.trials=14",))
    return modeltailor.tailor(job, out=out, root=trained_digits, cache=out.parent / "cache", device=device())


class Accelerator(FakeDevice):
    """A board whose provider is not on this machine, and an error for those who look for it here."""

    def describe(self) -> DeviceFacts:
        return replace(super().describe(), options=RuntimeOptions(provider="QNNExecutionProvider", precision=("fp16",)))

    def time(self, artifacts: Sequence[Path], inputs: Inputs, plan: TimingPlan) -> Timings:
        if plan.quads == TimingPlan().quads:  # a screening
            self.patience = plan.timeout_s
        return super().time(artifacts, inputs, plan)


def test_a_device_with_a_provider_of_its_own_is_searched_for_and_scored_here(
    trained_digits: Path, tmp_path: Path
) -> None:
    job = modeltailor.load_job(
        trained_digits / "job.yaml", ("search.trials=6", "search.axes=[formats]", "search.trial_timeout=20m")
    )
    board = Accelerator(latency=lambda path: 0.2 + path.stat().st_size / 100_000)
    found = modeltailor.tailor(job, out=tmp_path / "run", root=trained_digits, cache=tmp_path / "cache", device=board)
    assert board.patience == 1200.0
    assert [t.error for t in found.history.trials if not t.is_measured] == []
    assert found.best is not None
    assert any(n.startswith("QNNExecutionProvider of fake is not on this machine") for n in found.summary.notes)
    audits = [f.audit for f in found.history.finals]
    assert audits
    assert {a.evidence for a in audits if a is not None} == {"measured-here"}


def test_the_shapes_that_latency_is_measured_with_are_written_down(run: modeltailor.Run) -> None:
    (shape,) = dict(run.history.run.model["input_shapes"]).values()  # type: ignore[call-overload]
    assert shape[0] == 1
    session = onnxruntime.InferenceSession(run.folder / "best.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, {session.get_inputs()[0].name: np.zeros(shape, np.float32)})[0].shape[0] == 1


def test_the_run_folder_keeps_its_contract(run: modeltailor.Run) -> None:
    names = {p.name for p in run.folder.iterdir()}
    assert names >= {
        "job.yaml", "study.db", "events.jsonl", "artifacts", "front", "best.onnx", "summary.json", "outcomes.csv",
        "report.html", "report.md",
    }  # fmt: skip
    assert not (run.folder / "work").exists()


def test_models_of_the_front_are_what_the_summary_says(run: modeltailor.Run, trained_digits: Path) -> None:
    sys.path.insert(0, str(trained_digits))
    from data import load  # type: ignore[import-not-found]

    from modeltailor.workloads import DataSpec, load_splits

    test = load_splits(DataSpec(function="data.py:load"), trained_digits).test
    assert test.targets is not None
    assert load is not None
    summary = json.loads((run.folder / "summary.json").read_text())
    front = [m for m in summary["models"] if m["on_front"]]
    assert len(front) >= 2
    for model in front:
        path = run.folder / model["file"]
        assert path.stat().st_size == model["size_bytes"]
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {session.get_inputs()[0].name: test.inputs["x"]})
        accuracy = float((logits.argmax(1) == test.targets).mean())
        assert model["accuracy"]["test"] is not None
        assert accuracy == pytest.approx(model["accuracy"]["test"]["value"], abs=1e-9)


def test_all_three_axes_were_tried_and_baselines_came_first(run: modeltailor.Run) -> None:
    roles = [t.role for t in run.history.trials]
    assert roles[0] == "fp32"
    assert roles[1] == "baseline"
    axes = {recipe_from_plain(t.recipe).structure.axis for t in run.history.trials}
    assert axes == {"none", "sparsity", "student"}
    assert all(t.is_measured for t in run.history.trials), [t.error for t in run.history.trials if not t.is_measured]


def test_settings_of_the_best_uniform_model_were_varied_and_the_best_ones_went_on(run: modeltailor.Run) -> None:
    kept = json.loads(RunFolder(run.folder).study().user_attrs["settings"])
    start, *tried = kept["tried"]
    assert start["label"] == ""
    labels = [t["label"] for t in tried]
    order = [
        "symmetric activations", "ranges by minmax", "ranges by percentile", "ranges by entropy", "one scale a tensor",
        "no bias correction", "SmoothQuant", "AWQ", "equalized layers", "learned rounding",
    ]  # fmt: skip
    assert labels
    assert labels == [o for o in order if o in labels]  # a slow machine does not come to the end of them
    few_bits = start["losses"][1]
    assert all(len(t["losses"]) == 2 for t in [start, *tried])
    # Ranges of activations that cut off what matters lose so much more than any weight that its bits do not show.
    cut = [t["label"] for t in tried if t["label"].startswith("ranges") and t["losses"][0] > 10 * few_bits]
    assert all(t["losses"][0] < t["losses"][1] for t in [start, *tried] if t["label"] not in cut)
    assert any(n.startswith("settings of int8 static by output loss") for n in run.history.run.notes)
    chosen = [settings for _, settings in kept["candidates"]]
    searched = [t for t in run.history.trials if t.role == "search" and t.recipe["formats"]]
    assert searched
    assert {json.dumps(t.recipe["settings"], sort_keys=True) for t in searched} <= {
        json.dumps(s, sort_keys=True) for s in (*chosen, start["settings"])
    }


def test_quantized_sites_run_on_integer_kernels(run: modeltailor.Run) -> None:
    sites = [s for t in run.history.trials for s in t.sites if s.format.endswith("a8") and s.kind == "conv"]
    assert len(sites) > 20
    assert {s.executed_kernel for s in sites} == {"QLinearConv"}


def test_a_graph_is_screened_once_and_the_trial_says_whose_time_it_shares(run: modeltailor.Run) -> None:
    by_number = {t.number: t for t in run.history.trials}
    sharing = [t for t in run.history.trials if t.timed_as is not None]
    assert sharing
    for trial in sharing:
        assert trial.timed_as is not None
        timed = by_number[trial.timed_as]
        assert (timed.graph, timed.speedup, timed.timed_as) == (trial.graph, trial.speedup, None)
        assert "latency" not in trial.seconds
    finals = [f.latency_ms for f in run.history.finals]
    assert len({f.value for f in finals}) == len(finals)


def test_best_is_the_file_and_keeps_the_budget(run: modeltailor.Run) -> None:
    assert run.best is not None
    assert modeltailor.load_run(run.folder).summary.best == run.summary.best
    from modeltailor.durable import sha256_file

    assert run.best_path is not None
    assert sha256_file(run.best_path) == run.best.sha256
    assert run.best.meets_budget
    assert len(run.front) == sum(m.on_front for m in run.summary.models)


def test_finalists_are_audited_and_layers_stand_beside_the_original(run: modeltailor.Run) -> None:
    import onnx

    best = run.best
    assert best is not None
    assert run.best_path is not None
    assert best.profile is not None
    assert best.profile.evidence == "measured-here"  # a fake device cannot be profiled: this machine stood in
    assert 0.2 < sum(s.time_share or 0.0 for s in best.recipe.sites) <= 1.001
    assert all(
        s.channels_kept is not None and 0.0 < s.channels_kept <= 1.0 for s in best.recipe.sites if s.kind == "conv"
    )
    assert run.history.sensitivities
    shown = {n.name: {p.key: p.value for p in n.metadata_props} for n in onnx.load(run.best_path).graph.node}
    bits = [entries["bits"] for entries in shown.values() if "bits" in entries]
    assert bits == [str(s.storage_bits) for s in best.recipe.sites if s.format != "fp32"]


def test_a_second_start_needs_resume_and_another_job_is_refused(run: modeltailor.Run, trained_digits: Path) -> None:
    job = modeltailor.load_job(trained_digits / "job.yaml")
    with pytest.raises(StudyConflict, match="--resume"):
        modeltailor.tailor(job, out=run.folder, root=trained_digits, device=device())
    other = modeltailor.load_job(trained_digits / "job.yaml", ("budget.max_drop=2",))
    with pytest.raises(StudyConflict, match="another job"):
        modeltailor.tailor(other, out=run.folder, root=trained_digits, resume=True, device=device())


def test_the_same_seed_names_the_same_recipes(run: modeltailor.Run, trained_digits: Path, tmp_path: Path) -> None:
    job = modeltailor.load_job(trained_digits / "job.yaml", ("search.trials=14",))
    again = modeltailor.tailor(
        job, out=tmp_path / "again", root=trained_digits, cache=run.folder.parent / "cache", device=device()
    )
    first, second = ([(t.key, t.sha256) for t in r.history.trials] for r in (run, again))
    assert first == second


def test_an_onnx_file_alone_loses_channels_and_bits_and_says_what_needs_training(
    run: modeltailor.Run, trained_digits: Path, tmp_path: Path
) -> None:
    import shutil

    fp32 = next(t for t in run.history.trials if t.role == "fp32")
    for name in ("data.py",):
        shutil.copy(trained_digits / name, tmp_path)
    shutil.copy(RunFolder(run.folder).artifact(fp32.sha256), tmp_path / "net.onnx")
    job = modeltailor.parse_job(
        {
            "model": "net.onnx",
            "data": "data.py:load",
            "budget": {"max_drop": 3.0},
            "search": {"trials": 10, "time": "300s"},
        }
    )
    found = modeltailor.tailor(job, out=tmp_path / "run", root=tmp_path, device=device())
    assert found.best is not None
    assert any("needs a PyTorch model" in n for n in found.history.run.notes)
    structures = [recipe_from_plain(t.recipe).structure for t in found.history.trials if t.is_measured]
    assert not any(s.removed or s.training for s in structures)
    assert any(s.keep or s.ranks for s in structures)


SEARCH = """
import sys
from pathlib import Path
import modeltailor
from modeltailor.targets import FakeDevice
root, out = Path(sys.argv[1]), Path(sys.argv[2])
job = modeltailor.load_job(root / "job.yaml", ("search.trials=12", "search.axes=[formats]"))
device = FakeDevice(latency=lambda path: 0.2 + path.stat().st_size / 100_000, seed=0)
run = modeltailor.tailor(job, out=out, root=root, resume=True, device=device, cache=out.parent / "cache")
"""


def test_a_run_killed_three_times_keeps_every_reported_trial(trained_digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    reported: dict[int, str] = {}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SEARCH, str(trained_digits), str(out)], stderr=subprocess.PIPE)

    def note() -> None:
        events = out / "events.jsonl"
        for line in events.read_text().splitlines() if events.exists() else []:
            event = json.loads(line)
            if event["event"] == "trial":
                assert reported.setdefault(event["number"], event["key"]) == event["key"]

    rng = np.random.default_rng(0)
    for wanted in (1, 3, 6):
        process = start()
        deadline = time.monotonic() + 120
        while len(reported) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
            note()
        time.sleep(float(rng.uniform(0, 0.8)))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        note()
    process = start()
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()
    history = RunFolder(out).read()
    kept = {t.number: t.key for t in history.trials}
    assert reported.items() <= kept.items()
    assert len(set(kept.values())) == len(kept) == 12
    assert RunFolder(out).lost_artifacts(history.trials) == []
