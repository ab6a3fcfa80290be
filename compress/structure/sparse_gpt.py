"""Pruning with error compensation: what a weight's removal changes, the weights to its right make up for.

Frantar and Alistarh 2023, "SparseGPT" (arXiv:2301.00774), after the optimal brain surgeon of Hassibi and Stork 1993:
the error of removing weight j is ``w_j^2 / (H^-1)_jj``, given the ones removed before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modeltailor.compress.structure.moments import damped
from modeltailor.compress.structures import pattern_counts

__all__ = ["pruned_with_compensation"]

_BLOCK = 128


def pruned_with_compensation(weight: Tensor, moment: Tensor, share: float, pattern: str = "unstructured") -> Tensor:
    """Return the pruned and updated weight.

    Args:
        weight: [rows, K].
        moment: ``E[x x^T]`` of the inputs, [K, K].
        share: of zeros in ``unstructured`` weights.
        pattern: ``unstructured`` or ``N:M``.

    Returns:
        float32 [rows, K] with exactly as many zeros as
        :func:`modeltailor.compress.structure.sparsity.kept_weights` leaves.
    """
    rows, width = weight.shape
    inverse = torch.linalg.inv(damped(moment))
    upper = torch.linalg.cholesky((inverse + inverse.T) / 2, upper=True)
    rest = weight.double().clone()
    made = torch.zeros_like(rest)
    counts = pattern_counts(pattern)
    zeros_a_row = int(share * width + 1e-9)
    step = _BLOCK if counts is None else _BLOCK // counts[1] * counts[1]
    gone = 0
    for start in range(0, width, step):
        end = min(start + step, width)
        error = torch.zeros(rows, end - start, dtype=rest.dtype)
        saliency = rest[:, start:end].square() / upper.diagonal()[start:end].square()
        if counts is None:
            target = rows * zeros_a_row * end // width
            keep = _all_but_least(saliency, target - gone)
            gone = target
        for k in range(start, end):
            if counts is not None and (k - start) % counts[1] == 0:
                stop = min(k + counts[1], end)
                here = rest[:, k:stop].square() / upper.diagonal()[k:stop].square()
                block_keep = _least_of_rows(here, stop - k - counts[0])
            kept = keep[:, k - start] if counts is None else block_keep[:, (k - start) % counts[1]]
            made[:, k] = torch.where(kept, rest[:, k], 0.0)
            error[:, k - start] = (rest[:, k] - made[:, k]) / upper[k, k]
            rest[:, k + 1 : end] -= error[:, k - start, None] * upper[k, k + 1 : end]
        rest[:, end:] -= error @ upper[start:end, end:]
    return made.float()


def _all_but_least(saliency: Tensor, n: int) -> Tensor:
    """Bool like ``saliency``: all but the ``n`` smallest entries."""
    keep = torch.ones(saliency.numel(), dtype=torch.bool)
    keep[torch.argsort(saliency.flatten(), stable=True)[:n]] = False
    return keep.view(saliency.shape)


def _least_of_rows(saliency: Tensor, n: int) -> Tensor:
    """Bool like ``saliency``: all but the ``n`` smallest entries of each row."""
    keep = torch.ones_like(saliency, dtype=torch.bool)
    if n > 0:
        keep.scatter_(1, torch.argsort(saliency, dim=1, stable=True)[:, :n], False)
    return keep
