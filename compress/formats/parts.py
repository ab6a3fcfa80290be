"""Parts: what one site stores in one format, made once and kept. A candidate is put together from parts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modeltailor.compress.formats.bias_correction import bias_shift, centered
from modeltailor.compress.formats.calibrate import Calibration
from modeltailor.compress.formats.codebook import integer_levels, shared_values
from modeltailor.compress.formats.gptq import compensated, descended
from modeltailor.compress.formats.graph import PreparedGraph, SiteNode
from modeltailor.compress.formats.grid import Grid
from modeltailor.compress.formats.mse_scale import refit_scale, search_scale
from modeltailor.compress.formats.nearest import rounded
from modeltailor.compress.formats.on_grid import read_scale
from modeltailor.compress.formats.store import Store
from modeltailor.compress.pack import Tree, encode, pack_planes, tree_bytes
from modeltailor.compress.vocabulary import Format, Settings

__all__ = ["Part", "PartMaker", "PartRequest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRequest:
    """What a part depends on, besides model and data.

    Attributes:
        site: name of the site.
        bits: stored bits of a weight.
        table: none, a float table (codebook) or an int8 table.
        block: weights that share a scale along a row; 0 means the whole row.
        per_channel: one scale an output channel.
        rounding: to the nearest, or with error compensation.
        bias_correction: whether the bias takes up the mean error.
        columns: whether a matrix is laid out ``[inputs, outputs]``, whatever the file had.
    """

    site: str
    bits: int
    table: Literal["none", "float", "int8"] = "none"
    block: int = 0
    per_channel: bool = True
    rounding: Literal["nearest", "gptq"] = "gptq"
    bias_correction: bool = True
    columns: bool = False

    @staticmethod
    def of(site: SiteNode, fmt: Format, settings: Settings) -> PartRequest:
        """Return the request of a site's format; formats that differ in activations only share their part."""
        is_embedding = site.site.kind == "embedding"
        return PartRequest(
            site=site.site.name,
            bits=fmt.weight_bits,
            table="none" if fmt.scheme != "codebook" else ("float" if fmt.activation_bits == 32 else "int8"),
            block=fmt.block,
            per_channel=settings.per_channel or is_embedding,
            rounding="nearest" if is_embedding else settings.rounding,
            bias_correction=settings.bias_correction and not is_embedding,
            columns=site.site.kind == "gemm" and fmt.scheme in ("static", "dynamic"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one site stores.

    Attributes:
        integers: int8 weights, or indices into ``table``, in the layout of the graph that is built.
        bits: stored bits of one weight.
        scale: step of the integers: ``[]`` or one an output channel (or block: ``[out, blocks]``).
        out_axis: axis of ``integers`` that ``scale`` belongs to.
        bias: corrected bias in float, ``[out]``, if the site has or needs one.
        table: values that the indices stand for, if any.
        planes: ``integers`` packed, where they are stored packed.
        tree: ``integers`` coded, where that takes fewer bytes than ``planes``.
    """

    integers: NDArray[np.int8]
    bits: int
    scale: NDArray[np.float32]
    out_axis: int
    bias: NDArray[np.float32] | None
    table: NDArray[np.generic] | None = None
    planes: NDArray[np.uint8] | None = field(default=None, repr=False)
    tree: Tree | None = field(default=None, repr=False)

    def float_weight(self) -> NDArray[np.float32]:
        """Return the weight that is computed with, in the layout of ``integers``."""
        values = self.integers.astype(np.float32) if self.table is None else self._from_table()
        if self.scale.ndim == 2:
            rows = np.moveaxis(values, self.out_axis, 0)
            blocks = self.scale.shape[1]
            spread = np.repeat(self.scale, -(-rows.shape[1] // blocks), axis=1)[:, : rows.shape[1]]
            return np.ascontiguousarray(np.moveaxis(rows * spread, 0, self.out_axis))
        shape = [-1 if k == self.out_axis else 1 for k in range(values.ndim)]
        return np.asarray(values * (self.scale.reshape(shape) if self.scale.ndim else self.scale), np.float32)

    def _from_table(self) -> NDArray[np.float32]:
        assert self.table is not None
        return self.table.astype(np.float32)[self.integers.astype(np.uint8)]


def as_rows(weight: NDArray[np.float32], site: SiteNode) -> NDArray[np.float32]:
    """Return a weight as ``[groups, out, K]``, the form that techniques work on."""
    match site.site.kind:
        case "conv" | "depthwise":
            return weight.reshape(site.group, weight.shape[0] // site.group, -1)
        case "embedding":
            return weight[None]
        case _:
            return np.ascontiguousarray(np.moveaxis(weight, site.out_axis, 0)).reshape(
                1, weight.shape[site.out_axis], -1
            )


def from_rows(rows: NDArray[np.int8], site: SiteNode, *, columns: bool) -> NDArray[np.int8]:
    """Undo :func:`as_rows`; ``columns`` asks for ``[K, out]`` whatever the file had."""
    shape = site.site.weight_shape
    match site.site.kind:
        case "conv" | "depthwise" | "embedding":
            return rows.reshape(shape)
        case "conv-transpose":
            moved = rows.reshape(shape[1], shape[0], *shape[2:])
            return np.ascontiguousarray(np.moveaxis(moved, 0, 1))
        case _:
            matrix = rows[0]
            return np.ascontiguousarray(matrix.T if columns or site.out_axis == 1 else matrix)


class PartMaker:
    """Makes and keeps the parts of one graph.

    Args:
        graph: the float model.
        calibration: its figures.
        store: where parts are kept between runs.
    """

    def __init__(self, graph: PreparedGraph, calibration: Calibration, store: Store) -> None:
        self._graph = graph
        self._calibration = calibration
        self._store = store
        self._kept: dict[PartRequest, Part] = {}

    def part(self, request: PartRequest) -> Part:
        """Return a part, made now or before."""
        if request not in self._kept:
            self._kept[request] = _coded(self._load(request) or self._made(request))
        return self._kept[request]

    def _load(self, request: PartRequest) -> Part | None:
        data = self._store.arrays("part", request)
        if data is None:
            return None
        return Part(
            integers=data["integers"].astype(np.int8),
            bits=request.bits,
            scale=data["scale"].astype(np.float32),
            out_axis=int(data["out_axis"]),
            bias=None if "bias" not in data else data["bias"].astype(np.float32),
            table=data.get("table"),
            planes=None if "planes" not in data else data["planes"].astype(np.uint8),
        )

    def _made(self, request: PartRequest) -> Part:
        site = self._graph.site(request.site)
        weight = as_rows(self._graph.weight(site), site)
        moments = None
        if request.rounding == "gptq" or request.bias_correction:
            moments = self._calibration.moments(site)
        first = moments.first if moments is not None else None
        second = None
        if moments is not None and request.rounding == "gptq":
            second = centered(moments.second, moments.first) if request.bias_correction else moments.second
        integers, scale, table = _rounded_rows(weight, second, request)
        values = integers if table is None else table.astype(np.float32)[integers.astype(np.int64)]
        steps = np.repeat(scale, request.block, axis=2) if request.block else scale[:, :, None]
        bias = self._graph.bias(site)
        if request.bias_correction and first is not None:
            shift = bias_shift(weight, values * steps, first)
            bias = shift if bias is None else bias + shift
        flat = scale[0] if request.block else scale.reshape(-1)
        if request.table == "float" or (not request.per_channel and not request.block):
            flat = flat[0].reshape(())
        bytes_ = integers.astype(np.uint8).view(np.int8) if table is not None else integers.astype(np.int8)
        stored = from_rows(bytes_, site, columns=request.columns)
        out_axis = 1 if request.columns else site.out_axis
        planes = None
        if request.bits < 8 and not request.block:
            planes = pack_planes(stored if table is None else stored.view(np.uint8), request.bits, signed=table is None)
        part = Part(
            integers=stored, bits=request.bits, scale=np.asarray(flat, np.float32), out_axis=out_axis, bias=bias,
            table=table, planes=planes,
        )  # fmt: skip
        optional = {"bias": part.bias, "table": part.table, "planes": part.planes}
        self._store.keep(
            "part", request, integers=part.integers, scale=part.scale, out_axis=np.array(out_axis),
            **{k: v for k, v in optional.items() if v is not None},
        )  # fmt: skip
        return part


_CODED = 1 << 17  # weights; decoding takes about half a microsecond each while loading
_WORTH = 0.97
_MOST_CODED = 1 << 22
_WELL_WORTH = 0.75
_LARGE = 1 << 17  # weights; above, passes that gain little are left out


def _coded(part: Part) -> Part:
    """Return the part with its integers coded, if that is worth it: a shorter file for a longer time to load."""
    if part.planes is None or part.integers.size > _MOST_CODED:
        return part
    share = _WORTH if part.integers.size <= _CODED else _WELL_WORTH
    zeros = np.count_nonzero(part.integers == 0) / part.integers.size
    if part.integers.size > _CODED and zeros < 0.5:
        return part  # no need to build the tree: only sparse weights are worth it there
    tree = encode(part.integers if part.table is None else part.integers.view(np.uint8))
    if tree is None or tree_bytes(tree) >= share * part.planes.nbytes:
        return part
    return dataclasses.replace(part, tree=tree)


def _rounded_rows(
    weight: NDArray[np.float32], second: NDArray[np.float32] | None, request: PartRequest
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.generic] | None]:
    """Return integers or indices ``[groups, out, K]``, scales ``[groups, out]`` and the table, if any."""
    if request.block:
        return *_rounded_blocks(weight, second, request), None
    ones = np.ones((weight.shape[0], weight.shape[2]), np.float32)
    importance = ones if second is None else np.maximum(np.diagonal(second, axis1=1, axis2=2), 0).astype(np.float32)
    importance = importance + np.float32(1e-3) * np.maximum(importance.mean(axis=1, keepdims=True), np.float32(1e-12))
    if request.table == "none":
        grid = Grid.of_bits(request.bits)
        exact = read_scale(weight, grid) if request.per_channel else None
        if exact is not None:  # trained on this grid: nothing is lost, so nothing is searched or compensated
            return rounded(weight, exact, grid), exact, None
        scale = search_scale(weight, importance, grid, per_channel=request.per_channel)
        step = np.float32(1.0)
    else:
        spread = np.sqrt(np.mean(weight**2, axis=2) + 1e-20).astype(np.float32)
        if request.table == "float" or not request.per_channel:
            spread = np.full_like(spread, np.sqrt(np.mean(spread**2)))
        spread_weight = np.broadcast_to(importance[:, None, :] * (spread**2)[:, :, None], weight.shape)
        levels, step_size = integer_levels(weight / spread[:, :, None], spread_weight, request.bits)
        if request.table == "float":
            return _float_table(weight, second, importance, request)
        grid, step = Grid.of_levels(levels), np.float32(step_size)
        scale = spread * step
    integers = rounded(weight, scale, grid)
    if second is not None:
        is_large = weight.size > _LARGE
        for _ in range(2 if request.bits <= 4 and not is_large else 1):
            steps = weight / scale[:, :, None]
            integers = compensated(steps, second, grid)
            if request.bits <= 6:  # above that there is nothing left to gain
                integers = descended(steps, integers, second, grid, sweeps=2 if is_large else 4)
            scale = refit_scale(weight, integers, second, scale, per_channel=request.per_channel)
        if request.bits <= 6:
            integers = descended(weight / scale[:, :, None], integers, second, grid, sweeps=1 if is_large else 2)
    if request.table == "none":
        return integers, scale, None
    table = np.asarray(grid.levels, np.int8)
    return np.searchsorted(table, integers).astype(np.float32), scale, table


def _rounded_blocks(
    weight: NDArray[np.float32], second: NDArray[np.float32] | None, request: PartRequest
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return integers ``[1, out, K]`` and the scale of each block ``[1, out, blocks]``; the block divides K."""
    grid = Grid.of_bits(request.bits)
    _, rows, width = weight.shape
    blocks = width // request.block
    # blocks are rows of their own to the search of scales
    as_rows_ = weight.reshape(1, rows * blocks, request.block)
    scale = search_scale(as_rows_, np.ones((1, request.block), np.float32), grid, per_channel=True)
    scale = scale.reshape(1, rows, blocks)
    steps = np.repeat(scale, request.block, axis=2)
    if second is None:
        return np.asarray(grid.nearest(weight / steps), np.float32), scale
    return compensated(weight, second, grid, steps=steps), scale


def _float_table(
    weight: NDArray[np.float32],
    second: NDArray[np.float32] | None,
    importance: NDArray[np.float32],
    request: PartRequest,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.generic]]:
    """Weight sharing with one float table for the whole layer; compensated on a fine integer image of the table."""
    table = shared_values(weight, np.broadcast_to(importance[:, None, :], weight.shape), 1 << request.bits)
    fine = float(np.abs(table).max()) / 32767.0 or 1.0
    grid = Grid.of_levels(np.rint(table / fine).astype(np.int64))
    values = np.asarray(grid.levels, np.float32)
    steps = weight / np.float32(fine)
    chosen = grid.nearest(steps)
    if second is not None:
        chosen = descended(steps, compensated(steps, second, grid), second, grid)
    indices = np.searchsorted(values, chosen).astype(np.float32)
    scale = np.ones(weight.shape[:2], np.float32)
    return indices, scale, (values * np.float32(fine)).astype(np.float32)
