"""Weight sharing: all weights of a layer take one of ``2**bits`` values; the file holds indices and the table.

Han et al. 2016, "Deep Compression": the table by weighted k-means (Lloyd's iteration) in one dimension. For integer
kernels the table holds int8 values that a scale for each channel multiplies, so that the layer still runs on the int8
kernel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["integer_levels", "shared_values"]

_MOST = 1 << 23


def shared_values(
    values: NDArray[np.float32], importance: NDArray[np.float32], count: int, *, iterations: int = 30
) -> NDArray[np.float32]:
    """Return ``count`` ascending table values for a set of weights.

    Args:
        values: weights, any shape.
        importance: their weights in the mean, the same shape.
        count: size of the table.
        iterations: of Lloyd's algorithm.
    """
    if values.size > _MOST:  # a table has at most 256 values: millions of samples place them well enough
        stride = -(-values.size // _MOST)
        values, importance = values.reshape(-1)[::stride], importance.reshape(-1)[::stride]
    order = np.argsort(values, axis=None, kind="stable")
    x = values.reshape(-1)[order].astype(np.float64)
    w = np.maximum(importance.reshape(-1)[order].astype(np.float64), 1e-12)
    mass, moment = np.cumsum(w), np.cumsum(w * x)
    mass, moment = np.concatenate([[0.0], mass]), np.concatenate([[0.0], moment])
    # a start with density ~ p^(1/3), which is optimal for many levels
    spread = float(np.sqrt(np.average((x - np.average(x, weights=w)) ** 2, weights=w))) or 1.0
    grid = np.linspace(-2.8, 2.8, count) if count > 2 else np.array([-0.8, 0.8])
    centers = np.sort(np.average(x, weights=w) + spread * grid * min(1.0, 0.35 + 0.11 * np.log2(count)) * 1.2)
    for _ in range(iterations):
        edges = np.searchsorted(x, (centers[1:] + centers[:-1]) / 2)
        bounds = np.concatenate([[0], edges, [len(x)]])
        weight = mass[bounds[1:]] - mass[bounds[:-1]]
        filled = weight > 0
        centers = np.where(filled, (moment[bounds[1:]] - moment[bounds[:-1]]) / np.where(filled, weight, 1.0), centers)
    return np.sort(centers).astype(np.float32)


def integer_levels(
    scaled: NDArray[np.float32], importance: NDArray[np.float32], bits: int, *, reach: int = 127
) -> tuple[NDArray[np.int8], float]:
    """Return an int8 table for weights that were divided by their channel's spread, and the step of the table.

    The largest level is ``reach``, so that the table is as fine as the kernel allows.
    """
    levels = shared_values(scaled, importance, 1 << bits)
    step = float(np.abs(levels).max()) / reach or 1.0
    return np.unique(np.clip(np.rint(levels / step), -reach, reach).astype(np.int8)), step
