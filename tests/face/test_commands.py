"""Each command on a finished run, and what it says to bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeltailor.commands import SECTIONS
from modeltailor.durable import sha256_file

Face = Callable[..., Any]
COMMANDS = [name for _, names in SECTIONS for name in names]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(face: Face, command: str) -> None:
    said = face(command, "--help")
    assert said.code == 0
    assert f"modeltailor {command}" in said.out
    if command != "targets":
        assert "Example" in said.out
        examples = said.out.rpartition("Example")[2]
        assert f"modeltailor {command}" in examples


def test_the_help_page_names_every_command_and_loads_no_heavy_library() -> None:
    heavy = ("torch", "onnxruntime", "optuna", "onnx", "pandas", "sklearn", "scipy", "rich", "pydantic", "numpy")
    code = (
        "import sys\nsys.argv = ['modeltailor', '--help']\nfrom modeltailor.cli import main\n"
        f"try:\n    main()\nexcept SystemExit:\n    found = {set(heavy)} & set(sys.modules); assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    for name in COMMANDS:
        assert f"  {name}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["wacth", "run"], 2, "Did you mean 'watch'?"),
        (["targets", "shwo"], 2, "Did you mean 'show'?"),
        (["xyzzy"], 2, "Known: demo"),
        (["search", "--tiem", "3"], 2, "Did you mean '--time'?"),
        (["search"], 2, "JOB_FILE is missing"),
        (["pick", "--size"], 2, "requires an argument"),
        (["bench", "a.onnx", "--batch", "0"], 2, "--batch"),
        (["bench", "a.onnx", "b.onnx", "--shape", "x=1", "--batch", "1", "--batch", "2"], 2, "several --batch"),
        (["bench", "none.onnx", "b.onnx"], 3, "no such file"),
        (["bench", "a.onnx", "b.onnx", "--target", "ssh://"], 2, "no address"),
        (["bench", "a.onnx", "b.onnx", "--target", "tcp://here"], 2, "tcp://host:port"),
        (["audit", "none.onnx"], 3, "no such file"),
        (["compare", ".", ".", "--out", "nowhere/x.html"], 2, "there is no folder nowhere. Make it first."),
        (["pick", ".", "--to", "."], 2, "is a folder. Name a file in it."),
        (["audit", "none.onnx", "--target", "pixl-8"], 2, "pixel-8"),
        (["quick", "none.onnx"], 2, "no file none.onnx"),
        (["quick", "none.onnx", "--time", "3s"], 2, "at least 10 s"),
        (["quick", "none.onnx", "--latency", "2ms"], 2, "--latency: has no use without --data"),
        (["quick", "none.onnx", "--set", "search.trials=5"], 2, "--set: has no use without --data"),
        (["quick", "none.onnx", "--data", "data.py:load", "--batch", "2"], 2, "--batch: has no use with --data"),
        (["targets", "new", "local"], 2, "this machine everywhere"),
        (["quick", "none.onnx", "--data", "data.py:load", "--max-drop", "-1"], 2, "0 or more"),
        (["validate", "none.yaml"], 2, "no such file"),
        (["resume", "nowhere"], 7, "no such run folder"),
        (["resume", "."], 7, "holds no run"),
        (["watch", "nowhere"], 7, "no such run folder"),
        (["watch", "."], 7, "holds no run"),
        (["compare", "nowhere", "nowhere"], 7, "no such run folder"),
        (["compare", ".", ".", "--out", "a.pdf"], 2, ".html"),
        (["export", "nowhere", "--to", "x"], 7, "no such run folder"),
        (["export", "nowhere"], 2, "--to is missing"),
        (["certify", "nowhere"], 7, "no such run folder"),
        (["selftest", "--comparisons", "1"], 2, "--comparisons"),
        (["selftest", "--aa", "none.onnx"], 3, "no such file"),
        (["completion", "tcsh"], 2, "'bash'"),
        (["agent", "--port", "70000"], 2, "--port"),
        (["init", "--model", "m.onnx"], 2, "--data"),
        (["init", "--model", "m.onnx", "--data", "d.npz", "--target", "pixl-8"], 2, "pixel-8"),
        (["init", "--model", "m.onnx", "--data", "d.npz", "--out", "none/job.yaml"], 2, "no folder"),
        (["init", "--model", "m.onnx", "--data", "d.npz"], 2, "no file m.onnx"),
        (["targets", "new", "My Board"], 2, "lower-case"),
        (["targets", "new", "b", "--reach", "ssh"], 2, "is needed for ssh"),
        (["targets", "check", "none.yaml", "--dry"], 2, "cannot read"),
        (["--nonsense"], 2, "no such option"),
    ],
)
def test_bad_input_is_one_line_and_its_exit_code(
    face: Face, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    assert words in face(*arguments).error(code)
    assert [p.name for p in tmp_path.iterdir()] == []


def test_debug_may_stand_anywhere_and_shows_the_traceback(face: Face) -> None:
    said = face("resume", "nowhere", "--debug")
    assert said.code == 7
    assert "Traceback" in said.err
    assert "no such option" not in said.err


def test_without_a_command_the_help_is_shown_and_the_code_says_that_nothing_was_done(face: Face) -> None:
    said = face()
    assert said.code == 2
    assert "Usage: modeltailor" in said.err
    assert said.out == ""


def test_export_writes_a_folder_whose_checksums_and_program_hold(face: Face, made_run: Path, tmp_path: Path) -> None:
    said = face("export", made_run, "--to", "shipped", "-q")
    assert said.code == 0, said.err
    shipped = tmp_path / "shipped"
    names = {Path(line).name for line in said.out.splitlines()}
    assert names == {p.name for p in shipped.iterdir()}
    for line in (shipped / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert sha256_file(shipped / name) == digest
    assert (
        sha256_file(shipped / "model.onnx") == sha256_file(made_run / "best.onnx")
        if (made_run / "best.onnx").exists()
        else True
    )
    card = (shipped / "MODEL_CARD.md").read_text()
    assert "model.onnx" in card
    assert "best.onnx" not in card
    done = subprocess.run(
        [sys.executable, "run_model.py"], cwd=shipped, capture_output=True, text=True, check=True, timeout=60
    )
    assert "y (1, 16) float32" in done.stdout
    assert "not empty" in face("export", made_run, "--to", "shipped").error(2)
    assert face("export", made_run, "--to", "shipped", "--force").code == 0
    assert "run folder" in face("export", made_run, "--to", made_run / "inside").error(2)


def test_export_unpacked_holds_no_packed_weight_and_gives_the_same_outputs(
    face: Face, made_run: Path, tmp_path: Path
) -> None:
    import numpy as np
    import onnx
    import onnxruntime

    from modeltailor.api import load_run

    run = load_run(made_run)
    packed = next(
        m for m in run.summary.models if onnx.load(made_run / "artifacts" / f"{m.sha256[:16]}.onnx").functions
    )
    said = face("export", made_run, "--pick", packed.key[:10], "--unpack", "--to", "plain", "--json")
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert told["unpacked"]
    assert told["checked_inputs"] == 8
    made = onnx.load(tmp_path / "plain" / "model.onnx")
    assert not made.functions
    assert {n.op_type for n in made.graph.node} == {"MatMul"}
    x = np.random.default_rng(9).normal(size=(5, 16)).astype(np.float32)
    both = (made_run / "artifacts" / f"{packed.sha256[:16]}.onnx", tmp_path / "plain" / "model.onnx")
    first, second = (
        onnxruntime.InferenceSession(p, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0] for p in both
    )
    assert np.array_equal(first, second)
    assert "unpacked form" in (tmp_path / "plain" / "MODEL_CARD.md").read_text()


def test_the_card_of_an_unpacked_model_tells_its_own_facts(face: Face, made_run: Path, tmp_path: Path) -> None:
    import onnx

    from modeltailor.api import load_run

    summary = load_run(made_run).summary
    packed = next(m for m in summary.models if onnx.load(made_run / "artifacts" / f"{m.sha256[:16]}.onnx").functions)
    assert face("export", made_run, "--pick", packed.key[:10], "--unpack", "--to", "plain", "-q").code == 0
    file = tmp_path / "plain" / "model.onnx"
    card = (tmp_path / "plain" / "MODEL_CARD.md").read_text()
    rows = {ln.split("|")[1].strip(): ln.split("|")[2] for ln in card.splitlines() if ln.startswith("| ")}
    assert f"{file.stat().st_size} bytes" in rows["file"]
    assert sha256_file(file) in rows["SHA-256"]
    assert packed.sha256 in rows["packed file, as it was measured"]
    assert f"{packed.size_bytes} bytes" in rows["packed file, as it was measured"]
    assert packed.sha256 not in rows["SHA-256"]
    assert "stored packed" not in card
    assert "unpacked when the model loads" not in card
    assert face("export", made_run, "--pick", packed.key[:10], "--to", "packed", "-q").code == 0
    plain = (tmp_path / "packed" / "MODEL_CARD.md").read_text()
    assert "packed file, as it was measured" not in plain
    assert packed.sha256 in plain


def test_export_refuses_what_it_cannot_vouch_for(face: Face, made_run: Path) -> None:
    from modeltailor.api import load_run

    best = load_run(made_run).best
    assert best is not None
    assert "no model of this run has the key 'zzzz'" in face("export", made_run, "--pick", "zzzz", "--to", "x").error(2)
    assert "given together" in face("export", made_run, "--pick", best.key, "--size", "1MB", "--to", "x").error(2)
    assert "file size" in face("export", made_run, "--size", "10", "--to", "x").error(4)
    artifact = made_run / "artifacts" / f"{best.sha256[:16]}.onnx"
    artifact.write_bytes(artifact.read_bytes() + b"\0")
    assert "was changed" in face("export", made_run, "--to", "x").error(7)
    artifact.unlink()
    assert "is gone" in face("export", made_run, "--to", "x").error(7)


def test_pick_and_export_agree_under_every_budget(face: Face, made_run: Path, tmp_path: Path) -> None:
    for i, limits in enumerate(([], ["--size", "60KB"], ["--latency", "0.06ms"], ["--max-drop", "5"])):
        picked = face("pick", made_run, *limits)
        if picked.code == 4:
            assert face("export", made_run, *limits, "--to", f"e{i}").code == 4
            continue
        assert face("export", made_run, *limits, "--to", f"e{i}", "-q").code == 0
        assert sha256_file(tmp_path / f"e{i}" / "model.onnx") == sha256_file(Path(picked.out.splitlines()[-1]))


def test_json_is_one_document_on_stdout(face: Face, made_run: Path) -> None:
    for arguments in (
        ["watch", made_run, "--once"],
        ["pick", made_run, "--max-drop", "5"],
        ["compare", made_run, made_run],
        ["report", made_run],
        ["targets", "show", "desktop-cpu"],
        ["doctor"],
    ):
        said = face(*arguments, "--json")
        assert said.code == 0, said.err
        assert isinstance(json.loads(said.out), dict), arguments


def test_compare_of_a_run_with_itself_finds_nothing_and_writes_what_the_ending_says(
    face: Face, made_run: Path, tmp_path: Path
) -> None:
    for ending in ("md", "html", "json"):
        said = face("compare", made_run, made_run, "--out", f"c.{ending}")
        assert said.code == 0, said.err
        assert "no speedup differs" in said.out
    assert (tmp_path / "c.md").read_text().startswith("# ")
    assert "<html" in (tmp_path / "c.html").read_text()
    assert json.loads((tmp_path / "c.json").read_text())["best"]["same_recipe"]


def test_doctor_names_what_is_missing_and_the_line_that_installs_it(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tomllib

    from modeltailor import diagnosis

    assert "onnxruntime" in face("doctor").out
    real = diagnosis.version
    monkeypatch.setattr(diagnosis, "version", lambda n: "0.0.1" if n == "click" else real(n))
    said = face("doctor")
    assert "click: 0.0.1 is installed; needs" in said.error(5)
    assert "-m pip install 'click" in said.err
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    known = {name for name, _, _ in diagnosis.EXTRAS}
    assert known == set(extras["optional-dependencies"]) - {"dev"}


def test_completion_offers_commands_options_and_targets(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    for shell in ("bash", "zsh", "fish"):
        script = face("completion", shell)
        assert script.code == 0
        assert "_MODELTAILOR_COMPLETE" in script.out
    for words, position, expected in (
        ("modeltailor wat", 1, "watch"),
        ("modeltailor search --max", 2, "--max-drop"),
        ("modeltailor search --target pixel-", 3, "pixel-8"),
        ("modeltailor targets pr", 2, "probe"),
    ):
        monkeypatch.setenv("_MODELTAILOR_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(position))
        assert expected in face().out


def test_probe_shows_what_pays_and_what_threads_give(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    from modeltailor import places
    from modeltailor.targets import FakeDevice

    def slow(path: Path) -> float:
        return 2.0 if path.name == "conv-3.onnx" else 1.0

    monkeypatch.setattr(places, "open_place", lambda *_: FakeDevice(latency=slow, noise=0.0))
    by_count = {1: FakeDevice(latency=lambda _: 4.0), 2: FakeDevice(latency=lambda _: 1.6)}
    monkeypatch.setattr(places, "open_with_threads", lambda *_: by_count)
    said = face("targets", "probe", "--afresh")
    assert said.code == 0, said.err
    rows = {tuple(line.split()[:4]): line for line in said.out.splitlines()}
    assert "0.50" in rows["conv", "w8a8", "s8s8", "per"]
    assert rows["conv", "w8a8", "s8s8", "per"].rstrip().endswith("no")
    assert "2.50" in next(line for key, line in rows.items() if key[0] == "threads" and "2 threads" in line)
    told = json.loads(face("targets", "probe", "--json").out)
    assert [e["detail"] for e in told["entries"] if e["kind"] == "threads"] == ["1 threads", "2 threads"]


def test_own_profiles_are_listed_and_shown(face: Face, tmp_path: Path) -> None:
    assert face("targets", "new", "my-board", "--reach", "ssh", "--address", "pi@board").code == 0
    (tmp_path / "job.yaml").write_text("version: 1\n")
    listed = face("targets", "list").out.splitlines()
    assert listed[1].split()[0] == "my-board"
    assert listed[1].rstrip().endswith("there, by ssh")
    assert json.loads(face("targets", "show", "my-board", "--json").out)["address"] == "pi@board"
    assert json.loads(face("targets", "show", "nvidia-h200", "--json").out)["precision"] == ["tf32"]


def test_bench_says_what_was_not_steady(
    face: Face, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_run: Path
) -> None:
    from dataclasses import replace

    from modeltailor import places
    from modeltailor.targets import FakeDevice

    class Restless(FakeDevice):
        def time(self, *given: Any, **named: Any) -> Any:
            found = super().time(*given, **named)
            pairs = tuple(replace(p, steady=(True, False)) for p in found.pairs)
            return replace(found, pairs=pairs, conditions=(("steal_share", 0.25),))

    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(next((made_run / "artifacts").glob("*.onnx")).read_bytes())
    monkeypatch.setattr(places, "open_place", lambda *_: Restless(latency=lambda _: 1.0, noise=0.0))
    said = face("bench", "a.onnx", "b.onnx", "-q")
    assert said.code == 0, said.err
    assert "never steady: the warm-up of b.onnx" in said.out
    assert "never steady: the warm-up of a.onnx" not in said.out
    assert "took 25% of the processors' time" in said.out


def test_bench_says_that_a_neighbour_disturbed_it(
    face: Face, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_run: Path
) -> None:
    from dataclasses import replace
    from itertools import count

    from modeltailor import places
    from modeltailor.targets import FakeDevice

    calls = count()

    def times(quads: Any, factor: float) -> Any:
        return tuple(tuple(factor * block for block in quad) for quad in quads)

    class Neighbour(FakeDevice):  # who comes and goes, and slows the candidate more than the baseline
        def time(self, *given: Any, **named: Any) -> Any:
            found = super().time(*given, **named)
            base, own = (1.2, 1.6) if next(calls) % 2 else (1.0, 1.0)
            pairs = tuple(
                replace(
                    pair,
                    blocks_ms=(times(pair.blocks_ms[0], base), times(pair.blocks_ms[1], own)),
                    baseline_blocks_ms=tuple(times(quads, base) for quads in pair.baseline_blocks_ms),
                )
                for pair in found.pairs
            )
            return replace(found, pairs=pairs)

    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(next((made_run / "artifacts").glob("*.onnx")).read_bytes())
    monkeypatch.setattr(places, "open_place", lambda *_: Neighbour(latency=lambda _: 1.0, noise=0.0))
    said = face("bench", "a.onnx", "b.onnx", "-q")
    assert said.code == 0, said.err
    assert "a neighbour disturbed the baseline in" in said.out
    assert said.out.count("1.000x") == 2


def test_threads_are_tried_up_to_what_a_device_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modeltailor import places
    from modeltailor.targets import LocalDevice

    monkeypatch.setattr(places.os, "cpu_count", lambda: 6)
    here = places.open_with_threads("local", tmp_path)
    assert {n: d.options.intra_op_threads for n, d in here.items() if isinstance(d, LocalDevice)} == {1: 1, 2: 2, 4: 4}
    monkeypatch.setenv("MODELTAILOR_AGENT_TOKEN", "x")
    assert sorted(places.open_with_threads("tcp://127.0.0.1:7070", tmp_path)) == [1, 2, 4]


def test_false_alarms_that_chance_allows() -> None:
    from modeltailor.estimators.selftest import NOMINAL_ALARMS, chance_allows

    assert [chance_allows(n, NOMINAL_ALARMS) for n in (2, 10, 100)] == [1, 3, 11]


@pytest.mark.parametrize("n", [2, 10, 20])
def test_few_comparisons_on_the_synthetic_device_prove_no_fault(face: Face, n: int) -> None:
    said = face("selftest", "--comparisons", n)
    assert said.code == 0, said.err


def test_pick_names_no_file_that_is_gone(face: Face, made_run: Path) -> None:
    file = Path(face("pick", made_run, "-q").out.splitlines()[-1])
    file.unlink()
    assert "is gone" in face("pick", made_run).error(7)
    assert "is gone" in face("pick", made_run, "--to", "x.onnx").error(7)


def test_a_run_without_a_model_on_one_of_its_devices_ends_alike_wherever_it_is_watched(tmp_path: Path) -> None:
    from types import SimpleNamespace
    from typing import cast

    from modeltailor.commands.watch import _end
    from modeltailor.errors import NoFeasibleModel

    device = SimpleNamespace(name="pixel-8", best="")
    moment = SimpleNamespace(phase="done", text="", summary=SimpleNamespace(best="k", devices=(device,)))
    with pytest.raises(NoFeasibleModel, match="pixel-8"):
        _end(cast("Any", moment), tmp_path)
    device.best = "k"
    _end(cast("Any", moment), tmp_path)


@pytest.mark.parametrize("target", ["raspberry-pi-5", "jetson-orin-nano"])
def test_an_audit_for_another_device_says_where_it_was_read(face: Face, made_run: Path, target: str) -> None:
    model = next((made_run / "artifacts").glob("*.onnx"))
    assert "read on this machine" not in face("audit", model).out
    assert f"in place of {target}" in face("audit", model, "--target", target).out


def test_validate_looks_at_every_device(face: Face, digits: Path) -> None:
    job = (digits / "job.yaml").read_text()
    lines = [line for line in job.splitlines() if not line.startswith("target:")]
    two = digits / "two.yaml"
    two.write_text("\n".join([*lines, "targets: [desktop-cpu, pixl-8]"]))
    said = face("validate", two)
    assert said.code == 2
    assert "did you mean 'pixel-8'" in said.out + said.err
    two.write_text("\n".join([*lines, "targets: [desktop-cpu, {name: pixel-8, budget: {latency: 8 ms}}]"]))
    said = face("validate", two)
    assert said.code == 0, said.err
    assert "latency 8 ms" in said.out


def test_the_page_of_exit_codes_is_complete() -> None:
    from modeltailor import errors
    from modeltailor.commands.running import SIGNAL_CODES

    page = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text()
    listed = {int(n) for row in page.splitlines() if row.startswith("| ") for n in _numbers(row.split("|")[1])}
    kinds = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]
    assert listed == {0, *(kind.exit_code for kind in kinds), *SIGNAL_CODES.values()}
    for name in COMMANDS:
        if name not in ("targets", "completion", "dashboard"):
            assert f"`modeltailor {name}" in page or f"`{name}`" in page, name


def _numbers(cell: str) -> list[str]:
    return [word for word in cell.replace(",", " ").split() if word.isdigit()]


def test_every_line_ends_once() -> None:
    from modeltailor.errors import ConfigError

    assert ConfigError("X-1", "here", "it failed.", "mend it.").line() == "error[X-1] here: it failed. Mend it."
    assert ConfigError("X-1", "here", "did you mean 'x'?").line() == "error[X-1] here: did you mean 'x'?"
    assert ConfigError("X-1", "here", "wrong", "see `a`").line() == "error[X-1] here: wrong. See `a`."


def test_the_demo_does_not_train_for_a_folder_that_it_cannot_use(face: Face, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    assert "holds no run" in face("demo", "--out", "taken").error(2)
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_a_demo_that_is_too_short_is_refused_before_it_trains(face: Face, tmp_path: Path) -> None:
    assert "at least 10 s" in face("demo", "--out", "short", "--time", "1s").error(2)
    assert not list(tmp_path.iterdir())


def test_the_help_page_cuts_no_sentence(face: Face) -> None:
    lines = face("--help").out.splitlines()
    assert not [line for line in lines[1:] if line.endswith("...")]


def test_the_dashboard_promises_nothing_before_it_can(face: Face, tmp_path: Path) -> None:
    said = face("dashboard", str(tmp_path))
    assert said.code == 7
    assert "Ctrl-C ends it" not in said.err
