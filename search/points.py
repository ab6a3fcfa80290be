"""Where measured trials lie: loss, latency and bytes over the original's, and what belongs to one structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from modeltailor.canonical import canonical_json
from modeltailor.compress import Structure
from modeltailor.compress.vocabulary import Recipe
from modeltailor.search.records import TrialRecord

__all__ = [
    "by_structure",
    "latency_of",
    "loss_of",
    "own_of",
    "placed",
    "point_of",
    "structure_key",
    "training_s",
    "was_trained",
]

_LEAST_TRAINING_S = 1.0
"""What took less was there already: built by an earlier trial, or from the cache in a run that did not write that down."""

Point = tuple[float, float, float]


def placed(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The records that have all three figures."""
    return [r for r in records if r.is_measured and r.accuracy is not None and r.speedup is not None]


def loss_of(record: TrialRecord, *, minimize: bool) -> float:
    """What a placed record loses against the original, in the unit of the metric; negative where it gains."""
    assert record.accuracy is not None
    return record.accuracy.difference if minimize else -record.accuracy.difference


def latency_of(record: TrialRecord) -> float:
    """Latency of a placed record over the original's."""
    assert record.speedup is not None
    return 1.0 / record.speedup.value


def point_of(record: TrialRecord, original: TrialRecord, *, minimize: bool) -> Point:
    """Loss, latency and bytes of a placed record; the latter two over the original's."""
    return loss_of(record, minimize=minimize), latency_of(record), record.size_bytes / original.size_bytes


def structure_key(structure: Structure) -> str:
    """The key under which :func:`by_structure` holds the records of a structure."""
    return canonical_json(Recipe(structure=structure).to_plain()["structure"])


def by_structure(records: Sequence[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """The records of each structure, the training that belongs to it included."""
    found: dict[str, list[TrialRecord]] = {}
    for record in records:
        found.setdefault(canonical_json(record.recipe["structure"]), []).append(record)
    return found


def own_of(same: Sequence[TrialRecord], *, minimize: bool) -> TrialRecord | None:
    """The record that shows what a structure loses by itself: its most accurate quantized one with weights as they are."""
    plain = [r for r in same if r.recipe.get("recovery") is None and r.recipe["formats"] and r.scored_fully]
    return min(plain, key=lambda r: (loss_of(r, minimize=minimize), r.number), default=None)


def was_trained(record: TrialRecord) -> bool:
    """Whether something learned in a trial: its structure, or the recipe once more."""
    return training_s(record, "structure") > 0.0 or training_s(record, "recovery") > 0.0


def training_s(record: TrialRecord, stage: Literal["structure", "recovery"]) -> float:
    """Seconds of a stage in which something learned, its export included; 0 where the weights were there before.

    The export of weights from the cache alone takes seconds: how long a stage took does not tell whether it learned.
    """
    seconds = 0.0 if stage in record.reused else record.seconds.get(stage, 0.0)
    return seconds if seconds >= _LEAST_TRAINING_S else 0.0
