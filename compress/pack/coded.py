"""Weights in fewer bits on average than their grid has: a Huffman tree, one packed bit map at each inner node.

Huffman 1952; the layout is that of a Huffman-shaped wavelet tree (Grossi, Gupta and Vitter 2003): a value's path from
the root is its code, and each inner node keeps the bits of the values that pass it, in their order. Decoding needs no
loop over values, only running sums and gathers, so that ONNX Runtime does it while loading. Weights that are mostly
zero take little more than one bit each: this is the sparse form, too. Where a tree of all values would cost more in
nodes than it saves (8-bit weights have 255 of them), one node does: a map of the zeros, and the other values as bytes.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import FunctionProto, NodeProto, helper, numpy_helper

from modeltailor.compress.pack.function import DOMAIN

__all__ = [
    "JOIN",
    "NODE_BYTES",
    "SHAPE",
    "Tree",
    "decode",
    "encode",
    "join_function",
    "mapped",
    "shape_function",
    "tree_bytes",
]

JOIN = "j"
SHAPE = "r"
NODE_BYTES = 46  # what the call and the headers of one inner node take in the file


@dataclass(frozen=True, slots=True)
class Tree:
    """An inner node.

    Attributes:
        bits: one bit a value, eight a byte, the first in the highest bit; 1 goes right.
        left: subtree, or the one value of a leaf.
        right: likewise; of a map (see :func:`mapped`) the values themselves, int8 in their order.
    """

    bits: NDArray[np.uint8]
    left: Tree | int
    right: Tree | NDArray[np.int8] | int


def encode(values: NDArray[np.integer]) -> Tree | None:
    """Return the tree of an array of integers in C order; ``None`` if there are fewer than two different values."""
    flat = values.reshape(-1)
    symbols, counts = np.unique(flat, return_counts=True)
    if len(symbols) < 2:
        return None
    heap: list[tuple[int, int, object]] = [
        (int(c), k, int(s)) for k, (s, c) in enumerate(zip(symbols, counts, strict=True))
    ]
    heapq.heapify(heap)
    fresh = len(heap)
    while len(heap) > 1:
        a, b = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (a[0] + b[0], fresh, (a[2], b[2])))
        fresh += 1
    made = _split(flat.astype(np.int16), heap[0][2])
    assert isinstance(made, Tree)
    return made


def mapped(values: NDArray[np.int8]) -> Tree | None:
    """Return one node that tells zeros from the others, which stay bytes; ``None`` if there are only zeros or none."""
    flat = values.reshape(-1)
    bits = flat != 0
    return None if bool(bits.all()) or not bool(bits.any()) else Tree(np.packbits(bits), 0, flat[bits].astype(np.int8))


def _leaves(shape: object) -> list[int]:
    if isinstance(shape, tuple):
        return _leaves(shape[0]) + _leaves(shape[1])
    assert isinstance(shape, int)
    return [shape]


def _split(values: NDArray[np.int16], shape: object) -> Tree | int:
    if not isinstance(shape, tuple):
        assert isinstance(shape, int)
        return shape
    right = np.zeros(512, bool)
    right[np.array(_leaves(shape[1])) + 256] = True
    bits = right[values + 256]
    return Tree(np.packbits(bits), _split(values[~bits], shape[0]), _split(values[bits], shape[1]))


def tree_bytes(tree: Tree | NDArray[np.int8] | int) -> int:
    """Return the bytes that a tree takes in the file, the calls that decode it included."""
    if isinstance(tree, int):
        return 0
    if isinstance(tree, np.ndarray):
        return tree.nbytes + NODE_BYTES
    return tree.bits.nbytes + NODE_BYTES + tree_bytes(tree.left) + tree_bytes(tree.right)


def join(bits: NDArray[np.uint8], left: NDArray[np.integer], right: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return what one inner node stands for: the next value of ``left`` at a 0, of ``right`` at a 1."""
    ones = np.unpackbits(bits).astype(np.int32)
    at_right = np.clip(np.cumsum(ones) - 1, 0, len(right) - 1)
    at_left = np.clip(np.cumsum(1 - ones) - 1, 0, len(left) - 1)
    return np.where(ones == 1, right[at_right], left[at_left]).astype(np.int32)


def decode(tree: Tree | int, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return the integers that :func:`encode` took."""
    return _flat(tree)[: int(np.prod(shape, dtype=np.int64))].reshape(shape)


def _flat(tree: Tree | NDArray[np.int8] | int) -> NDArray[np.int32]:
    if isinstance(tree, int):
        return np.array([tree], np.int32)
    if isinstance(tree, np.ndarray):
        return tree.astype(np.int32)
    return join(tree.bits, _flat(tree.left), _flat(tree.right))


def join_function(opset: int) -> FunctionProto:
    """Return the function ``(bits uint8 [m], left int32 [a], right int32 [b]) -> int32 [8 m]``."""
    n = helper.make_node

    def constant(name: str, value: NDArray[np.generic]) -> NodeProto:
        return n("Constant", [], [name], value=numpy_helper.from_array(value))

    nodes = [
        constant("c", np.arange(7, -1, -1).astype(np.uint8)),
        constant("t", np.array([2], np.uint8)),
        constant("k", np.array([-1], np.int64)),
        constant("z", np.array(0, np.int32)),
        constant("o", np.array([1], np.int32)),
        n("Unsqueeze", ["p", "k"], ["a"]),
        n("BitShift", ["a", "c"], ["b"], direction="RIGHT"),
        n("Mod", ["b", "t"], ["d"]),
        n("Reshape", ["d", "k"], ["e"]),
        n("Cast", ["e"], ["f"], to=6),
        n("Sub", ["o", "f"], ["g"]),
    ]
    for source, ones, out in (("r", "f", "R"), ("l", "g", "L")):
        nodes += [
            n("CumSum", [ones, "z"], [f"{out}1"]),
            n("Sub", [f"{out}1", "o"], [f"{out}2"]),
            n("Shape", [source], [f"{out}3"]),
            n("Cast", [f"{out}3"], [f"{out}4"], to=6),
            n("Sub", [f"{out}4", "o"], [f"{out}5"]),
            n("Max", [f"{out}2", "z"], [f"{out}6"]),
            n("Min", [f"{out}6", f"{out}5"], [f"{out}7"]),
            n("Gather", [source, f"{out}7"], [out]),
        ]
    nodes += [n("Cast", ["f"], ["h"], to=9), n("Where", ["h", "R", "L"], ["y"])]
    return helper.make_function(DOMAIN, JOIN, ["p", "l", "r"], ["y"], nodes, [helper.make_opsetid("", opset)])


def shape_function(opset: int) -> FunctionProto:
    """Return the function ``(flat int32, shape int64) -> int8`` of that shape; what fills up the last byte is dropped."""
    n = helper.make_node
    nodes = [
        n("Constant", [], ["z"], value=numpy_helper.from_array(np.array([0], np.int64))),
        n("ReduceProd", ["s"], ["n"], keepdims=1),
        n("Slice", ["f", "z", "n"], ["g"]),
        n("Reshape", ["g", "s"], ["i"]),
        n("Cast", ["i"], ["y"], to=3),
    ]
    return helper.make_function(DOMAIN, SHAPE, ["f", "s"], ["y"], nodes, [helper.make_opsetid("", opset)])
