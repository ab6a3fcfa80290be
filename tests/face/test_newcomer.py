"""The path of the README, walked by the real command on a small network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from modeltailor.durable import sha256_file

pytestmark = pytest.mark.slow

CLI = [sys.executable, "-m", "modeltailor.cli"]


def call(*arguments: str, cwd: Path, timeout: float = 600) -> str:
    environment = {**os.environ, "MODELTAILOR_CACHE": str(cwd / "cache")}
    done = subprocess.run(
        [*CLI, *arguments], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False, env=environment
    )
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout


def test_from_quick_to_a_shipped_file(digits: Path) -> None:
    (digits / "job.yaml").unlink()
    given = ["model.py:build", "--weights", "weights.safetensors", "--data", "data.py:load"]
    said = call("quick", *given, "--time", "45s", "--max-drop", "3", cwd=digits)
    assert "int8 static" in said
    assert "modeltailor resume runs/quick-model" in said

    call("init", "--model", *given, "--max-drop", "3", cwd=digits)
    assert "all fine" in call("validate", "job.yaml", cwd=digits)

    environment = {**os.environ, "MODELTAILOR_CACHE": str(digits / "cache")}
    search = subprocess.Popen(
        [*CLI, "search", "job.yaml", "--time", "90s", "--out", "runs/mine", "-q"], cwd=digits,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (digits / "runs" / "mine" / "summary.json").exists() and time.monotonic() < deadline:
        time.sleep(0.3)
    moment = json.loads(call("watch", "runs/mine", "--once", "--json", cwd=digits))
    assert moment["working"]
    followed = call("watch", "runs/mine", cwd=digits)
    assert followed.splitlines()[-1].endswith("done")
    _, errors = search.communicate(timeout=60)
    assert (search.returncode, errors) == (0, "")

    summary = json.loads((digits / "runs" / "mine" / "summary.json").read_text())
    sizes = sorted(m["size_bytes"] for m in summary["models"] if m["on_front"] and m["meets_budget"])
    picked = call("pick", "runs/mine", "--max-drop", "3", "--size", str(sizes[0]), cwd=digits).splitlines()[-1]
    call("export", "runs/mine", "--max-drop", "3", "--size", str(sizes[0]), "--to", "shipped", cwd=digits)
    shipped = digits / "shipped" / "model.onnx"
    assert sha256_file(shipped) == sha256_file(digits / picked)
    call("export", "runs/mine", "--unpack", "--to", "plain", cwd=digits)
    subprocess.run([sys.executable, "run_model.py"], cwd=digits / "shipped", check=True, timeout=60)

    session = onnxruntime.InferenceSession(shipped, providers=["CPUExecutionProvider"])
    from sklearn.datasets import load_digits

    data = load_digits()
    x = (data.images / 16.0).astype(np.float32)[:, None]
    (logits,) = session.run(None, {session.get_inputs()[0].name: x})
    assert float((logits.argmax(1) == data.target).mean()) > 0.9


def test_a_stopped_run_goes_on_from_its_folder_alone_even_when_it_was_moved(digits: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "MODELTAILOR_CACHE": str(digits / "cache")}
    search = subprocess.Popen(
        [*CLI, "search", "job.yaml", "--out", "run", "-q"], cwd=digits, env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (digits / "run" / "summary.json").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    search.kill()
    search.wait()
    before = {t["key"] for t in json.loads((digits / "run" / "summary.json").read_text())["trials"]}
    moved = tmp_path / "elsewhere"
    digits.rename(moved)
    call("resume", "run", "--trials", str(len(before) + 2), "--time", "100s", cwd=moved)
    after = [t["key"] for t in json.loads((moved / "run" / "summary.json").read_text())["trials"]]
    assert before <= set(after)
    assert len(after) == len(set(after)) or len(after) > len(before)


def test_quick_without_data_measures_and_says_nothing_about_accuracy(digits: Path) -> None:
    said = call("quick", "model.py:build", "--weights", "weights.safetensors", "--shape", "x=1,1,8,8", "--time", "20s",
                "--json", cwd=digits)  # fmt: skip
    told = json.loads(said)
    assert told["accuracy"] is None
    assert {"fp32", "int8 static", "int8 weight-only"} <= {r["name"] for r in told["rows"]}
    sizes = {r["name"]: r["size_bytes"] for r in told["rows"]}
    assert sizes["int8 static"] < 0.4 * sizes["fp32"]
    assert any("accuracy" in p for p in told["prospects"])


def test_init_reads_a_hugging_face_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50, num_labels=3,
        architectures=["BertForSequenceClassification"],
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 50, (200, 12))
    np.savez(tmp_path / "train.npz", **{"x.input_ids": ids, "x.attention_mask": np.ones_like(ids)}, y=ids[:, 0] % 3)
    call("init", "--model", "bert", "--data", "train.npz", "--size", "1MB", cwd=tmp_path)
    text = (tmp_path / "job.yaml").read_text()
    assert "# model: Hugging Face folder" in text
    assert "metric: accuracy" in text
    assert "all fine" in call("validate", "job.yaml", cwd=tmp_path)
