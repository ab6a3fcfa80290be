"""Weights in fewer bits than a byte: packed in the file, unpacked by stock ONNX Runtime while it loads."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeltailor.compress.pack.bits import pack_planes, packed_bytes, plane_weights, unpack_planes
    from modeltailor.compress.pack.coded import (
        JOIN,
        SHAPE,
        Tree,
        decode,
        encode,
        join_function,
        mapped,
        shape_function,
        tree_bytes,
    )
    from modeltailor.compress.pack.function import DOMAIN, UNPACK, unpack_function, unpack_node
    from modeltailor.compress.pack.unpack import unpack_model

__all__ = [
    "DOMAIN",
    "JOIN",
    "SHAPE",
    "UNPACK",
    "Tree",
    "decode",
    "encode",
    "join_function",
    "mapped",
    "pack_planes",
    "packed_bytes",
    "plane_weights",
    "shape_function",
    "tree_bytes",
    "unpack_function",
    "unpack_model",
    "unpack_node",
    "unpack_planes",
]

_HOMES = {
    "DOMAIN": "function",
    "JOIN": "coded",
    "SHAPE": "coded",
    "Tree": "coded",
    "decode": "coded",
    "encode": "coded",
    "join_function": "coded",
    "mapped": "coded",
    "shape_function": "coded",
    "tree_bytes": "coded",
    "UNPACK": "function",
    "pack_planes": "bits",
    "packed_bytes": "bits",
    "plane_weights": "bits",
    "unpack_function": "function",
    "unpack_model": "unpack",
    "unpack_node": "function",
    "unpack_planes": "bits",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
