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

from modeltailor.reports import RunSummary, render_html
from modeltailor.reports.packing import unpacked
from modeltailor.reports.snippets import left_out_sentence, runtime_of, snippets_for
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.providers import PROVIDERS


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
    for snippet in snippets_for("front/02-abc.onnx", RuntimeOptions(intra_op_threads=3)):
        assert "front/02-abc.onnx" in snippet.code
        assert "3" in snippet.code
        assert "$" not in snippet.code.replace("$ORT", "")


def _codes(options: RuntimeOptions) -> dict[str, str]:
    return {s.title: s.code for s in snippets_for("best.onnx", options)}


def test_the_session_of_the_python_program_has_the_settings_of_the_measurement(model: Path) -> None:
    options = RuntimeOptions(intra_op_threads=2, spinning=False)
    keys = ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning",
            "mlas.enable_gemm_fastmath_arm64_bfloat16")  # fmt: skip
    asked = "".join(f"print(session.get_session_options().get_session_config_entry({key!r}))\n" for key in keys)
    code = _codes(options)["Python"] + asked
    done = subprocess.run([sys.executable, "-c", code], cwd=model.parent, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["0", "0", "0"]


@pytest.mark.parametrize("spinning", [False, True])
def test_every_program_says_whether_threads_spin_and_which_precisions_are_allowed(spinning: bool) -> None:
    codes = _codes(RuntimeOptions(spinning=spinning, precision=("bf16",)))
    assert set(codes) == {"Python", "C++", "Java, Android", "JavaScript", "onnxruntime_perf_test"}
    for title, code in codes.items():
        told = re.findall(r'(session\.int\w+_op\.allow_spinning|mlas\.\w+)["|,: ]+(\d)', code)
        wanted = str(int(spinning))
        assert dict(told) == {
            "session.intra_op.allow_spinning": wanted,
            "session.inter_op.allow_spinning": wanted,
            "mlas.enable_gemm_fastmath_arm64_bfloat16": "1",
        }, title


def test_every_program_opens_the_provider_that_was_measured() -> None:
    options = RuntimeOptions(provider="CUDAExecutionProvider")
    programs = {s.title: s for s in snippets_for("best.onnx", options)}
    assert 'providers=[("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]' in programs["Python"].code
    assert programs["Python"].needs == "pip install onnxruntime-gpu numpy"
    assert 'provider.Update({{"use_tf32", "0"}});' in programs["C++"].code
    assert "AppendExecutionProvider_CUDA_V2(*provider)" in programs["C++"].code
    assert 'provider.add("use_tf32", "0");' in programs["Java, Android"].code
    assert "options.addCUDA(provider);" in programs["Java, Android"].code
    assert "onnxruntime_gpu" in programs["Java, Android"].needs
    words = shlex.split(programs["onnxruntime_perf_test"].code)
    assert words[words.index("-e") + 1] == "cuda"
    assert words[words.index("-i") + 1] == "use_tf32|0"
    allowed = _codes(RuntimeOptions(provider="CUDAExecutionProvider", precision=("tf32",)))
    assert all("use_tf32" in code for code in allowed.values())
    assert 'provider.Update({{"use_tf32", "1"}});' in allowed["C++"]


@pytest.mark.parametrize("provider", [p for p in PROVIDERS.values() if p != "CPUExecutionProvider"])
def test_no_program_opens_another_provider_than_the_one_that_was_measured(provider: str) -> None:
    options = RuntimeOptions(provider=provider)
    plain = _codes(RuntimeOptions())
    made = _codes(options)
    for title, code in made.items():
        assert code != plain[title], title
    assert "-e cpu" not in made["onnxruntime_perf_test"]
    assert 'executionProviders: ["cpu"]' not in made.get("JavaScript", "")
    for title in plain:
        assert (title in made) != (title in left_out_sentence(options)), title
    assert left_out_sentence(RuntimeOptions()) == ""


def test_a_program_that_would_fall_back_to_the_cpu_ends_instead(model: Path) -> None:
    code = _codes(RuntimeOptions(provider="CUDAExecutionProvider"))["Python"]
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return
    done = subprocess.run([sys.executable, "-c", code], cwd=model.parent, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "scores" not in done.stdout


def test_the_page_names_the_programs_that_it_has_not(summary: RunSummary) -> None:
    device = {**summary.device, "options": {"provider": "CUDAExecutionProvider", "intra_op_threads": 2}}
    found = summary.model_copy(update={"device": device})
    options = runtime_of(found)
    assert (options.provider, options.intra_op_threads) == ("CUDAExecutionProvider", 2)
    for page, said in ((found, left_out_sentence(options)), (summary, "")):
        data = unpacked(re.findall(r'id="data">([^<]*)<', render_html(page))[0])
        assert isinstance(data, dict)
        assert data["snippetsLeftOut"] == said
    assert "JavaScript" in left_out_sentence(options)


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


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS.values())
def test_programs_of_every_provider_compile(provider: str, android: Path, tmp_path: Path) -> None:
    codes = _codes(RuntimeOptions(provider=provider))
    if "C++" in codes:
        (tmp_path / "run.cpp").write_text(codes["C++"])
        flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-isystem{android / 'headers'}"]
        subprocess.run(["g++", *flags, "run.cpp"], cwd=tmp_path, check=True)
    if "Java, Android" in codes:
        (tmp_path / "Run.java").write_text(codes["Java, Android"])
        classes = str(android / "classes.jar")
        subprocess.run(["javac", "-Xlint:all", "-Werror", "-cp", classes, "Run.java"], cwd=tmp_path, check=True)


def test_shell_line_is_valid() -> None:
    code = next(
        s.code
        for s in snippets_for("best.onnx", RuntimeOptions(intra_op_threads=2))
        if s.title == "onnxruntime_perf_test"
    )
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
