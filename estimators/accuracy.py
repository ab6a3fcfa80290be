"""Accuracy of the very file that is handed over, with intervals from the same samples as the original's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modeltailor.errors import CandidateError, DataError
from modeltailor.workloads import Metric, Outputs, Split, bind_inputs

if TYPE_CHECKING:
    from pathlib import Path

    from modeltailor.targets import RuntimeOptions

__all__ = ["Accuracy", "judge", "run_split"]

Array = NDArray[Any]

_RESAMPLES = 200
_Z95 = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """A metric's value on a split, with 95 % intervals.

    Attributes:
        value: of the metric.
        low: lower end.
        high: upper end.
        difference: to the original on the same samples (candidate - original).
        difference_low: lower end of the paired interval.
        difference_high: upper end of the paired interval.
        n_samples: samples that were scored.
    """

    value: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    n_samples: int


def run_split(model: Path | bytes, split: Split, options: RuntimeOptions, *, batch_size: int = 64) -> dict[str, Array]:
    """Run a built file over a split.

    Returns:
        outputs by name, rows first.

    Raises:
        CandidateError: an output is not finite, or all rows of all outputs are the same.
    """
    from modeltailor.targets.session import input_specs, open_session, run_batches

    session = open_session(model, options)
    names = tuple(spec.name for spec in input_specs(session))
    outputs = run_batches(session, bind_inputs(split.inputs, names), batch_size=batch_size)
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CandidateError("NONFINITE", name, "this output holds NaN or infinity", "")
    if len(split) > 1 and all(_constant(a) for a in outputs.values()):
        where = "model" if isinstance(model, bytes) else model.name
        raise CandidateError("PARITY", where, "every sample gives the same output, so a score would be luck", "")
    return outputs


def _constant(array: Array) -> bool:
    return len(array) > 1 and bool((array == array[:1]).all())


def judge(metric: Metric, outputs: Outputs, targets: Array, reference: Outputs | None = None) -> Accuracy:
    """Score outputs against targets and, paired, against the original's outputs.

    For metrics that are a mean over samples the intervals are normal ones of the mean (of hits and misses Wilson's of a
    share, which never leaves 0..1), the paired one of the mean difference (of hits and misses that of Agresti and Min
    2005, "Simple improved confidence intervals for comparing matched proportions": no sample that flips is no certainty);
    for all others a percentile bootstrap over samples (Efron 1979) with the same draws for both models. Outputs that are
    those of the original, bit by bit, differ by nothing for certain.

    Args:
        metric: what to compute.
        outputs: of the candidate, rows first.
        targets: rows first.
        reference: outputs of the original on the same rows; without them the differences are 0.

    Raises:
        DataError: the metric failed, or is undefined for most draws of the bootstrap.
    """
    value = metric.evaluate(outputs, targets)
    base = value if reference is None else metric.evaluate(reference, targets)
    n = len(targets) // metric.rows_per_sample
    if metric.per_sample is not None:
        mine = metric.per_sample(outputs, targets)
        low, high = _ends(value, mine)
        if reference is None or _same(outputs, reference):
            d_low = d_high = value - base
        else:
            d_low, d_high = _paired_ends(value - base, mine, metric.per_sample(reference, targets))
    else:
        low, high, d_low, d_high = _bootstrap(metric, outputs, targets, reference)
    return Accuracy(
        value=value,
        low=low,
        high=high,
        difference=value - base,
        difference_low=d_low,
        difference_high=d_high,
        n_samples=n,
    )


def _ends(value: float, per_sample: Array) -> tuple[float, float]:
    """The 95 % interval of a mean: Wilson's (1927) where every sample is a hit or a miss, else the normal one."""
    n = len(per_sample)
    if n == 0 or not np.isin(per_sample, (0, 1)).all():
        half = _half_width(per_sample)
        return value - half, value + half
    shrink = 1.0 + _Z95**2 / n
    centre = (value + _Z95**2 / (2 * n)) / shrink
    half = _Z95 * float(np.sqrt(value * (1.0 - value) / n + (_Z95 / (2 * n)) ** 2)) / shrink
    return max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half))


def _paired_ends(difference: float, mine: Array, others: Array) -> tuple[float, float]:
    """The 95 % interval of a mean difference over the same samples."""
    n, delta = len(mine), mine - others
    if n == 0 or not (np.isin(mine, (0, 1)).all() and np.isin(others, (0, 1)).all()):
        half = _half_width(delta)
        return difference - half, difference + half
    more, won, lost = n + 2, float((delta > 0).sum()) + 0.5, float((delta < 0).sum()) + 0.5
    centre = (won - lost) / more
    half = _Z95 * float(np.sqrt(won + lost - (won - lost) ** 2 / more)) / more
    return max(-1.0, min(difference, centre - half)), min(1.0, max(difference, centre + half))


def _same(outputs: Outputs, reference: Outputs) -> bool:
    return len(outputs) == len(reference) and all(
        a.shape == b.shape and bool((a == b).all()) for a, b in zip(outputs.values(), reference.values(), strict=True)
    )


def _half_width(per_sample: Array) -> float:
    if len(per_sample) < 2:
        return 0.0
    return float(_Z95 * per_sample.std(ddof=1) / np.sqrt(len(per_sample)))


def _bootstrap(
    metric: Metric, outputs: Outputs, targets: Array, reference: Outputs | None
) -> tuple[float, float, float, float]:
    k = metric.rows_per_sample
    n = len(targets) // k
    rng = np.random.default_rng(0)  # the same draws for every candidate: comparisons stay paired
    values, differences = [], []
    for _ in range(_RESAMPLES):
        rows = (rng.integers(0, n, n)[:, None] * k + np.arange(k)).ravel()
        try:
            mine = metric.evaluate({o: a[rows] for o, a in outputs.items()}, targets[rows])
            base = (
                0.0 if reference is None else metric.evaluate({o: a[rows] for o, a in reference.items()}, targets[rows])
            )
        except DataError:
            continue  # the metric is undefined for this draw (one class only, a constant)
        values.append(mine)
        differences.append(mine - base)
    if len(values) < _RESAMPLES // 2:
        raise DataError(
            "DATA-05", f"metric {metric.name}", f"is undefined for most draws of {n} samples", "give more samples"
        )
    low, high = (float(v) for v in np.percentile(values, [2.5, 97.5]))
    if reference is None:
        return low, high, 0.0, 0.0
    d_low, d_high = (float(v) for v in np.percentile(differences, [2.5, 97.5]))
    return low, high, d_low, d_high
