"""Fields for items that other devices have run: the hypotheses that are mixed, and how each is weighted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeltailor.estimators.predict.field import Component, Hypothesis, LatencyField
from modeltailor.estimators.predict.pool import Pool

__all__ = ["Mixed", "pooled_field"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """The grid of hypotheses. The prior between them is even: the measurements decide.

    Attributes:
        likeness: by which factor the covariance between pooled devices holds for an unseen one.
        own: variance, in squared log milliseconds, of what depends on the items' features in a way no pooled device shows.
        noises: standard deviations of one measurement around the model.
        strangeness: variance of the smooth part when the device executes something else than the pooled ones do.
    """

    likeness: tuple[float, ...] = (0.3, 1.0, 3.0)
    own: tuple[float, ...] = (0.0005, 0.004)
    noises: tuple[float, ...] = (0.012, 0.03, 0.07, 0.15)
    strangeness: tuple[float, ...] = (0.05, 0.2)


def pooled_field(
    pool: Pool, features: Floats, otherwise: Sequence[tuple[Floats, Floats]] = (), mixed: Mixed | None = None
) -> LatencyField:
    """Return the field of an unseen device.

    Args:
        pool: the known devices.
        features: ``[n_items, n]`` of what the pooled devices execute, divided by the length over which latency changes.
        otherwise: other ways in which a runtime may execute the items (dead branches deleted, say): for each the
            features as above, and the log of the work that is left, ``[n_items, 1]``.
        mixed: the grid.
    """
    grid = mixed or Mixed()
    components = [pool.component(), Component(features=features, kind="smooth")]
    hypotheses: list[tuple[int, dict[int, float], float]] = [
        (0, {0: likeness, 1: own}, noise)
        for likeness, own, noise in itertools.product(grid.likeness, grid.own, grid.noises)
    ]
    for smooth, log_work in otherwise:
        at = len(components)
        components += [Component(features=smooth, kind="smooth"), Component(features=log_work)]
        hypotheses += [
            (1, {at: own, at + 1: 1.0}, noise) for own, noise in itertools.product(grid.strangeness, grid.noises)
        ]
    return LatencyField(
        shapes=np.stack([pool.mean_shape, np.zeros_like(pool.mean_shape)]),
        components=tuple(components),
        hypotheses=tuple(
            Hypothesis(shape=shape, weights=tuple(w.get(i, 0.0) for i in range(len(components))), noise=noise)
            for shape, w, noise in hypotheses
        ),
        level_log_ms=float(pool.levels.mean()),
        level_sd=float(max(pool.levels.std(), 1.0) + 0.5),
    )
