"""What a stranger sees of an audit: alike conversions and reasons in one row, with their cost; names cannot style it."""

from __future__ import annotations

import pytest

from modeltailor.commands.audit import _show
from modeltailor.estimators.audit_data import Audit, AuditNode, Conversion, ConversionPair, FallBack


def node(name: str, share: float, op_type: str = "QLinearConv", asked: str = "") -> AuditNode:
    return AuditNode(
        name=name, op_type=op_type, domain="", provider="CPUExecutionProvider", role="compute", precision="int8",
        ms=share, share=share, input_types=("uint8",), asked=asked,
    )  # fmt: skip


def conversion(number: int, *, is_inserted: bool) -> Conversion:
    return Conversion(
        name=f"q{number}", op_type="QuantizeLinear", source="float", target="uint8", after="Relu",
        before=("QLinearConv",), is_inserted=is_inserted, ms=0.02, share=0.02,
    )  # fmt: skip


def audit(**changes: object) -> Audit:
    figures: dict[str, object] = {
        "model": "m.onnx", "nodes": (node("a", 1.0),), "fall_backs": (), "node_ms": 1.0, "compute_share": (("int8", 1.0),),
        "conversion_share": 0.0, "conversions": 0, "layout_share": 0.0, "sentence": "That is why.",
    }  # fmt: skip
    return Audit(**figures | changes)  # type: ignore[arg-type]


def lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, found: Audit) -> list[str]:
    monkeypatch.setenv("COLUMNS", "160")
    _show(found)
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_an_audit_without_trouble_is_a_table_and_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = lines(capsys, monkeypatch, audit())
    assert shown[0].startswith("m.onnx: one node executes.")
    assert shown[1:] == ["share kernel computes in node", "100.0% QLinearConv int8 a", "That is why."]


def test_what_was_asked_for_stands_beside_what_executes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = lines(capsys, monkeypatch, audit(nodes=(node("a", 0.75, asked="w4a8"), node("b", 0.25))))
    assert shown[1:4] == [
        "share kernel computes in asked for node", "75.0% QLinearConv int8 w4a8 a", "25.0% QLinearConv int8 b",
    ]  # fmt: skip


def test_alike_conversions_share_a_row_with_count_and_cost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    converting = tuple(conversion(k, is_inserted=k < 2) for k in range(5))
    pair = ConversionPair(first="q0", second="q1", share=0.04)
    found = audit(converting=converting, conversions=5, conversion_share=0.1, pairs=(pair,))
    shown = lines(capsys, monkeypatch, found)
    assert "conversions between number formats: 5, 10.0% of the time" in shown
    assert "6.0% 3 float to uint8 QuantizeLinear Relu -> QLinearConv in the file" in shown
    assert "4.0% 2 float to uint8 QuantizeLinear Relu -> QLinearConv the runtime put it in" in shown
    assert "one pair of them cancels out (4.0%): neighbours in one format need neither" in shown


def test_what_fell_back_is_said_once_a_reason_and_names_are_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    falls = tuple(
        FallBack(name=n, asked="w8a8", executed="Conv", reason="its bias is float", share=0.25)
        for n in ("[red]x[/red]", "y", "z")
    )
    shown = lines(capsys, monkeypatch, audit(fall_backs=falls))
    assert "75.0% w8a8 Conv its bias is float [red]x[/red] and 2 more" in shown


def test_a_long_graph_is_cut_and_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = lines(capsys, monkeypatch, audit(nodes=tuple(node(f"n{k}", 0.04) for k in range(25))))
    assert sum("QLinearConv" in line for line in shown) == 20
    assert "20.0% 5 more nodes; --json lists every one" in shown


def test_layers_that_may_saturate_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = " ".join(lines(capsys, monkeypatch, audit(saturating=("a", "b"))))
    assert "2 layers may saturate here, a first" in shown
    assert "Weights of 7 bits (reduced range) avoid it. That is why." in shown
