"""How a prediction of many items on one left-out device is scored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from modeltailor.estimators.predict import Band

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much of the protocol is run.

    Attributes:
        seeds: repetitions with other candidates and targets, where items are sampled.
        targets: items predicted on each device, where there are thousands.
        inner: groups held out of the rest to widen bands, at most.
        folds: groups of chips that are left out together where each alone would take hours.
        k: measurements on the left-out device.
    """

    seeds: int
    targets: int
    inner: int
    folds: int
    k: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Shares in 0..1; the FLOPs columns are the same measures of a line through log MACs on the same measurements."""

    device: str
    n_items: int
    spearman: float
    within10: float
    within20: float
    inside: float
    flops_spearman: float
    flops_within10: float
    flops_within20: float

    @property
    def flops_better(self) -> bool:
        """Whether FLOPs alone are nearer on this device, by both shares."""
        return self.flops_within10 > self.within10 and self.flops_within20 > self.within20


def _near(predicted: Floats, truth: Floats, share: float) -> float:
    return float((np.abs(np.exp(predicted - truth) - 1) <= share).mean())


def _rank(predicted: Floats, truth: Floats) -> float:
    if len(truth) < 3 or np.ptp(predicted) == 0 or np.ptp(truth) == 0:
        return float("nan")
    return float(spearmanr(predicted, truth).statistic)


def flops_line(log_macs: Floats, measured: NDArray[np.intp], log_ms: Floats, targets: NDArray[np.intp]) -> Floats:
    """Predict by least squares of log latency on log MACs (mean level if the slope cannot be fitted)."""
    design = np.stack([np.ones(len(measured)), log_macs[measured]], axis=1)
    if len(measured) < 2 or np.ptp(log_macs[measured]) == 0:
        return np.full(len(targets), log_ms.mean() if len(log_ms) else 0.0)
    coefficients = np.linalg.lstsq(design, log_ms, rcond=None)[0]
    return np.asarray(coefficients[0] + coefficients[1] * log_macs[targets])


def score(device: str, band: Band, truth: Floats, flops: Floats) -> Score:
    """Score one device."""
    return Score(
        device=device,
        n_items=len(truth),
        spearman=_rank(band.middle, truth),
        within10=_near(band.middle, truth, 0.1),
        within20=_near(band.middle, truth, 0.2),
        inside=float(band.holds(truth).mean()),
        flops_spearman=_rank(flops, truth),
        flops_within10=_near(flops, truth, 0.1),
        flops_within20=_near(flops, truth, 0.2),
    )


def averaged(scores: Iterable[Score]) -> list[Score]:
    """Average the scores of each device over repetitions, devices in order of first appearance."""
    groups: dict[str, list[Score]] = {}
    for s in scores:
        groups.setdefault(s.device, []).append(s)
    fields = ("spearman", "within10", "within20", "inside", "flops_spearman", "flops_within10", "flops_within20")
    return [replace(g[0], **{f: float(np.mean([getattr(s, f) for s in g])) for f in fields}) for g in groups.values()]
