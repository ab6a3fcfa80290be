from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

CLI = [sys.executable, "-m", "modeltailor.cli"]


def run(*arguments: str, cwd: Path, timeout: float = 180) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MODELTAILOR_CACHE": str(cwd / "cache")}
    return subprocess.run(
        [*CLI, *arguments], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False, env=environment
    )


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error[")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return errors[0]


def tree(folder: Path) -> set[str]:
    return {
        str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in p.parts and "cache" not in p.parts
    }


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["search", "none.yaml"], 2, "no such file"),
        (["search", "job.yaml", "--latency", "0ms"], 2, "finite and > 0"),
        (["search", "job.yaml", "--max-drop", "-1"], 2, "0 or more"),
        (["search", "job.yaml", "--min-accuracy", "1.5"], 2, "can never be met"),
        (["search", "job.yaml", "--set", "serch.trials=3"], 2, "Did you mean 'search'?"),
        (["search", "job.yaml", "--set", "search.axes=[format]"], 2, "'formats'"),
        (["search", "job.yaml", "--target", "pixel-800"], 2, "pixel"),
        (["search", "job.yaml", "--trials", "many"], 2, "--trials"),
        (["search", "job.yaml", "--out", "."], 2, "input"),
        (["serch"], 2, "Did you mean 'search'?"),
        (["report", "nowhere"], 7, "no such run folder"),
        (["pick", "."], 7, "holds no run"),
        (["pick", "nowhere", "--size", "-3"], 2, "such as 200 KB"),
        (["targets", "show", "nokia-3310"], 2, "unknown device"),
        (["init", "--model", "model.py:build", "--data", "data.py:load", "--out", "job.yaml"], 2, "exists already"),
    ],
)
def test_usage_errors_are_one_line_and_write_nothing(digits: Path, arguments: list[str], code: int, words: str) -> None:
    before = tree(digits)
    assert words in one_line(run(*arguments, cwd=digits), code)
    assert tree(digits) == before


@pytest.mark.parametrize("weights", ["empty", "missing", "pickle", "other network"])
def test_weights_that_cannot_be_used_are_refused(digits: Path, weights: str) -> None:
    from safetensors.numpy import load_file, save_file

    target = digits / "weights.safetensors"
    match weights:
        case "empty":
            target.write_bytes(b"")
            words, code = "0 bytes", 3
        case "missing":
            target.unlink()
            words, code = "no file weights.safetensors", 2
        case "pickle":
            target.unlink()
            target = digits / "weights.pt"
            target.write_bytes(pickle.dumps({"a": Path}))
            words, code = "is not executed", 3
        case _:
            state = load_file(target)
            state["stem.weight"] = np.zeros((4, 1, 3, 3), np.float32)
            state["extra"] = state.pop("head.bias")
            save_file(state, target)
            words, code = "'head.bias' is missing; 'extra' is not in the model; 'stem.weight' has shape (4, 1, 3, 3)", 3
    done = run("search", "job.yaml", "--out", "run", "--set", f"model.weights={target.name}", cwd=digits)
    assert words in one_line(done, code)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (pickle.dumps({"a": 1}), "is not executed"),
        (b"\x08\x08\x12\x07pytorch garbage" * 9, "not a readable ONNX file"),
    ],
)
def test_onnx_files_that_are_none_are_refused(digits: Path, content: bytes, words: str) -> None:
    (digits / "m.onnx").write_bytes(content)
    done = run("search", "job.yaml", "--out", "run", "--set", "model={source: m.onnx}", cwd=digits)
    assert words in one_line(done, 3)


@pytest.mark.parametrize(
    ("assignment", "code", "words"),
    [
        ("data=data.py:wrong_shape", 3, "on two samples of x (2, 1, 6, 6) float32"),
        ("data=data.py:nothing", 2, "no function 'nothing'"),
        ("model.source=model.py:broken", 3, "no such layer"),
        ("model.source=model.py:no_module", 3, "must return a torch.nn.Module"),
        ("metric=metric.py:raises", 3, "on purpose"),
        ("metric=metric.py:nan", 3, "finite number"),
    ],
)
def test_user_code_that_fails_is_named(digits: Path, assignment: str, code: int, words: str) -> None:
    (digits / "metric.py").write_text(
        "def raises(outputs, y):\n    raise KeyError('on purpose')\n\ndef nan(outputs, y):\n    return float('nan')\n"
    )
    done = run("search", "job.yaml", "--out", "run", "--set", assignment, cwd=digits)
    assert words in one_line(done, code)


def test_help_is_instant_and_every_command_shows_an_example(tmp_path: Path) -> None:
    best = 9.0
    for _ in range(3):
        started = time.monotonic()
        done = run("--help", cwd=tmp_path)
        best = min(best, time.monotonic() - started)
    assert done.returncode == 0
    assert best < 2.0  # a guard against heavy imports; test_architecture.py holds the rule itself
    for command in ("demo", "init", "search", "report", "pick"):
        assert command in done.stdout
        assert re.search(r"^Examples?:$", run(command, "--help", cwd=tmp_path).stdout, re.MULTILINE)


def test_init_writes_a_job_that_search_accepts(digits: Path) -> None:
    done = run(
        "init", "--out", "mine.yaml", "--model", "model.py:build", "--weights", "weights.safetensors", "--data", "data.py:load",
        "--target", "desktop-cpu", "--latency", "2ms", "--size", "100KB", cwd=digits,
    )  # fmt: skip
    assert done.returncode == 0
    from modeltailor.job import load_job

    job = load_job(digits / "mine.yaml")
    assert (job.limits().latency_ms, job.limits().size_bytes) == (2.0, 100_000)


def test_every_kind_of_device_is_listed_with_the_place_of_measuring(tmp_path: Path) -> None:
    done = run("targets", "list", cwd=tmp_path)
    assert done.returncode == 0
    for kind in ("desktop-cpu", "phone", "embedded", "gpu"):
        assert kind in done.stdout
    shown = run("targets", "show", "phone", cwd=tmp_path).stdout
    assert "source:" in shown
    assert "origin:" in shown


def test_no_model_keeps_the_budget_ends_with_code_4_and_names_the_limit(digits: Path) -> None:
    done = run(
        "search",
        "job.yaml",
        "--out",
        "run",
        "--trials",
        "3",
        "--time",
        "60s",
        "--size",
        "1KB",
        "--set",
        "search.axes=[formats]",
        cwd=digits,
    )
    line = one_line(done, 4)
    assert "file size" in line
    assert (digits / "run" / "report.html").exists()
    assert not (digits / "run" / "best.onnx").exists()
    assert "fp32" in done.stdout
    picked = run("pick", "run", "--max-drop", "50", "--size", "1MB", cwd=digits)
    assert picked.returncode == 0, picked.stderr
    assert Path(digits / picked.stdout.splitlines()[-1]).exists()
    assert "file size" in one_line(run("pick", "run", "--size", "2KB", cwd=digits), 4)


def test_interrupting_keeps_what_finished_and_says_how_to_go_on(digits: Path) -> None:
    environment = {**os.environ, "MODELTAILOR_CACHE": str(digits / "cache")}
    process = subprocess.Popen(
        [*CLI, "search", "job.yaml", "--out", "run"], cwd=digits, stderr=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (digits / "run" / "summary.json").exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "modeltailor resume run" in errors
    assert "Traceback" not in errors
    assert (digits / "run" / "summary.json").exists()
    children = [p for p in psutil.process_iter(["cmdline"]) if str(digits) in " ".join(p.info["cmdline"] or [])]
    assert children == []


def test_any_onnx_file_is_audited_and_one_alone_cannot_be_compared(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    weight = helper.make_tensor("w", TensorProto.FLOAT, (16, 16), [0.1] * 256)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (4, 16)) for n in "xy"]
    model = helper.make_model(
        helper.make_graph([node], "g", ports[:1], ports[1:], [weight]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    save(model, tmp_path / "m.onnx")
    done = run("audit", "m.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "MatMul" in done.stdout
    assert "m.onnx: one node executes" in done.stdout
    assert "float" in done.stdout.splitlines()[-1]
    assert "at least two" in one_line(run("bench", "m.onnx", cwd=tmp_path), 2)
    assert "NAME=1,3,32,32" in one_line(run("audit", "m.onnx", "--shape", "x:4", cwd=tmp_path), 2)
    assert one_line(run("audit", "none.onnx", cwd=tmp_path), 3)
