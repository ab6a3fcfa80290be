"""From a PyTorch module to an ONNX file that gives the same outputs; checked, not assumed."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modeltailor.errors import CandidateError, shown
from modeltailor.targets.device import RuntimeOptions
from modeltailor.targets.session import open_session, run_batches

__all__ = ["Exported", "export_onnx"]

_OPSET = 21  # the first with 4-bit tensors
_EXTERNAL_ABOVE_BYTES = 1_900_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """How a file was made.

    Attributes:
        path: where it lies.
        exporter: ``dynamo``, or ``torchscript`` if the first one failed.
        largest_difference: between ONNX Runtime and PyTorch, relative to the largest output value.
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.
        note: why the fallback was taken; empty if it was not.
    """

    path: Path
    exporter: Literal["dynamo", "torchscript"]
    largest_difference: float
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    note: str = ""


def export_onnx(
    module: nn.Module,
    example_inputs: Mapping[str, Tensor] | tuple[Tensor, ...],
    path: Path,
    *,
    dynamic_batch: bool = True,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int = _OPSET,
    tolerance: float = 1e-3,
) -> Exported:
    """Write ``module`` as ONNX; initializers keep the names of the layers.

    The file is run through ONNX Runtime on the example and on two more inputs (other values, another batch size) and
    compared with PyTorch.

    Args:
        module: not changed; exported in ``eval`` mode.
        example_inputs: one example, by name or by position; the first dimension is the batch.
        path: the file to write; its folder exists.
        dynamic_batch: leave the batch size free.
        input_names: names in the graph; by default those of ``example_inputs`` or of ``forward``'s parameters.
        output_names: names in the graph; by default ``output``, or ``output_0``, ``output_1`` ... for several.
        opset: version of the standard operators.
        tolerance: largest difference allowed, relative to the largest output value.

    Raises:
        CandidateError: ``EXPORT`` if neither exporter can write it, ``PARITY`` if the file computes something else.
        ModelError: ONNX Runtime refuses the file.
    """
    copied = copy.deepcopy(module).eval()
    given = example_inputs if isinstance(example_inputs, Mapping) else _by_position(copied, example_inputs)
    wrapped = _Positional(copied, tuple(given))
    inputs = dict(zip(input_names or given, given.values(), strict=True))
    with torch.no_grad():
        n_outputs = len(wrapped(*given.values()))
    outputs = tuple(output_names or (["output"] if n_outputs == 1 else [f"output_{i}" for i in range(n_outputs)]))
    plan = _Plan(wrapped, inputs, outputs, dynamic_batch, opset)
    note = ""
    exporter: Literal["dynamo", "torchscript"] = "dynamo"
    try:
        with _quiet():
            made = _by_dynamo(plan)
    except Exception as error:  # the exporter raises whatever the model provokes
        note = f"the dynamo exporter failed ({type(error).__name__}: {shown(error, 160)})"
        exporter = "torchscript"
        try:
            with _quiet():
                made = _by_torchscript(plan)
        except Exception as second:
            raise CandidateError(
                "EXPORT", type(module).__name__, f"{note}, and so did the older one ({shown(second, 160)})",
                "make forward traceable",
            ) from second  # fmt: skip
    _name_after_layers(made, copied)
    _strip(made)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as beside:
        _save(made, Path(beside) / path.name)
        difference = _checked(plan, Path(beside) / path.name, tolerance)
        for file in sorted(Path(beside).iterdir(), key=lambda f: f.name == path.name):  # weights beside it first
            os.replace(file, path.parent / file.name)
    return Exported(
        path=path,
        exporter=exporter,
        largest_difference=difference,
        inputs=tuple(inputs),
        outputs=outputs,
        note=note,
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    module: _Positional
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    dynamic_batch: bool
    opset: int


class _Positional(nn.Module):
    """Takes tensors by position and gives a tuple of tensors, whatever the module takes and gives."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module = module
        known = inspect.signature(module.forward).parameters
        self.names = names if len(names) > 1 and all(n in known for n in names) else None

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        out = self.module(*inputs) if self.names is None else self.module(**dict(zip(self.names, inputs, strict=True)))
        return tuple(_tensors(out))


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return [t for part in value for t in _tensors(part)] if isinstance(value, tuple | list) else []


def _by_position(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in kinds]
    names += [f"input_{i}" for i in range(len(names), len(inputs))]
    return dict(zip(names, inputs, strict=False))


def _by_dynamo(plan: _Plan) -> onnx.ModelProto:
    batch = torch.export.Dim.DYNAMIC
    shapes = ({0: batch},) if plan.dynamic_batch else (None,)
    example = tuple(_two_rows(v) if plan.dynamic_batch else v for v in plan.inputs.values())
    program = torch.onnx.export(
        plan.module, example, None, dynamo=True, input_names=list(plan.inputs), output_names=list(plan.outputs),
        opset_version=plan.opset, dynamic_shapes=(shapes * len(example),) if plan.dynamic_batch else None,
        external_data=False, verbose=False, optimize=True,
    )  # fmt: skip
    if program is None:
        raise RuntimeError("no program came back")
    return program.model_proto


def _by_torchscript(plan: _Plan) -> onnx.ModelProto:
    axes = {name: {0: "batch"} for name in (*plan.inputs, *plan.outputs)} if plan.dynamic_batch else None
    with tempfile.TemporaryDirectory(prefix="modeltailor-") as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            plan.module, tuple(plan.inputs.values()), path, dynamo=False, input_names=list(plan.inputs),
            output_names=list(plan.outputs), opset_version=min(plan.opset, 20), dynamic_axes=axes,
        )  # fmt: skip
        return onnx.load(path)


def _two_rows(value: Tensor) -> Tensor:
    """A batch of one would be baked in as a constant."""
    return value if len(value) > 1 else torch.cat([value, value])


def _name_after_layers(model: onnx.ModelProto, module: nn.Module) -> None:
    """Take the wrapper's prefix off the names of initializers, and give names to the bare ones that equal a weight."""
    renamed: dict[str, str] = {}
    taken = {t.name for t in model.graph.initializer}
    for tensor in model.graph.initializer:
        name = tensor.name.removeprefix("module.")
        if name != tensor.name and name not in taken:
            renamed[tensor.name] = name
    known = {n for n, _ in module.named_parameters()} | {n for n, _ in module.named_buffers()}
    nameless = [t for t in model.graph.initializer if renamed.get(t.name, t.name) not in known]
    free = {n: p for n, p in module.named_parameters() if n not in {renamed.get(t, t) for t in taken} and p.ndim > 1}
    for tensor in nameless:  # folded (transposed) weights: recognised by value
        found = next((n for n, p in free.items() if _same_values(tensor, p)), None)
        if found is not None:
            renamed[tensor.name] = found
            del free[found]
    for tensor in model.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]
    for value in model.graph.value_info:
        value.name = renamed.get(value.name, value.name)


def _same_values(tensor: onnx.TensorProto, parameter: Tensor) -> bool:
    if len(tensor.dims) != 2 or tuple(tensor.dims) != tuple(reversed(parameter.shape)):
        return False
    return bool(np.array_equal(onnx.numpy_helper.to_array(tensor), parameter.detach().numpy().T))


def _strip(model: onnx.ModelProto) -> None:
    """Drop what only describes: stack traces and shapes of inner values are a tenth of a small file."""
    del model.graph.value_info[:], model.metadata_props[:]
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer, model.graph):
        del part.metadata_props[:]
        part.doc_string = ""


def _save(model: onnx.ModelProto, path: Path) -> None:
    size = sum(int(np.prod(t.dims)) * 4 for t in model.graph.initializer)
    if size > _EXTERNAL_ABOVE_BYTES:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
    else:
        onnx.save(model, path)


def _checked(plan: _Plan, path: Path, tolerance: float) -> float:
    session = open_session(path, RuntimeOptions())
    worst = 0.0
    for values in _variants(plan.inputs, plan.dynamic_batch):
        with torch.no_grad():
            wanted = plan.module(*values.values())
        arrays: dict[str, NDArray[Any]] = {n: v.numpy() for n, v in values.items()}
        got = run_batches(session, arrays, batch_size=len(next(iter(arrays.values()))), output_names=plan.outputs)
        for name, want in zip(plan.outputs, wanted, strict=True):
            have = got[name]
            if tuple(have.shape) != tuple(want.shape):
                raise CandidateError("PARITY", name, f"shape must be {tuple(want.shape)}; the file gives {have.shape}")
            reference = want.numpy().astype(np.float64)
            scale = max(float(np.abs(reference).max(initial=0.0)), 1e-6)
            difference = float(np.abs(have.astype(np.float64) - reference).max(initial=0.0)) / scale
            worst = max(worst, difference)
            if not difference <= tolerance:
                raise CandidateError(
                    "PARITY", name, f"differs from PyTorch by {difference:.2g} of the largest; allowed {tolerance:g}",
                    "check for branches that depend on data",
                )  # fmt: skip
    return worst


def _variants(inputs: dict[str, Tensor], dynamic_batch: bool) -> Iterator[dict[str, Tensor]]:
    """The example; the same with other values; three rows of other values."""
    generator = torch.Generator().manual_seed(0)
    yield inputs
    for n_rows in (0, 3) if dynamic_batch else (0,):
        yield {
            name: _other(value if n_rows == 0 else torch.cat([value[:1]] * n_rows), generator)
            for name, value in inputs.items()
        }


def _other(value: Tensor, generator: torch.Generator) -> Tensor:
    if value.is_floating_point():
        spread = value.std(correction=0) if value.numel() > 1 else torch.zeros(())
        return value + torch.where(spread > 0, spread, 1.0) * torch.randn(value.shape, generator=generator)
    if value.dtype is torch.bool or bool((value == value.flatten()[0]).all()):
        return value  # a mask, or ids without variety: other values could be invalid
    return value.flatten()[torch.randperm(value.numel(), generator=generator)].view_as(value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No print, log or warning of the exporter gets out."""
    loggers = [logging.getLogger(n) for n in ("torch", "torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
