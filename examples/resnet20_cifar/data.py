"""CIFAR-10 from JPEG bytes as four disjoint splits; ``search`` and ``test`` are images that the network has not seen.

The folder is ``$MODELTAILOR_DATA``, by default ``../shared/data``.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["load", "load_whole_test"]

_MEAN = np.array((0.485, 0.456, 0.406), np.float32)[:, None, None]
_STD = np.array((0.229, 0.224, 0.225), np.float32)[:, None, None]
_PARTS = {
    "train": (("train", 0, 19_000), ("calibration", 19_000, 20_000)),
    "test": (("search", 0, 2_000), ("test", 2_000, 5_000)),
}

Split = dict[str, NDArray[np.generic]]


def _folder() -> Path:
    root = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("MODELTAILOR_DATA", root.parent / "shared" / "data")) / "cifar10_jpeg"


def _decode(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    with np.load(path) as file:
        jpeg, offset, label = file["jpeg"], file["offset"], file["label"]
    images = np.empty((len(label), 3, 32, 32), np.float32)
    for i in range(len(label)):
        with Image.open(io.BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes())) as image:
            images[i] = np.asarray(image.convert("RGB"), np.uint8).transpose(2, 0, 1)
    images /= 255.0
    images -= _MEAN
    images /= _STD
    return images, label.astype(np.int64)


def load() -> dict[str, Split]:
    """Return the splits ``train``, ``calibration``, ``search`` and ``test``.

    Returns:
        By split: ``x``, float32 [n, 3, 32, 32], normalised; ``y``, int64 [n], classes 0..9.
    """
    splits: dict[str, Split] = {}
    for file, parts in _PARTS.items():
        images, labels = _decode(_folder() / f"{file}.npz")
        order = np.random.default_rng(0).permutation(len(labels))  # the file may be sorted
        for name, start, stop in parts:
            rows = np.sort(order[start:stop])
            splits[name] = {"x": images[rows], "y": labels[rows]}
    return splits


def load_whole_test() -> dict[str, Split]:
    """Return what benchmarks train with and score on: 16,000 images as ``train``, ``calibration``, and all of ``test.npz``."""
    images, labels = _decode(_folder() / "train.npz")
    order = np.random.default_rng(0).permutation(len(labels))
    splits: dict[str, Split] = {}
    for name, start, stop in (("train", 0, 16_000), ("calibration", 19_000, 20_000)):
        rows = np.sort(order[start:stop])
        splits[name] = {"x": images[rows], "y": labels[rows]}
    images, labels = _decode(_folder() / "test.npz")
    splits["test"] = {"x": images, "y": labels}
    return splits
