"""Bit planes: integers of any width from 1 to 8 bits, stored without a wasted bit (but for the last byte of a plane).

A plane holds one bit of every value, eight values a byte, the first value in the highest bit. Planes are ordered from
the highest bit to the lowest. Signed values are two's complement, so the first plane weighs ``-2**(bits-1)``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack_planes", "packed_bytes", "plane_weights", "unpack_planes"]


def _checked(bits: int) -> int:
    if not 1 <= bits <= 8:
        raise ValueError(f"a packed value has 1 to 8 bits; got {bits}")
    return bits


def packed_bytes(elements: int, bits: int) -> int:
    """Return the bytes that ``elements`` values of ``bits`` bits take."""
    return _checked(bits) * (-(-elements // 8))


def plane_weights(bits: int, *, signed: bool) -> NDArray[np.int8]:
    """Return what one bit of each plane is worth, shape ``[1, bits]``.

    Raises:
        ValueError: ``bits`` is outside 1..8, or 8 unsigned bits are asked for (128 is no int8).
    """
    if not signed and bits == 8:
        raise ValueError("8 unsigned bits need no packing: store them as uint8")
    worth = [1 << k for k in range(_checked(bits) - 1, -1, -1)]
    if signed:
        worth[0] = -worth[0]
    return np.array([worth], dtype=np.int8)


def pack_planes(values: NDArray[np.integer], bits: int, *, signed: bool) -> NDArray[np.uint8]:
    """Pack integers of any shape into planes, shape ``[bits, ceil(size / 8)]``.

    Raises:
        ValueError: a value does not fit.
    """
    low, high = (-(1 << (_checked(bits) - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if values.size and (int(values.min()) < low or int(values.max()) > high):
        raise ValueError(
            f"{bits} {'signed' if signed else 'unsigned'} bits hold {low}..{high}; "
            f"got {int(values.min())}..{int(values.max())}"
        )
    flat = values.reshape(-1).astype(np.int16).astype(np.uint8)  # two's complement: the low bits are what is kept
    rows = [np.packbits((flat >> np.uint8(k)) & np.uint8(1)) for k in range(bits - 1, -1, -1)]
    return np.stack(rows)


def unpack_planes(planes: NDArray[np.uint8], shape: tuple[int, ...], *, signed: bool) -> NDArray[np.int16]:
    """Return the integers that :func:`pack_planes` packed, in ``shape``."""
    bits = planes.shape[0]
    size = int(np.prod(shape, dtype=np.int64))
    out = np.zeros(size, np.int16)
    for row, k in zip(planes, range(bits - 1, -1, -1), strict=True):
        worth = -(1 << k) if signed and k == bits - 1 else 1 << k
        out += np.unpackbits(row, count=size).astype(np.int16) * np.int16(worth)
    return out.reshape(shape)
