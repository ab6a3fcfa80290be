"""AI Hub: hundreds of networks in several number formats and runtimes on phones, boards and a laptop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from modeltailor.estimators.predict import same, trend

Floats = NDArray[np.float64]

_KEY = ["model_id", "component", "precision", "runtime"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Items on devices.

    Attributes:
        devices: names.
        log_ms: ``[n_devices, n_items]``, NaN where nothing was published; for a ratio table the log ratio.
        own: ``[n_items, n_items]`` covariance over what is known of the items.
        log_size: ``[n_items]``, stands for FLOPs, which the source does not give: log parameters.
    """

    devices: tuple[str, ...]
    log_ms: Floats
    own: Floats
    log_size: Floats


def _frame(folder: Path) -> pd.DataFrame:
    frame = pd.read_csv(folder / "aihub_perf.csv.gz")
    frame = frame[frame.unit == "NPU"]  # where a layer falls back to the CPU there is no prediction
    return frame.assign(component=frame.component.fillna("-"))


def _log_size(folder: Path, models: pd.Series) -> Floats:
    params = pd.read_csv(folder / "aihub_models.csv").set_index("model_id").params.reindex(models).astype(float)
    return np.log(params.fillna(params.median()).to_numpy() + 1e5)


def latencies(folder: Path) -> Table:
    """Every (network, part, number format, runtime) on every device."""
    frame = _frame(folder)
    table = frame.pivot_table(index="device", columns=_KEY, values="latency_ms", aggfunc="median")
    layers = frame.groupby(_KEY).layers_npu.median().reindex(table.columns)
    log_layers = np.log(layers.fillna(layers.median()).to_numpy(dtype=float))
    items = table.columns.to_frame(index=False)
    log_ms = np.log(table.to_numpy())
    precision, runtime = list(items.precision), list(items.runtime)
    network = list(items.model_id + "/" + items.component)
    own = (
        same(precision, 0.05)
        + same(runtime, 0.02)
        + same([f"{p}/{r}" for p, r in zip(precision, runtime, strict=True)], 0.02)
        + same(network, 0.03)
        + same([f"{n}/{p}" for n, p in zip(network, precision, strict=True)], 0.03)
        + trend(log_layers, 0.005, precision)
    )
    return Table(
        devices=tuple(table.index), log_ms=log_ms, own=own, log_size=_log_size(folder, items.model_id.rename(None))
    )


def ratios(folder: Path) -> Table:
    """Log of the latency in 8-bit integers over that in float, of every (network, part, runtime) with both."""
    frame = _frame(folder)
    wide = frame.pivot_table(
        index=["device", "model_id", "component", "runtime"], columns="precision", values="latency_ms", aggfunc="median"
    )
    ratio = np.log(wide["w8a8"] / wide["float"]).dropna()
    table = ratio.unstack(["model_id", "component", "runtime"])
    items = table.columns.to_frame(index=False)
    runtime, network = list(items.runtime), list(items.model_id + "/" + items.component)
    own = same(runtime, 0.03) + same(network, 0.08)
    return Table(
        devices=tuple(table.index),
        log_ms=table.to_numpy(),
        own=own,
        log_size=_log_size(folder, items.model_id.rename(None)),
    )
