"""Parts: what one site stores in one format, made once and kept. A candidate is put together from parts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modeltailor.compress.formats.bias_correction import bias_shift, centered
from modeltailor.compress.formats.calibrate import Calibration
from modeltailor.compress.formats.graph import PreparedGraph, SiteNode
from modeltailor.compress.formats.rounding import RoundingTask, rounded_rows, zero_share
from modeltailor.compress.formats.store import Store
from modeltailor.compress.pack import Tree, encode, mapped, pack_planes, tree_bytes
from modeltailor.compress.vocabulary import Format, Rounding, Settings

__all__ = ["Part", "PartMaker", "PartRequest", "zero_share"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRequest:
    """What a part depends on, besides model and data.

    Attributes:
        site: name of the site.
        bits: stored bits of a weight.
        table: none, a float table (codebook) or an int8 table.
        block: weights that share a scale along a row; 0 means the whole row.
        per_channel: one scale an output channel.
        rounding: to the nearest, with error compensation, or learned.
        offset: blocks have a zero point of their own.
        bias_correction: whether the bias takes up the mean error.
        columns: whether a matrix is laid out ``[inputs, outputs]``, whatever the file had.
        reduced: 8-bit weights and tables keep to 7 bits, so that no kernel saturates.
    """

    site: str
    bits: int
    table: Literal["none", "float", "int8"] = "none"
    block: int = 0
    per_channel: bool = True
    rounding: Rounding = "gptq"
    offset: bool = False
    bias_correction: bool = True
    columns: bool = False
    reduced: bool = False

    @property
    def task(self) -> RoundingTask:
        """What rounding needs to know of it."""
        return RoundingTask(
            bits=self.bits, table=self.table, block=self.block, per_channel=self.per_channel, rounding=self.rounding,
            offset=self.offset, reach=63 if self.reduced else 127,
        )  # fmt: skip

    @staticmethod
    def of(site: SiteNode, fmt: Format, settings: Settings) -> PartRequest:
        """Return the request of a site's format; formats that differ in activations only share their part."""
        is_embedding = site.site.kind == "embedding"
        meets_bytes = fmt.activation_bits == 8 and (fmt.weight_bits == 8 or fmt.scheme == "codebook")
        is_unsigned = fmt.scheme == "dynamic" or not settings.activation_signed
        return PartRequest(
            site=site.site.name,
            bits=fmt.weight_bits,
            table="none" if fmt.scheme != "codebook" else ("float" if fmt.activation_bits == 32 else "int8"),
            block=fmt.block,
            per_channel=settings.per_channel or is_embedding,
            rounding="nearest" if is_embedding else settings.rounding,
            offset=bool(fmt.block) and not settings.block_symmetric,
            bias_correction=settings.bias_correction and not is_embedding,
            columns=site.site.kind == "gemm" and fmt.activation_bits == 8,
            reduced=settings.reduce_range and meets_bytes and is_unsigned,
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
        zero_points: integer that stands for zero in each block, ``[out, blocks]``; ``None``: 0 everywhere.
        planes: ``integers`` packed, where they are stored packed.
        tree: ``integers`` coded, where that takes fewer bytes than ``planes`` or plain 8 bits.
    """

    integers: NDArray[np.int8]
    bits: int
    scale: NDArray[np.float32]
    out_axis: int
    bias: NDArray[np.float32] | None
    table: NDArray[np.generic] | None = None
    zero_points: NDArray[np.int8] | None = None
    planes: NDArray[np.uint8] | None = field(default=None, repr=False)
    tree: Tree | None = field(default=None, repr=False)

    @property
    def sparsity(self) -> float:
        """Share of the weights that are exactly zero."""
        if self.table is None:
            return zero_share(self.integers)
        return float(np.isin(self.integers.view(np.uint8), np.flatnonzero(self.table == 0)).mean())

    def float_weight(self) -> NDArray[np.float32]:
        """Return the weight that is computed with, in the layout of ``integers``."""
        values = self.integers.astype(np.float32) if self.table is None else self._from_table()
        if self.scale.ndim == 2:
            rows = np.moveaxis(values, self.out_axis, 0)
            blocks = self.scale.shape[1]
            spread = np.repeat(self.scale, -(-rows.shape[1] // blocks), axis=1)[:, : rows.shape[1]]
            if self.zero_points is not None:
                rows = rows - np.repeat(self.zero_points, -(-rows.shape[1] // blocks), axis=1)[:, : rows.shape[1]]
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
            zero_points=None if "zero_points" not in data else data["zero_points"].astype(np.int8),
        )

    def _made(self, request: PartRequest) -> Part:
        site = self._graph.site(request.site)
        weight = as_rows(self._graph.weight(site), site)
        moments = None
        if request.rounding != "nearest" or request.bias_correction:
            moments = self._calibration.moments(site)
        first = moments.first if moments is not None else None
        second = None
        if moments is not None and request.rounding != "nearest":
            second = centered(moments.second, moments.first) if request.bias_correction else moments.second
        made = rounded_rows(weight, second, request.task)
        integers, scale, table = made.integers, made.scale, made.table
        bias = self._graph.bias(site)
        if request.bias_correction and first is not None:
            shift = bias_shift(weight, made.values(), first)
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
            table=table, planes=planes, zero_points=None if made.zero_points is None else made.zero_points[0],
        )  # fmt: skip
        optional = {"bias": part.bias, "table": part.table, "planes": part.planes, "zero_points": part.zero_points}
        self._store.keep(
            "part", request, integers=part.integers, scale=part.scale, out_axis=np.array(out_axis),
            **{k: v for k, v in optional.items() if v is not None},
        )  # fmt: skip
        return part


_CODED = 1 << 17  # weights; decoding takes about half a microsecond each while loading
_WORTH = 0.97
_MOST_CODED = 1 << 22
_WELL_WORTH = 0.75


def _coded(part: Part) -> Part:
    """Return the part with its integers coded, if that is worth it: a shorter file for a longer time to load."""
    if part.scale.ndim == 2 or part.integers.size > _MOST_CODED or (part.planes is None and part.table is not None):
        return part
    share = _WORTH if part.integers.size <= _CODED else _WELL_WORTH
    zeros = zero_share(part.integers)
    if zeros < 0.5 and (part.planes is None or part.integers.size > _CODED):
        return part  # no need to build the tree: only sparse weights are worth it there
    if part.planes is None:
        tree, plain = mapped(part.integers), part.integers.nbytes
    else:
        tree = encode(part.integers if part.table is None else part.integers.view(np.uint8))
        plain = part.planes.nbytes
    if tree is None or tree_bytes(tree) >= share * plain:
        return part
    return dataclasses.replace(part, tree=tree)
