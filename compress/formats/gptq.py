"""Rounding with error compensation: GPTQ, then coordinate descent on the same objective.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers": columns are
rounded in the order of falling Hessian diagonal; what rounding one loses is made up for by the ones not yet rounded.
The descent afterwards (as in Behdin et al. 2023, "QuantEase") visits each column again until nothing improves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modeltailor.compress.formats.grid import Grid

__all__ = ["compensated", "descended", "rounding_loss"]

_BLOCK = 128


def rounding_loss(
    weight: NDArray[np.float32], rounded: NDArray[np.float32], second: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the mean squared error of each output, ``[groups, out]``."""
    error = rounded - weight
    return np.asarray(np.einsum("gok,gok->go", error @ second, error), np.float32)


def damped(second: NDArray[np.float32], share: float = 0.01) -> NDArray[np.float64]:
    """Return the Hessian with ``share`` of its mean diagonal added, so that it can be inverted."""
    out = second.astype(np.float64)
    mean = np.maximum(np.trace(out, axis1=1, axis2=2) / out.shape[1], 1e-12)
    out += np.eye(out.shape[1])[None] * (share * mean)[:, None, None]
    return out


def _inverse_factor(hessian: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the upper Cholesky factor of the inverse, ``[groups, K, K]``.

    Inputs that hardly vary about a large mean leave second moments that rounding has made indefinite by more than the
    damping; such a Hessian is lifted until it is definite.
    """
    lifted = hessian
    for _ in range(2):
        try:
            inverse = np.linalg.inv(lifted)
            factor = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2)
            return np.asarray(factor.transpose(0, 2, 1), np.float32)
        except np.linalg.LinAlgError:
            values = np.linalg.eigvalsh(lifted)
            lift = np.maximum(-values[:, 0], 0) * 1.01 + 1e-3 * np.abs(values).max(axis=1) + 1e-12
            lifted = hessian + np.eye(hessian.shape[1])[None] * lift[:, None, None]
    size = np.sqrt(1.0 / np.maximum(np.diagonal(lifted, axis1=1, axis2=2), 1e-12))
    return np.asarray(np.eye(hessian.shape[1])[None] * size[:, None, :], np.float32)


def compensated(
    weight: NDArray[np.float32],
    second: NDArray[np.float32],
    grid: Grid,
    *,
    steps: NDArray[np.float32] | None = None,
    free: NDArray[np.bool_] | None = None,
    damping: float = 0.01,
) -> NDArray[np.float32]:
    """Return integers for ``weight`` with compensated rounding errors.

    Args:
        weight: ``[groups, out, K]``, already in steps of the grid unless ``steps`` is given.
        second: ``[groups, K, K]``.
        grid: the admissible integers.
        steps: step of each weight, the same shape, where they differ within a row.
        free: which weights may differ from zero, the same shape; the others of a sparse layer stay out of it.
        damping: share of the mean diagonal that is added to the diagonal.
    """
    hessian = damped(second, damping)
    order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")
    hessian = np.take_along_axis(np.take_along_axis(hessian, order[:, :, None], 1), order[:, None, :], 2)
    upper = _inverse_factor(hessian)
    rest = np.take_along_axis(weight, order[:, None, :], 2).astype(np.float32)
    rounded = np.empty_like(rest)
    sizes = None if steps is None else np.take_along_axis(steps, order[:, None, :], 2)
    may = None if free is None else np.take_along_axis(free, order[:, None, :], 2)
    width = rest.shape[2]
    for start in range(0, width, _BLOCK):
        end = min(start + _BLOCK, width)
        block = rest[:, :, start:end].copy()
        errors = np.empty_like(block)
        for k in range(end - start):
            at = start + k
            column = block[:, :, k]
            size = 1.0 if sizes is None else sizes[:, :, at]
            q = grid.nearest(column / size)
            if may is not None:
                q = np.where(may[:, :, at], q, 0)
            rounded[:, :, at] = q
            error = (column - q * size) / upper[:, at, at, None]
            errors[:, :, k] = error
            block[:, :, k:] -= error[:, :, None] * upper[:, None, at, at:end]
        if end < width:
            rest[:, :, end:] -= errors @ upper[:, start:end, end:]
    out = np.empty_like(rounded)
    np.put_along_axis(out, np.broadcast_to(order[:, None, :], rounded.shape), rounded, 2)
    return out


def descended(
    weight: NDArray[np.float32],
    integers: NDArray[np.float32],
    second: NDArray[np.float32],
    grid: Grid,
    *,
    sweeps: int = 4,
    free: NDArray[np.bool_] | None = None,
    damping: float = 0.002,
) -> NDArray[np.float32]:
    """Return integers that no change of a single one improves (or what ``sweeps`` passes reach).

    Args:
        weight: ``[groups, out, K]`` in steps of the grid.
        integers: where to start, the same shape.
        second: ``[groups, K, K]``.
        grid: the admissible integers.
        sweeps: passes over all columns at most.
        free: which weights may change, the same shape; ``None`` means all.
        damping: share of the mean diagonal that is added to the diagonal.
    """
    hessian = damped(second, damping).astype(np.float32)
    diagonal = np.maximum(np.diagonal(hessian, axis1=1, axis2=2), np.float32(1e-12))
    groups = hessian.shape[0]
    out = integers.astype(np.float32).copy()
    slope = (out - weight) @ hessian
    order = np.argsort(-diagonal.mean(axis=0), kind="stable")
    for _ in range(sweeps):
        changed = 0
        for k in order:
            wanted = out[:, :, k] - slope[:, :, k] / diagonal[:, None, k]
            best = grid.nearest(wanted)
            if free is not None:
                best = np.where(free[:, :, k], best, out[:, :, k])
            step = best - out[:, :, k]
            rows = np.nonzero(step)
            if not len(rows[0]):
                continue
            changed += len(rows[0])
            out[:, :, k] = best
            if groups == 1:
                slope[0, rows[1]] += step[0, rows[1], None] * hessian[0, k]
            else:
                slope[rows] += step[rows][:, None] * hessian[rows[0], k]
        if changed * 1000 < out.size:
            break
    return out
