"""The protocol: leave out a device, measure ``k`` items chosen by the estimator's own rule, predict all others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modeltailor.estimators.predict import (
    LatencyField,
    Mixed,
    PathTerms,
    Pool,
    TwoPathRoofline,
    band_factor,
    needed_factors,
    pooled_field,
    smoothed,
    widened,
)
from published import cells, subnets
from published.score import Effort, Score, flops_line, score

Floats = NDArray[np.float64]

_DRAWS = 3  # of candidates and aims, for the bands: what one draw asks for depends on its luck
_CANDIDATES = 3000  # that the rule may choose its measurements from


def cells_rows(folder: Path, effort: Effort) -> Iterator[Score]:
    """NAS-Bench-201: all other settings are given."""
    data = cells.load(folder)
    smooth = smoothed(data.log_ms, data.smooth_by)
    n_devices, n_items = data.log_ms.shape

    def field(left_out: set[int]) -> LatencyField:
        pool = Pool.of(smooth[[d for d in range(n_devices) if d not in left_out]])
        return pooled_field(pool, data.executed / 4, [(data.reaching / 4, data.reaching[:, -1:] / 2)], Mixed())

    rng = np.random.default_rng(99)
    draws = [(rng.choice(n_items, 1000, replace=False), rng.choice(n_items, 250, replace=False)) for _ in range(_DRAWS)]
    needed: dict[tuple[int, int], Floats] = {}  # (left out for good, held out meanwhile)
    for a in range(n_devices):
        for b in range(a):
            between = field({a, b})
            for few, aims in draws:
                measured = np.array(between.choose(effort.k, few, aims))
                for target, held in ((a, b), (b, a)):
                    mixture = between.posterior(measured, data.log_ms[held][measured], aims)
                    more = needed_factors(mixture, data.log_ms[held][aims])
                    needed[target, held] = np.concatenate([needed.get((target, held), np.zeros(0)), more])
    for seed in range(effort.seeds):
        rng = np.random.default_rng(seed)
        candidates = rng.choice(n_items, _CANDIDATES, replace=False)
        for d, device in enumerate(data.devices):
            factor = band_factor([needed[d, other] for other in range(n_devices) if other != d])
            unseen = field({d})
            measured = np.array(unseen.choose(effort.k, candidates, rng.choice(n_items, 600, replace=False)))
            targets = np.setdiff1d(rng.choice(n_items, effort.targets, replace=False), measured)
            log_ms = data.log_ms[d]
            band = widened(unseen.posterior(measured, log_ms[measured], targets), factor)
            flops = flops_line(data.log_macs, measured, log_ms[measured], targets)
            yield score(device, band, log_ms[targets], flops)


def subnets_rows(folder: Path, effort: Effort) -> Iterator[Score]:
    """Once-for-all variants: no other device is given."""
    data = subnets.load(folder)
    n_items = data.log_ms.shape[1]
    model = TwoPathRoofline(
        launch=PathTerms(amounts=data.launch, shares=(0.1, 0.65, 0.25), spreads=(0.8, 0.35, 0.5)),
        work=PathTerms(amounts=data.work, shares=(0.1, 0.35, 0.15, 0.35, 0.05), spreads=(0.7, 0.5, 0.5, 0.5, 0.8)),
    )
    for seed in range(effort.seeds):
        rng = np.random.default_rng(seed)
        candidates, aims = rng.choice(n_items, 600, replace=False), rng.choice(n_items, 500, replace=False)
        measured = np.array(model.choose(effort.k, candidates, aims, seed))
        for d, device in enumerate(data.devices):
            targets = np.setdiff1d(rng.choice(n_items, effort.targets, replace=False), measured)
            log_ms = data.log_ms[d]
            band = widened(model.posterior(measured, log_ms[measured], targets), 1.0)
            flops = flops_line(data.log_macs, measured, log_ms[measured], targets)
            yield score(device, band, log_ms[targets], flops)
