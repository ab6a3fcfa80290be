"""The programs in a report run as they are printed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from modeltailor.reports.snippets import snippets_for


@pytest.fixture
def model(tmp_path: Path) -> Path:
    node = helper.make_node("Relu", ["image"], ["scores"])
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3, 4])],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(made, tmp_path / "best.onnx")
    return tmp_path / "best.onnx"


def test_python_runs_as_printed(model: Path) -> None:
    code = next(s.code for s in snippets_for("best.onnx") if s.title == "Python")
    done = subprocess.run([sys.executable, "-c", code], cwd=model.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["scores", "(1,", "3,", "4)", "float32"]


@pytest.mark.skipif(shutil.which("node") is None, reason="node checks the syntax")
def test_javascript_is_valid(tmp_path: Path) -> None:
    code = next(s.code for s in snippets_for("best.onnx") if s.title == "JavaScript")
    (tmp_path / "run.js").write_text(code)
    subprocess.run(["node", "--check", str(tmp_path / "run.js")], check=True)


def test_settings_of_the_measurement_reach_every_program() -> None:
    for snippet in snippets_for("front/02-abc.onnx", threads=3):
        assert "front/02-abc.onnx" in snippet.code
        assert "3" in snippet.code
        assert "$" not in snippet.code.replace("$ORT", "")


@pytest.mark.slow
def test_javascript_runs_as_printed(model: Path) -> None:
    folder = model.parent
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "onnxruntime-node@1.30.0"]
    subprocess.run(install, cwd=folder, check=True, capture_output=True)
    code = next(s.code for s in snippets_for("best.onnx") if s.title == "JavaScript")
    (folder / "run.js").write_text(code)
    done = subprocess.run(["node", "run.js"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["scores", "[", "1,", "3,", "4", "]"]
