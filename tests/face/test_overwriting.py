"""No command replaces a file, or writes into a run, unless it was told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeltailor.durable import sha256_file

Face = Callable[..., Any]


def test_pick_replaces_no_file_without_force(face: Face, made_run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.onnx"
    mine.write_bytes(b"mine")
    line = face("pick", made_run, "--to", "mine.onnx").error(2)
    assert "CFG-13" in line
    assert "exists already" in line
    assert "--force" in line
    assert mine.read_bytes() == b"mine"
    assert face("pick", made_run, "--to", "mine.onnx", "--force").code == 0
    assert sha256_file(mine) == sha256_file(Path(face("pick", made_run, "-q").out.splitlines()[-1]))


@pytest.mark.parametrize("name", ["best.onnx", "study.db", "new.onnx", "front/new.onnx"])
def test_pick_never_writes_into_the_run(face: Face, made_run: Path, name: str) -> None:
    place = made_run / name
    before = sha256_file(place) if place.exists() else ""
    line = face("pick", made_run, "--to", place, "--force").error(2)
    assert "CFG-13" in line
    assert "lies in the run folder" in line
    assert (sha256_file(place) if place.exists() else "") == before


def test_compare_replaces_no_file_and_writes_into_neither_run(face: Face, made_run: Path, tmp_path: Path) -> None:
    (tmp_path / "c.md").write_text("mine")
    line = face("compare", made_run, made_run, "--out", "c.md").error(2)
    assert "CFG-13" in line
    assert "--force" in line
    assert (tmp_path / "c.md").read_text() == "mine"
    assert face("compare", made_run, made_run, "--out", "c.md", "--force").code == 0
    assert (tmp_path / "c.md").read_text().startswith("# ")
    for name in ("report.md", "new.html"):
        line = face("compare", made_run, made_run, "--out", made_run / name, "--force").error(2)
        assert "lies in the run folder" in line
    assert not (made_run / "new.html").exists()
