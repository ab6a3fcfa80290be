"""Operators that are no sites but stay in integers where their inputs are: additions, pooling, moving of data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto, helper

from modeltailor.compress.formats.emitter import MICROSOFT, Emitter
from modeltailor.compress.formats.graph import PreparedGraph
from modeltailor.compress.formats.nodes import attribute_int, attribute_ints, attribute_text
from modeltailor.compress.formats.ranges import QuantParams

__all__ = ["INTEGER_OPS", "Folding", "emit_integer_op"]

_MOVES = frozenset(
    (
        "MaxPool",
        "Reshape",
        "Flatten",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Gather",
        "Expand",
        "Split",
        "Pad",
        "Resize",
    )
)
_LOOKUPS = {"LeakyRelu": "QLinearLeakyRelu", "Sigmoid": "QLinearSigmoid"}
_PAIRS = {"Add": "QLinearAdd", "Mul": "QLinearMul"}
INTEGER_OPS = (
    _MOVES
    | _LOOKUPS.keys()
    | _PAIRS.keys()
    | {"Relu", "Clip", "Concat", "GlobalAveragePool", "AveragePool", "ReduceMean"}
)
ParamsOf = Callable[[str, int], QuantParams | None]


class Folding:
    """Which nodes are taken over by the integer operator in front of them.

    Args:
        graph: the float model.
    """

    def __init__(self, graph: PreparedGraph) -> None:
        self.graph = graph
        self.consumed: set[int] = set()
        self._outputs = {o.name for o in graph.model.graph.output}

    def only_reader(self, tensor: str) -> int | None:
        """Index of the one node that reads ``tensor``, if there is exactly one and it is no output of the model."""
        readers = self.graph.consumers.get(tensor, ())
        return readers[0] if len(readers) == 1 and tensor not in self._outputs else None

    def clipped(self, tensor: str, params_of: ParamsOf) -> tuple[str, QuantParams | None]:
        """Follow ``tensor`` through a ``Relu`` or ``Clip`` that saturation alone does, and take that node over.

        Returns:
            The tensor that the integer operator gives, and its parameters.
        """
        reader = self.only_reader(tensor)
        if reader is not None:
            node = self.graph.model.graph.node[reader]
            bounds = clip_bounds(self.graph, node)
            if bounds is not None:
                params = params_of(node.output[0], 8)
                if params is not None:
                    low = params.scale * (params.lowest - params.zero_point)
                    high = params.scale * (params.highest - params.zero_point)
                    slack = 0.501 * params.scale
                    exact_zero = bounds[0] != 0.0 or params.zero_point == params.lowest
                    if low >= bounds[0] - slack and high <= bounds[1] + slack and exact_zero:
                        self.consumed.add(reader)
                        return node.output[0], params
        return tensor, params_of(tensor, 8)


def clip_bounds(graph: PreparedGraph, node: NodeProto) -> tuple[float, float] | None:
    """Return what a ``Relu`` or ``Clip`` with constant bounds limits its input to."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Relu":
        return 0.0, float("inf")
    if node.op_type != "Clip":
        return None
    bounds = [-float("inf"), float("inf")]
    for k, name in enumerate(list(node.input)[1:3]):
        if name:
            if name not in graph.constants or graph.constants[name].size != 1:
                return None
            bounds[k] = float(graph.constants[name].reshape(-1)[0])
    return bounds[0], bounds[1]


def emit_integer_op(emitter: Emitter, folding: Folding, params_of: ParamsOf, index: int) -> bool:
    """Emit a node in integers if that is possible and its inputs are integers already; say whether it was done."""
    graph = folding.graph
    node = graph.model.graph.node[index]
    if node.domain not in ("", "ai.onnx"):
        return False
    op = node.op_type
    if op == "Shape":
        form = emitter.integer_form(node.input[0])
        if form is None or emitter.is_float(node.input[0]):
            return False
        made = _bare(node)
        made.input[0] = form[0]
        emitter.nodes.append(made)
        emitter.made_float(node.output[0])
        return True
    if op not in INTEGER_OPS or not node.input:
        return False
    if op in _PAIRS or op == "Concat":
        return _emit_joined(emitter, folding, params_of, node)
    form = emitter.integer_form(node.input[0])
    if form is None or node.input[0] in graph.constants:
        return False
    if op in _MOVES:
        return _emit_move(emitter, folding, node, *form)
    if op in ("Relu", "Clip"):
        return _emit_clip(emitter, folding, node, *form)
    return _emit_pool_or_lookup(emitter, folding, params_of, node, *form)


def _bare(node: NodeProto) -> NodeProto:
    made = NodeProto()
    made.CopyFrom(node)
    made.ClearField("name")
    made.ClearField("doc_string")
    del made.metadata_props[:]
    return made


def _emit_move(emitter: Emitter, folding: Folding, node: NodeProto, name: str, params: QuantParams) -> bool:
    graph = folding.graph
    if node.op_type == "MaxPool" and len([o for o in node.output if o]) > 1:
        return False
    if node.op_type == "Resize" and (
        attribute_text(node, "mode", "nearest") != "nearest"
        or attribute_text(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    ):
        return False
    if any(graph.types.get(i) == 1 and i not in graph.constants for i in node.input[1:] if i):
        return False  # a float tensor that is computed steers the move
    made = _bare(node)
    made.input[0] = name
    if node.op_type == "Pad" and attribute_text(node, "mode", "constant") == "constant":
        value = 0.0
        if len(node.input) > 2 and node.input[2]:
            if node.input[2] not in graph.constants:
                return False
            value = float(graph.constants[node.input[2]].reshape(-1)[0])
        inputs = list(made.input) + [""] * (3 - len(made.input))
        inputs[2] = emitter.constant(params.quantized(np.asarray(value, np.float32)))
        del made.input[:]
        made.input.extend(inputs)
    for used in made.input[1:]:
        emitter.as_float(used)
    for k, output in enumerate(node.output):
        if output:
            made.output[k] = emitter.made_integer(output, params)
    emitter.nodes.append(made)
    return True


def _emit_clip(emitter: Emitter, folding: Folding, node: NodeProto, name: str, params: QuantParams) -> bool:
    bounds = clip_bounds(folding.graph, node)
    if bounds is None:
        return False
    limits = ["", ""]
    for k, bound in enumerate(bounds):
        if np.isfinite(bound):
            limits[k] = emitter.constant(params.quantized(np.asarray(bound, np.float32)))
    inputs = [name, *limits]
    while inputs[-1] == "":
        inputs.pop()
    emitter.node("Clip", inputs, [emitter.made_integer(node.output[0], params)])
    return True


def _emit_joined(emitter: Emitter, folding: Folding, params_of: ParamsOf, node: NodeProto) -> bool:
    """``Add``, ``Mul`` and ``Concat``: every input that is no constant must be in integers already."""
    graph = folding.graph
    forms = [emitter.integer_form(i) for i in node.input]
    constant = [i in graph.constants for i in node.input]
    if not any(f is not None and not c for f, c in zip(forms, constant, strict=True)):
        return False
    if any(f is None and not c for f, c in zip(forms, constant, strict=True)):
        return False
    if any(c and graph.constants[i].dtype != np.float32 for i, c in zip(node.input, constant, strict=True)):
        return False
    output, params = (
        folding.clipped(node.output[0], params_of)
        if node.op_type != "Concat"
        else (node.output[0], params_of(node.output[0], 8))
    )
    if params is None:
        return False
    moving = [f for f, c in zip(forms, constant, strict=True) if f is not None and not c]
    if node.op_type == "Concat" and len({f[1] for f in moving}) == 1:
        shared = moving[0][1]
        names = [
            emitter.constant(shared.quantized(graph.constants[i].astype(np.float32))) if c else f[0]  # type: ignore[index]
            for i, f, c in zip(node.input, forms, constant, strict=True)
        ]
        emitter.node("Concat", names, [emitter.made_integer(output, shared)], axis=attribute_int(node, "axis", 0))
        return True
    given: list[str] = []
    for i, form, is_constant in zip(node.input, forms, constant, strict=True):
        name, known = (
            form if form is not None and not is_constant else emitter.as_integer(i, _constant_params(graph, i, params))
        )
        given += [name, *emitter.scalars(known)]
    scale, zero = emitter.scalars(params)
    made = emitter.made_integer(output, params)
    if node.op_type == "Concat":
        emitter.node(
            "QLinearConcat", [scale, zero, *given], [made], domain=MICROSOFT, axis=attribute_int(node, "axis", 0)
        )
    else:
        emitter.node(_PAIRS[node.op_type], [*given, scale, zero], [made], domain=MICROSOFT)
    return True


def _constant_params(graph: PreparedGraph, name: str, like: QuantParams) -> QuantParams:
    value = np.asarray(graph.constants[name], np.float32)
    low, high = min(float(value.min(initial=0.0)), 0.0), max(float(value.max(initial=0.0)), 0.0)
    scale = float(np.float32(max(high - low, 1e-12) / 255.0))
    zero = int(np.clip(round(like.lowest - low / scale), like.lowest, like.highest))
    return QuantParams(scale, zero, like.signed)


def _emit_pool_or_lookup(
    emitter: Emitter, folding: Folding, params_of: ParamsOf, node: NodeProto, name: str, own: QuantParams
) -> bool:
    graph = folding.graph
    params = params_of(node.output[0], 8)
    if params is None or params.signed != own.signed:
        return False
    rank = len(graph.shapes.get(node.input[0], ()))
    ends = [name, *emitter.scalars(own), *emitter.scalars(params)]
    output = node.output[0]
    match node.op_type:
        case "GlobalAveragePool":
            emitter.node(
                "QLinearGlobalAveragePool",
                ends,
                [emitter.made_integer(output, params)],
                domain=MICROSOFT,
                channels_last=0,
            )
        case "ReduceMean":
            axes = attribute_ints(node, "axes", ())
            if len(node.input) > 1 and node.input[1] in graph.constants:
                axes = tuple(int(a) for a in graph.constants[node.input[1]].reshape(-1))
            if rank != 4 or {a % 4 for a in axes} != {2, 3}:
                return False
            made = emitter.made_integer(output, params)
            keep = attribute_int(node, "keepdims", 1)
            pooled = made if keep else emitter.fresh(output)
            emitter.node("QLinearGlobalAveragePool", ends, [pooled], domain=MICROSOFT, channels_last=0)
            if not keep:
                emitter.node("Flatten", [pooled], [made])
        case "AveragePool":
            if rank != 4 or any(d != 1 for d in attribute_ints(node, "dilations", ())):
                return False
            kept = {
                a.name: helper.get_attribute_value(a)
                for a in node.attribute
                if a.name in ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
            }
            emitter.node("QLinearAveragePool", ends, [emitter.made_integer(output, params)], domain=MICROSOFT, **kept)
        case _:
            alpha = {a.name: a.f for a in node.attribute if a.name == "alpha"}
            emitter.node(
                _LOOKUPS[node.op_type], ends, [emitter.made_integer(output, params)], domain=MICROSOFT, **alpha
            )
    return True
