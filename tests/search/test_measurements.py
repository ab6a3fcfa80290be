from __future__ import annotations

import time
from pathlib import Path

import pytest

from modeltailor.search.measurements import Measurements, ScreeningRecord
from modeltailor.search.records import AccuracyRecord, IntervalRecord

ACCURACY = AccuracyRecord(value=0.9, low=0.89, high=0.91, n_samples=100)
FAST = IntervalRecord(value=2.0, low=1.9, high=2.1, evidence="measured-here")
SCREENING = ScreeningRecord(latency_ms=FAST, speedup=FAST, load_ms=3.0)


def test_what_was_measured_is_found_by_its_content_in_another_run(tmp_path: Path) -> None:
    Measurements(tmp_path).keep_score({"file": "a"}, ACCURACY)
    Measurements(tmp_path).keep_screening({"file": "a"}, SCREENING)
    again = Measurements(tmp_path)
    assert again.score({"file": "a"}) == ACCURACY
    assert again.screening({"file": "a"}) == SCREENING
    assert again.score({"file": "b"}) is None
    assert again.screening({"file": "b"}) is None


def test_a_screening_is_good_for_a_day_and_a_score_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Measurements(tmp_path)
    kept.keep_score("x", ACCURACY)
    kept.keep_screening("x", SCREENING)
    later = time.time() + 25 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    assert kept.screening("x") is None
    assert kept.score("x") == ACCURACY


def test_without_a_folder_or_with_a_broken_one_nothing_is_kept_and_nothing_fails(tmp_path: Path) -> None:
    Measurements(None).keep_score("x", ACCURACY)
    assert Measurements(None).score("x") is None
    (tmp_path / "measurements.db").write_bytes(b"not a database, and long enough to be read as a header of one" * 20)
    broken = Measurements(tmp_path)
    broken.keep_score("x", ACCURACY)
    assert broken.score("x") is None
