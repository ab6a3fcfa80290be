"""Teacher assistants: middle sizes that pass the knowledge on where the gap is large.

Mirzadeh et al. 2020, "Improved Knowledge Distillation via Teacher Assistant" (arXiv:1902.03393): a small student learns
more from a middle-sized network that learned from the original than from the original itself.
"""

from __future__ import annotations

import math
from dataclasses import replace

from modeltailor.compress.structures import Structure

__all__ = ["assistant_structures", "n_assistants"]

_FACTOR = 8.0


def n_assistants(original_parameters: int, student_parameters: int, wanted: int | str) -> int:
    """Return how many middle sizes to put between: as many as asked for, or one for each full factor of eight.

    Args:
        original_parameters: of the network that is learned from in the end.
        student_parameters: of the network that learns.
        wanted: a number, or ``auto``.
    """
    if isinstance(wanted, int):
        return wanted
    ratio = original_parameters / max(1, student_parameters)
    return max(0, math.floor(math.log(max(ratio, 1.0), _FACTOR)))


def assistant_structures(structure: Structure, n: int) -> tuple[Structure, ...]:
    """Return ``n`` structures between the original and ``structure``, the largest first.

    Keep ratios, width and depth go down geometrically; of the removed blocks a growing number is taken, spread evenly.
    Ranks, zeros and resolution belong to the last network alone.

    Args:
        structure: what the chain ends in.
        n: how many middle sizes.
    """
    found = []
    for k in range(1, n + 1):
        part = k / (n + 1)
        taken = math.floor(part * len(structure.removed) + 0.5)
        removed = tuple(structure.removed[i * len(structure.removed) // taken] for i in range(taken))
        made = replace(
            structure,
            keep=tuple((g, share**part) for g, share in structure.keep),
            removed=removed,
            width=structure.width**part,
            depth=structure.depth**part,
            ranks=(),
            sparsity=(),
            resolution=1.0,
            training=None,
        )
        if not made.is_original and made not in found:
            found.append(made)
    return tuple(found)
