"""Block-wise weights: one scale for every ``block`` weights along the inputs, computed by ``MatMulNBits``.

Dettmers et al. 2023, "SpQR", and ONNX Runtime's contrib operators. ``GatherBlockQuantized`` is its form for tables.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from modeltailor.compress.formats.emitter import MICROSOFT, Emitter
from modeltailor.compress.formats.graph import SiteNode
from modeltailor.compress.formats.names import site_label
from modeltailor.compress.formats.parts import Part
from modeltailor.compress.vocabulary import Format

__all__ = ["block_bytes", "emit_block_gather", "emit_block_matmul", "emit_row_gather"]


def block_bytes(rows: int, width: int, bits: int, block: int, *, offset: bool = False) -> int:
    """Bytes of weights, float32 scales and (``offset``) zero points of a ``[rows, width]`` matrix."""
    blocks = -(-width // block)
    return rows * (blocks * (block * bits // 8 + 4) + (-(-blocks * bits // 8) if offset else 0))


def packed_blocks(integers: NDArray[np.int8], bits: int, block: int) -> NDArray[np.uint8]:
    """Pack signed rows ``[rows, width]`` as ``[rows, blocks, block * bits / 8]``, low bits first, as unsigned."""
    rows, width = integers.shape
    blocks = -(-width // block)
    middle = 1 << (bits - 1)
    full = np.full((rows, blocks * block), middle, np.uint8)
    full[:, :width] = (integers.astype(np.int16) + middle).astype(np.uint8)
    per_byte = 8 // bits
    grouped = full.reshape(rows, blocks, block // per_byte, per_byte)
    out = np.zeros(grouped.shape[:3], np.uint8)
    for k in range(per_byte):
        out |= grouped[..., k] << np.uint8(k * bits)
    return out


def packed_zero_points(part: Part) -> NDArray[np.uint8] | None:
    """Return the zero points of a part's blocks as the runtime reads them, ``[rows, bytes]``; each row is padded."""
    if part.zero_points is None:
        return None
    rows, blocks = part.zero_points.shape
    per_byte = 8 // part.bits
    width = -(-blocks // per_byte) * per_byte
    return packed_blocks(part.zero_points, part.bits, width).reshape(rows, -1)


def emit_block_matmul(emitter: Emitter, site: SiteNode, part: Part, fmt: Format, accuracy: int = 4) -> tuple[str, int]:
    """Emit ``MatMulNBits`` for a matrix product; returns kernel and stored bytes.

    Args:
        emitter: where nodes go.
        site: a matrix product.
        part: its weights.
        fmt: a block-wise format.
        accuracy: ``accuracy_level``: 4 computes in int8, 1 in float32.
    """
    rows = part.integers if part.out_axis == 0 else np.ascontiguousarray(part.integers.T)
    packed = packed_blocks(rows, part.bits, fmt.block)
    scales = part.scale.reshape(-1)
    zero = packed_zero_points(part)
    extra = [] if zero is None else [emitter.constant(zero)]
    node: NodeProto = emitter.graph.model.graph.node[site.node]
    bias, leaving = part.bias, site.output if part.bias is not None else node.output[0]
    inner = node.output[0] if site.bias_node is not None else emitter.fresh(node.output[0])
    product = inner if bias is not None else leaving
    emitter.node(
        "MatMulNBits",
        [emitter.as_float(site.input), emitter.constant(packed), emitter.constant(scales), *extra],
        [product],
        name=site_label(site.site.position),
        domain=MICROSOFT,
        K=rows.shape[1],
        N=rows.shape[0],
        bits=part.bits,
        block_size=fmt.block,
        accuracy_level=accuracy,
    )
    if bias is not None:
        emitter.node("Add", [product, emitter.constant(bias)], [leaving])
        emitter.made_float(product)
    emitter.made_float(leaving)
    return "MatMulNBits", packed.nbytes + scales.nbytes + (0 if zero is None else zero.nbytes)


def emit_block_gather(emitter: Emitter, site: SiteNode, part: Part, fmt: Format) -> tuple[str, int]:
    """Emit ``GatherBlockQuantized`` for an embedding; returns kernel and stored bytes."""
    rows, width = part.integers.shape
    blocks = -(-width // fmt.block)
    packed = packed_blocks(part.integers, part.bits, fmt.block).reshape(rows, -1)
    scales = part.scale.reshape(rows, blocks)
    zero = packed_zero_points(part)
    extra = [] if zero is None else [emitter.constant(zero)]
    emitter.node(
        "GatherBlockQuantized",
        [emitter.constant(packed), emitter.as_float(site.input), emitter.constant(scales), *extra],
        [site.output],
        name=site_label(site.site.position),
        domain=MICROSOFT,
        gather_axis=0,
        quantize_axis=1,
        block_size=fmt.block,
        bits=part.bits,
    )
    emitter.made_float(site.output)
    return "GatherBlockQuantized", packed.nbytes + scales.nbytes + (0 if zero is None else zero.nbytes)


def emit_row_gather(emitter: Emitter, site: SiteNode, part: Part) -> tuple[str, int]:
    """Emit ``GatherBlockQuantized`` for a table of 4 bits with one scale a row; returns kernel and stored bytes."""
    rows, width = part.integers.shape
    packed = packed_blocks(part.integers, 4, 2).reshape(rows, -1)
    scales = np.broadcast_to(part.scale.reshape(-1, 1), (rows, 1))
    emitter.node(
        "GatherBlockQuantized",
        [emitter.constant(packed), emitter.as_float(site.input), emitter.constant(np.ascontiguousarray(scales))],
        [site.output],
        name=site_label(site.site.position),
        domain=MICROSOFT,
        gather_axis=0,
        quantize_axis=1,
        block_size=max(16, 1 << (width - 1).bit_length()),  # a power of two that holds the row
        bits=4,
    )
    emitter.made_float(site.output)
    return "GatherBlockQuantized", packed.nbytes + scales.nbytes
