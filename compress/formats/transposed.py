"""Transposed convolutions on the integer kernel of plain ones, which the runtime has, as it has none of their own.

A transposed convolution with stride ``s`` gives each of the ``s * s`` places between two inputs its own taps: it is a plain
convolution with ``s * s`` times the channels, whose results are laid side by side (``DepthToSpace``), and cut to size (Shi
et al. 2016, "Is the deconvolution layer the same as a convolutional layer?"). The sums are the same, term by term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeltailor.compress.formats.emitter import Emitter
from modeltailor.compress.formats.graph import PreparedGraph, SiteNode
from modeltailor.compress.formats.nodes import attribute_int, attribute_ints, attribute_text

__all__ = ["Spread", "spread_of"]

_END = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a transposed convolution becomes a plain one.

    Attributes:
        step: stride in both directions.
        kernel: of the transposed convolution.
        first: rows and columns to cut off in front.
        last: the same behind.
    """

    step: int
    kernel: tuple[int, int]
    first: tuple[int, int]
    last: tuple[int, int]

    @property
    def taps(self) -> tuple[int, int]:
        """Kernel of the plain convolution."""
        return -(-self.kernel[0] // self.step), -(-self.kernel[1] // self.step)

    @property
    def pads(self) -> list[int]:
        """Padding of the plain convolution."""
        return [self.taps[0] - 1, self.taps[1] - 1] * 2

    def of_values(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return values by output channel as the plain convolution wants them, ``[out * step * step]``."""
        return np.repeat(values, self.step * self.step) if values.ndim else values

    def of_weight(self, weight: NDArray[np.int8]) -> NDArray[np.int8]:
        """Return a weight ``[in, out, *kernel]`` as ``[out * step * step, in, *taps]``."""
        (rows, columns), (tall, wide), step = self.kernel, self.taps, self.step
        full = np.pad(weight, [(0, 0), (0, 0), (0, tall * step - rows), (0, wide * step - columns)])
        split = full.reshape(*full.shape[:2], tall, step, wide, step)[:, :, ::-1, :, ::-1]
        moved = split.transpose(1, 3, 5, 0, 2, 4)
        return np.ascontiguousarray(moved.reshape(-1, weight.shape[0], tall, wide))

    def emit_weight(self, emitter: Emitter, weight: str, channels: tuple[int, int]) -> str:
        """Emit :meth:`of_weight` as nodes that the runtime computes once, while it loads; ``channels`` are in and out."""
        (rows, columns), (tall, wide), step = self.kernel, self.taps, self.step

        def then(op: str, *inputs: list[int], **attributes: Any) -> None:
            nonlocal weight
            out = emitter.fresh("w")
            constants = [emitter.constant(np.array(i, np.int64)) for i in inputs]
            emitter.node(op, [weight, *constants], [out], **attributes)
            weight = out

        if (tall * step, wide * step) != (rows, columns):
            then("Pad", [0, 0, 0, 0, 0, 0, tall * step - rows, wide * step - columns])
        then("Reshape", [*channels, tall, step, wide, step])
        for axis, length in ((2, tall), (4, wide)):
            if length > 1:
                then("Gather", list(range(length))[::-1], axis=axis)
        then("Transpose", perm=[1, 3, 5, 0, 2, 4])
        then("Reshape", [channels[1] * step * step, channels[0], tall, wide])
        return weight

    def emit_output(self, emitter: Emitter, value: str, output: str) -> None:
        """Lay what the plain convolution gave side by side, and cut it to size."""
        is_cut = any((*self.first, *self.last))
        if self.step > 1:
            laid = emitter.fresh("d") if is_cut else output
            emitter.node("DepthToSpace", [value], [laid], blocksize=self.step, mode="CRD")
            value = laid
        if is_cut:
            ends = [-n if n else _END for n in self.last]
            limits = [emitter.constant(np.array(i, np.int64)) for i in (list(self.first), ends, [2, 3])]
            emitter.node("Slice", [value, *limits], [output])

    @property
    def is_plain(self) -> bool:
        """Whether the output of the plain convolution is the output already."""
        return self.step == 1 and not any((*self.first, *self.last))


def spread_of(graph: PreparedGraph, site: SiteNode) -> Spread | None:
    """Return how a site becomes a plain convolution; ``None`` where that is not known.

    Known are two dimensions, one group, one stride, no dilation, and padding given by number.
    """
    node = graph.model.graph.node[site.node]
    shape = site.site.weight_shape
    named = {a.name for a in node.attribute}
    strides = attribute_ints(node, "strides", (1, 1))
    if site.site.kind != "conv-transpose" or len(shape) != 4 or attribute_int(node, "group", 1) != 1:
        return None
    if len(set(strides)) != 1 or any(d != 1 for d in attribute_ints(node, "dilations", ())) or "output_shape" in named:
        return None
    if attribute_text(node, "auto_pad", "NOTSET") != "NOTSET":
        return None
    step, kernel = strides[0], (shape[2], shape[3])
    pads = attribute_ints(node, "pads", (0, 0, 0, 0))
    more = attribute_ints(node, "output_padding", (0, 0))
    last = tuple(-(-k // step) * step + pads[2 + d] - k - more[d] for d, k in enumerate(kernel))
    if min(last) < 0:
        return None
    return Spread(step=step, kernel=kernel, first=(pads[0], pads[1]), last=(last[0], last[1]))
