"""Second moments of what enters a layer: the Hessian of its squared output error, the basis of activation-aware cuts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from modeltailor.compress.structure.calling import call
from modeltailor.compress.structure.training_data import TrainingData

__all__ = ["damped", "input_moments", "weight_rows"]

_ROWS = 256
_BATCH = 32
_MOST_COLUMNS = 1 << 14  # positions of a feature map that are looked at in one batch
_MOST_UNFOLDED = 1 << 25  # values of patches that are written out at a time: 128 MiB
_MOST_VALUES = 1 << 26  # of all moments that are gathered in one pass: 256 MiB


def weight_rows(layer: nn.Module) -> Tensor | None:
    """Return a layer's weight as [groups, outputs of a group, K], detached; ``None`` where rows have no such form.

    K runs over the inputs of a group and the kernel's positions, in the order of :func:`input_moments`.
    """
    if isinstance(layer, nn.Linear):
        return layer.weight.detach()[None]
    if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.padding_mode == "zeros":
        return layer.weight.detach().reshape(layer.groups, layer.out_channels // layer.groups, -1)
    return None


def input_moments(module: nn.Module, data: TrainingData, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield ``E[x x^T]`` of what each layer multiplies with its weight, in the order of ``names``.

    The first 256 rows of ``data`` are run, as often as memory asks for. Layers that are never called are left out.

    Args:
        module: in ``eval`` mode; not changed.
        data: samples; labels are not used.
        names: linear layers and convolutions for which :func:`weight_rows` has a form.

    Yields:
        Name and float32 [groups, K, K].
    """
    left = list(names)
    while left:
        taken: list[str] = []
        size = 0
        while left and (not taken or size + _size(module, left[0]) <= _MOST_VALUES):
            size += _size(module, left[0])
            taken.append(left.pop(0))
        found = _gathered(module, data, taken)
        for name in taken:
            if name in found:
                yield name, found[name]


def damped(moment: Tensor, share: float = 0.01) -> Tensor:
    """Return the moment in float64 with ``share`` of its mean diagonal added, so that it can be factored."""
    out = moment.double()
    mean = out.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-12)
    return out + torch.eye(out.shape[-1], dtype=out.dtype) * (share * mean)[..., None, None]


def _size(module: nn.Module, name: str) -> int:
    rows = weight_rows(module.get_submodule(name))
    assert rows is not None
    return int(rows.shape[0] * rows.shape[2] ** 2)


def _gathered(module: nn.Module, data: TrainingData, names: Sequence[str]) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def note(name: str, layer: nn.Module, given: tuple[object, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            parts = _parts(layer, given[0].detach().float())
            for part in parts:
                columns = _columns(layer, part, max(1, _MOST_COLUMNS // len(parts)))
                sums[name] = sums.get(name, 0) + columns @ columns.transpose(1, 2)
                counts[name] = counts.get(name, 0) + columns.shape[2]

    hooks = [
        layer.register_forward_pre_hook(lambda m, given, n=name: note(n, m, given))
        for name in names
        for layer in (module.get_submodule(name),)
    ]
    try:
        with torch.no_grad():
            for start in range(0, min(_ROWS, len(data)), _BATCH):
                rows = np.arange(start, min(start + _BATCH, _ROWS, len(data)))
                call(module, data.batch(rows)[0])
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / counts[name] for name, total in sums.items()}


def _parts(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Samples in parts whose patches fit into memory."""
    if isinstance(layer, nn.Linear) or x.ndim == (2 if isinstance(layer, nn.Conv1d) else 3):
        return (x,)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    size = max(1, _MOST_UNFOLDED // max(1, x[0].numel() * math.prod(layer.kernel_size)))
    return tuple(x[start : start + size] for start in range(0, len(x), size))


def _columns(layer: nn.Module, x: Tensor, most: int) -> Tensor:
    """What the weight is multiplied with, [groups, K, positions], ``most`` positions at about equal distances."""
    if isinstance(layer, nn.Linear):
        return _thinned(x.reshape(-1, x.shape[-1]).T[None], most)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    kernel, stride, padding, dilation = _spatial(layer)
    if x.ndim == (2 if isinstance(layer, nn.Conv1d) else 3):
        x = x[None]
    if isinstance(layer, nn.Conv1d):
        x = x[:, :, None]
    x = functional.pad(x, padding)
    columns = functional.unfold(x, kernel, dilation=dilation, stride=stride)  # [n, groups * K, positions]
    n, values, positions = columns.shape
    columns = columns.view(n, layer.groups, values // layer.groups, positions)
    return _thinned(columns.permute(1, 2, 0, 3).reshape(layer.groups, values // layer.groups, -1), most)


def _spatial(
    layer: nn.Conv1d | nn.Conv2d,
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, ...], tuple[int, int]]:
    """Kernel, stride, padding (last axis first) and dilation as for an image."""
    flat = isinstance(layer, nn.Conv1d)

    def pair(values: tuple[int, ...], filler: int) -> tuple[int, int]:
        return (filler, values[0]) if flat else (values[0], values[1])

    layer_padding = layer._reversed_padding_repeated_twice  # knows ``same`` and ``valid``, too
    padding = (*layer_padding, 0, 0) if flat else tuple(layer_padding)
    return pair(layer.kernel_size, 1), pair(layer.stride, 1), padding, pair(layer.dilation, 1)


def _thinned(columns: Tensor, most: int) -> Tensor:
    step = -(-columns.shape[2] // most)
    return columns[:, :, ::step]
