"""A float model made ready: read, inlined, folded, shapes inferred, and the sites listed. The input stays untouched."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference
from onnx.inliner import inline_local_functions

from modeltailor.compress.formats.fold import (
    fold_affine,
    fold_batch_norm,
    fold_constants,
    merge_slices,
    remove_identities,
)
from modeltailor.compress.formats.nodes import attribute_int, attribute_text, constants_alone, names_used
from modeltailor.compress.formats.upgrade import LOWEST_OPSET, upgraded
from modeltailor.compress.vocabulary import Site, SiteKind
from modeltailor.errors import ModelError

__all__ = ["LOWEST_OPSET", "PreparedGraph", "SiteNode", "load_model", "prepare"]

_MOST_BYTES = (1 << 31) - (1 << 24)  # protobuf's limit, and room for the graph
_UNSET = re.compile(r"^(val_|onnx::|_to_copy|t_|permute|getitem|constant|Constant|\d|/)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteNode:
    """Where a site lies in the graph.

    Attributes:
        site: what the outside sees of it.
        node: index of its node in the graph.
        bias_node: index of the ``Add`` that adds its bias, where that is a node of its own.
        weight: name of the weight initializer.
        bias: name of the bias initializer, if any.
        input: name of the activation that enters.
        output: name of the activation that leaves (after the bias).
        out_axis: axis of the weight that counts output channels (rows of a table for an embedding).
        group: groups of a convolution; 1 otherwise.
    """

    site: Site
    node: int
    bias_node: int | None
    weight: str
    bias: str | None
    input: str
    output: str
    out_axis: int
    group: int


@dataclass(frozen=True, slots=True)
class PreparedGraph:
    """A float model that techniques can read. Nobody changes it.

    Attributes:
        model: the model, constants folded, weights inside, opset 13 or newer.
        sites: the sites in the order of execution.
        shapes: shape of each tensor that is known, ``None`` for a free dimension.
        types: ONNX element type of each tensor that is known.
        consumers: indices of the nodes that read each tensor.
        constants: value of each initializer.
    """

    model: ModelProto
    sites: tuple[SiteNode, ...]
    shapes: Mapping[str, tuple[int | None, ...]]
    types: Mapping[str, int]
    consumers: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, NDArray[np.generic]]

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return int(next(o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")))

    def site(self, name: str) -> SiteNode:
        """Return the site of that name.

        Raises:
            KeyError: no site has that name.
        """
        return next(s for s in self.sites if s.site.name == name) if name in self.names else _missing(name)

    @property
    def names(self) -> frozenset[str]:
        """Names of all sites."""
        return frozenset(s.site.name for s in self.sites)

    def weight(self, site: SiteNode) -> NDArray[np.float32]:
        """Return the weight of a site in the layout of the file."""
        return np.asarray(self.constants[site.weight], np.float32)

    def bias(self, site: SiteNode) -> NDArray[np.float32] | None:
        """Return the bias of a site, shape ``[out]``, if it has one."""
        return None if site.bias is None else np.asarray(self.constants[site.bias], np.float32).reshape(-1)


def _missing(name: str) -> SiteNode:
    raise KeyError(name)


def load_model(model: Path | bytes | ModelProto) -> ModelProto:
    """Read a model with its external data into memory; a proto is copied.

    Raises:
        ModelError: it cannot be read, or is too large.
    """
    if isinstance(model, ModelProto):
        _check_size(model, "model")
        copy = ModelProto()
        copy.CopyFrom(model)
        return copy
    where = model if isinstance(model, Path) else "model"
    try:
        loaded = onnx.load(model, load_external_data=False) if isinstance(model, Path) else onnx.load_from_string(model)
        _check_size(loaded, where)
        if isinstance(model, Path):
            onnx.load_external_data_for_model(loaded, str(model.parent))
    except ModelError:
        raise
    except Exception as error:  # protobuf's, the checker's and the system's own kinds have no common base
        raise ModelError("MODEL-02", where, f"not a readable ONNX file ({error})", "export it again") from error
    if not loaded.graph.node:
        raise ModelError("MODEL-17", where, "the graph has no nodes", "export it again")
    return loaded


def _check_size(model: ModelProto, where: object) -> None:
    """Refuse what could not be written again: a message of protobuf holds less than 2 GiB, weights included."""
    held = sum(_stored_bytes(t) for t in model.graph.initializer)
    if held > _MOST_BYTES:
        raise ModelError(
            "MODEL-23", where,
            f"holds {held / 1e9:.2f} GB of weights; an ONNX file in one piece holds up to {_MOST_BYTES / 1e9:.2f} GB",
            "take a smaller network",
        )  # fmt: skip


def _stored_bytes(tensor: TensorProto) -> int:
    if tensor.HasField("raw_data") or tensor.data_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        return len(tensor.raw_data)
    return int(math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _with_input_shapes(model: ModelProto, shapes: Mapping[str, Sequence[int]]) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        if value.name in shapes:
            for dim, size in list(zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=False))[1:]:
                dim.dim_value = size
    for output in copy.graph.output:
        output.type.tensor_type.ClearField("shape")
    return copy


def _inferred(
    model: ModelProto, input_shapes: Mapping[str, Sequence[int]]
) -> tuple[dict[str, tuple[int | None, ...]], dict[str, int]]:
    try:
        seen = shape_inference.infer_shapes(_with_input_shapes(model, input_shapes), data_prop=True)
    except Exception:  # shapes help; a graph that cannot be inferred is still usable
        seen = model
    shapes: dict[str, tuple[int | None, ...]] = {}
    types: dict[str, int] = {}
    for value in [*seen.graph.input, *seen.graph.value_info, *seen.graph.output]:
        tensor = value.type.tensor_type
        if value.type.HasField("tensor_type"):
            types[value.name] = tensor.elem_type
            if tensor.HasField("shape"):
                shapes[value.name] = tuple(d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim)
    for tensor_proto in model.graph.initializer:
        types[tensor_proto.name] = tensor_proto.data_type
        shapes[tensor_proto.name] = tuple(tensor_proto.dims)
    return shapes, types


def prepare(
    model: Path | bytes | ModelProto,
    *,
    site_names: Mapping[str, str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> PreparedGraph:
    """Read a float model and make it ready for compression.

    Args:
        model: a file (external data is read), its bytes, or a proto (copied).
        site_names: the layer's name by weight initializer, where the caller knows better than the graph.
        input_shapes: shapes of example inputs; all but the first dimension help shape inference.

    Raises:
        ModelError: the model cannot be read or upgraded, or is too large.
    """
    ready = upgraded(load_model(model))
    if ready.functions:
        ready = inline_local_functions(ready)
    constant = {t.name for t in ready.graph.initializer}
    inputs = [i for i in ready.graph.input if i.name not in constant]
    del ready.graph.input[:]
    ready.graph.input.extend(inputs)
    del ready.graph.value_info[:]
    remove_identities(ready.graph)
    fold_constants(ready)
    fold_batch_norm(ready.graph)
    fold_affine(ready.graph)
    merge_slices(ready.graph)
    used = names_used(ready.graph.node) | {o.name for o in ready.graph.output}
    kept = [t for t in ready.graph.initializer if t.name in used]
    del ready.graph.initializer[:]
    ready.graph.initializer.extend(kept)
    shapes, types = _inferred(ready, input_shapes or {})
    consumers: dict[str, list[int]] = {}
    for index, node in enumerate(ready.graph.node):
        for name in names_used([node]):
            consumers.setdefault(name, []).append(index)
    constants = {t.name: numpy_helper.to_array(t) for t in ready.graph.initializer if t.data_type != TensorProto.STRING}
    frozen = {name: tuple(at) for name, at in consumers.items()}
    sites = _list_sites(ready, shapes, frozen, constants, site_names or {})
    return PreparedGraph(ready, sites, shapes, types, frozen, constants)


def _layer_name(node: NodeProto, weight: str, bias: str | None, given: Mapping[str, str]) -> str:
    if weight in given:
        return given[weight]
    if not _UNSET.match(weight):
        return re.sub(r"([./_]weight|[./]W)$", "", weight)
    for prop in node.metadata_props:
        if prop.key == "pkg.torch.onnx.name_scopes":
            scopes = [s for s in re.findall(r"'([^']*)'", prop.value) if s]
            if len(scopes) > 1:
                return str(scopes[-2])  # the last scope names the call itself
    if bias and bias.endswith(".bias") and not _UNSET.match(bias):
        return bias.removesuffix(".bias")
    return node.name or node.output[0]


def _unique(name: str, taken: set[str]) -> str:
    chosen, k = name, 2
    while chosen in taken:
        chosen, k = f"{name}#{k}", k + 1
    taken.add(chosen)
    return chosen


def _channels(kind: SiteKind, shape: tuple[int, ...], out_axis: int, group: int) -> int:
    """Output channels of a layer; the width of an embedding's rows; 0 for recurrent layers."""
    match kind:
        case "recurrent":
            return 0
        case "conv-transpose":
            return shape[1] * group
        case "embedding":
            return shape[-1]
        case _:
            return shape[out_axis]


def _positions(shape: tuple[int | None, ...] | None, skip: int) -> int:
    """Product of the dimensions after the first ``skip`` ones, batch as 1; 0 where one is unknown."""
    if shape is None or any(d is None for d in shape[max(skip, 1) :]):
        return 0
    return math.prod(d for d in shape[max(skip, 1) :] if d is not None)


def _list_sites(
    model: ModelProto,
    shapes: Mapping[str, tuple[int | None, ...]],
    consumers: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, NDArray[np.generic]],
    given: Mapping[str, str],
) -> tuple[SiteNode, ...]:
    nodes = model.graph.node
    outputs = {o.name for o in model.graph.output}
    found: list[SiteNode] = []
    taken: set[str] = set()
    settled = constants_alone(nodes, constants)
    for index, node in enumerate(nodes):
        kind = _kind(node, constants)
        if kind is None:
            continue
        weight, entering = (node.input[0], node.input[1]) if kind == "embedding" else (node.input[1], node.input[0])
        if entering in settled:  # the runtime computes it once, while it loads
            continue
        shape = tuple(int(d) for d in constants[weight].shape)
        bias = node.input[2] if kind != "embedding" and len(node.input) > 2 and node.input[2] else None
        leaving, bias_node = node.output[0], None
        if kind == "matmul" and leaving not in outputs:
            after = consumers.get(leaving, ())
            if len(after) == 1 and nodes[after[0]].op_type == "Add":
                other = next((i for i in nodes[after[0]].input if i != leaving), "")
                if other in constants and constants[other].shape in {(shape[1],), (1, shape[1]), (1, 1, shape[1])}:
                    bias, bias_node, leaving = other, after[0], nodes[after[0]].output[0]
        group = attribute_int(node, "group", 1)
        out_axis = {"conv": 0, "depthwise": 0, "conv-transpose": 1, "embedding": 0, "matmul": 1, "recurrent": 1}.get(
            kind, 0 if attribute_int(node, "transB", 0) else 1
        )
        elements = math.prod(shape)
        match kind:
            case "conv" | "depthwise":
                macs = elements * _positions(shapes.get(node.output[0]), 2)
            case "conv-transpose":
                macs = elements * _positions(shapes.get(node.input[0]), 2)
            case "matmul" | "gemm":
                known = shapes.get(node.input[0])
                macs = elements * _positions(known[:-1] if known else None, 1)
            case _:
                macs = 0
        site = Site(
            name=_unique(_layer_name(node, weight, bias, given), taken),
            kind=kind,
            weight_shape=shape,
            weight_elements=elements,
            macs=macs,
            position=len(found),
            channels=_channels(kind, shape, out_axis, group),
        )
        found.append(
            SiteNode(
                site=site,
                node=index,
                bias_node=bias_node,
                weight=weight,
                bias=bias if bias in constants else None,
                input=entering,
                output=leaving,
                out_axis=out_axis,
                group=group,
            )
        )
    return tuple(found)


def _kind(node: NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> SiteKind | None:
    def is_weight(position: int, ranks: tuple[int, ...]) -> bool:
        if len(node.input) <= position or node.input[position] not in constants:
            return False
        value = constants[node.input[position]]
        return value.dtype == np.float32 and value.ndim in ranks and value.size > 0

    def bias_known() -> bool:
        return len(node.input) < 3 or not node.input[2] or node.input[2] in constants

    if node.domain not in ("", "ai.onnx"):
        return None
    match node.op_type:
        case "Conv" if is_weight(1, (3, 4, 5)) and bias_known():
            shape, group = constants[node.input[1]].shape, attribute_int(node, "group", 1)
            return "depthwise" if group > 1 and shape[1] == 1 else "conv"
        case "ConvTranspose" if is_weight(1, (3, 4, 5)) and bias_known():
            return "conv-transpose"
        case "MatMul" if is_weight(1, (2,)) and node.input[0] not in constants:
            return "matmul"
        case "Gemm" if (
            is_weight(1, (2,))
            and node.input[0] not in constants
            and attribute_int(node, "transA", 0) == 0
            and _is_plain_gemm(node, constants)
        ):
            return "gemm"
        case "Gather" if is_weight(0, (2,)) and attribute_int(node, "axis", 0) == 0 and node.input[1] not in constants:
            return "embedding"
        case "LSTM" | "GRU" | "RNN" if is_weight(1, (3,)) and attribute_text(node, "direction", "") != "?":
            return "recurrent"
    return None


def _is_plain_gemm(node: NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> bool:
    scales = {a.name: a.f for a in node.attribute if a.name in ("alpha", "beta")}
    if any(v != 1.0 for v in scales.values()):
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    width = constants[node.input[1]].shape[0 if attribute_int(node, "transB", 0) else 1]
    return node.input[2] in constants and constants[node.input[2]].size == width
