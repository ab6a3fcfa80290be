"""Imports flow one way, heavy libraries have one door, and the package lists what the tree holds."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("targets", "workloads", "compress", "estimators", "search", "reports")
FACE = ROOT / "src" / "modeltailor"
# The cellar: leaf modules of the face's folder that every room may stand on.
CELLAR = {"modeltailor.errors", "modeltailor.canonical", "modeltailor.durable"}

DOORS = {
    "optuna": ("search/",),
    "onnxruntime.quantization": ("compress/",),
    "torch_pruning": ("compress/structure/",),
    "pandas": ("reports/", "src/"),
    "rich": ("reports/", "src/"),
    "matplotlib": ("reports/plot.py",),
    "pyarrow": ("reports/tables.py",),
    "click": ("src/",),
}
BANNED = {"torch": ("targets", "reports"), "onnxruntime": ("workloads", "compress", "search", "reports")}


def files(room: str) -> list[Path]:
    return sorted(p for p in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def room_of(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] != "modeltailor":
        return None
    if len(parts) > 1 and parts[1] in ROOMS:
        return parts[1]
    return "cellar" if ".".join(parts[:2]) in CELLAR else "face"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_from_their_left(room: str) -> None:
    allowed = {"cellar", *ROOMS[: ROOMS.index(room) + 1]}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files(room)
        for name, line in imports(path)
        if (target := room_of(name)) is not None and target not in allowed
    ]
    assert not wrong


def test_the_cellar_imports_nothing_of_ours() -> None:
    for module in CELLAR:
        path = FACE / f"{module.rpartition('.')[2]}.py"
        assert all(room_of(name) in (None, "cellar") for name, _ in imports(path)), path


def test_heavy_libraries_enter_through_their_door() -> None:
    wrong = []
    for room in (*ROOMS, "src/modeltailor"):
        for path in files(room):
            place = str(path.relative_to(ROOT))
            for name, line in imports(path):
                for library, doors in DOORS.items():
                    inside = name == library or name.startswith(library + ".")
                    if inside and not place.startswith(doors):
                        wrong.append(f"{place}:{line}: {name} belongs in {', '.join(doors)}")
    assert not wrong


def test_sessions_only_in_targets_and_no_torch_in_targets_and_reports() -> None:
    wrong = []
    for library, rooms in BANNED.items():
        for room in rooms:
            for path in files(room):
                for name, line in imports(path):
                    quantizer = room == "compress" and name.startswith("onnxruntime.quantization")
                    if (name == library or name.startswith(library + ".")) and not quantizer:
                        wrong.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    for room in ROOMS[1:]:
        for path in files(room):
            tree = ast.walk(ast.parse(path.read_text()))
            if any(isinstance(n, ast.Attribute) and n.attr == "InferenceSession" for n in tree):
                wrong.append(f"{path.relative_to(ROOT)} opens a session")
    assert not wrong


def test_packages_match_the_tree() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        "modeltailor",
        *(
            f"modeltailor.{p.parent.relative_to(FACE).as_posix().replace('/', '.')}"
            for p in FACE.rglob("*/__init__.py")
        ),
    }
    for room in ROOMS:
        found |= {
            f"modeltailor.{p.parent.relative_to(ROOT).as_posix().replace('/', '.')}"
            for p in (ROOT / room).rglob("__init__.py")
        }
    assert set(config["packages"]) == found


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_are_sorted_and_real(room: str) -> None:
    code = (
        f"import modeltailor.{room} as m\n"
        "assert list(m.__all__) == sorted(m.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n)) or "
        "list(m.__all__) == sorted(m.__all__), m.__all__\n"
        "missing = [n for n in m.__all__ if not hasattr(m, n)]\n"
        "assert not missing, missing\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd="/")


@pytest.mark.parametrize(
    "code",
    [
        "import modeltailor, modeltailor.job",
        "import modeltailor.cli",
        "import modeltailor.targets, modeltailor.compress, modeltailor.search.records, modeltailor.search.front",
        "from modeltailor.targets import list_profiles; list_profiles()",
    ],
)
def test_light_doors_load_no_heavy_library(code: str) -> None:
    heavy = {"torch", "onnxruntime", "optuna", "onnx", "pandas", "sklearn"}
    check = f"import sys; found = {heavy} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", f"{code}\n{check}"], check=True, cwd="/")


def test_a_search_itself_neither_runs_nor_trains_models() -> None:
    check = "import modeltailor.search.groundwork, sys; assert not {'torch', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd="/")  # its child processes do


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_is_a_top_level_module(room: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {room}"], capture_output=True, cwd="/", check=False)
    assert done.returncode != 0
