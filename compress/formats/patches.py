"""The vectors that a weight is multiplied with: rows of a matrix, or the patches of a feature map under a kernel."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from modeltailor.compress.formats.graph import PreparedGraph, SiteNode
from modeltailor.compress.formats.nodes import attribute_ints, attribute_text

__all__ = ["Patches"]


class Patches:
    """The vectors that one site sees, and sums of their first and second moments.

    Args:
        graph: the float model.
        site: a matrix product or a convolution; only of one that :meth:`fits` are moments summed up.
    """

    def __init__(self, graph: PreparedGraph, site: SiteNode) -> None:
        node = graph.model.graph.node[site.node]
        self._group = site.group
        self._is_conv = site.site.kind in ("conv", "depthwise")
        self._width = self.width(graph, site)
        self._second, self._first = torch.zeros(0), torch.zeros(0)
        self._count = 0
        if self._is_conv:
            kernel = site.site.weight_shape[2:]
            rank = len(kernel)
            self._kernel = kernel
            self._strides = attribute_ints(node, "strides", (1,) * rank)
            self._dilations = attribute_ints(node, "dilations", (1,) * rank)
            self._pads = attribute_ints(node, "pads", (0,) * (2 * rank))
            self._auto = attribute_text(node, "auto_pad", "NOTSET")

    @staticmethod
    def fits(graph: PreparedGraph, site: SiteNode) -> bool:
        """Whether a site's inputs have moments that this class can collect."""
        return site.site.kind in ("matmul", "gemm", "conv", "depthwise") and Patches.width(graph, site) <= 8192

    @staticmethod
    def width(graph: PreparedGraph, site: SiteNode) -> int:
        """Length ``K`` of the vectors of one group."""
        shape = site.site.weight_shape
        if site.site.kind in ("conv", "depthwise"):
            return int(np.prod(shape[1:]))
        return shape[1 - site.out_axis]

    def add(self, value: NDArray[np.generic], per_sample: int, rng: np.random.Generator) -> None:
        """Add the vectors of one batch, at about ``per_sample`` random positions a sample."""
        rows = self.rows(value, per_sample, rng)
        if not self._second.numel():
            self._second = torch.zeros(self._group, self._width, self._width)
            self._first = torch.zeros(self._group, self._width)
        self._second += rows.transpose(1, 2) @ rows
        self._first += rows.sum(dim=1)
        self._count += rows.shape[1]

    def rows(self, value: NDArray[np.generic], per_sample: int, rng: np.random.Generator) -> torch.Tensor:
        """Return the vectors of one batch, ``[groups, n, K]``, at about ``per_sample`` random positions a sample."""
        x = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
        return self._conv_rows(x, per_sample, rng) if self._is_conv else self._matrix_rows(x, per_sample, rng)

    def _matrix_rows(self, x: torch.Tensor, per_sample: int, rng: np.random.Generator) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        most = per_sample * x.shape[0]
        if len(flat) > most:
            flat = flat[torch.from_numpy(np.sort(rng.choice(len(flat), most, replace=False)))]
        return flat.unsqueeze(0)

    def _padding(self, sizes: list[int]) -> tuple[int, ...]:
        rank = len(sizes)
        if self._auto in ("NOTSET", "", "VALID"):
            return self._pads if self._auto != "VALID" else (0,) * (2 * rank)
        begin, end = [], []
        for size, k, s, d in zip(sizes, self._kernel, self._strides, self._dilations, strict=True):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            small = total // 2
            begin.append(small if self._auto == "SAME_UPPER" else total - small)
            end.append(total - begin[-1])
        return (*begin, *end)

    def _conv_rows(self, x: torch.Tensor, per_sample: int, rng: np.random.Generator) -> torch.Tensor:
        """Return patches at random positions, shape ``[groups, n, K]``; the positions are the same in one batch."""
        rank = len(self._kernel)
        pads = self._padding(list(x.shape[2:]))
        spread = [p for k in reversed(range(rank)) for p in (pads[k], pads[k + rank])]
        x = torch.nn.functional.pad(x, spread)
        spans = [(k - 1) * d + 1 for k, d in zip(self._kernel, self._dilations, strict=True)]
        out = [(x.shape[2 + a] - spans[a]) // self._strides[a] + 1 for a in range(rank)]
        total = int(np.prod(out))
        chosen = np.arange(total) if total <= per_sample else np.sort(rng.choice(total, per_sample, replace=False))
        corners = np.unravel_index(chosen, out)
        offsets = np.meshgrid(
            *[np.arange(k) * d for k, d in zip(self._kernel, self._dilations, strict=True)], indexing="ij"
        )
        index = [
            torch.from_numpy((corners[a] * self._strides[a])[:, None] + offsets[a].reshape(-1)[None, :])
            for a in range(rank)
        ]
        where: tuple[slice | torch.Tensor, ...] = (slice(None), slice(None), *index)
        patches = x[where]  # [n, channels, positions, kernel]
        n, channels, positions, taps = patches.shape
        grouped = patches.reshape(n, self._group, channels // self._group, positions, taps)
        return grouped.permute(1, 0, 3, 2, 4).reshape(self._group, n * positions, -1)

    def moments(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the mean of ``x x^T`` ``[groups, K, K]`` and of ``x`` ``[groups, K]``."""
        count = max(self._count, 1)
        return (self._second / count).numpy(), (self._first / count).numpy()
