"""What a student learns from: the ``train`` split, labels optional."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeltailor.errors import DataError

__all__ = ["TrainingData"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingData:
    """Samples to learn from.

    Attributes:
        inputs: by input name, [n, ...]; floating-point arrays become float32, others stay as the network takes them.
        labels: [n] or [n, ...]; integers are classes, floats are targets; ``None``: the teacher alone teaches.
    """

    inputs: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        lengths = {len(a) for a in self.inputs.values()} | ({len(self.labels)} if self.labels is not None else set())
        if len(lengths) != 1 or 0 in lengths:
            raise DataError("DATA-03", "train", f"inputs and labels need one length above 0; got {sorted(lengths)}")
        for name, array in self.inputs.items():
            if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
                raise DataError("DATA-04", f"train x.{name}", "holds NaN or infinity", "clean the data")

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def batch(self, rows: NDArray[np.int64]) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the inputs and labels of those rows as tensors."""
        inputs = {name: _tensor(array[rows], widen=False) for name, array in self.inputs.items()}
        return inputs, None if self.labels is None else _tensor(self.labels[rows])

    def fingerprint(self) -> str:
        """Return the SHA-256 of names, types, shapes and values."""
        digest = hashlib.sha256()
        parts = {**{f"x.{k}": v for k, v in self.inputs.items()}, **({} if self.labels is None else {"y": self.labels})}
        for name in sorted(parts):
            array = np.ascontiguousarray(parts[name])
            digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()


def _tensor(array: NDArray[Any], *, widen: bool = True) -> Tensor:
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    elif widen and array.dtype.kind in "iu" and array.dtype != np.int64:
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array))
