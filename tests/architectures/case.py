"""What a network of the suite is: a float ONNX file and inputs for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Architecture", "Case", "pictures"]


@dataclass(frozen=True, slots=True)
class Case:
    """A float network ready for the formats.

    Attributes:
        path: the ONNX file.
        inputs: calibration samples by input name, shape ``[n, ...]``; ``n`` may be 1 where the file fixes the batch.
        note: what was peculiar about making it; empty if nothing.
    """

    path: Path
    inputs: dict[str, NDArray[np.generic]]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A network of the suite.

    Attributes:
        name: unique in the suite.
        make: writes the float file into a folder.
        needs: packages that it needs besides our own dependencies.
        is_quick: whether the default test run has time for it.
        weights_drawn: whether the weights are random; false where the file brings its own.
        reach: bits below which no weight goes in the random recipe. Very few bits turn a network of random weights into
            noise, which amplifies each rounding that falls on the other side; see ``verdict``.
        most_bytes: float bytes of the weights, about: what takes much memory runs alone.
    """

    name: str
    make: Callable[[Path], Case]
    needs: tuple[str, ...] = ()
    is_quick: bool = False
    most_bytes: int = 0


def pictures(count: int, size: int, channels: int = 3, seed: int = 0) -> NDArray[np.float32]:
    """Return smooth random pictures, standardized, shape ``[count, channels, size, size]``.

    White noise would be averaged away by the first pooling; pictures have structure at all scales.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((count, channels, size, size))
    cells = 2
    while cells <= size:
        coarse = rng.normal(size=(count, channels, cells, cells))
        repeated = np.repeat(np.repeat(coarse, -(-size // cells), axis=2), -(-size // cells), axis=3)
        total += repeated[:, :, :size, :size]
        cells *= 2
    return ((total - total.mean()) / total.std()).astype(np.float32)
