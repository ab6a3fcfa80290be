"""Measurements that outlive a run, by the content of what was measured: nothing is scored or screened twice.

Scores are kept for built-in metrics only: a function of the user may change without its name changing. Screenings are
kept for a day: a machine changes more slowly than that, but it changes. Finalists are never taken from here.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from modeltailor.canonical import content_key
from modeltailor.search.records import AccuracyRecord, IntervalRecord

__all__ = ["Measurements", "ScreeningRecord"]

T = TypeVar("T", bound=BaseModel)

_SCREENING_S = 24 * 3600.0
_MOST_ROWS = 100_000
_WAIT_S = 2.0


class ScreeningRecord(BaseModel):
    """What screening a file showed.

    Attributes:
        latency_ms: milliseconds of one inference.
        speedup: over the original, interleaved with it.
        load_ms: time to open a session.
        peak_memory_bytes: if it was asked for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_ms: IntervalRecord
    speedup: IntervalRecord
    load_ms: FiniteFloat | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Measurements:
    """A small database of measurements in the user's cache. Whatever is wrong with it, the search measures instead.

    Attributes:
        folder: where it lies; ``None`` keeps nothing.
    """

    folder: Path | None

    def score(self, what: object) -> AccuracyRecord | None:
        """Return the score kept for ``what``, any canonical value that names model, data, metric and runtime."""
        text = self._get("score", what, oldest_s=None)
        return None if text is None else _read(AccuracyRecord, text)

    def screening(self, what: object) -> ScreeningRecord | None:
        """Return the screening of the last day for ``what``: candidate, original, device and inputs."""
        text = self._get("screening", what, oldest_s=_SCREENING_S)
        return None if text is None else _read(ScreeningRecord, text)

    def keep_score(self, what: object, record: AccuracyRecord) -> None:
        """Keep a score."""
        self._put("score", what, record)

    def keep_screening(self, what: object, record: ScreeningRecord) -> None:
        """Keep a screening."""
        self._put("screening", what, record)

    def _get(self, kind: str, what: object, oldest_s: float | None) -> str | None:
        since = 0.0 if oldest_s is None else time.time() - oldest_s
        with self._open() as book:
            if book is None:
                return None
            with contextlib.suppress(sqlite3.Error):
                row = book.execute(
                    "SELECT value FROM measurements WHERE key = ? AND at >= ?", (content_key((kind, what), 32), since)
                ).fetchone()
                return None if row is None else str(row[0])
        return None

    def _put(self, kind: str, what: object, record: BaseModel) -> None:
        row = (content_key((kind, what), 32), record.model_dump_json(), time.time())
        with self._open() as book:
            if book is None:
                return
            with contextlib.suppress(sqlite3.Error), book:
                book.execute("INSERT OR REPLACE INTO measurements VALUES (?, ?, ?)", row)
                book.execute(
                    "DELETE FROM measurements WHERE key IN (SELECT key FROM measurements ORDER BY at DESC LIMIT -1 OFFSET ?)",
                    (_MOST_ROWS,),
                )

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        if self.folder is None:
            yield None
            return
        book = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            book = sqlite3.connect(self.folder / "measurements.db", timeout=_WAIT_S)
            book.execute("CREATE TABLE IF NOT EXISTS measurements (key TEXT PRIMARY KEY, value TEXT, at REAL)")
        except (OSError, sqlite3.Error):
            if book is not None:
                book.close()
            yield None
            return
        try:
            yield book
        finally:
            book.close()


def _read(kind: type[T], text: str) -> T | None:
    try:
        return kind.model_validate_json(text)
    except ValidationError:
        return None
