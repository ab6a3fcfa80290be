"""The part of :mod:`modeltailor.validation` that loads what came from outside; runs in a child process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modeltailor.errors import DataError, ModelError, ModelTailorError
from modeltailor.targets import RuntimeOptions
from modeltailor.workloads import (
    Split,
    Splits,
    WorkloadSpec,
    bind_inputs,
    check_onnx_file,
    load_module,
    load_splits,
    model_kind,
    resolve_metric,
)

if TYPE_CHECKING:
    import torch

__all__ = ["DataSeen", "ModelSeen", "ScoreSeen", "data", "metric", "model", "score"]

_SAMPLES = 64
_SHARED = re.compile(r"^\w+ and \w+ share \d+ of \d+ samples$")
"""How loading the splits notes samples that stand in two of them."""

_splits: dict[WorkloadSpec, Splits] = {}
_modules: dict[WorkloadSpec, torch.nn.Module] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSeen:
    """A model that loads: its kind, its parameters, and the shape by input name where the model tells."""

    kind: str
    parameters: int
    inputs: tuple[tuple[str, str], ...]

    def line(self) -> str:
        """For people."""
        named = {"torch": "PyTorch", "hf": "Hugging Face folder", "onnx": "ONNX"}[self.kind]
        takes = ", ".join(f"{name} {shape}".rstrip() for name, shape in self.inputs)
        only = "; formats and mild cuts of channels and ranks, untrained; blocks and students need PyTorch"
        return f"{named}, {self.parameters:,} parameters, takes {takes}{only if self.kind == 'onnx' else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSeen:
    """Splits that are whole.

    Attributes:
        sizes: samples by split.
        shapes: shape and type of a sample by input.
        notes: what was cut, or overlaps by accident.
        labels: kind of the labels as NumPy names it (``i``, ``f`` ...); empty without labels.
        label_ndim: dimensions of all labels of a split together.
        apart: whether no sample of ``search`` or ``test`` stands in another split, not even by accident.
    """

    sizes: tuple[tuple[str, int], ...]
    shapes: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    labels: str = ""
    label_ndim: int = 0
    apart: bool = False

    def line(self) -> str:
        """For people."""
        sizes = ", ".join(f"{name} {n:,}" for name, n in self.sizes)
        apart = "; no sample of search or test stands in another split" if self.apart else ""
        return f"{sizes}; a sample is {', '.join(f'{k} {s}' for k, s in self.shapes)}{apart}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSeen:
    """What the model scores on a few samples."""

    metric: str
    value: float
    samples: int

    def line(self) -> str:
        """For people."""
        return f"{self.metric} {self.value:.4f} on the first {self.samples} samples of search"


def metric(spec: WorkloadSpec) -> str:
    """Resolve the metric and describe it."""
    found = resolve_metric(spec.metric, spec.root)
    return f"{found.name}, {'smaller' if found.minimize else 'larger'} is better"


def model(spec: WorkloadSpec) -> ModelSeen:
    """Load the model."""
    kind = model_kind(spec.model, spec.root)
    if kind == "onnx":
        return _onnx(spec)
    import inspect

    module = _module(spec)
    names = [n for n in inspect.signature(module.forward).parameters if n not in ("args", "kwargs")]
    parameters = sum(p.numel() for p in module.parameters())
    return ModelSeen(kind=kind, parameters=parameters, inputs=tuple((n, "") for n in names) or (("x", ""),))


def _module(spec: WorkloadSpec) -> torch.nn.Module:
    if spec not in _modules:
        _modules[spec] = load_module(spec.model, spec.root)
    return _modules[spec]


def _onnx(spec: WorkloadSpec) -> ModelSeen:
    import onnx

    from modeltailor.targets.session import input_specs

    path = spec.root / spec.model.source
    check_onnx_file(path)
    try:
        proto = onnx.load(path)
    except Exception as error:  # protobuf and onnx raise many kinds here
        raise ModelError(
            "MODEL-02", path.name, f"not a readable ONNX file ({path.stat().st_size:,} bytes)", "export it again"
        ) from error
    parameters = sum(int(np.prod(t.dims)) for t in proto.graph.initializer)
    shapes = tuple((s.name, f"[{', '.join(str(d or '?') for d in s.shape)}]") for s in input_specs(path))
    if not shapes:
        raise ModelError("MODEL-17", path.name, "has no inputs", "export it again")
    return ModelSeen(kind="onnx", parameters=parameters, inputs=shapes)


def data(spec: WorkloadSpec) -> DataSeen:
    """Load the splits, complete them, and look whether they overlap."""
    splits = _load(spec)
    rows = _rows_per_sample(spec)
    shapes = tuple((k, f"{list(v.shape[1:])} {v.dtype}") for k, v in splits.search.inputs.items())
    sizes = tuple((s.name, len(s) // rows) for s in splits.present())
    y = splits.search.targets
    kind = "" if y is None else "i" if y.dtype.kind in "iub" else y.dtype.kind
    return DataSeen(
        sizes=sizes,
        shapes=shapes,
        notes=splits.notes,
        labels=kind,
        label_ndim=0 if y is None else y.ndim,
        apart=not any(_SHARED.search(note) for note in splits.notes),
    )


def _load(spec: WorkloadSpec) -> Splits:
    if spec not in _splits:
        _splits[spec] = load_splits(spec.data, spec.root, rows_per_sample=_rows_per_sample(spec))
    return _splits[spec]


def _rows_per_sample(spec: WorkloadSpec) -> int:
    try:
        return resolve_metric(spec.metric, spec.root).rows_per_sample
    except ModelTailorError:  # told as a problem of the metric; the data can be looked at all the same
        return spec.metric.rows_per_sample


def score(spec: WorkloadSpec) -> ScoreSeen:
    """Run the model on a few samples and apply the metric.

    Raises:
        DataError: the samples do not fit the model, or the metric failed.
    """
    found = resolve_metric(spec.metric, spec.root)
    few = _load(spec).search.take(slice(0, _SAMPLES * found.rows_per_sample))
    outputs = _run_onnx(spec, few) if model_kind(spec.model, spec.root) == "onnx" else _run_module(spec, few)
    bad = [k for k, v in outputs.items() if v.dtype.kind == "f" and not np.isfinite(v).all()]
    if bad:
        raise ModelError("MODEL-16", bad[0], "the model gives NaN or infinity on its own data", "check the weights")
    assert few.targets is not None
    value = found.evaluate(outputs, few.targets)
    return ScoreSeen(metric=found.name, value=value, samples=len(few) // found.rows_per_sample)


def _run_onnx(spec: WorkloadSpec, few: Split) -> Mapping[str, NDArray[Any]]:
    from modeltailor.targets.session import input_specs, open_session, run_batches

    path = spec.root / spec.model.source
    specs = input_specs(path)
    shapes = {s.name: tuple(d if isinstance(d, int) else None for d in s.shape) for s in specs}
    inputs = bind_inputs(few.inputs, tuple(shapes), shapes)
    return run_batches(open_session(path, RuntimeOptions()), inputs, batch_size=_SAMPLES)


def _run_module(spec: WorkloadSpec, few: Split) -> Mapping[str, NDArray[Any]]:
    import torch

    arrays = {k: torch.from_numpy(np.array(v)) for k, v in few.inputs.items()}
    module = _module(spec)
    try:
        with torch.no_grad():
            found = module(*arrays.values()) if len(arrays) == 1 else module(**arrays)
    except Exception as error:
        shapes = ", ".join(f"{k} {tuple(v.shape)} {str(v.dtype).removeprefix('torch.')}" for k, v in arrays.items())
        raise DataError(
            "DATA-03", "data", f"the model raised {type(error).__name__} on samples of {shapes}: {error}",
            "give samples of the shape and type that it takes",
        ) from error  # fmt: skip
    return {f"output_{i}": t.numpy() for i, t in enumerate(_tensors(found))}


def _tensors(value: object) -> list[torch.Tensor]:
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for v in value.values() for t in _tensors(v)]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in _tensors(v)]
    return []
