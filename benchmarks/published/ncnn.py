"""The ncnn benchmark: 35 networks on CPUs, by device, thread count and power mode, with the layers of each network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from modeltailor.estimators.predict import near, same, trend

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Runs:
    """All CPU runs.

    Attributes:
        runs: device and run number of each.
        chips: the chip group of each run: devices whose names share a chip number are one group.
        trust: ``[n_runs]``: one over the root of the number of runs of the device.
        networks: names.
        families: family of each network.
        log_ms: ``[n_runs, n_networks]``, NaN where nothing was published.
        own: ``[n_networks, n_networks]`` covariance over what is known of the networks.
        log_macs: ``[n_networks]``.
        layers: one row a layer.
    """

    runs: tuple[str, ...]
    chips: tuple[str, ...]
    trust: Floats
    networks: tuple[str, ...]
    families: tuple[str, ...]
    log_ms: Floats
    own: Floats
    log_macs: Floats
    layers: pd.DataFrame


def _chips(names: list[str]) -> dict[str, str]:
    """Group devices that share a number of three digits or more (years aside): rather too coarse than too fine."""
    numbers = {n: {t for t in re.findall(r"\d{3,}", n) if not re.fullmatch(r"20[12]\d", t)} for n in names}
    group = {n: n for n in names}
    for a in names:
        for b in names:
            if numbers[a] & numbers[b] and group[a] != group[b]:
                old, new = group[a], group[b]
                group = {n: new if g == old else g for n, g in group.items()}
    return group


def family_of(network: str) -> str:
    """Return the leading letters of a name: ``mobilenet_v2_ssd`` and ``mobilenetv2`` are both ``mobilenet``."""
    found = re.match(r"[A-Za-z]+", network)
    letters = found.group().lower() if found else network
    return letters[:-1] if letters.endswith("v") else letters


def load(folder: Path) -> Runs:
    """Read the runs, the networks and their layers."""
    frame = pd.read_csv(folder / "ncnn_bench.csv.gz")
    frame = frame[frame.gpu_device.fillna(-1) < 0]
    networks = pd.read_csv(folder / "ncnn_models.csv").set_index("model")
    spelled = {n.replace("_", "-"): n for n in networks.index}
    frame = frame.assign(
        model=frame.model.map(lambda m: m if m in networks.index else spelled.get(m.replace("_", "-")))
    )
    table = frame.dropna(subset=["model"]).pivot_table(
        index=["device", "run"], columns="model", values="avg_ms", aggfunc="median"
    )
    table = table.reindex(columns=networks.index)
    table = table[table.notna().sum(axis=1) >= 11]
    devices = pd.Series(table.index.get_level_values(0))
    group = _chips(sorted(set(devices)))
    log_macs = np.log(networks.macs.to_numpy(dtype=float))
    log_layers = np.log(networks.layers.to_numpy(dtype=float))
    log_moved = np.log(networks.act_elems.to_numpy(dtype=float))
    integers = np.array([n.endswith("int8") for n in networks.index], dtype=float)
    features = np.stack([(v - v.mean()) / v.std() for v in (log_macs, log_layers, log_moved)] + [2 * integers], axis=1)
    own = (
        trend(log_macs, 0.02)
        + same([str(i) for i in integers], 0.1)
        + near(features, 0.03)
        + same(list(networks.index), 0.01)
    )
    return Runs(
        runs=tuple(f"{device[:60]} #{run}" for device, run in table.index),
        chips=tuple(group[d] for d in devices),
        trust=1.0 / np.sqrt(devices.map(devices.value_counts()).to_numpy(dtype=float)),
        networks=tuple(networks.index),
        families=tuple(family_of(n) for n in networks.index),
        log_ms=np.log(table.to_numpy()),
        own=own,
        log_macs=log_macs,
        layers=pd.read_csv(folder / "ncnn_model_layers.csv.gz"),
    )
