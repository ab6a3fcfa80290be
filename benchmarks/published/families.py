"""ncnn networks of a family that was left out, on a chip that was left out: only the layers are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from modeltailor.estimators.predict import Mixture, band_factor, learn_costs, needed_factors, widened
from published import ncnn
from published.score import Effort, Score, flops_line, score

Floats = NDArray[np.float64]

_MAC_TERMS = ("conv1x1", "conv3x3", "convkxk", "depthwise", "grouped", "product", "int8_1x1", "int8_conv", "int8_group")
_ELEMENT_TERMS = ("kernel_elements", "other_elements", "int8_elements")
_OTHER_KINDS = ("act", "copy", "eltwise", "norm", "pool", "gpool", "resize")
_WINOGRAD_MEETINGS, _GROUP_MEETINGS = 2.0, 0.5  # more than the one of any layer
_GUESS = {
    "fixed": 0.03, "layers": 0.15, "conv1x1": 0.4, "conv3x3": 0.25, "convkxk": 0.4, "depthwise": 2.0, "grouped": 1.0,
    "product": 0.4, "int8_1x1": 0.4, "int8_conv": 0.4, "int8_group": 2.0, "kernel_elements": 0.25,
    "other_elements": 0.3, "int8_elements": 0.2, "weights": 0.1, "thin": 0.05, "thinner": 0.05, "few": 0.05,
}  # fmt: skip


def _amounts(layers: pd.DataFrame) -> dict[str, float]:
    kind, macs = layers.kind, layers.macs.fillna(0)
    integer = layers.int8.fillna(0) > 0
    elements = layers.in_elems.fillna(0) + layers.out_elems.fillna(0)
    runs = ~kind.isin(["free", "Input", "MemoryData"])
    other = kind.isin(_OTHER_KINDS)
    dense = kind == "convkxk"
    winograd = dense & (layers.k == 3) & (layers.stride == 1)
    channels, made = (layers[side].fillna(1).clip(lower=1) for side in ("cin", "cout"))
    grouped, pointwise = kind == "gconv", kind == "conv1x1"
    # Threads meet after each pass: three of a Winograd convolution, and one for some of the groups of a grouped one.
    passes = (
        runs.sum() + _WINOGRAD_MEETINGS * winograd.sum() + _GROUP_MEETINGS * (layers.group[grouped].fillna(1) - 1).sum()
    )
    return {
        "fixed": 1.0,
        "layers": passes,
        "conv1x1": macs[(kind == "conv1x1") & ~integer].sum(),
        "conv3x3": macs[winograd & ~integer].sum(),
        "convkxk": macs[dense & ~winograd & ~integer].sum(),
        "depthwise": macs[(kind == "dwconv") & ~integer].sum(),
        "grouped": macs[(kind == "gconv") & ~integer].sum(),
        "product": macs[kind.isin(["gemm", "attn"])].sum(),
        "int8_1x1": macs[(kind == "conv1x1") & integer].sum(),
        "int8_conv": macs[dense & integer].sum(),
        "int8_group": macs[kind.isin(["dwconv", "gconv"]) & integer].sum(),
        "kernel_elements": elements[runs & ~other].sum(),
        "other_elements": elements[other].sum(),
        "int8_elements": elements[integer].sum(),
        "weights": layers.weights.fillna(0)[kind == "fc"].sum(),
        "thin": (macs / channels.clip(upper=32))[dense].sum(),  # few input channels fill no register
        "thinner": (macs / channels)[dense].sum(),
        "few": (macs / made)[dense | pointwise].sum(),  # few output channels keep few threads busy
    }


def _scaled(amounts: pd.DataFrame) -> pd.DataFrame:
    """Bring all MACs to one unit and all elements to another, so that one guess fits terms that no network shows."""
    amounts = amounts.copy()
    for group in (_MAC_TERMS, _ELEMENT_TERMS, ("weights",)):
        total = amounts[list(group)].sum(axis=1)
        amounts[list(group)] /= np.exp(np.log(total[total > 0]).mean())
    for single in ("layers", "thin", "thinner", "few"):
        amounts[single] /= amounts[single].mean()
    return amounts


def rows(folder: Path, effort: Effort) -> Iterator[Score]:
    """Leave out family and chip; chips are left out in folds, so a few more than the predicted one are unknown."""
    data = ncnn.load(folder)
    table = _scaled(pd.DataFrame([_amounts(data.layers[data.layers.model == n]) for n in data.networks], dtype=float))
    guess, amounts = np.log([_GUESS[c] for c in table.columns]), table.to_numpy()
    families, chips = np.array(data.families), sorted(set(data.chips))
    fold_of = {c: i % effort.folds for i, c in enumerate(np.random.default_rng(0).permutation(chips))}
    folds = np.array([fold_of[c] for c in data.chips])
    found: dict[tuple[int, str], tuple[Mixture, NDArray[np.intp], Floats]] = {}
    for family in sorted(set(data.families)):
        others, targets = np.flatnonzero(families != family), np.flatnonzero(families == family)
        for fold in range(effort.folds):
            given = folds != fold
            population = learn_costs(data.log_ms[given][:, others], amounts[others], data.trust[given], guess)
            for run in np.flatnonzero(folds == fold):
                truth = data.log_ms[run]
                there, wanted = np.flatnonzero(~np.isnan(truth[others])), targets[~np.isnan(truth[targets])]
                if len(wanted):
                    own = data.own[np.ix_(others, others)]
                    measured = others[population.choose(effort.k, amounts[others], there, own)]
                    both = np.concatenate([measured, wanted])
                    mixture = population.posterior(
                        amounts[measured], truth[measured], amounts[wanted], data.own[np.ix_(both, both)]
                    )
                    flops = flops_line(data.log_macs, measured, truth[measured], wanted)
                    found[int(run), family] = (mixture, wanted, flops)
    needed = {key: needed_factors(m, data.log_ms[key[0]][wanted]) for key, (m, wanted, _) in found.items()}
    factors: dict[tuple[int, str], float] = {}
    for run in range(len(data.runs)):
        low, middle, high, truths, lines = [], [], [], [], []
        for family in sorted({f for r, f in found if r == run}):
            mixture, wanted, flops = found[run, family]
            key = (int(folds[run]), family)
            if key not in factors:  # other families on other chips say how wide a band must be
                pooled = [n for (r, f), n in needed.items() if f != family and folds[r] != folds[run]]
                factors[key] = band_factor([np.concatenate(pooled)])
            band = widened(mixture, factors[key])
            for column, values in zip((low, middle, high), (band.low, band.middle, band.high), strict=True):
                column.append(values)
            truths.append(data.log_ms[run][wanted])
            lines.append(flops)
        whole = type(band)(low=np.concatenate(low), middle=np.concatenate(middle), high=np.concatenate(high))
        yield score(data.runs[run], whole, np.concatenate(truths), np.concatenate(lines))
