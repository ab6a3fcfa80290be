"""What was promised, judged on the rows that are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from format_table.rows import Goal, Row, Table

__all__ = ["goals"]

_LOST = {
    "resnet20": {"w8a8": 0.15, "w4a8": 0.3, "w3a8": 1.0},
    "resnet56": {"w8a8": 0.15, "w4a8": 0.3, "w3a8": 1.0},
    "depthwise": {"w8a8": 0.5},
}
_INT8_SPEED = 2.0


def goals(tables: Sequence[Table]) -> list[Goal]:
    """Judge the goals of the networks that were scored; speeds where they were timed, on the low end."""
    found: list[Goal] = []
    for table in tables:
        for label, limit in _LOST.get(table.network, {}).items():
            row = table.row(label)
            if row is not None:
                found.append(_most(f"{table.network} {label}, lost points", row.lost_points, limit))
                found.extend(_speed(row, _INT8_SPEED) if table.network != "depthwise" else ())
        wrong = [r.label for r in table.rows if not r.kernels_match]
        found.append(
            Goal(name=f"{table.network} rows whose kernels are not as promised", wanted="none",
                 value=", ".join(wrong) or "none", met=not wrong)
        )  # fmt: skip
        found.extend({"resnet20": _resnet20, "minilm": _minilm}.get(table.network, lambda _: ())(table))
    return found


def _most(name: str, value: float, limit: float, digits: int = 2) -> Goal:
    return Goal(name=name, wanted=f"<= {limit:g}", value=f"{value:.{digits}f}", met=round(value, 6) <= limit)


def _speed(row: Row, limit: float) -> Iterator[Goal]:
    if row.speed is not None:
        name = f"{row.network} {row.label}, times as fast as fp32, low end"
        yield Goal(name=name, wanted=f">= {limit:g}", value=f"{row.speed.low:.2f}", met=row.speed.low >= limit)


def _resnet20(table: Table) -> Iterator[Goal]:
    small = [r for r in table.rows if r.label.startswith("mixed") and r.bytes <= 118_000]
    if small:
        best = min(small, key=lambda r: r.lost_points)
        yield _most("resnet20 mixed at most 118 KB, lost points", best.lost_points, 0.7)
        yield from _speed(best, _INT8_SPEED)
    row = table.row("w3a8")
    if row is not None:
        yield _most("resnet20 bytes beyond weights, biases, scales", row.beyond, 10240, 0)
    for name, title, limit in (
        ("compose_ms", "putting together from cached parts, ms", 100.0),
        ("preparation_s", "first preparation of all parts, s", 60.0),
    ):
        if name in table.figures:
            yield _most(f"resnet20 {title}", table.figures[name], limit, 1)


def _minilm(table: Table) -> Iterator[Goal]:
    for label, lost, size, speed in (("int8 dynamic", 0.5, 23_000_000, 2.5), ("w4a8-dynamic", 1.0, 12_500_000, 2.4)):
        row = table.row(label)
        if row is not None:
            yield _most(f"minilm {label}, lost points", row.lost_points, lost)
            yield _most(f"minilm {label}, bytes", row.bytes, size, 0)
            yield from _speed(row, speed)
    if "compose_ms" in table.figures:
        yield _most("minilm putting together from cached parts, ms", table.figures["compose_ms"], 1500.0, 0)
