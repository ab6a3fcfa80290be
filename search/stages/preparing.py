"""The first stage of a run: load the workload, check it, write the fp32 network as ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from modeltailor.durable import sha256_file
from modeltailor.errors import DataError, ModelError
from modeltailor.search.stages.facts import ORIGINAL, PreparedFacts
from modeltailor.search.stages.shaping import Shapes, shapes_of_file, shapes_of_module
from modeltailor.search.stages.workshop import Workshop, open_workshop
from modeltailor.workloads import (
    Splits,
    WorkloadSpec,
    bind_inputs,
    check_onnx_file,
    load_splits,
    model_kind,
    resolve_metric,
    store_splits,
)

__all__ = ["prepare"]

_WEIGHTED = (
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "BatchNormalization",
    "LayerNormalization",
    "LSTM",
    "GRU",
    "RNN",
)


def prepare(spec: WorkloadSpec, work: Path, cache: Path | None, seed: int, structures: bool) -> PreparedFacts:
    """Load model and data, check them against each other, and write the fp32 network as ONNX into the work folder.

    Args:
        spec: the workload as data.
        work: the run's work folder.
        cache: where trained structures are kept between runs.
        seed: of the cut of missing splits.
        structures: whether channel groups and removable blocks are wanted.
    """
    kind = model_kind(spec.model, spec.root)
    if kind == "onnx":
        check_onnx_file(spec.root / spec.model.source)
    metric = resolve_metric(spec.metric, spec.root)
    splits = load_splits(spec.data, spec.root, rows_per_sample=metric.rows_per_sample, seed=seed)
    digests = store_splits(splits, work / "data")
    workshop = open_workshop(spec, work, cache, splits)
    target = work / f"{ORIGINAL}.onnx"
    notes = list(splits.notes)
    if workshop.module is None:
        fixed, parameters = _adopt_onnx(spec.root / spec.model.source, target, splits)
        shapes = shapes_of_file(workshop, target) if structures else Shapes()
    else:
        fixed = None
        _try_out(workshop)
        notes += workshop.export(workshop.module, ORIGINAL)
        shapes = shapes_of_module(workshop) if structures else Shapes()
        parameters = sum(p.numel() for p in workshop.module.parameters())
    return PreparedFacts(
        kind=kind,
        digest=sha256_file(target)[:16],
        parameters=parameters,
        input_names=workshop.input_names,
        fixed_batch=fixed,
        split_sizes=tuple((s.name, len(s) // metric.rows_per_sample) for s in splits.present()),
        split_digests=tuple(digests.items()),
        notes=(*notes, *shapes.notes),
        groups=shapes.groups,
        blocks=shapes.blocks,
        has_student=bool(spec.model.student),
        macs=shapes.macs,
        factors=shapes.factors,
        resolutions=shapes.resolutions,
        is_image=_is_image(splits),
    )


def _is_image(splits: Splits) -> bool:
    first, *more = splits.search.inputs.values()
    return not more and first.ndim == 4 and first.dtype.kind == "f"


def _adopt_onnx(source: Path, target: Path, splits: Splits) -> tuple[int | None, int]:
    """Copy the user's file into the work folder after checking it. Returns fixed batch and parameters."""
    import onnx

    try:
        model = onnx.load(source)
        onnx.checker.check_model(model)
    except Exception as error:
        raise ModelError("MODEL-02", source.name, f"the ONNX checker refuses it: {error}", "export it again") from error
    weights = {name for node in model.graph.node if node.op_type in _WEIGHTED for name in node.input}
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        # minus infinity is a fine constant in a mask of attention
        wrong = (
            array.dtype.kind == "f" and not (np.isfinite(array) if tensor.name in weights else ~np.isnan(array)).all()
        )
        if wrong:
            raise ModelError("MODEL-16", tensor.name, "NaN or infinity in the weights", "check the training")
    held = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in held]
    shapes = {
        i.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in i.type.tensor_type.shape.dim)
        for i in inputs
    }
    bind_inputs(splits.search.take(slice(0, 1)).inputs, tuple(shapes), shapes)
    first = next(iter(shapes.values()))
    parameters = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    onnx.save(model, target)
    return (first[0] if first else None), parameters


def _try_out(workshop: Workshop) -> None:
    """Run the module once on real samples, so that a mismatch is told in the words of the data."""
    import torch

    assert workshop.module is not None
    example = workshop.example()
    try:
        with torch.no_grad():
            workshop.module(**example)
    except Exception as error:
        shapes = ", ".join(f"{k} {tuple(v.shape)} {str(v.dtype).removeprefix('torch.')}" for k, v in example.items())
        raise DataError(
            "DATA-03", "data", f"the model raised {type(error).__name__} on two samples of {shapes}: {error}",
            "give samples of the shape and type that it takes",
        ) from error  # fmt: skip
