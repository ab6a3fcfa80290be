"""Which accuracy a candidate must reach to matter, once its size and latency are known.

Optuna does not prune trials of several objectives; this is what a search does instead: a candidate is scored on growing
shares of the split, and given up as soon as it is clear that a model which is no larger and no slower (and takes no more
memory, if that has a limit) is more accurate, or that it misses the budget's limit on accuracy while other models keep the budget.
"""

from __future__ import annotations

from dataclasses import dataclass

from modeltailor.search.front import Figures, violations
from modeltailor.search.sampler.goal import allowed_loss
from modeltailor.targets import Budget

__all__ = ["Race"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """What a candidate has to beat.

    Attributes:
        rivals: everything measured so far.
        budget: the user's limits.
        minimize: whether a smaller metric is better.
    """

    rivals: tuple[Figures, ...]
    budget: Budget
    minimize: bool = False

    def bar(self, *, size_bytes: int, speedup: float, memory_bytes: int | None = None) -> float | None:
        """Return the difference to the original that a candidate must reach; ``None`` if any would do.

        Args:
            size_bytes: of the candidate's file.
            speedup: of the candidate.
            memory_bytes: its peak; counts if the budget limits memory, where no rival stands if it was not measured.
        """
        sign = -1.0 if self.minimize else 1.0
        bars = [
            sign * r.accuracy.difference
            for r in self.rivals
            if r.size_bytes <= size_bytes and r.speedup.value >= speedup and self._is_as_lean(r, memory_bytes)
        ]
        limit = self._limit()
        if limit is not None:
            bars.append(limit)
        return sign * max(bars) if bars else None

    def _is_as_lean(self, rival: Figures, memory_bytes: int | None) -> bool:
        if self.budget.memory_bytes is None:
            return True
        return memory_bytes is not None and rival.memory_bytes is not None and rival.memory_bytes <= memory_bytes

    def _limit(self) -> float | None:
        """The budget's limit on accuracy as a gain (negative for a loss), if some model keeps the whole budget already."""
        if not any(not violations(r, self.budget, minimize=self.minimize) for r in self.rivals):
            return None
        allowed = allowed_loss(self.budget, self.rivals[0].original, minimize=self.minimize)
        return None if allowed is None else -allowed
