"""The channel dependencies of an ONNX graph, read off its nodes without PyTorch.

What is known: convolutions (depthwise ones included), ``Gemm``, ``MatMul`` with a constant, normalisations,
element-wise operators, pooling, residual additions, concatenations, flattening. Whatever else reads a channel axis
keeps it whole, with a reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
from onnx import NodeProto, helper

from modeltailor.compress.formats.graph import PreparedGraph
from modeltailor.compress.formats.nodes import attribute_int, names_used
from modeltailor.compress.structure.onnx_layouts import Groups, Layout

__all__ = ["Dependencies"]

_PASSING = frozenset(
    (
        "Relu", "Clip", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Selu", "Gelu", "Erf", "Sqrt",
        "Exp", "Softplus", "Softsign", "Mish", "Swish", "Identity", "Cast", "Dropout", "Neg", "Abs", "Reciprocal",
        "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ThresholdedRelu", "Celu", "Log", "Floor",
    )
)  # fmt: skip
_ELEMENTWISE = frozenset(("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Pow", "Sum"))
_REDUCING = frozenset(("ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin", "ReduceL2"))


class Dependencies:
    """Groups of channels of a prepared float model.

    Args:
        graph: the model; not changed.

    Attributes:
        groups: the channels that hang together.
        reshapes: by node index, which entry of its constant shape follows which layout.
        depthwise: by node index, the layout that the number of groups follows.
    """

    def __init__(self, graph: PreparedGraph) -> None:
        self.groups = Groups()
        self.reshapes: dict[int, tuple[int, Layout]] = {}
        self.depthwise: dict[int, Layout] = {}
        self._graph = graph
        self._sites = {s.node: s.site.name for s in graph.sites}
        self._layouts: dict[str, Layout | None] = {}
        self._uses = Counter(name for node in graph.model.graph.node for name in node.input)
        for index, node in enumerate(graph.model.graph.node):
            self._walk(index, node)
        for output in graph.model.graph.output:
            self.groups.freeze([self._layouts.get(output.name)], "its channels are the model's output")

    def _walk(self, index: int, node: NodeProto) -> None:
        handlers: dict[str, Callable[[int, NodeProto], Layout | None]] = {
            "Conv": self._conv, "ConvTranspose": self._conv_transpose, "Gemm": self._gemm, "MatMul": self._matmul,
            "BatchNormalization": self._norm, "InstanceNormalization": self._norm, "LayerNormalization": self._layer_norm,
            "Concat": self._concat, "Flatten": self._flatten, "Reshape": self._reshape, "Transpose": self._transpose,
            "Squeeze": self._squeeze, "Unsqueeze": self._unsqueeze, "Softmax": self._softmax, "LogSoftmax": self._softmax,
            "Resize": self._resize, "Pad": self._pad, "Shape": lambda _, __: None, "Slice": self._slice,
        }  # fmt: skip
        layout: Layout | None = None
        op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        if op in handlers:
            layout = handlers[op](index, node)
        elif op in _PASSING:
            layout = self._layouts.get(node.input[0])
            self._freeze_others(node, 1, op)
        elif op in _ELEMENTWISE:
            layout = self._elementwise(node)
        elif op in _REDUCING:
            layout = self._reduce(node)
        else:
            self._freeze_others(node, 0, op)
        captured = names_used([node]).difference(node.input)
        reason = f"its channels are read inside {op} '{node.name}'"
        self.groups.freeze([self._layouts.get(i) for i in sorted(captured)], reason)
        if node.output:
            self._layouts[node.output[0]] = layout

    def _freeze_others(self, node: NodeProto, start: int, op: str) -> None:
        reason = f"its channels are read by {op} '{node.name}', of which no channel can be taken out"
        self.groups.freeze([self._layouts.get(i) for i in node.input[start:]], reason)

    def _stop(self, node: NodeProto, why: str) -> None:
        self.groups.freeze([self._layouts.get(i) for i in node.input], f"{node.op_type} '{node.name}' {why}")

    def _rank(self, tensor: str) -> int | None:
        if tensor in self._graph.constants:
            return self._graph.constants[tensor].ndim
        shape = self._graph.shapes.get(tensor)
        return None if shape is None else len(shape)

    def _note(self, layout: Layout | None, tensor: str, axis: int, side: str) -> None:
        if layout is None or not tensor:
            return
        if tensor not in self._graph.constants:
            self.groups.freeze([layout], f"its weight '{tensor}' is computed")
        elif self._uses[tensor] > 1:
            self.groups.freeze([layout], f"its weight '{tensor}' is shared by several layers")
        elif self._graph.constants[tensor].shape[axis] != layout.size:
            self.groups.freeze([layout], f"its weight '{tensor}' does not fit its channels")
        else:
            self.groups.note(layout, tensor, axis, side)  # type: ignore[arg-type]

    def _produced(self, index: int, node: NodeProto, tensor: str, axis: int, out_axis: int) -> Layout | None:
        """A new group: the outputs of a layer whose weight counts them on ``axis``."""
        if tensor not in self._graph.constants:
            self._stop(node, "has a weight that is computed")
            return None
        name = self._sites.get(index, node.name or node.output[0])
        made = Layout(out_axis, (self.groups.new(self._graph.constants[tensor].shape[axis], name),))
        self._note(made, tensor, axis, "out")
        return made

    def _conv(self, index: int, node: NodeProto) -> Layout | None:
        given = self._layouts.get(node.input[0])
        weight = self._graph.constants.get(node.input[1])
        bias = node.input[2] if len(node.input) > 2 else ""
        group = attribute_int(node, "group", 1)
        if weight is not None and group > 1:
            if given is not None and given.axis == 1 and group == given.size == weight.shape[0]:  # depthwise
                self._note(given, node.input[1], 0, "entry")
                self._note(given, bias, 0, "entry")
                self.depthwise[index] = given
                return given
            self._stop(node, "is a grouped convolution")
            made = self._produced(index, node, node.input[1], 0, 1)
            self.groups.freeze([made], f"Conv '{node.name}' is a grouped convolution")
            return made
        if given is not None:
            self._note(given, node.input[1], 1, "in")
        made = self._produced(index, node, node.input[1], 0, 1)
        self._note(made, bias, 0, "entry")
        return made

    def _conv_transpose(self, index: int, node: NodeProto) -> Layout | None:
        given = self._layouts.get(node.input[0])
        if attribute_int(node, "group", 1) > 1:
            self._stop(node, "is a grouped convolution")
            return None
        self._note(given, node.input[1], 0, "in")
        made = self._produced(index, node, node.input[1], 1, 1)
        self._note(made, node.input[2] if len(node.input) > 2 else "", 0, "entry")
        return made

    def _gemm(self, index: int, node: NodeProto) -> Layout | None:
        if attribute_int(node, "transA", 0):
            self._stop(node, "reads its input transposed")
            return None
        out = 0 if attribute_int(node, "transB", 0) else 1
        given = self._layouts.get(node.input[0])
        self._note(given, node.input[1], 1 - out, "in")
        made = self._produced(index, node, node.input[1], out, 1)
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias in self._graph.constants and made is not None:
            self._follow(made, 2, bias)
        elif bias:
            self.groups.freeze([made, self._layouts.get(bias)], f"Gemm '{node.name}' adds a tensor that is computed")
        return made

    def _matmul(self, index: int, node: NodeProto) -> Layout | None:
        weight = self._graph.constants.get(node.input[1])
        given, rank = self._layouts.get(node.input[0]), self._rank(node.input[0])
        if weight is None or weight.ndim != 2 or rank is None or node.input[0] in self._graph.constants:
            self._stop(node, "multiplies two activations")
            return None
        if given is not None and given.axis != rank - 1:
            self._stop(node, "multiplies along another axis than that of the channels")
            given = None
        self._note(given, node.input[1], 0, "in")
        return self._produced(index, node, node.input[1], 1, rank - 1)

    def _norm(self, _: int, node: NodeProto) -> Layout | None:
        given = self._layouts.get(node.input[0])
        for name in node.input[1:]:
            self._note(given, name, 0, "entry")
        return given

    def _layer_norm(self, _: int, node: NodeProto) -> Layout | None:
        given, rank = self._layouts.get(node.input[0]), self._rank(node.input[0])
        axis = attribute_int(node, "axis", -1)
        if given is None or rank is None:
            return None
        if axis % rank != rank - 1 or given.axis != rank - 1:
            self._stop(node, "normalises over another axis than that of the channels")
            return given
        for name in node.input[1:]:
            self._note(given, name, 0, "entry")
        return given

    def _follow(self, layout: Layout, rank: int, constant: str) -> None:
        """Let a constant that is broadcast against a tensor lose what the tensor loses."""
        value = self._graph.constants[constant]
        axis = layout.axis - (rank - value.ndim)
        if axis >= 0 and value.shape[axis] != 1:
            self._note(layout, constant, axis, "entry")

    def _elementwise(self, node: NodeProto) -> Layout | None:
        found: tuple[Layout, int] | None = None
        bare = []
        for name in node.input:
            layout, rank = self._layouts.get(name), self._rank(name)
            if name in self._graph.constants:
                continue
            if layout is None or rank is None:
                bare.append(name)
                continue
            if found is None:
                found = (layout, rank)
            elif found[0].axis - found[1] != layout.axis - rank:
                self._stop(node, "joins tensors whose channels lie on different axes")
            else:
                self.groups.join(found[0], layout, f"{node.op_type} '{node.name}' joins channels of different kinds")
                found = found if found[1] >= rank else (layout, rank)
        if found is None:
            return None
        for name in node.input:
            if name in self._graph.constants:
                self._follow(*found, name)
        for name in bare:
            shape = self._graph.shapes.get(name)
            at = None if shape is None else found[0].axis - (found[1] - len(shape))
            if shape is None or at is None or (at >= 0 and shape[at] != 1):
                self.groups.freeze([found[0]], f"{node.op_type} '{node.name}' joins it with what is no layer's output")
        rank = max(found[1], *(self._rank(n) or 0 for n in node.input))
        return found[0].moved(found[0].axis + rank - found[1])

    def _concat(self, _: int, node: NodeProto) -> Layout | None:
        layouts = [self._layouts.get(n) for n in node.input]
        rank = self._rank(node.input[0])
        known = [v for v in layouts if v is not None]
        if rank is None or len(known) < len(layouts) or len({v.axis for v in known}) != 1:
            self._stop(node, "joins it with what is no layer's output")
            return None
        if attribute_int(node, "axis", 0) % rank == known[0].axis:
            return Layout(known[0].axis, tuple(s for v in known for s in v.segments))
        for other in known[1:]:
            self.groups.join(known[0], other, f"Concat '{node.name}' joins channels of different kinds")
        return known[0]

    def _flatten(self, index: int, node: NodeProto) -> Layout | None:
        given, shape = self._layouts.get(node.input[0]), self._graph.shapes.get(node.input[0])
        if given is None:
            return None
        behind = None if shape is None else shape[given.axis + 1 :]
        if attribute_int(node, "axis", 1) != 1 or given.axis != 1 or behind is None or None in behind:
            self._stop(node, "flattens axes of unknown size")
            return None
        return given.repeated(math.prod(d for d in behind if d is not None))

    def _reshape(self, index: int, node: NodeProto) -> Layout | None:
        given = self._layouts.get(node.input[0])
        before, after = self._graph.shapes.get(node.input[0]), self._graph.shapes.get(node.output[0])
        wanted = self._graph.constants.get(node.input[1])
        if given is None:
            return None
        if before is None or after is None or wanted is None or before[: given.axis] != after[: given.axis]:
            self._stop(node, "moves channels to another shape")
            return None
        at, behind = given.axis, before[given.axis + 1 :]
        asked = int(wanted[at]) if at < len(wanted) else 0
        if at < len(after) and after[at] == given.size and asked != -1:
            made = given
        elif len(after) == at + 1 and None not in behind:
            made = given.repeated(math.prod(d for d in behind if d is not None))
        elif at < len(after) and after[at] == given.size and int((wanted == -1).sum()) <= 1:
            made = given
        else:
            self._stop(node, "moves channels to another shape")
            return None
        if asked > 0:
            self.reshapes[index] = (at, made)
        return made

    def _transpose(self, _: int, node: NodeProto) -> Layout | None:
        given, rank = self._layouts.get(node.input[0]), self._rank(node.input[0])
        if given is None or rank is None:
            self._stop(node, "turns a tensor of unknown rank")
            return None
        order = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(range(rank))[::-1])
        return given.moved(order.index(given.axis))

    def _axes(self, node: NodeProto) -> list[int] | None:
        """The axes that an operator names, counted from the front; ``None`` if they are not known."""
        rank = self._rank(node.input[0])
        if len(node.input) > 1 and node.input[1]:
            value = self._graph.constants.get(node.input[1])
            axes = None if value is None else [int(v) for v in np.atleast_1d(value)]
        else:
            axes = next((list(helper.get_attribute_value(a)) for a in node.attribute if a.name == "axes"), [])
        return None if axes is None or rank is None else [a % rank if a < 0 else a for a in axes]

    def _reduce(self, node: NodeProto) -> Layout | None:
        given, axes = self._layouts.get(node.input[0]), self._axes(node)
        if given is None:
            return None
        if not axes or given.axis in axes:
            self._stop(node, "reduces over the channels")
            return None
        if attribute_int(node, "keepdims", 1):
            return given
        return given.moved(given.axis - sum(a < given.axis for a in axes))

    def _squeeze(self, _: int, node: NodeProto) -> Layout | None:
        given, axes = self._layouts.get(node.input[0]), self._axes(node)
        if given is None:
            return None
        if not axes or given.axis in axes:
            self._stop(node, "drops axes that are not named")
            return None
        return given.moved(given.axis - sum(a < given.axis for a in axes))

    def _unsqueeze(self, _: int, node: NodeProto) -> Layout | None:
        given, rank = self._layouts.get(node.input[0]), self._rank(node.input[0])
        value = self._graph.constants.get(node.input[1]) if len(node.input) > 1 else None
        if given is None:
            return None
        if value is None or rank is None:
            self._stop(node, "adds axes that are not named")
            return None
        total = rank + value.size
        new = {int(a) % total for a in np.atleast_1d(value)}
        return given.moved([a for a in range(total) if a not in new][given.axis])

    def _softmax(self, _: int, node: NodeProto) -> Layout | None:
        given, rank = self._layouts.get(node.input[0]), self._rank(node.input[0])
        if given is None:
            return None
        if rank is None or attribute_int(node, "axis", -1) % rank == given.axis:
            self._stop(node, "weighs the channels against each other")
        return given

    def _untouched(self, node: NodeProto, touched: list[float] | None, rest: float) -> Layout | None:
        """Channels pass if their axis has the neutral value."""
        given = self._layouts.get(node.input[0])
        if given is not None and (touched is None or any(v != rest for v in touched)):
            self._stop(node, "changes the axis of the channels")
            return None
        return given

    def _resize(self, _: int, node: NodeProto) -> Layout | None:
        given = self._layouts.get(node.input[0])
        scales = self._graph.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if given is None or scales is None or given.axis >= scales.size:
            return self._untouched(node, None, 1.0)
        return self._untouched(node, [float(scales[given.axis])], 1.0)

    def _pad(self, _: int, node: NodeProto) -> Layout | None:
        given, rank = self._layouts.get(node.input[0]), self._rank(node.input[0])
        pads = self._graph.constants.get(node.input[1]) if len(node.input) > 1 else None
        if given is None or pads is None or rank is None or pads.size != 2 * rank or len(node.input) > 3:
            return self._untouched(node, None, 0.0)
        return self._untouched(node, [float(pads[given.axis]), float(pads[given.axis + rank])], 0.0)

    def _slice(self, _: int, node: NodeProto) -> Layout | None:
        given, rank = self._layouts.get(node.input[0]), self._rank(node.input[0])
        axes = self._graph.constants.get(node.input[3]) if len(node.input) > 3 else None
        if given is None or rank is None or axes is None:
            return self._untouched(node, None, 0.0)
        return self._untouched(node, [float(int(a) % rank == given.axis) for a in axes], 0.0)
