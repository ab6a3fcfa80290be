"""Sparse weights: which ones become zero, and how they stay zero while the others learn.

Sold as size alone: no kernel of the runtime skips zeros, but :mod:`modeltailor.compress.pack` stores them in little more
than one bit each. Magnitude after Han et al. 2015 (arXiv:1506.02626); ``wanda`` after Sun et al. 2023
(arXiv:2306.11695): size times the norm of the input, compared within an output; ``obs`` is in
:mod:`modeltailor.compress.structure.sparse_gpt`. N:M patterns after Mishra et al. 2021 (arXiv:2104.08378).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from modeltailor.compress.structure.moments import input_moments, weight_rows
from modeltailor.compress.structure.sparse_gpt import pruned_with_compensation
from modeltailor.compress.structure.training_data import TrainingData
from modeltailor.compress.structures import WeightScore, pattern_counts
from modeltailor.errors import CandidateError, ConfigError

__all__ = ["hold_zeros", "kept_weights", "sparse_layers", "sparsify", "thinned", "zero_masks"]

_SPARSE = 0.2


def kept_weights(shape: tuple[int, ...], share: float, pattern: str = "unstructured") -> int:
    """Return how many weights of a matrix [rows, K] are not zero afterwards.

    Args:
        shape: rows and K.
        share: of zeros, for ``unstructured``; rounded down to whole weights a row.
        pattern: ``unstructured`` or ``N:M``; what is left over at the end of a row keeps up to N.
    """
    rows, width = shape
    counts = pattern_counts(pattern)
    if counts is None:
        return rows * (width - int(share * width + 1e-9))
    kept, block = counts
    return rows * (width // block * kept + min(kept, width % block))


def sparsify(
    module: nn.Module,
    sparsity: Mapping[str, float],
    *,
    pattern: str = "unstructured",
    score: WeightScore = "magnitude",
    calibration: TrainingData | None = None,
) -> None:
    """Set weights to zero, in place; with ``obs`` the others of their row make up for it.

    Args:
        module: in ``eval`` mode; changed in place.
        sparsity: share of zeros by layer name.
        pattern: ``unstructured`` or ``N:M`` along the inputs.
        score: how weights are ranked.
        calibration: what enters the layers is read off here; ``magnitude`` needs none.

    Raises:
        CandidateError: a layer is unknown, has no weight of that kind, or is never called though its inputs count.
        ConfigError: the score needs calibration data.
    """
    for name in sparsity:
        _check(module, name)
    if score == "magnitude":
        for name, share in sparsity.items():
            _write(module, name, thinned(_rows(module, name), None, share, pattern, score))
        return
    if calibration is None:
        raise ConfigError("CFG-11", "structure.sparsity_score", f"{score} needs calibration data", "or use magnitude")
    left = dict(sparsity)
    for name, moment in input_moments(module, calibration, list(sparsity)):
        _write(module, name, thinned(_rows(module, name), moment, left.pop(name), pattern, score))
    for name in left:
        what = f"{score} looks at what enters a layer, and this one is never called"
        raise CandidateError("UNSUPPORTED", name, what, "use magnitude")


def thinned(rows: Tensor, moment: Tensor | None, share: float, pattern: str, score: WeightScore) -> Tensor:
    """Return a weight with that share of zeros.

    Args:
        rows: [groups, outputs of a group, K].
        moment: ``E[x x^T]`` of what enters, [groups, K, K]; for ``wanda`` its diagonal alone will do, [groups, K];
            ``None`` for ``magnitude``.
        share: of zeros in ``unstructured`` weights.
        pattern: ``unstructured`` or ``N:M``.
        score: how weights are ranked.
    """
    if score == "magnitude":
        return rows * _largest(rows.abs(), share, pattern, within_row=False)
    assert moment is not None
    if score == "wanda":
        squares = moment if moment.ndim == 2 else moment.diagonal(dim1=1, dim2=2)
        norms = squares.clamp_min(0).sqrt()[:, None, :]
        return rows * _largest(rows.abs() * norms, share, pattern, within_row=True)
    return torch.stack([pruned_with_compensation(w, m, share, pattern) for w, m in zip(rows, moment, strict=True)])


def zero_masks(module: nn.Module, names: Mapping[str, float] | tuple[str, ...]) -> dict[str, Tensor]:
    """Return, by layer name, which weights are not zero; bool of the weight's shape."""
    return {name: module.get_submodule(name).weight.detach() != 0 for name in names}  # type: ignore[operator]


def sparse_layers(module: nn.Module) -> tuple[str, ...]:
    """List the linear layers and convolutions of which at least a fifth of the weights is exactly zero."""
    return tuple(
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
        and float((layer.weight.detach() == 0).float().mean()) >= _SPARSE
    )


def hold_zeros(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Multiply those weights, in place, by their masks from now on; ``settle_weights`` ends it."""
    for name, mask in masks.items():
        parametrize.register_parametrization(module.get_submodule(name), "weight", _Masked(mask))


class _Masked(nn.Module):
    """Parametrization that keeps what the mask leaves out at zero."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.clone())

    def forward(self, weight: Tensor) -> Tensor:
        mask = self.mask
        assert isinstance(mask, Tensor)
        return weight * mask


def _check(module: nn.Module, name: str) -> None:
    try:
        layer = module.get_submodule(name)
    except AttributeError:
        raise CandidateError("UNSUPPORTED", name, "is no layer of this network", "name a layer with weights") from None
    if weight_rows(layer) is None:
        raise CandidateError("UNSUPPORTED", name, f"the weights of a {type(layer).__name__} have no sparse form here")


def _rows(module: nn.Module, name: str) -> Tensor:
    rows = weight_rows(module.get_submodule(name))
    assert rows is not None
    return rows


def _write(module: nn.Module, name: str, rows: Tensor) -> None:
    weight = module.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        weight.copy_(rows.reshape(weight.shape))


def _largest(scores: Tensor, share: float, pattern: str, *, within_row: bool) -> Tensor:
    """Which weights stay: 1 or 0, [groups, rows, K]."""
    groups, rows, width = scores.shape
    counts = pattern_counts(pattern)
    if counts is not None:
        return _by_pattern(scores, *counts)
    if within_row:
        return _top(scores.reshape(-1, width), width - int(share * width + 1e-9)).view_as(scores)
    kept = groups * kept_weights((rows, width), share)
    return _top(scores.reshape(1, -1), kept).view_as(scores)


def _by_pattern(scores: Tensor, kept: int, block: int) -> Tensor:
    groups, rows, width = scores.shape
    whole = width // block * block
    mask = torch.ones_like(scores)
    parts = scores[:, :, :whole].reshape(-1, block)
    mask[:, :, :whole] = _top(parts, kept).view(groups, rows, whole)
    if width - whole > kept:
        rest = scores[:, :, whole:].reshape(groups * rows, -1)
        mask[:, :, whole:] = _top(rest, kept).view(groups, rows, -1)
    return mask


def _top(scores: Tensor, kept: int) -> Tensor:
    order = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :kept]
    return torch.zeros_like(scores).scatter_(1, order, 1.0)
