"""Which points no other beats, and how much of the objective space they cover. All objectives are minimised.

The region that no point dominates is cut into boxes by the local upper bounds of Lacour, Klamroth and Fonseca, "A box
decomposition algorithm to compute the hypervolume indicator" (Computers & Operations Research 79, 2017). The boxes
give the hypervolume, the gain of further points, and its expectation under independent Gaussians in closed form (Yang,
Emmerich, Deutz and Bäck, "Efficient computation of expected hypervolume improvement using box decomposition
algorithms", Journal of Global Optimization 75, 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

__all__ = ["Boxes", "cut_boxes", "hypervolume", "non_dominated", "spread_out"]

Floats = NDArray[np.float64]

_CHUNK = 4_000_000  # elements of one temporary array: keeps the gain of many points within some ten MB


def non_dominated(points: ArrayLike) -> NDArray[np.bool_]:
    """Return which points no other point beats.

    A point beats another if it is nowhere worse and somewhere better. Of equal points only the first is kept.

    Args:
        points: shape ``(n, m)``, to be minimised.

    Returns:
        Mask of shape ``(n,)``.
    """
    table = np.asarray(points, dtype=np.float64)
    kept = np.zeros(len(table), dtype=np.bool_)
    # In lexicographic order no later point beats an earlier one; the sort is stable, so the first of equals leads.
    rest = np.lexsort(table.T[::-1]) if len(table) else np.zeros(0, dtype=np.intp)
    while rest.size:
        first = rest[0]
        kept[first] = True
        rest = rest[(table[rest] < table[first]).any(axis=1)]
    return kept


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """The part of the objective space below a reference point that no point dominates, as disjoint boxes.

    Attributes:
        lower: corners of shape ``(b, m)``; ``-inf`` where a box is open.
        upper: corners of shape ``(b, m)``.
        reference: the reference point, shape ``(m,)``.
    """

    lower: Floats
    upper: Floats
    reference: Floats

    def gains(self, points: ArrayLike) -> Floats:
        """Hypervolume that each point alone would add.

        Args:
            points: shape ``(n, m)``.

        Returns:
            Shape ``(n,)``.
        """
        table = np.asarray(points, dtype=np.float64).reshape(-1, len(self.reference))
        out = np.empty(len(table))
        step = max(1, _CHUNK // max(1, self.lower.size))
        for start in range(0, len(table), step):
            part = table[start : start + step, None, :]
            edges = np.maximum(self.upper - np.maximum(self.lower, part), 0.0)
            out[start : start + step] = edges.prod(axis=2).sum(axis=1)
        return out

    def expected_gains(self, mean: ArrayLike, std: ArrayLike) -> Floats:
        """Expected hypervolume gain of points whose objectives are independent Gaussians.

        Args:
            mean: shape ``(n, m)``.
            std: shape ``(n, m)``, above 0.

        Returns:
            Shape ``(n,)``.
        """
        mu = np.asarray(mean, dtype=np.float64).reshape(-1, len(self.reference))
        sigma = np.asarray(std, dtype=np.float64).reshape(mu.shape)
        out = np.empty(len(mu))
        step = max(1, _CHUNK // max(1, 4 * self.lower.size))
        for start in range(0, len(mu), step):
            m, s = mu[start : start + step, None, :], sigma[start : start + step, None, :]
            edges = _expected_shortfall(self.upper, m, s) - _expected_shortfall(self.lower, m, s)
            out[start : start + step] = np.maximum(edges, 0.0).prod(axis=2).sum(axis=1)
        return out


def _expected_shortfall(bound: Floats, mean: Floats, std: Floats) -> Floats:
    """``E[max(bound - Y, 0)]`` of a Gaussian ``Y``; 0 at ``bound = -inf``."""
    with np.errstate(invalid="ignore"):
        z = (bound - mean) / std
        value = std * (z * ndtr(z) + np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi))
    return np.where(np.isneginf(z), 0.0, value)


def cut_boxes(points: ArrayLike, reference: Sequence[float] | Floats) -> Boxes:
    """Cut the region below ``reference`` that no point dominates into disjoint boxes.

    Args:
        points: shape ``(n, m)`` with ``m`` of 2 to 4; points that do not lie below the reference count for nothing.
        reference: shape ``(m,)``, finite.

    Raises:
        ValueError: the shapes do not fit, or ``m`` is not 2, 3 or 4.
    """
    ref = np.asarray(reference, dtype=np.float64)
    m = len(ref)
    table = np.asarray(points, dtype=np.float64).reshape(-1, m)
    if m not in (2, 3, 4) or not np.isfinite(ref).all():
        raise ValueError(f"the reference must be finite and have 2 to 4 objectives; got {ref.tolist()}")
    table = table[(table < ref).all(axis=1)]
    table = table[non_dominated(table)]
    n = len(table)
    # Work on ranks without ties: the decomposition then is in general position, and ties become boxes of no width.
    ranks = np.empty((n, m), dtype=np.int64)
    values = np.empty((n + 2, m))
    values[0], values[n + 1] = -np.inf, ref
    for j in range(m):
        order = np.argsort(table[:, j], kind="stable")
        ranks[order, j] = np.arange(1, n + 1)
        values[1 : n + 1, j] = table[order, j]
    upper, defining = _local_upper_bounds(ranks[np.argsort(ranks[:, -1])], n + 1)
    lower = np.zeros_like(upper)
    for j in range(1, m):
        lower[:, j] = defining[:, :j, j].max(axis=1)
    columns = np.arange(m)
    low, high = values[lower, columns], values[upper, columns]
    wide = (high > low).all(axis=1)
    return Boxes(lower=low[wide], upper=high[wide], reference=ref)


def _local_upper_bounds(ranks: NDArray[np.int64], top: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Local upper bounds of points in general position and, for each bound and coordinate, the point that defines it.

    Args:
        ranks: shape ``(n, m)``, each column a permutation of 1..n.
        top: rank of the reference.

    Returns:
        Bounds ``(b, m)`` and defining points ``(b, m, m)``: ``[i, k]`` is the point that fixes coordinate ``k``.
    """
    m = ranks.shape[1]
    upper = np.full((1, m), top, dtype=np.int64)
    defining = np.zeros((1, m, m), dtype=np.int64)  # rank 0 stands for minus infinity
    defining[0, np.arange(m), np.arange(m)] = top
    others = [np.array([k for k in range(m) if k != j]) for j in range(m)]
    for z in ranks:
        hit = (z < upper).all(axis=1)
        if not hit.any():
            continue
        new_upper, new_defining = [upper[~hit]], [defining[~hit]]
        hit_upper, hit_defining = upper[hit], defining[hit]
        for j in range(m):
            fits = z[j] > hit_defining[:, others[j], j].max(axis=1)
            u, d = hit_upper[fits].copy(), hit_defining[fits].copy()
            u[:, j] = z[j]
            d[:, j, :] = z
            new_upper.append(u)
            new_defining.append(d)
        upper, defining = np.concatenate(new_upper), np.concatenate(new_defining)
    return upper, defining


def hypervolume(points: ArrayLike, reference: Sequence[float] | Floats) -> float:
    """Return the exact volume that the points dominate below ``reference``.

    Args:
        points: shape ``(n, m)`` with ``m`` of 2 to 4, to be minimised; what is not below the reference counts nothing.
        reference: shape ``(m,)``, finite.

    Raises:
        ValueError: the shapes do not fit.
    """
    ref = np.asarray(reference, dtype=np.float64)
    table = np.asarray(points, dtype=np.float64).reshape(-1, len(ref))
    table = table[(table < ref).all(axis=1)]
    if not len(table):
        return 0.0
    floor = table.min(axis=0)
    boxes = cut_boxes(table, ref)
    free = (np.maximum(boxes.upper, floor) - np.maximum(boxes.lower, floor)).prod(axis=1).sum()
    return float((ref - floor).prod() - free)


def spread_out(points: ArrayLike, reference: Sequence[float] | Floats, n: int) -> list[int]:
    """Choose up to ``n`` points one by one, each the one that adds most hypervolume; stops when nothing is gained.

    Args:
        points: shape ``(count, m)``.
        reference: shape ``(m,)``.
        n: how many at most.

    Returns:
        Indices in the order of choice.
    """
    table = np.asarray(points, dtype=np.float64)
    chosen: list[int] = []
    candidates = np.flatnonzero(non_dominated(table))
    while len(chosen) < n and len(candidates):
        gains = cut_boxes(table[chosen], reference).gains(table[candidates])
        best = int(np.argmax(gains))
        if gains[best] <= 0.0:
            break
        chosen.append(int(candidates[best]))
    return chosen
