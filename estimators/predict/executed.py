"""ONNX files as an absent device would execute them: read from the graph that the runtime here makes of them.

The runtime folds, fuses and unpacks while it loads a file; what it then runs depends on the file and hardly on the
device, as long as optimizations that belong to one processor are left out. Loading happens in a process of its own,
because the file may come from anywhere.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import onnx
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_tensor
from onnx.inliner import inline_local_functions

from modeltailor.errors import CandidateError, ConfigError, ModelError
from modeltailor.estimators.predict.graph import ExecutedGraph, bits_of, has_inserted_casts, read_model
from modeltailor.estimators.predict.work import GraphWork, work_of
from modeltailor.targets import Child, RuntimeOptions
from modeltailor.targets.profile import Profile

__all__ = ["ExecutedFile", "executed_files", "look", "vector_lanes"]

Shapes = Mapping[str, Sequence[int]]

_CPU = "CPUExecutionProvider"
_LANES = {"avx512": 16, "avx": 8}
_TIMEOUT_S = 120.0
_KEPT_ELEMENTS = 4096  # a larger tensor never decides a shape
_VALUES = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


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
        ConfigError: a shape does not fit what a file declares, or no file has such an input.
    """
    level = _level(profile)
    options = RuntimeOptions(optimization=level)
    seen: list[_Looked] = []
    with Child(name="read") as child:
        for model in models:
            if not model.is_file():
                raise ModelError.missing(model)
            try:
                answer = child.call(
                    "modeltailor.estimators.predict.executed:look", timeout_s=_TIMEOUT_S, model=model, options=options
                )
            except CandidateError as error:
                raise ModelError(
                    "MODEL-11", model.name, f"{error.what} ({error.code})", "it is unsafe to use"
                ) from error
            graphs, stored = cast("tuple[tuple[bytes, ...], int]", answer)
            seen.append(_Looked(model.name, tuple(onnx.load_from_string(g) for g in graphs), stored))
    _set_shapes(seen, shapes or {})
    return [_executed(looked, profile, settled=level != "basic") for looked in seen]


@dataclass(frozen=True, slots=True)
class _Looked:
    """A file as the child saw it: graphs to read it from, the surest last, and the bytes of its weights."""

    name: str
    graphs: tuple[onnx.ModelProto, ...]
    stored_bytes: int


def _executed(looked: _Looked, profile: Profile, *, settled: bool) -> ExecutedFile:
    """Read the first graph of a file that can be read and does not differ from the surest one in what it computes."""
    found: list[ExecutedFile] = []
    refused: ModelError | None = None
    for graph in reversed(looked.graphs):
        try:
            read = read_model(graph, looked.name, settled=settled, elsewhere=profile.provider != _CPU)
        except ModelError as error:
            refused = refused or error
            continue
        read = replace(read, stored_bytes=looked.stored_bytes)
        found.append(ExecutedFile(graph=read, work=work_of(read, vector_lanes(profile))))
    if refused is not None and not found:
        raise refused
    return found[-1] if found[-1].work.macs == found[0].work.macs else found[0]


def _set_shapes(files: Sequence[_Looked], shapes: Shapes) -> None:
    """Give the inputs the shapes that are asked for, by the rule of ``modeltailor bench``: what is fixed stays."""
    declared = [(file.name, _inputs(graph)) for file in files for graph in file.graphs]
    known = dict.fromkeys(name for _, inputs in declared for name in inputs)
    unknown = sorted(set(shapes) - set(known)) if files else []
    if unknown:
        raise ConfigError(
            "CFG-15", f"shapes.{unknown[0]}", f"no model has such an input; they have {', '.join(known)}", "rename it"
        )
    for file, inputs in declared:
        for name, shape in shapes.items():
            if name in inputs:
                _set_shape(inputs[name], tuple(int(size) for size in shape), file)


def _inputs(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Return the inputs that a caller gives: old files list their weights, too."""
    weights = {w.name for w in model.graph.initializer}
    return {v.name: v for v in model.graph.input if v.name not in weights}


def _set_shape(value: onnx.ValueInfoProto, given: Sequence[int], file: str) -> None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):  # of any rank
        kind.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in given)
    declared = [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in kind.shape.dim]
    fits = len(given) == len(declared) and all(
        size == d or not isinstance(d, int) for size, d in zip(given, declared, strict=True)
    )
    if not fits or any(size < 1 for size in given):
        raise ConfigError(
            "CFG-15", f"shapes.{value.name}", f"must fit {declared} of {file}; got {list(given)}", "mend it"
        )
    for dimension, size in zip(kind.shape.dim, given, strict=True):
        dimension.dim_value = size


def _level(profile: Profile) -> Literal["basic", "extended", "all"]:
    """Return how far the runtime here may optimize in place of the device's.

    Layouts of one sort of processor are no business of another's, and what an accelerator fuses is its own affair.
    """
    if profile.provider != _CPU:
        return "basic"
    is_x86 = any(i.startswith(("sse", "avx")) for i in profile.instructions) or profile.is_local
    return "all" if is_x86 and platform.machine() in ("x86_64", "AMD64") else "extended"


def look(model: Path, options: RuntimeOptions) -> tuple[tuple[bytes, ...], int]:
    """Return graphs of a file without large weights, the surest last, and the bytes of the weights in it; in the child.

    That is the graph as the runtime optimized it. Where a file computes in half floats on a device that does, that graph
    holds what this machine makes of them: conversions, and operators in parts. Then the file's own comes first, or alone,
    if the runtime cannot load it on a CPU.
    """
    from modeltailor.targets.session import optimized_model

    graphs: list[onnx.ModelProto] = []
    try:
        graphs.append(optimized_model(model, options))
    except ModelError:
        own = _own_graph(model) if options.optimization == "basic" else None
        if own is None:
            raise
        graphs.append(own)
    else:
        own = _own_graph(model) if options.optimization == "basic" and has_inserted_casts(graphs[0]) else None
        if own is not None:
            graphs.insert(0, own)
    for graph in graphs:
        _drop_values(graph.graph.initializer)
    file = onnx.load(model, load_external_data=False)
    return tuple(g.SerializeToString() for g in graphs), _stored_bytes(file)


def _own_graph(model: Path) -> onnx.ModelProto | None:
    """Return the graph of a file in half floats as it stands, which the runtime on a CPU may be unable to load.

    ``None`` if it holds no half floats: then nothing excuses it.
    """
    try:
        return _whole(onnx.load(model, load_external_data=False), model.parent)
    except Exception:  # onnx raises whatever protobuf and its own checks raise; the runtime has the say on such a file
        return None


def _whole(file: onnx.ModelProto, folder: Path) -> onnx.ModelProto | None:
    graph = file.graph
    kept = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            graph.initializer.add().CopyFrom(node.attribute[0].t)
            graph.initializer[-1].name = node.output[0]
        else:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(kept)
    kinds = {*(w.data_type for w in graph.initializer), *(v.type.tensor_type.elem_type for v in graph.input)}
    if not kinds.intersection(_HALVES):
        return None
    for weight in graph.initializer:
        if weight.data_location == TensorProto.EXTERNAL and math.prod(weight.dims) <= _KEPT_ELEMENTS:
            load_external_data_for_tensor(weight, str(folder))
    _drop_values(graph.initializer)
    return inline_local_functions(file)


def _drop_values(weights: Iterable[TensorProto]) -> None:
    """Empty the tensors that are too large to decide a shape."""
    for tensor in weights:
        if math.prod(tensor.dims) > _KEPT_ELEMENTS:
            del tensor.external_data[:]
            tensor.data_location = TensorProto.DEFAULT
            for field in _VALUES:
                tensor.ClearField(field)


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
