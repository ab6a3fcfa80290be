"""AI Hub: hundreds of networks in several number formats and runtimes on phones, boards and a laptop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from modeltailor.estimators.predict import same, trend

Floats = NDArray[np.float64]

Own = Callable[[NDArray[np.bool_], int], Floats]
"""Covariance over what is known of the items, given the pooled rows of the table and the row that is predicted."""

_KEY = ["model_id", "component", "precision", "runtime"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Items on devices.

    Attributes:
        devices: names.
        log_ms: ``[n_devices, n_items]``, NaN where nothing was published; for a ratio table the log ratio.
        own: covariance over what is known of the items.
        log_size: ``[n_items]``, stands for FLOPs, which the source does not give: log parameters.
    """

    devices: tuple[str, ...]
    log_ms: Floats
    own: Own
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
    fixed = (
        same(precision, 0.05)
        + same(runtime, 0.02)
        + same([f"{p}/{r}" for p, r in zip(precision, runtime, strict=True)], 0.02)
        + same(network, 0.03)
        + same([f"{n}/{p}" for n, p in zip(network, precision, strict=True)], 0.03)
        + trend(log_layers, 0.005, precision)
    )

    def own(rows: NDArray[np.bool_], target: int) -> Floats:
        return fixed + trend(_mean_shape(log_ms[rows]), 0.01, precision)

    return Table(
        devices=tuple(table.index), log_ms=log_ms, own=own, log_size=_log_size(folder, items.model_id.rename(None))
    )


def ratios(folder: Path) -> Table:
    """Log of the latency in 8-bit integers over that in float, of every (network, part, runtime) with both.

    The float latencies are given, those on the predicted device too: who asks what int8 brings has run the float model.
    """
    wide = _frame(folder).pivot_table(
        index=["device", "model_id", "component", "runtime"], columns="precision", values="latency_ms", aggfunc="median"
    )
    keys = ["model_id", "component", "runtime"]
    table = np.log(wide["w8a8"] / wide["float"]).dropna().unstack(keys)
    log_float = np.log(wide["float"]).unstack(keys).reindex(index=table.index, columns=table.columns).to_numpy()
    items = table.columns.to_frame(index=False)
    fixed = same(list(items.runtime), 0.03) + same(list(items.model_id + "/" + items.component), 0.08)

    def own(rows: NDArray[np.bool_], target: int) -> Floats:
        usual = _mean_shape(log_float[rows])
        unusual = log_float[target] - usual
        unusual = np.nan_to_num(unusual - np.nanmedian(unusual))  # a float latency out of line changes the ratio
        return fixed + trend(usual, 0.02) + np.outer(unusual, unusual)

    return Table(
        devices=tuple(table.index),
        log_ms=table.to_numpy(),
        own=own,
        log_size=_log_size(folder, items.model_id.rename(None)),
    )


def _mean_shape(log_ms: Floats) -> Floats:
    """Return the mean of the pooled devices, each around its own level; zero where none has a value."""
    seen = (~np.isnan(log_ms)).any(axis=0)
    shape = np.zeros(log_ms.shape[1])
    shape[seen] = np.nanmean((log_ms - np.nanmean(log_ms, axis=1, keepdims=True))[:, seen], axis=0)
    return shape
