"""What other devices teach about an unseen one: the table of their latencies, made complete and free of noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeltailor.estimators.predict.field import Component

__all__ = ["Pool", "smoothed"]

Floats = NDArray[np.float64]


def smoothed(log_ms: Floats, features: Floats, ridge: float = 1.0) -> Floats:
    """Return latencies as a ridge regression on item features sees them: repeat noise averaged out.

    Worth it when a pooled device was measured on far more items than there are features.

    Args:
        log_ms: ``[n_devices, n_items]``, complete.
        features: ``[n_items, n_features]``, with a constant column.
        ridge: penalty on the coefficients.
    """
    gram = features.T @ features + ridge * np.eye(features.shape[1])
    return (features @ np.linalg.solve(gram, features.T @ log_ms.T)).T


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Centred latencies of known devices.

    Attributes:
        mean_shape: ``[n_items]``, mean log latency around the mean of all items.
        deviations: ``[n_devices, n_items]``, how each device differs from it, level taken out.
        levels: ``[n_devices]``, mean log milliseconds of each device.
    """

    mean_shape: Floats
    deviations: Floats
    levels: Floats

    @classmethod
    def of(cls, log_ms: Floats) -> Pool:
        """Make a pool of complete log latencies, ``[n_devices, n_items]``."""
        levels = log_ms.mean(axis=1)
        centred = log_ms - levels[:, None]
        mean = centred.mean(axis=0)
        return cls(mean_shape=mean, deviations=centred - mean, levels=levels)

    def component(self, slope: float = 0.5) -> Component:
        """Return the covariance of an unseen device: that between the devices, and a free slope of the mean shape.

        Args:
            slope: standard deviation of the factor by which an unseen device stretches the mean shape.
        """
        columns = self.deviations.T / np.sqrt(len(self.deviations))
        return Component(features=np.concatenate([columns, slope * self.mean_shape[:, None]], axis=1))
