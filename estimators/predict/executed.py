"""ONNX files as an absent device would execute them: read from the graph that the runtime here makes of them.

The runtime folds, fuses and unpacks while it loads a file; what it then runs depends on the file and hardly on the
device, as long as optimizations that belong to one processor are left out. Loading happens in a process of its own,
because the file may come from anywhere.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import onnx

from modeltailor.errors import CandidateError, ModelError
from modeltailor.estimators.predict.graph import ExecutedGraph, bits_of, read_model
from modeltailor.estimators.predict.work import GraphWork, work_of
from modeltailor.targets import Child, RuntimeOptions
from modeltailor.targets.profile import Profile

__all__ = ["ExecutedFile", "executed_files", "look", "vector_lanes"]

Shapes = Mapping[str, Sequence[int]]

_CPU = "CPUExecutionProvider"
_LANES = {"avx512": 16, "avx": 8}
_TIMEOUT_S = 120.0
_KEPT_ELEMENTS = 4096  # a larger tensor never decides a shape


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedFile:
    """A file as it is executed.

    Attributes:
        graph: kernels, activations, and ``stored_bytes`` of the weights as they lie in the file.
        work: of the kernels.
    """

    graph: ExecutedGraph
    work: GraphWork


def vector_lanes(profile: Profile) -> int:
    """Return how many elements of 32 bits a vector register of the device holds."""
    return max(
        (lanes for name, lanes in _LANES.items() if any(i.startswith(name) for i in profile.instructions)), default=4
    )


def executed_files(models: Sequence[Path], profile: Profile, shapes: Shapes | None = None) -> list[ExecutedFile]:
    """Read files as the device of a profile would execute them.

    Args:
        models: ONNX files.
        profile: the device: its provider says what is fused, its instructions how wide channels are padded.
        shapes: shape by input name; a leading dimension that is free otherwise is 1.

    Raises:
        ModelError: the runtime refuses a file, or a shape stays unknown; names the file.
    """
    level = _level(profile)
    options = RuntimeOptions(optimization=level)
    found: list[ExecutedFile] = []
    with Child(name="read") as child:
        for model in models:
            if not model.is_file():
                raise ModelError.missing(model)
            try:
                seen = child.call(
                    "modeltailor.estimators.predict.executed:look",
                    timeout_s=_TIMEOUT_S,
                    model=model,
                    options=options,
                    shapes={name: tuple(shape) for name, shape in (shapes or {}).items()},
                )
            except CandidateError as error:
                raise ModelError(
                    "MODEL-11", model.name, f"{error.what} ({error.code})", "it is unsafe to use"
                ) from error
            optimized, stored = cast("tuple[bytes, int]", seen)
            read = read_model(onnx.load_from_string(optimized), model.name, settled=level != "basic")
            graph = replace(read, stored_bytes=stored)
            found.append(ExecutedFile(graph=graph, work=work_of(graph, vector_lanes(profile))))
    return found


def _level(profile: Profile) -> Literal["basic", "extended", "all"]:
    """Return how far the runtime here may optimize in place of the device's.

    Layouts of one sort of processor are no business of another's, and what an accelerator fuses is its own affair.
    """
    if profile.provider != _CPU:
        return "basic"
    is_x86 = any(i.startswith(("sse", "avx")) for i in profile.instructions) or profile.is_local
    return "all" if is_x86 and platform.machine() in ("x86_64", "AMD64") else "extended"


def look(model: Path, options: RuntimeOptions, shapes: Shapes) -> tuple[bytes, int]:
    """Return the optimized graph without its large weights, and the bytes of the weights in the file; in the child."""
    from modeltailor.targets.session import optimized_model

    optimized = optimized_model(model, options)
    for tensor in optimized.graph.initializer:
        if math.prod(tensor.dims) > _KEPT_ELEMENTS:
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
    for value in optimized.graph.input:
        given = shapes.get(value.name)
        dimensions = value.type.tensor_type.shape.dim
        if given is not None and len(given) == len(dimensions):
            for dimension, size in zip(dimensions, given, strict=True):
                dimension.dim_value = size
    file = onnx.load(model, load_external_data=False)
    return optimized.SerializeToString(), _stored_bytes(file)


def _stored_bytes(file: onnx.ModelProto) -> int:
    """Return the bytes of all weights and constants of a file, those of subgraphs and local functions too."""
    total = 0
    graphs = [file.graph]
    nodes = [n for f in file.functions for n in f.node]
    while graphs:
        graph = graphs.pop()
        total += sum(_tensor_bytes(t) for t in graph.initializer)
        total += sum(_tensor_bytes(t.values) + _tensor_bytes(t.indices) for t in graph.sparse_initializer)
        nodes.extend(graph.node)
        while nodes:
            for attribute in nodes.pop().attribute:
                if attribute.HasField("t"):
                    total += _tensor_bytes(attribute.t)
                graphs.extend(attribute.graphs)
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
    return total


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes of the numbers of a tensor, packed ones packed."""
    return int(-(-math.prod(tensor.dims) * bits_of(tensor.data_type) // 8))
