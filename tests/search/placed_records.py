"""Records of trials that were measured, by where they lie."""

from __future__ import annotations

from modeltailor.compress import Format, Recipe, Structure
from modeltailor.search.records import AccuracyRecord, IntervalRecord, TrialRecord


def placed_record(
    number: int, structure: Structure, loss: float, latency: float, size: int, *, bits: int = 8, role: str = "search",
    outcome: str = "MEASURED", training_s: float = 0.0, reused: tuple[str, ...] = (),
) -> TrialRecord:  # fmt: skip
    """A trial over one site, by its loss, its latency over the original's and its bytes."""
    recipe = Recipe(structure=structure, formats=() if bits == 32 else (("a", Format.parse(f"w{bits}a8")),))
    fast = IntervalRecord(value=1 / latency, low=1 / latency, high=1 / latency, evidence="measured-here")
    accuracy = AccuracyRecord(
        value=0.9 - loss,
        low=0.88,
        high=0.92,
        difference=-loss,
        difference_low=-loss,
        difference_high=-loss,
        n_samples=9,
    )
    found = {"latency_ms": fast, "speedup": fast, "accuracy": accuracy} if outcome == "MEASURED" else {}
    return TrialRecord(
        number=number, key=recipe.key, role=role, recipe=recipe.to_plain(), size_bytes=size, outcome=outcome,  # type: ignore[arg-type]
        seconds={"structure": training_s, "build": 1.0}, reused=reused, **found,  # type: ignore[arg-type]
    )  # fmt: skip
