"""The programs in a report run as they are printed."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from modeltailor.reports.packing import unpacked
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


_HEADERS_PACKAGE = "com.github.asus4.onnxruntime@0.4.9"
"""On npm: ONNX Runtime for Unity; it carries the Android archive with the C++ headers and the Java classes."""


def _npm(folder: Path, *arguments: str) -> None:
    subprocess.run(["npm", *arguments], cwd=folder, check=True, capture_output=True, timeout=900)


@pytest.fixture(scope="session")
def android(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime's Android archive, unpacked: ``headers/`` and ``classes.jar``."""
    folder = tmp_path_factory.mktemp("android")
    _npm(folder, "pack", _HEADERS_PACKAGE)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        member = archive.extractfile("package/Plugins/Android/onnxruntime.aar")
        assert member is not None
        zipfile.ZipFile(io.BytesIO(member.read())).extractall(folder / "aar")
    return folder / "aar"


@pytest.fixture(scope="session")
def demo(real_run: Path) -> tuple[Path, dict[str, str]]:
    """The programs in the report of a real run, and its folder."""
    data = unpacked(re.findall(r'id="data">([^<]*)<', (real_run / "report.html").read_text())[0])
    assert isinstance(data, dict)
    snippets = data["snippets"]
    assert isinstance(snippets, list)
    return real_run, {s["title"]: s["code"] for s in snippets if isinstance(s, dict)}  # type: ignore[misc]


@pytest.mark.slow
def test_python_of_the_demo_runs_as_printed(demo: tuple[Path, dict[str, str]]) -> None:
    folder, codes = demo
    done = subprocess.run(
        [sys.executable, "-c", codes["Python"]], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "(1, 10)" in done.stdout


@pytest.mark.slow
def test_javascript_of_the_demo_runs_as_printed(demo: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, codes = demo
    _npm(tmp_path, "install", "--ignore-scripts", "--no-audit", "--no-fund", "onnxruntime-node@1.30.0")
    (tmp_path / "run.js").write_text(codes["JavaScript"])
    done = subprocess.run(["node", str(tmp_path / "run.js")], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[ 1, 10 ]" in done.stdout


@pytest.mark.slow
def test_cpp_of_the_demo_compiles_and_runs_as_printed(
    demo: tuple[Path, dict[str, str]], android: Path, tmp_path: Path
) -> None:
    folder, codes = demo
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.1.*"))
    (tmp_path / "lib").mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / "lib" / name).symlink_to(library)
    (tmp_path / "run.cpp").write_text(codes["C++"])
    flags = ["-Wall", "-Wextra", "-Werror", f"-isystem{android / 'headers'}", f"-L{tmp_path / 'lib'}", "-lonnxruntime"]
    subprocess.run(["g++", "-std=c++17", "run.cpp", *flags, "-o", "run"], cwd=tmp_path, check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path / "lib")}
    done = subprocess.run(
        [str(tmp_path / "run")], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(": 10 values")


@pytest.mark.slow
def test_java_of_the_demo_compiles_as_printed(demo: tuple[Path, dict[str, str]], android: Path, tmp_path: Path) -> None:
    _, codes = demo
    (tmp_path / "Run.java").write_text(codes["Java, Android"])
    subprocess.run(
        ["javac", "-Xlint:all", "-Werror", "-cp", str(android / "classes.jar"), "Run.java"], cwd=tmp_path, check=True
    )


def test_shell_line_is_valid() -> None:
    code = next(s.code for s in snippets_for("best.onnx", threads=2) if s.title == "onnxruntime_perf_test")
    words = shlex.split(code)
    assert words[0] == "onnxruntime_perf_test"
    assert words[words.index("-x") + 1] == "2"
    assert words[-1] == "best.onnx"


def test_python_fills_every_type_of_input(tmp_path: Path) -> None:
    """Transformers take whole numbers: the programs make inputs of the type that the file asks for."""
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 8])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 8])
    graph = helper.make_graph([helper.make_node("Cast", ["ids"], ["out"], to=TensorProto.FLOAT)], "g", [ids], [out])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "best.onnx"
    )
    code = next(s.code for s in snippets_for("best.onnx") if s.title == "Python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
