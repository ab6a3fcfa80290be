"""Names may hold what a terminal library takes for markup: they are shown as they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

Face = Callable[..., Any]
NAME = "yolo[fp16]:smile:[/x].onnx"


@pytest.fixture
def odd(made_run: Path, tmp_path: Path) -> Path:
    """A model whose name holds markup; ``other.onnx`` beside it."""
    name = NAME.replace("/", "_")
    artifact = next((made_run / "artifacts").glob("*.onnx"))
    for each in (name, "other.onnx"):
        shutil.copy(artifact, tmp_path / each)
    return tmp_path / name


def test_bench_shows_a_name_as_it_is(face: Face, odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modeltailor import places
    from modeltailor.targets import FakeDevice

    monkeypatch.setattr(places, "open_place", lambda *_: FakeDevice(latency=lambda _: 1.0, noise=0.0))
    said = face("bench", odd.name, "other.onnx", "-q", "--batch", "1", "--batch", "2")
    assert said.code == 0, said.err
    assert said.out.count(odd.name) >= 2


def test_predict_shows_a_name_as_it_is(face: Face, odd: Path) -> None:
    said = face("predict", odd.name, "other.onnx", "--target", "raspberry-pi-5", "--shape", "x=1,16")
    assert said.code == 0, said.err
    assert odd.name in said.out


def test_compare_shows_names_as_they_are(face: Face, made_run: Path, tmp_path: Path) -> None:
    for name in ("run[a]", "run[b]"):
        shutil.copytree(made_run, tmp_path / name)
    said = face("compare", "run[a]", "run[b]")
    assert said.code == 0, said.err
    table = said.out[said.out.index("model  ") :]
    assert "run[a]" in table.splitlines()[0]
    assert "run[b]" in table.splitlines()[0]


def test_targets_list_shows_a_title_as_it_is(face: Face, tmp_path: Path) -> None:
    assert face("targets", "new", "my-board").code == 0
    place = tmp_path / "my-board.yaml"
    lines = [f'title: "Board {NAME}"' if ln.startswith("title:") else ln for ln in place.read_text().splitlines()]
    place.write_text("\n".join(lines))
    assert f"Board {NAME}" in face("targets", "list").out


def test_certify_shows_a_name_as_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from modeltailor.commands.certify import _show

    three = (1.0, 0.9, 1.1)
    model = SimpleNamespace(name=NAME, speedup=three, expected_speedup=three, agrees="inside", latency_ms=three, pairs=3,
                            verdict="certified", limit="", expected_evidence="measured-here")  # fmt: skip
    found: Any = SimpleNamespace(models=(model,), limit_ms=None, baseline_ms=1.0, evidence="measured-here", runtime="r",
                                 processor="p", seconds=1.0, agreeing=(model,), inside=(model,), device="d",
                                 fingerprint="0" * 16)  # fmt: skip
    _show(found, tmp_path)
    assert NAME in capsys.readouterr().out


def test_audit_shows_what_was_asked_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    from modeltailor.commands.audit import _show
    from modeltailor.estimators.audit import Audit

    fields = dict.fromkeys(Audit.__dataclass_fields__, ())
    node = SimpleNamespace(share=1.0, op_type="Conv[x]", precision="float[y]", asked="[/x] w8a8", name=NAME)
    fall = SimpleNamespace(share=1.0, asked="[/x] w8a8", executed="Conv[x]", reason="[b]no[/b]", name=NAME)
    conversion = SimpleNamespace(share=0.1, source="int8[q]", target="float", op_type="Cast[x]", is_inserted=True,
                                 after="a[1]", before=("b[/2]",))  # fmt: skip
    found: Any = SimpleNamespace(**{**fields, "model": NAME, "nodes": (node,), "converting": (conversion,), "conversions": 1,
                                 "conversion_share": 0.1, "pairs": (), "fall_backs": (fall,), "saturating": (),
                                 "sentence": "s"})  # fmt: skip
    _show(found)
    out = capsys.readouterr().out
    assert out.count("[/x] w8a8") == 2
    assert out.count(NAME) >= 3
    for text in ("Conv[x]", "float[y]", "[b]no[/b]", "int8[q]", "a[1] -> b[/2]", "Cast[x]"):
        assert text in out, text


def test_the_metric_of_a_run_is_named_as_it_is(stored_run: Path) -> None:
    from rich.console import Console

    from modeltailor.api import load_run
    from modeltailor.live_panel import Panel
    from modeltailor.reports import render_terminal
    from modeltailor.watching import look

    found = load_run(stored_run).summary
    odd = found.model_copy(update={"metric": found.metric.model_copy(update={"name": "iou[a]"})})
    assert "iou[a]" in render_terminal(odd)
    moment = look(stored_run)
    from dataclasses import replace

    console = Console(width=140, record=True, file=None, quiet=False)
    with console.capture() as got:
        console.print(Panel(replace(moment, summary=odd)))
    assert "iou[a]" in got.get()
