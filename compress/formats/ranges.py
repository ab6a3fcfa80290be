"""Activation ranges: scale and zero point of a tensor from its histogram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modeltailor.compress.formats.calibrate import Histogram

_DEAD = 1e-12  # span of a tensor that holds nothing

__all__ = ["QuantParams", "RangeMethod", "quant_params"]

RangeMethod = Literal["minmax", "percentile", "entropy", "mse"]
_PERCENTILE = 99.999
_ENTROPY_NEEDS = 16 * 2048


@dataclass(frozen=True, slots=True)
class QuantParams:
    """How an activation tensor is quantized: ``real = scale * (integer - zero_point)``.

    Attributes:
        scale: step, as float32 rounds it.
        zero_point: the integer that stands for zero.
        signed: signed integers.
        bits: 8 or 16.
    """

    scale: float
    zero_point: int
    signed: bool
    bits: int = 8

    @property
    def lowest(self) -> int:
        """Smallest integer."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """Largest integer."""
        return self.lowest + (1 << self.bits) - 1

    def quantized(self, values: NDArray[np.floating]) -> NDArray[np.integer]:
        """Return values as integers of this kind."""
        kind = np.dtype(f"{'' if self.signed else 'u'}int{self.bits}")
        steps = np.rint(values / np.float32(self.scale)) + self.zero_point
        return np.asarray(np.clip(steps, self.lowest, self.highest).astype(kind))


def _made(low: float, high: float, *, signed: bool, symmetric: bool, bits: int) -> QuantParams:
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < _DEAD:  # nothing was seen in it: any step will do, but one near zero leaves a bias no room
        high = 1.0
    lowest = -(1 << (bits - 1)) if signed else 0
    if symmetric:
        reach = max(-low, high)
        return QuantParams(float(np.float32(reach / ((1 << (bits - 1)) - 1))), lowest + (1 << (bits - 1)), signed, bits)
    scale = float(np.float32((high - low) / ((1 << bits) - 1)))
    zero = int(np.clip(round(lowest - low / scale), lowest, lowest + (1 << bits) - 1))
    return QuantParams(scale, zero, signed, bits)


def quant_params(
    histogram: Histogram, method: RangeMethod, *, signed: bool, symmetric: bool, bits: int = 8
) -> QuantParams:
    """Return scale and zero point for a tensor.

    Args:
        histogram: what calibration saw.
        method: ``minmax`` keeps everything; ``percentile`` cuts 0.001 %; ``mse`` minimizes the squared error;
            ``entropy`` minimizes the divergence of the quantized distribution (Migacz 2017, "8-bit
            inference with TensorRT").
        signed: signed integers.
        symmetric: zero point in the middle.
        bits: 8 or 16.
    """
    low, high = histogram.low, histogram.high
    edges = np.linspace(low, high, len(histogram.counts) + 1)
    counts = histogram.counts.astype(np.float64)
    if method == "percentile" and counts.sum():
        share = np.cumsum(counts) / counts.sum()
        cut = (100.0 - _PERCENTILE) / 100.0
        first, last = int(np.searchsorted(share, cut)), int(np.searchsorted(share, 1 - cut))
        low, high = float(edges[first]), float(edges[min(last + 1, len(counts))])
    elif method in ("mse", "entropy") and counts.sum() and high > low:
        if counts.sum() < _ENTROPY_NEEDS:
            method = "mse"  # a thin histogram makes the divergence cut far too much
        low, high = _searched(edges, counts, method, signed=signed, symmetric=symmetric, bits=bits)
    return _made(low, high, signed=signed, symmetric=symmetric, bits=bits)


def _searched(
    edges: NDArray[np.float64],
    counts: NDArray[np.float64],
    method: RangeMethod,
    *,
    signed: bool,
    symmetric: bool,
    bits: int,
) -> tuple[float, float]:
    low, high = float(edges[0]), float(edges[-1])
    centers = (edges[1:] + edges[:-1]) / 2
    kept = counts > 0
    centers, weights = centers[kept], counts[kept] / counts.sum()
    best, chosen = np.inf, (low, high)
    # both ends are cut by their own factor: first the longer one, then the other
    for which in (0, 1) if -low > high else (1, 0):
        start = chosen
        for factor in np.linspace(0.3, 1.0, 36):
            trial = (start[0] * factor, start[1]) if which == 0 else (start[0], start[1] * factor)
            params = _made(*trial, signed=signed, symmetric=symmetric, bits=bits)
            back = (params.quantized(centers).astype(np.float64) - params.zero_point) * params.scale
            if method == "mse":
                # within a bin values are spread evenly: its width adds the same everywhere and is left out
                loss = float(np.sum(weights * (back - centers) ** 2))
            else:
                loss = _divergence(centers, back, weights, params, float(counts.sum()))
            if loss < best - 1e-15:
                best, chosen = loss, trial
        if low >= 0 or high <= 0:
            break
    return chosen


def _divergence(
    centers: NDArray[np.float64],
    back: NDArray[np.float64],
    weights: NDArray[np.float64],
    params: QuantParams,
    samples: float,
) -> float:
    """KL divergence from the clipped distribution to its quantized image.

    The image spreads the mass of each level over the bins of that level; mass that was cut off sits on the last bins
    of the first distribution and is missing in the second. What the divergence of finitely many samples shows by
    chance alone (Miller 1955) is taken off: without that, thin histograms are cut far too much.
    """
    low = params.scale * (params.lowest - params.zero_point)
    high = params.scale * (params.highest - params.zero_point)
    inside = (centers >= low - params.scale / 2) & (centers <= high + params.scale / 2)
    if not inside.any():
        return float("inf")
    kept = weights[inside]
    clipped = kept.copy()
    clipped[0] += weights[: int(np.argmax(inside))].sum()
    clipped[-1] += weights[len(inside) - int(np.argmax(inside[::-1])) :].sum()
    _, level = np.unique(back[inside], return_inverse=True)
    image = (np.bincount(level, kept) / np.bincount(level))[level]
    image /= image.sum()
    by_chance = (len(kept) - int(level.max()) - 1) / (2.0 * samples)
    return float(np.sum(clipped * np.log(clipped / image))) - by_chance
