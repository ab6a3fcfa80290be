"""Results as tables: ``outcomes.csv`` for spreadsheets, ``outcomes.parquet`` for analysis, DataFrames for notebooks."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from modeltailor.errors import EnvironmentFault, shown
from modeltailor.reports.summary import RunSummary, TrialPoint

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OUTCOME_COLUMNS", "front_frame", "outcomes_csv", "outcomes_parquet"]

OUTCOME_COLUMNS = (
    "trial", "key", "name", "role", "axis", "outcome", "stage", "error", "on_front", "accuracy", "accuracy_low",
    "accuracy_high", "difference", "difference_low", "difference_high", "latency_ms", "latency_low_ms",
    "latency_high_ms", "speedup", "speedup_low", "speedup_high", "size_bytes", "peak_memory_bytes", "evidence",
    "finished_at_s", "scored_fully",
)  # fmt: skip

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def _safe(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    plain = shown(text, 300)
    return f"'{plain}" if plain.startswith(_FORMULA_STARTS) else plain


def _row(t: TrialPoint) -> list[object]:
    accuracy: list[object] = [""] * 6
    if t.accuracy:
        a = t.accuracy
        accuracy = [a.value, a.low, a.high, a.difference, a.difference_low, a.difference_high]
    latency: list[object] = [t.latency_ms.value, t.latency_ms.low, t.latency_ms.high] if t.latency_ms else [""] * 3
    speedup: list[object] = [t.speedup.value, t.speedup.low, t.speedup.high] if t.speedup else [""] * 3
    return [
        t.number, t.key, _safe(t.name), t.role, t.axis, t.outcome, t.stage, _safe(t.error), int(t.on_front), *accuracy,
        *latency, *speedup, "" if t.size_bytes is None else t.size_bytes,
        "" if t.peak_memory_bytes is None else t.peak_memory_bytes, t.latency_ms.evidence if t.latency_ms else "",
        t.finished_at_s, int(t.scored_fully) if t.accuracy else "",
    ]  # fmt: skip


def outcomes_csv(summary: RunSummary) -> str:
    """All trials, one a row; figures at full precision, empty where a trial failed before them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(OUTCOME_COLUMNS)
    writer.writerows(_row(t) for t in summary.trials)
    return out.getvalue()


_TEXTS = frozenset(("key", "name", "role", "axis", "outcome", "stage", "error", "evidence"))
_WHOLE = frozenset(("trial", "on_front", "size_bytes", "peak_memory_bytes", "scored_fully"))


def outcomes_parquet(summary: RunSummary) -> bytes:
    """The same rows as :func:`outcomes_csv` as a Parquet file with typed columns; nulls where the CSV has empty cells.

    Texts stand as they are: no spreadsheet reads this.

    Raises:
        EnvironmentFault: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise EnvironmentFault(
            "ENV-11",
            "outcomes.parquet",
            "needs pyarrow, which is not installed",
            "install it: pip install 'modeltailor[parquet]'",
        ) from error
    rows = [_row(t) for t in summary.trials]
    columns = {}
    for i, name in enumerate(OUTCOME_COLUMNS):
        values = [row[i] for row in rows]
        if name in _TEXTS:
            given = {"name": [t.name for t in summary.trials], "error": [t.error for t in summary.trials]}.get(
                name, values
            )
            columns[name] = pa.array(given, pa.string())
        else:
            known = [None if v == "" else v for v in values]
            columns[name] = pa.array(known, pa.int64() if name in _WHOLE else pa.float64())
    out = io.BytesIO()
    parquet.write_table(pa.table(columns), out)
    return out.getvalue()


def front_frame(summary: RunSummary) -> pd.DataFrame:
    """The front as a DataFrame, fastest first, indexed by key; the recommended model has ``best`` true."""
    import pandas as pd

    rows = []
    for key in summary.front:
        m = summary.model_of(key)
        if m is None:
            continue
        rows.append(
            {
                "key": m.key,
                "name": m.name,
                "best": m.key == summary.best,
                "axis": m.axis,
                "speedup": m.speedup.value,
                "speedup_low": m.speedup.low,
                "speedup_high": m.speedup.high,
                "latency_ms": m.latency_ms.value,
                "latency_low_ms": m.latency_ms.low,
                "latency_high_ms": m.latency_ms.high,
                "size_bytes": m.size_bytes,
                "accuracy": m.accuracy.search.value,
                "difference": m.accuracy.search.difference,
                "test_accuracy": m.accuracy.test.value if m.accuracy.test else None,
                "test_difference": m.accuracy.test.difference if m.accuracy.test else None,
                "peak_memory_bytes": m.peak_memory_bytes,
                "meets_budget": m.meets_budget,
                "file": m.file,
                "sha256": m.sha256,
            }
        )
    return pd.DataFrame(rows).set_index("key") if rows else pd.DataFrame()
