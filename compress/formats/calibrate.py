"""What calibration data shows of a float model: histograms of activations, and the moments of each site's inputs.

Collected once a prepared graph, on demand, and kept: every format and every recipe is made from these. No labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from modeltailor.compress.formats.graph import PreparedGraph, SiteNode
from modeltailor.compress.formats.patches import Patches
from modeltailor.compress.formats.store import Store
from modeltailor.errors import DataError
from modeltailor.targets import Inputs, RuntimeOptions
from modeltailor.targets.session import open_session

__all__ = ["Calibration", "Histogram", "Moments"]

_BINS = 2048
_MOST_FLOATS = 1 << 24  # of intermediate outputs held at a time: 64 MiB
_HISTOGRAM_FLOATS = 1 << 22  # counted of one tensor; more changes nothing


@dataclass(frozen=True, slots=True)
class Histogram:
    """Distribution of one activation tensor.

    Attributes:
        low: smallest value seen.
        high: largest value seen.
        counts: values in 2048 equal bins from ``low`` to ``high``.
    """

    low: float
    high: float
    counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Moments:
    """First and second moments of the vectors that a site multiplies its weight with.

    Attributes:
        second: mean of ``x x^T``, shape ``[groups, K, K]``.
        first: mean of ``x``, shape ``[groups, K]``.
    """

    second: NDArray[np.float32]
    first: NDArray[np.float32]


def with_outputs(model: ModelProto, names: Iterable[str], types: Mapping[str, int]) -> bytes:
    """Return the model with ``names`` as its outputs, serialized."""
    changed = ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    for name in names:
        kind = types.get(name, TensorProto.FLOAT)
        changed.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    return bytes(changed.SerializeToString())


class Calibration:
    """Figures of one prepared graph on one set of inputs.

    Args:
        graph: the float model.
        inputs: calibration samples by input name, each of shape ``[n, ...]``.
        options: how sessions are opened.
        store: where figures are kept between runs.
        seed: of the choice of positions in feature maps.
        rows: vectors that the moments of one site are taken over, about.

    Raises:
        DataError: an input is missing, or the arrays differ in length.
    """

    def __init__(
        self,
        graph: PreparedGraph,
        inputs: Inputs,
        *,
        options: RuntimeOptions,
        store: Store,
        seed: int = 0,
        rows: int = 32768,
    ) -> None:
        wanted = {i.name for i in graph.model.graph.input}
        if wanted - inputs.keys():
            missing = ", ".join(sorted(wanted - inputs.keys()))
            raise DataError("DATA-03", "calibration", f"the model reads '{missing}', which the data lacks", "add it")
        lengths = {len(inputs[name]) for name in wanted}
        if len(lengths) != 1 or not min(lengths):
            raise DataError("DATA-03", "calibration", f"inputs of {sorted(lengths)} samples", "give equally many")
        self._graph = graph
        self._inputs = {name: inputs[name] for name in wanted}
        self._n = lengths.pop()
        self._options = options
        self._store = store
        self._seed = seed
        self._rows = rows
        self._histograms: dict[str, Histogram] = {}
        self._unbounded: set[str] = set()
        self._moments: dict[str, Moments] = {}
        self._outputs: dict[str, NDArray[np.generic]] | None = None
        fixed = [
            i.type.tensor_type.shape.dim[0].dim_value
            for i in graph.model.graph.input
            if i.type.tensor_type.shape.dim and i.type.tensor_type.shape.dim[0].dim_value > 0
        ]
        self._fixed_batch = fixed[0] if fixed else None

    @property
    def n_samples(self) -> int:
        """Number of calibration samples."""
        return self._n

    @property
    def inputs(self) -> Inputs:
        """The calibration samples by input name."""
        return self._inputs

    @property
    def fixed_batch(self) -> int | None:
        """Batch size that the model fixes; ``None`` if it is free."""
        return self._fixed_batch

    def feeds(self, samples: int, size: int = 32) -> Iterator[dict[str, NDArray[np.generic]]]:
        """Yield the first ``samples`` calibration samples as feeds; whole batches only where the model fixes them."""
        step = self._fixed_batch or size
        count = min(samples, self._n)
        for start in range(0, count, step):
            end = start + step if self._fixed_batch else min(start + step, count)
            feed = {k: np.ascontiguousarray(v[start:end]) for k, v in self._inputs.items()}
            short = step - len(next(iter(feed.values()))) if self._fixed_batch else 0
            if short and start:
                return
            if short:
                feed = {k: np.concatenate([v, np.repeat(v[-1:], short, axis=0)]) for k, v in feed.items()}
            yield feed

    def batches(self, names: list[str], floats_a_sample: int) -> Iterator[list[NDArray[np.generic]]]:
        """Run the float model and yield the tensors of that name, a batch at a time.

        A model with a fixed batch sees whole batches only; what is left over is not used unless it is all there is.
        """
        session = open_session(with_outputs(self._graph.model, names, self._graph.types), self._options)
        size = max(1, min(64, _MOST_FLOATS // max(floats_a_sample, 1)))
        for feed in self.feeds(self._n, size):
            yield [np.asarray(v) for v in session.run(names, feed)]

    def _floats_a_sample(self, names: Iterable[str]) -> int:
        total = 0
        for name in names:
            shape = self._graph.shapes.get(name)
            known = [d for d in shape[1:] if d is not None] if shape else []
            total += int(np.prod(known, dtype=np.int64)) if known else 1 << 16
        return total

    def histograms(self, names: Iterable[str]) -> dict[str, Histogram]:
        """Return the distributions of activation tensors, counting those that are not known yet.

        Tensors that hold infinity (scores of attention under a mask) have none and are missing.

        Raises:
            DataError: a tensor holds NaN.
        """
        wanted = sorted(set(names))
        for name in wanted:
            if name not in self._histograms:
                kept = self._store.arrays("histogram", name)
                if kept is not None:
                    low, high = (float(v) for v in kept["range"])
                    self._histograms[name] = Histogram(low, high, kept["counts"].astype(np.int64))
        missing = [n for n in wanted if n not in self._histograms and n not in self._unbounded]
        for start in range(0, len(missing), 64):
            self._count(missing[start : start + 64])
        return {n: self._histograms[n] for n in wanted if n in self._histograms}

    def _count(self, names: list[str]) -> None:
        floats = self._floats_a_sample(names)
        low = dict.fromkeys(names, np.inf)
        high = dict.fromkeys(names, -np.inf)
        for values in self.batches(names, floats):
            for name, value in zip(names, values, strict=True):
                if not value.size:
                    continue
                least, most = float(value.min()), float(value.max())
                if np.isnan(least):
                    raise DataError(
                        "DATA-04", "calibration", f"activation '{name}' is NaN on this data", "check inputs, weights"
                    )
                low[name], high[name] = min(low[name], least), max(high[name], most)
        self._unbounded.update(n for n in names if not np.isfinite([low[n], high[n]]).all())
        names = [n for n in names if n not in self._unbounded]
        counts = {n: np.zeros(_BINS, np.int64) for n in names}
        counted = dict.fromkeys(names, 0)
        for values in self.batches(names, floats) if names else ():
            for name, value in zip(names, values, strict=True):
                if counted[name] >= _HISTOGRAM_FLOATS or not value.size:
                    continue
                width = max(high[name] - low[name], 1e-30)
                at = ((value.reshape(-1).astype(np.float32) - low[name]) * (_BINS / width)).astype(np.int64)
                counts[name] += np.bincount(np.minimum(at, _BINS - 1), minlength=_BINS)
                counted[name] += value.size
            if all(c >= _HISTOGRAM_FLOATS for c in counted.values()):
                break
        for name in names:
            self._histograms[name] = Histogram(low[name], high[name], counts[name])
            self._store.keep("histogram", name, range=np.array([low[name], high[name]]), counts=counts[name])

    def channel_reach(self, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """Return the largest magnitude of each channel (last axis) of activation tensors."""
        wanted = sorted(set(names))
        found = {n: kept["reach"].astype(np.float32) for n in wanted if (kept := self._store.arrays("reach", n))}
        missing = [n for n in wanted if n not in found]
        for values in self.batches(missing, self._floats_a_sample(missing)) if missing else ():
            for name, value in zip(missing, values, strict=True):
                seen = np.abs(value.reshape(-1, value.shape[-1]).astype(np.float32)).max(axis=0)
                found[name] = np.maximum(found[name], seen) if name in found else seen
        for name in missing:
            self._store.keep("reach", name, reach=found[name])
        return found

    def moments(self, site: SiteNode) -> Moments | None:
        """Return the moments of a site's inputs; ``None`` where its kind has none."""
        name = site.site.name
        if name not in self._moments and Patches.fits(self._graph, site):
            self._collect_moments([s for s in self._graph.sites if Patches.fits(self._graph, s)])
        return self._moments.get(name)

    def mean_squares(self, site: SiteNode) -> NDArray[np.float32]:
        """Return the mean square of each input of a matrix product or a convolution, shape ``[groups, K]``.

        It is the diagonal of the second moments, also of sites that have too many inputs for them.
        """
        known = self.moments(site)
        if known is not None:
            return np.diagonal(known.second, axis1=1, axis2=2)
        rng = np.random.default_rng(self._seed)
        patches = Patches(self._graph, site)
        total, count = torch.zeros(site.group, Patches.width(self._graph, site)), 0
        for (value,) in self.batches([site.input], self._floats_a_sample([site.input])):
            rows = patches.rows(value, max(1, self._rows // self._n), rng)
            total += rows.square().sum(dim=1)
            count += rows.shape[1]
        return (total / max(count, 1)).numpy()

    def _collect_moments(self, sites: list[SiteNode]) -> None:
        for site in sites:
            kept = self._store.arrays("moments", site.site.name)
            if kept is not None:
                self._moments[site.site.name] = Moments(
                    kept["second"].astype(np.float32), kept["first"].astype(np.float32)
                )
        missing = [s for s in sites if s.site.name not in self._moments]
        while missing:
            chunk, floats = [], 0
            while missing and floats < (1 << 28):  # the sums themselves: at most 1 GiB at a time
                site = missing.pop(0)
                chunk.append(site)
                floats += Patches.width(self._graph, site) ** 2 * site.group
            self._collect_chunk(chunk)

    def _collect_chunk(self, sites: list[SiteNode]) -> None:
        names = sorted({s.input for s in sites})
        rng = np.random.default_rng(self._seed)
        per_sample = max(1, self._rows // self._n)
        patches = [Patches(self._graph, s) for s in sites]
        for values in self.batches(names, self._floats_a_sample(names)):
            tensors = dict(zip(names, values, strict=True))
            for site, patch in zip(sites, patches, strict=True):
                patch.add(tensors[site.input], per_sample, rng)
        for site, patch in zip(sites, patches, strict=True):
            second, first = patch.moments()
            self._moments[site.site.name] = Moments(second, first)
            self._store.keep("moments", site.site.name, second=second, first=first)

    def outputs(self) -> dict[str, NDArray[np.generic]]:
        """Return the float model's own outputs on the calibration data."""
        if self._outputs is None:
            names = [o.name for o in self._graph.model.graph.output]
            parts = list(self.batches(names, self._floats_a_sample(names)))
            self._outputs = {n: np.concatenate([p[k] for p in parts]) for k, n in enumerate(names)}
        return self._outputs
