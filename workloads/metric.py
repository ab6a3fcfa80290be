"""Metrics: what a model is worth. Direction and unit belong to the metric.

A metric sees all outputs of a split at once. Those that are a mean over samples say so with ``per_sample``, which gives
paired intervals from the same samples; all others get theirs from a bootstrap over samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modeltailor.errors import ConfigError, DataError

__all__ = ["BUILT_IN", "Metric", "MetricSpec", "Outputs", "Task"]

Array = NDArray[Any]
Outputs = Mapping[str, Array]
Task = Literal["classification", "regression", "embedding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """A metric as data: a built-in's name, or a function of the user.

    Attributes:
        name: of a built-in, or ``file.py:function`` called as ``function(outputs, y)``.
        minimize: whether smaller is better; decided by the metric itself for built-ins.
        unit: for reports, for instance ``%``.
        rows_per_sample: consecutive rows of the data that make one sample (2 for pairs of sentences).
    """

    name: str = "accuracy"
    minimize: bool = False
    unit: str = ""
    rows_per_sample: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric that can be computed.

    Attributes:
        name: shown to people.
        minimize: whether smaller is better.
        unit: for reports.
        rows_per_sample: consecutive rows of the data that make one sample.
        value: outputs by name and targets to one number.
        per_sample: outputs and targets to one number a sample, if the metric is their mean.
        task: what the outputs are, where the metric says so: training learns accordingly.
    """

    name: str
    minimize: bool
    unit: str
    rows_per_sample: int
    value: Callable[[Outputs, Array], float]
    per_sample: Callable[[Outputs, Array], Array] | None = None
    task: Task | None = None

    def evaluate(self, outputs: Outputs, targets: Array) -> float:
        """Return the metric's value.

        Raises:
            DataError: it raised, or returned something that is not one finite number.
        """
        try:
            value = self.value(outputs, targets)
        except Exception as error:
            raise DataError(
                "DATA-05",
                f"metric {self.name}",
                f"raised {type(error).__name__}: {error}",
                "mend the metric or its data",
            ) from error
        if isinstance(value, (bool, str)) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise DataError(
                "DATA-06",
                f"metric {self.name}",
                f"must return one number; got {type(value).__name__}",
                "return a float",
            )
        if not math.isfinite(value):
            raise DataError(
                "DATA-06", f"metric {self.name}", f"must return a finite number; got {value}", "mend the metric"
            )
        return float(value)


def _first(outputs: Outputs) -> Array:
    return next(iter(outputs.values()))


def _scores(outputs: Outputs, y: Array, axis: int = -1) -> tuple[Array, Array]:
    """Class scores, and one label for each row of them; labels ``[n, 1]`` are as good as ``[n]``.

    Raises:
        ValueError: there is one score only, or the labels are not one a row. Broadcasting would compare every sample
            with every other.
    """
    scores = _first(outputs)
    if scores.ndim < 2 or scores.shape[axis] < 2:
        raise ValueError(f"outputs {list(scores.shape)} hold no two class scores a sample")
    rows = tuple(np.delete(scores.shape, axis))
    if len(y) != len(scores) or y.size != math.prod(rows):
        raise ValueError(f"labels {list(y.shape)} do not fit outputs {list(scores.shape)}")
    return scores, y.reshape(rows)


def _values(outputs: Outputs, y: Array) -> tuple[Array, Array]:
    """Outputs and targets, ``[n, values]`` each."""
    p = _first(outputs)
    if len(p) != len(y) or p.size != y.size:
        raise ValueError(f"targets {list(y.shape)} do not fit outputs {list(p.shape)}")
    return p.reshape(len(y), -1).astype(np.float64), y.reshape(len(y), -1).astype(np.float64)


def _one(y: Array) -> Array:
    """One target a sample, ``[n]``."""
    if y.size != len(y):
        raise ValueError(f"targets {list(y.shape)} are not one a sample")
    return y.reshape(-1)


def _hit(outputs: Outputs, y: Array) -> Array:
    scores, labels = _scores(outputs, y)
    hits: Array = np.asarray(scores.argmax(axis=-1) == labels, dtype=np.float64).reshape(len(y), -1).mean(axis=1)
    return hits


def _hit5(outputs: Outputs, y: Array) -> Array:
    scores, labels = _scores(outputs, y)
    top: Array = np.argsort(-scores, axis=-1)[..., :5]
    hits: Array = np.asarray((top == labels[..., None]).any(axis=-1), dtype=np.float64).reshape(len(y), -1).mean(axis=1)
    return hits


def _squared(outputs: Outputs, y: Array) -> Array:
    p, wanted = _values(outputs, y)
    return np.asarray(((p - wanted) ** 2).mean(axis=1))


def _absolute(outputs: Outputs, y: Array) -> Array:
    p, wanted = _values(outputs, y)
    return np.asarray(np.abs(p - wanted).mean(axis=1))


def _cross_entropy(outputs: Outputs, y: Array) -> Array:
    z, y = _scores(outputs, y)
    z = z.astype(np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    taken = np.take_along_axis(log_p, y[..., None].astype(np.int64), axis=-1)[..., 0]
    return np.asarray(-taken.reshape(len(y), -1).mean(axis=1))


def _f1(outputs: Outputs, y: Array) -> float:
    found, y = _scores(outputs, y)
    predicted = found.argmax(axis=-1)
    scores = []
    for label in np.unique(y):
        hit = float(((predicted == label) & (y == label)).sum())
        wrong = float((predicted == label).sum() + (y == label).sum())
        scores.append(2.0 * hit / wrong if wrong else 0.0)
    return float(np.mean(scores))


def _rank(a: Array) -> Array:
    order = np.argsort(a, kind="stable")
    _, inverse, count = np.unique(a[order], return_inverse=True, return_counts=True)
    end = np.cumsum(count)
    ranks = np.empty(len(a))
    ranks[order] = (end - (count - 1) / 2.0)[inverse]
    return ranks


def _spearman(a: Array, b: Array) -> float:
    return float(np.corrcoef(_rank(a), _rank(b))[0, 1])


def _pooled(outputs: Outputs) -> Array:
    return np.asarray(_first(outputs).reshape(len(_first(outputs)), -1), dtype=np.float64)


def _pair_spearman(outputs: Outputs, y: Array) -> float:
    e = _pooled(outputs)
    e = e / np.linalg.norm(e, axis=1, keepdims=True)
    return _spearman((e[0::2] * e[1::2]).sum(axis=1), _one(y)[0::2])


def _mean_iou(outputs: Outputs, y: Array) -> float:
    scores, y = _scores(outputs, y, axis=1)
    inside = (y >= 0) & (y < scores.shape[1])  # other labels are void: pixels that belong to no class
    if not inside.any():
        raise ValueError(f"no label lies among the {scores.shape[1]} classes of the outputs")
    predicted, y = scores.argmax(axis=1)[inside], y[inside]
    shares = []
    for label in np.unique(y):
        both = float(((predicted == label) & (y == label)).sum())
        either = float(((predicted == label) | (y == label)).sum())
        shares.append(both / either if either else 1.0)
    return float(np.mean(shares))


def _mean_of(per_sample: Callable[[Outputs, Array], Array]) -> Callable[[Outputs, Array], float]:
    return lambda outputs, y: float(per_sample(outputs, y).mean())


def _plain(
    name: str, task: Task, value: Callable[[Outputs, Array], float], *, minimize: bool = False, rows: int = 1, unit: str = ""
) -> Metric:  # fmt: skip
    return Metric(name=name, minimize=minimize, unit=unit, rows_per_sample=rows, value=value, task=task)


def _mean(
    name: str, task: Task, unit: str, per_sample: Callable[[Outputs, Array], Array], *, minimize: bool = False
) -> Metric:
    return Metric(
        name=name, minimize=minimize, unit=unit, rows_per_sample=1, value=_mean_of(per_sample), per_sample=per_sample,
        task=task,
    )  # fmt: skip


BUILT_IN: Mapping[str, Metric] = {
    m.name: m
    for m in (
        _mean("accuracy", "classification", "%", _hit),
        _mean("top5", "classification", "%", _hit5),
        _plain("f1", "classification", _f1),
        _plain("miou", "classification", _mean_iou),
        _plain("rmse", "regression", lambda o, y: float(np.sqrt(_squared(o, y).mean())), minimize=True, unit="units"),
        _mean("mae", "regression", "units", _absolute, minimize=True),
        _mean("cross-entropy", "classification", "nats", _cross_entropy, minimize=True),
        _plain("spearman", "regression", lambda o, y: _spearman(_pooled(o)[:, 0], _one(y))),
        _plain("pair-spearman", "embedding", _pair_spearman, rows=2),
    )
}
"""Metrics by name. ``pair-spearman``: rows 2i and 2i+1 are the two texts of a pair; cosine of outputs against ``y``."""


def built_in(spec: MetricSpec) -> Metric:
    """Return the built-in metric of that name, with the unit that ``spec`` gives.

    Raises:
        ConfigError: there is none, or ``spec`` says of it what it is not.
    """
    try:
        found = BUILT_IN[spec.name]
    except KeyError:
        raise ConfigError(
            "CFG-10",
            "metric",
            f"no metric is named '{spec.name}'",
            f"use one of {', '.join(BUILT_IN)}, or file.py:function",
        ) from None
    if spec.rows_per_sample not in (1, found.rows_per_sample):
        raise ConfigError(
            "CFG-09", "metric.rows_per_sample", f"{found.name} takes {found.rows_per_sample} rows a sample, always",
            "leave it out, or write a metric of your own",
        )  # fmt: skip
    if spec.minimize and not found.minimize:
        raise ConfigError("CFG-09", "metric.minimize", f"{found.name} is never minimised", "leave it out")
    return replace(found, unit=spec.unit or found.unit)
