"""A weight brought to its grid: scales searched, integers chosen by the asked technique, tables fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modeltailor.compress.formats.adaround import adaptively_rounded
from modeltailor.compress.formats.codebook import integer_levels, shared_values
from modeltailor.compress.formats.gptq import compensated, descended
from modeltailor.compress.formats.grid import Grid
from modeltailor.compress.formats.mse_scale import dead_rows, refit_scale, search_offset_scale, search_scale
from modeltailor.compress.formats.nearest import rounded
from modeltailor.compress.formats.on_grid import read_scale
from modeltailor.compress.vocabulary import Rounding

__all__ = ["Rounded", "RoundingTask", "rounded_rows", "zero_share"]

_LARGE = 1 << 17  # weights; above, passes that gain little are left out
_SPARSE = 0.2  # share of zeros from which zeros must stay zero

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundingTask:
    """What is asked of a weight; the attributes are those of ``PartRequest``.

    ``reach`` is the largest 8-bit weight, or entry of an int8 table: 127, or 63 where products must fit 7 bits.
    """

    bits: int
    table: Literal["none", "float", "int8"] = "none"
    block: int = 0
    per_channel: bool = True
    rounding: Rounding = "gptq"
    offset: bool = False
    reach: int = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """A weight on its grid.

    Attributes:
        integers: integers, or indices into ``table``, as floats, ``[groups, out, K]``.
        scale: step, ``[groups, out]``, or ``[groups, out, blocks]`` for block-wise weights.
        table: the values that indices stand for, if any.
        zero_points: integer that stands for zero in each block, ``[groups, out, blocks]``, if blocks have one.
    """

    integers: Floats
    scale: Floats
    table: NDArray[np.generic] | None = None
    zero_points: NDArray[np.int8] | None = None

    def values(self) -> Floats:
        """Return the weight that is computed with, ``[groups, out, K]``."""
        if self.scale.ndim == 3:
            width = self.integers.shape[2] // self.scale.shape[2]
            zero = np.float32(0) if self.zero_points is None else np.repeat(self.zero_points, width, axis=2)
            return np.asarray((self.integers - zero) * np.repeat(self.scale, width, axis=2), np.float32)
        levels = self.integers if self.table is None else self.table.astype(np.float32)[self.integers.astype(np.int64)]
        return np.asarray(levels * self.scale[:, :, None], np.float32)


def zero_share(weight: NDArray[np.generic]) -> float:
    """Return the share of entries that are exactly zero, 0..1."""
    return 1.0 - np.count_nonzero(weight) / weight.size if weight.size else 0.0


def rounded_rows(weight: Floats, second: Floats | None, task: RoundingTask) -> Rounded:
    """Bring a weight to its grid.

    Args:
        weight: ``[groups, out, K]``.
        second: second moments of the inputs ``[groups, K, K]``; ``None`` rounds to the nearest.
        task: what is asked.
    """
    if task.block:
        return _rounded_blocks(weight, second, task)
    ones = np.ones((weight.shape[0], weight.shape[2]), np.float32)
    importance = ones if second is None else np.maximum(np.diagonal(second, axis1=1, axis2=2), 0).astype(np.float32)
    importance = importance + np.float32(1e-3) * np.maximum(importance.mean(axis=1, keepdims=True), np.float32(1e-12))
    if task.table == "none":
        grid = Grid.of_bits(task.bits, reach=task.reach)
        exact = read_scale(weight, grid) if task.per_channel else None
        if exact is not None:  # trained on this grid: nothing is lost, so nothing is searched or compensated
            return Rounded(integers=rounded(weight, exact, grid), scale=exact)
        scale = search_scale(weight, importance, grid, per_channel=task.per_channel)
    else:
        spread = np.sqrt(np.mean(weight**2, axis=2) + 1e-20).astype(np.float32)
        dead = dead_rows(weight)
        if task.table == "float" or not task.per_channel:
            spread = np.full_like(spread, np.sqrt(np.mean(spread**2)))
        spread_weight = np.broadcast_to(importance[:, None, :] * (spread**2)[:, :, None], weight.shape)
        spread = np.where(dead, spread.max(), spread)
        levels, step_size = integer_levels(weight / spread[:, :, None], spread_weight, task.bits, reach=task.reach)
        if task.table == "float":
            return _float_table(weight, second, importance, task)
        if _free(weight) is not None or dead.any():
            levels[np.argmin(np.abs(levels))] = 0
        grid, step = Grid.of_levels(levels), np.float32(step_size)
        scale = spread * step
    if second is None:
        integers = rounded(weight, scale, grid)
    elif task.rounding == "adaround":
        integers = adaptively_rounded(weight / scale[:, :, None], second, grid, free=_free(weight))
        scale = refit_scale(weight, integers, second, scale, per_channel=task.per_channel)
    else:
        integers, scale = _compensated_rows(weight, second, scale, grid, task)
    if task.table == "none":
        return Rounded(integers=integers, scale=scale)
    table = np.asarray(grid.levels, np.int8)
    return Rounded(integers=np.searchsorted(table, integers).astype(np.float32), scale=scale, table=table)


def _compensated_rows(
    weight: Floats, second: Floats, scale: Floats, grid: Grid, task: RoundingTask
) -> tuple[Floats, Floats]:
    """Return integers by error compensation and descent, in turns with the scales that fit them best."""
    is_large, free = weight.size > _LARGE, _free(weight)
    for _ in range(2 if task.bits <= 4 and not is_large else 1):
        steps = weight / scale[:, :, None]
        integers = compensated(steps, second, grid, free=free)
        if task.bits <= 6:  # above that there is nothing left to gain
            integers = descended(steps, integers, second, grid, sweeps=2 if is_large else 4, free=free)
        scale = refit_scale(weight, integers, second, scale, per_channel=task.per_channel)
    if task.bits <= 6:
        steps = weight / scale[:, :, None]
        integers = descended(steps, integers, second, grid, sweeps=1 if is_large else 2, free=free)
    return integers, scale


def _free(weight: Floats) -> NDArray[np.bool_] | None:
    """Which weights of a sparse layer may differ from zero; ``None`` where the layer is not sparse."""
    return weight != 0 if zero_share(weight) >= _SPARSE else None


def _rounded_blocks(weight: Floats, second: Floats | None, task: RoundingTask) -> Rounded:
    """Return the weight with one scale a block, and a zero point if it is asked for; the block divides K."""
    _, rows, width = weight.shape
    blocks = width // task.block
    # blocks are rows of their own to the search of scales
    apart = weight.reshape(1, rows * blocks, task.block)
    zero, target = None, weight
    if task.offset:
        grid = Grid(-(1 << (task.bits - 1)), (1 << (task.bits - 1)) - 1)
        scale, zero_rows = search_offset_scale(apart, grid)
        zero = zero_rows.reshape(1, rows, blocks).astype(np.int8)
        target = (apart + (scale * zero_rows)[:, :, None]).reshape(weight.shape)
    else:
        grid = Grid.of_bits(task.bits)
        scale = search_scale(apart, np.ones((1, task.block), np.float32), grid, per_channel=True)
    scale = scale.reshape(1, rows, blocks)
    steps = np.repeat(scale, task.block, axis=2)
    free = None if task.offset else _free(weight)
    if second is None:
        integers = np.asarray(grid.nearest(target / steps), np.float32)
    elif task.rounding == "adaround":
        integers = adaptively_rounded(target, second, grid, steps=steps, free=free)
    else:
        integers = compensated(target, second, grid, steps=steps, free=free)
    return Rounded(integers=integers, scale=scale, zero_points=zero)


def _float_table(weight: Floats, second: Floats | None, importance: Floats, task: RoundingTask) -> Rounded:
    """Weight sharing with one float table for the whole layer; compensated on a fine integer image of the table."""
    table = shared_values(weight, np.broadcast_to(importance[:, None, :], weight.shape), 1 << task.bits)
    free = _free(weight)
    if free is not None:
        table[np.argmin(np.abs(table))] = 0
    fine = float(np.abs(table).max()) / 32767.0 or 1.0
    grid = Grid.of_levels(np.rint(table / fine).astype(np.int64))
    values = np.asarray(grid.levels, np.float32)
    steps = weight / np.float32(fine)
    chosen = np.asarray(grid.nearest(steps), np.float32)
    if second is not None and task.rounding == "adaround":
        chosen = adaptively_rounded(steps, second, grid, free=free)
    elif second is not None:
        chosen = descended(steps, compensated(steps, second, grid, free=free), second, grid, free=free)
    indices = np.searchsorted(values, chosen).astype(np.float32)
    scale = np.ones(weight.shape[:2], np.float32)
    return Rounded(integers=indices, scale=scale, table=(values * np.float32(fine)).astype(np.float32))
