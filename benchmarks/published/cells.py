"""NAS-Bench-201 cells: latencies of 15,625 networks, each a choice of five operations on six edges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
_COST = np.array([0.0, 1 / 9, 1.0, 0.1])  # skip, 1x1, 3x3, pooling, in units of a 3x3 convolution


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """All cells.

    Attributes:
        devices: names of the settings.
        log_ms: ``[n_devices, n_items]``.
        log_macs: ``[n_items]``.
        executed: counts and log work of all operations, scaled, ``[n_items, 5]``.
        reaching: the same of the operations from which the output can be reached: what a runtime that deletes dead
            branches executes.
        smooth_by: features for denoising: operations by edge, their pairs, both of the above.
    """

    devices: tuple[str, ...]
    log_ms: Floats
    log_macs: Floats
    executed: Floats
    reaching: Floats
    smooth_by: Floats


def _standard(values: Floats) -> Floats:
    return (values - values.mean(axis=0)) / values.std(axis=0)


def _work(operations: NDArray[np.int64], live: NDArray[np.bool_]) -> Floats:
    counts = np.stack([((operations == o) & live).sum(axis=1) for o in range(1, 5)], axis=1).astype(float)
    log_work = np.log(1.0 + counts @ _COST)
    return np.concatenate([_standard(counts) * [0.3, 1, 1, 1], 2 * _standard(log_work[:, None])], axis=1)


def _reaching(operations: NDArray[np.int64]) -> NDArray[np.bool_]:
    reached = np.zeros((len(operations), 4), dtype=bool)
    reached[:, 3] = True
    for node in (2, 1, 0):
        for edge, (start, end) in enumerate(_EDGES):
            if start == node:
                reached[:, node] |= reached[:, end] & (operations[:, edge] > 0)
    return np.stack([(operations[:, e] > 0) & reached[:, end] for e, (_, end) in enumerate(_EDGES)], axis=1)


def load(folder: Path) -> Cells:
    """Read the two tables."""
    table = pd.read_csv(folder / "nb201_latency_wide.csv.gz", index_col=0)
    archs = pd.read_csv(folder / "nb201_archs.csv.gz").set_index("arch_id").loc[table.index]
    operations = np.array(
        [
            [_OPERATIONS.index(t.split("~")[0]) for node in s.split("+") for t in node.strip("|").split("|")]
            for s in archs.arch_str
        ]
    )
    executed = _work(operations, np.ones_like(operations, dtype=bool))
    reaching = _work(operations, _reaching(operations))
    onehot = [(operations[:, e, None] == np.arange(5)).astype(float) for e in range(6)]
    pairs = [(onehot[i][:, :, None] * onehot[j][:, None, :]).reshape(-1, 25) for i in range(6) for j in range(i)]
    constant = np.ones((len(operations), 1))
    return Cells(
        devices=tuple(table.columns),
        log_ms=np.log(table.to_numpy().T),
        log_macs=np.log(archs.macs.to_numpy(dtype=float)),
        executed=executed,
        reaching=reaching,
        smooth_by=np.concatenate([constant, *onehot, *pairs, executed, reaching], axis=1),
    )
