"""Candidates of a search on this machine: five, by the estimator's own rule, are timed and profiled, the rest is predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from published.score import Score, flops_line, score

from here.table import stand_in, tables
from modeltailor.estimators.predict import (
    DeviceModel,
    GraphWork,
    checked_factor,
    constants_of,
    points_of,
    widened,
)

__all__ = ["here_rows"]

_K = 5


def here_rows(
    folder: Path, rounds: int, lock: Path | None, networks: Sequence[str] | None = None, draws: Sequence[int] = (0,)
) -> Iterator[Score]:
    """Predict the candidates of each network from ``k = 5`` that were timed and profiled, the original among them.

    Args:
        folder: where the measured tables are kept.
        rounds: how often each candidate is timed, where they are not.
        lock: a file that is locked meanwhile.
        networks: which; all if ``None``.
        draws: which candidates of them; each draw is predicted from five of its own.
    """
    constants = constants_of(stand_in())
    assert constants is not None
    model = DeviceModel(constants=constants)
    for draw in draws:
        for network, rows in tables(folder, rounds, lock, networks, draw).items():
            works = [GraphWork(kernels=row.kernels) for row in rows]
            log_ms, noise = np.log([row.latency_ms for row in rows]), np.array([row.noise for row in rows])
            chosen = np.array(model.choose(_K, works, [0])[0])
            rest = np.setdiff1d(np.arange(len(rows)), chosen)
            measured = [works[i] for i in chosen]
            points = points_of([(rows[i].trace.without_profiler(rows[i].latency_ms), works[i]) for i in chosen])
            joint = model.posterior(measured, log_ms[chosen], noise[chosen], [works[i] for i in rest], points)
            held_out = model.held_out(measured, log_ms[chosen], noise[chosen], points)
            each = joint.each()
            band = widened(each, checked_factor(held_out, log_ms[chosen], each.spread()))
            flops = flops_line(np.log([w.macs for w in works]), chosen, log_ms[chosen], rest)
            yield score(f"{network} on this machine, draw {draw}", band, log_ms[rest], flops)
