"""Kernels of networks by kind: what is learned of one kernel holds for its equals elsewhere, and a little for its like."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from modeltailor.estimators.predict.work import KernelWork

__all__ = ["KernelKinds", "Kind", "kind_of"]

Floats = NDArray[np.float64]
Kind = tuple[str, str, str, str, int, int, int, int]

_OPERATOR, _NEAR, _OWN = 0.35, 0.35, 0.3
"""Shares of a kernel's deviation from the roofline: its operator's in that format, that of work like it, its own."""
_REACH = 0.7  # in logs of multiply-accumulates and bytes


@dataclass(frozen=True, slots=True)
class KernelKinds:
    """The kinds of kernels that occur: one for each operator, variant, format and amount of work.

    Attributes:
        places: number of each kind.
    """

    places: dict[Kind, int] = field(default_factory=dict)

    @classmethod
    def of(cls, kernels: Iterable[KernelWork]) -> KernelKinds:
        """Return the kinds of kernels."""
        return cls({kind: place for place, kind in enumerate(dict.fromkeys(kind_of(k) for k in kernels))})

    def place(self, kernel: KernelWork) -> int:
        """Return the number of a kernel's kind."""
        return self.places[kind_of(kernel)]

    def covariance(self) -> Floats:
        """How the kinds' deviations from the roofline go together, ``[n_kinds, n_kinds]``, 1 for each by itself."""
        if not self.places:
            return np.zeros((0, 0))
        kinds = list(self.places)
        _, operator = np.unique([" ".join(k[:4]) for k in kinds], return_inverse=True)
        amounts = np.log(1.0 + np.array([k[4:] for k in kinds], dtype=np.float64)) / _REACH
        squared = (amounts**2).sum(axis=1)
        distance = np.maximum(squared[:, None] + squared[None, :] - 2 * amounts @ amounts.T, 0.0)
        found: Floats = (operator[:, None] == operator[None, :]) * (_OPERATOR + _NEAR * np.exp(-0.5 * distance))
        return found + _OWN * np.eye(len(kinds))


def kind_of(kernel: KernelWork) -> Kind:
    """Return what makes kernels equal to a device: operator, format and amount of work."""
    return (
        kernel.operator, kernel.variant, kernel.operator_class, kernel.number_format,
        kernel.macs, kernel.padded_macs, kernel.read_bytes, kernel.written_bytes,
    )  # fmt: skip
