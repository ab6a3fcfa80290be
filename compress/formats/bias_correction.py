"""Bias correction: what rounding adds to the mean of an output is taken off its bias.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", here with the mean input
measured on calibration data, which needs no further run of the network.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bias_shift", "centered"]


def bias_shift(
    weight: NDArray[np.float32], rounded: NDArray[np.float32], first: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return what must be added to the bias, ``[groups * out]``.

    Args:
        weight: ``[groups, out, K]``.
        rounded: the same weight as it will be computed with.
        first: mean input, ``[groups, K]``.
    """
    return np.asarray(-((rounded - weight) @ first[:, :, None]).reshape(-1), np.float32)


def centered(second: NDArray[np.float32], first: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the covariance of the inputs: the Hessian that counts once the bias takes up the mean error."""
    return np.asarray(second - first[:, :, None] * first[:, None, :], np.float32)
