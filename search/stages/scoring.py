"""The stages that judge a built file: what the runtime executes of it, and what it scores."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeltailor.canonical import content_key
from modeltailor.compress import Site
from modeltailor.errors import CandidateError, DataError
from modeltailor.estimators.accuracy import Accuracy, judge, run_split
from modeltailor.search.stages.facts import ExecutedGraph, ScoredModel
from modeltailor.targets import RuntimeOptions
from modeltailor.workloads import Metric, MetricSpec, Split, open_split, resolve_metric

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

__all__ = ["BATCH", "graph_key", "inspect", "score"]

BATCH = 64
"""Rows of one inference, where a model leaves that free."""
_SHAPE_LIKE = 64
_FIRST_SAMPLES = 256
"""Samples of the first heat of a race; each further heat doubles them."""

_SURE = 2.6
"""A race is called off only where the interval, this much wider, stays on the wrong side of the bar: it is looked at
several times, and each look is a chance to err."""


def inspect(model: Path, options: RuntimeOptions, known_sites: tuple[Site, ...]) -> ExecutedGraph:
    """Return what the runtime executes of a built file.

    Args:
        model: the file.
        options: how sessions are opened on the device.
        known_sites: sites whose kernels are wanted; without any, nothing is looked at.

    Raises:
        CandidateError: the runtime refuses it.
    """
    from modeltailor.compress.formats import executed_kernels
    from modeltailor.targets.session import optimized_model

    if not known_sites:
        return ExecutedGraph()
    optimized = optimized_model(model, options)
    kernels = tuple(sorted(executed_kernels(optimized, known_sites).items()))
    return ExecutedGraph(kernels=kernels, graph=graph_key(optimized))


def score(
    work: Path,
    model: Path,
    split_name: str,
    metric_spec: MetricSpec,
    root: Path,
    options: RuntimeOptions,
    fixed_batch: int | None,
    is_reference: bool,
    bar: float | None,
) -> ScoredModel:
    """Run a built file over a split and score it, paired with the original's outputs on the same samples.

    Args:
        work: the run's work folder.
        model: the file.
        split_name: ``search`` or ``test``.
        metric_spec: what to compute.
        root: folder of the job file, where a metric of the user lies.
        options: how sessions are opened on the device.
        fixed_batch: rows of one inference if the model fixes them.
        is_reference: this is the fp32 original: keep its outputs for the comparisons that follow.
        bar: difference to the original, in the metric's unit, below which (above, for a metric that is minimised) the
            figure decides nothing: scoring stops as soon as it is clearly on the wrong side. ``None``: run everything.

    Raises:
        CandidateError: outputs are not finite or constant, or the metric failed.
        DataError: the metric failed.
    """
    started = time.monotonic()
    split = open_split(work / "data", split_name)
    if split is None or split.targets is None:
        raise CandidateError("EVAL", split_name, "the stored split is gone", "")
    metric = resolve_metric(metric_spec, root)
    kept = work / f"outputs-{split_name}.npz"
    reference = None
    if not is_reference and kept.exists():
        with np.load(kept) as archive:
            reference = {k: archive[k] for k in archive.files}
    batch = fixed_batch or BATCH
    if bar is not None and reference is not None:
        accuracy, complete = _race(model, split, metric, reference, options, batch, bar)
    else:
        outputs = run_split(model, split, options, batch_size=batch)
        if is_reference:
            np.savez(kept, **outputs)  # type: ignore[arg-type]
        elif reference is not None:
            outputs = dict(zip(reference, outputs.values(), strict=True))
        accuracy, complete = judge(metric, outputs, np.asarray(split.targets), reference), True
    return ScoredModel(accuracy=accuracy, complete=complete, seconds=time.monotonic() - started)


def _race(
    model: Path,
    split: Split,
    metric: Metric,
    reference: Mapping[str, Any],
    options: RuntimeOptions,
    batch: int,
    bar: float,
) -> tuple[Accuracy, bool]:
    """Score on growing shares of the split, in an order drawn once, until all is run or it is clearly under the bar."""
    rows = metric.rows_per_sample
    n = len(split) // rows
    order = np.random.default_rng(0).permutation(n)
    targets = np.asarray(split.targets)
    run: dict[str, list[Any]] = {name: [] for name in reference}
    done, until = 0, min(_FIRST_SAMPLES, n)
    while True:
        index = _rows(order[done:until], rows)
        found = run_split(model, split.take(index), options, batch_size=batch)
        for name, array in zip(reference, found.values(), strict=True):
            run[name].append(array)
        done = until
        index = _rows(order[:done], rows)
        if done == n:
            back = np.argsort(index)
            outputs = {k: np.concatenate(v)[back] for k, v in run.items()}
            whole = np.sort(index)
            return judge(metric, outputs, targets[whole], {k: v[whole] for k, v in reference.items()}), True
        until = min(2 * done, n)
        so_far = {k: np.concatenate(v) for k, v in run.items()}
        try:
            accuracy = judge(metric, so_far, targets[index], {k: v[index] for k, v in reference.items()})
        except DataError:  # some metrics are undefined on a part of the samples (one class only): look again later
            continue
        if is_hopeless(accuracy, bar, minimize=metric.minimize):
            return accuracy, False


def is_hopeless(accuracy: Accuracy, bar: float, *, minimize: bool) -> bool:
    """Whether a figure over part of the samples is clearly on the wrong side of ``bar``."""
    if minimize:
        return accuracy.difference - _SURE * (accuracy.difference - accuracy.difference_low) / 1.96 > bar
    return accuracy.difference + _SURE * (accuracy.difference_high - accuracy.difference) / 1.96 < bar


def _rows(samples: Any, rows_per_sample: int) -> Any:
    return (np.asarray(samples)[:, None] * rows_per_sample + np.arange(rows_per_sample)).ravel()


def graph_key(optimized: ModelProto) -> str:
    """Return a key of what an optimized graph executes: operators, attributes, wiring, types and shapes of its constants.

    The values of the weights do not enter: integer and float kernels take the same time whatever they multiply.

    Args:
        optimized: as the runtime wrote it after its optimizations.
    """
    numbers: dict[str, int] = {"": -1}

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers))

    rows: list[object] = [[number(i.name), i.type.SerializeToString().hex()] for i in optimized.graph.input]
    constants = {t.name: _constant_key(t) for t in optimized.graph.initializer}
    for node in optimized.graph.node:
        inputs = [constants.get(name) or number(name) for name in node.input]
        attributes = sorted(a.SerializeToString(deterministic=True).hex() for a in node.attribute)
        rows.append([node.domain, node.op_type, inputs, [number(name) for name in node.output], attributes])
    return content_key(rows)


def _constant_key(tensor: TensorProto) -> list[object]:
    """Type and shape; with the values where a constant is itself a shape, an axis or an index."""
    from onnx import TensorProto as Types
    from onnx import numpy_helper

    few = int(np.prod(tensor.dims)) <= _SHAPE_LIKE and tensor.data_type in (Types.INT64, Types.BOOL)
    return [tensor.data_type, list(tensor.dims), numpy_helper.to_array(tensor).ravel().tolist() if few else None]
