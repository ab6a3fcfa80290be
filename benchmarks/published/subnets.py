"""Once-for-all variants: 5,000 sub-networks of one MobileNetV3 with chosen kernel sizes, expansions, depths, resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_WIDTHS = tuple(round(w * 1.2 / 8) * 8 for w in (16, 24, 40, 80, 112, 160))
_STRIDES = (2, 2, 2, 1, 2)
_WITH_EXCITATION = (1, 3, 4)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subnets:
    """All variants.

    Attributes:
        devices: names of the settings.
        log_ms: ``[n_devices, n_items]``.
        log_macs: ``[n_items]``.
        launch: ``[n_items, 3]``: one, blocks, squeeze-and-excitation blocks.
        work: ``[n_items, 5]``: one, MACs of 1x1 convolutions, MACs of depthwise ones, elements moved, weights.
    """

    devices: tuple[str, ...]
    log_ms: Floats
    log_macs: Floats
    launch: Floats
    work: Floats


def _layers(kernels: list[int], expansions: list[int], depths: list[int], side: int) -> tuple[list[float], int]:
    pointwise = depthwise = moved = weights = 0.0
    excitations = 0
    side //= 2
    width = _WIDTHS[0]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            before = side
            if block == 0 and _STRIDES[stage] == 2:
                side = (side + 1) // 2
            middle, out = width * expansions[4 * stage + block], _WIDTHS[stage + 1]
            kernel = kernels[4 * stage + block]
            pointwise += width * middle * before**2 + middle * out * side**2
            depthwise += middle * kernel**2 * side**2
            excited = stage in _WITH_EXCITATION
            excitations += excited
            moved += before**2 * (width + 2 * middle) + side**2 * (2 * middle + out + 2 * middle * excited)
            weights += width * middle + middle * out + kernel**2 * middle
            width = out
    return [pointwise, depthwise, moved, weights], excitations


def load(folder: Path) -> Subnets:
    """Read the two tables and count the layers."""
    table = pd.read_csv(folder / "ofa_latency_wide.csv.gz", index_col=0)
    archs = pd.read_csv(folder / "ofa_archs.csv.gz").set_index("arch_id").loc[table.index]

    def split(text: str) -> list[int]:
        return [int(t) for t in text.split("|")]

    rows = [_layers(split(a.ks), split(a.e), split(a.d), int(a.res)) for a in archs.itertuples()]
    ones = np.ones(len(rows))
    return Subnets(
        devices=tuple(table.columns),
        log_ms=np.log(table.to_numpy().T),
        log_macs=np.log(archs.macs.to_numpy(dtype=float)),
        launch=np.stack([ones, archs.depth.to_numpy(dtype=float), np.array([r[1] for r in rows], float)], axis=1),
        work=np.concatenate([ones[:, None], np.array([r[0] for r in rows])], axis=1),
    )
