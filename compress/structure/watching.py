"""Early stopping: a held-out part of ``train`` is watched, and the best weights seen are handed back.

Prechelt 1998, "Early Stopping - But When?".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["LOOKS_AN_EPOCH", "Watch", "held_out_rows"]

LOOKS_AN_EPOCH = 2


def held_out_rows(n: int, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to learn from and the rows to watch, both sorted; drawn by the seed."""
    count = math.ceil(share * n) if share > 0 else 0
    count = min(count, n - 1)
    order = np.random.default_rng((seed, 77)).permutation(n)
    return np.sort(order[count:]), np.sort(order[:count])


@dataclass
class Watch:
    """The best look so far.

    Attributes:
        patience: looks without a better loss after which learning stops.
        best: smallest loss seen.
        since: looks since then.
        weights: those of the best look.
    """

    patience: int
    best: float = math.inf
    since: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def look(self, loss: float, weights: Callable[[], Mapping[str, Tensor]]) -> bool:
        """Take a look; return whether learning should go on."""
        if loss < self.best:
            self.best, self.since = loss, 0
            self.weights = {k: v.detach().clone() for k, v in weights().items()}
        else:
            self.since += 1
        return self.since < self.patience
