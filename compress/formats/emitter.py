"""The graph that is being built: nodes, constants that are shared by content, and which tensors exist in which form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from modeltailor.compress.formats.graph import PreparedGraph
from modeltailor.compress.formats.nodes import attribute_int, names_used
from modeltailor.compress.formats.ranges import QuantParams
from modeltailor.compress.pack import DOMAIN, JOIN, SHAPE, Tree, plane_weights, unpack_node

__all__ = ["MICROSOFT", "Emitter"]

MICROSOFT = "com.microsoft"
_LINEAR = ("QuantizeLinear", "DequantizeLinear")
_NEWEST_LINEAR = 27  # the runtime has no kernels for what opset 28 made of them; its own ones do the same


class Emitter:
    """Collects the nodes of a candidate. A tensor keeps its name in float form; its integer form has a name of its own.

    Args:
        graph: the float model.
    """

    def __init__(self, graph: PreparedGraph) -> None:
        self.graph = graph
        self.nodes: list[NodeProto] = []
        self.tensors: dict[str, TensorProto] = {}
        self.uses_packing = False
        self._by_content: dict[tuple[int, tuple[int, ...], bytes], str] = {}
        self._floats: set[str] = {i.name for i in graph.model.graph.input}
        self._integers: dict[str, tuple[str, QuantParams]] = {}
        self._originals = {t.name: t for t in graph.model.graph.initializer}
        self._dynamic: dict[str, tuple[str, str, str]] = {}
        self._fresh = 0

    def fresh(self, stem: str) -> str:
        """Return a name that nothing else has."""
        self._fresh += 1
        return f"{stem}/~{self._fresh}"

    def constant(self, value: NDArray[np.generic]) -> str:
        """Return the name of an initializer with this content; equal ones are stored once."""
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        raw = np.ascontiguousarray(value).tobytes()
        key = (kind, value.shape, raw)
        if key not in self._by_content:
            name = self.fresh("k")
            tensor = TensorProto(data_type=kind, dims=value.shape, raw_data=raw, name=name)
            self.tensors[name] = tensor
            self._by_content[key] = name
        return self._by_content[key]

    def original(self, name: str) -> None:
        """Take over an initializer of the float model, if ``name`` is one."""
        if name in self._originals and name not in self.tensors:
            self.tensors[name] = self._originals[name]

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        name: str = "",
        domain: str = "",
        **attributes: Any,
    ) -> None:
        """Add a node."""
        if op in _LINEAR and not domain and self.graph.opset > _NEWEST_LINEAR:
            domain = MICROSOFT
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))

    def copy(self, node: NodeProto, *, name: str = "") -> None:
        """Add a node of the float model as it is; its inputs are made available in float."""
        for used in sorted(names_used([node])):
            self.original(used)
            if used in self._integers:
                self.as_float(used)
        made = NodeProto()
        made.CopyFrom(node)
        made.name = name
        made.ClearField("doc_string")
        del made.metadata_props[:]
        self.nodes.append(made)
        self._floats.update(o for o in node.output if o)

    def made_float(self, tensor: str) -> None:
        """Say that ``tensor`` now exists in float under its own name."""
        self._floats.add(tensor)

    def made_integer(self, tensor: str, params: QuantParams) -> str:
        """Say that ``tensor`` is about to exist in integers; returns the name that it has there."""
        name = f"{tensor}/q"
        self._integers[tensor] = (name, params)
        return name

    def is_float(self, tensor: str) -> bool:
        """Whether the float form exists."""
        return tensor in self._floats or tensor in self._originals

    def integer_form(self, tensor: str) -> tuple[str, QuantParams] | None:
        """Return name and parameters of the integer form, if it exists."""
        return self._integers.get(tensor)

    def dynamic_form(self, tensor: str) -> tuple[str, str, str]:
        """Return names of a tensor quantized at run time, its scale and its zero point; done once a tensor."""
        if tensor not in self._dynamic:
            names = (self.fresh("q"), self.fresh("s"), self.fresh("z"))
            self.node("DynamicQuantizeLinear", [self.as_float(tensor)], names)
            self._dynamic[tensor] = names
        return self._dynamic[tensor]

    def scalars(self, params: QuantParams) -> tuple[str, str]:
        """Return the names of scale and zero point as initializers."""
        kind = np.dtype(f"{'' if params.signed else 'u'}int{params.bits}")
        scale = self.constant(np.asarray(params.scale, np.float32))
        return scale, self.constant(np.asarray(params.zero_point, kind))

    def _guard(self, tensor: str) -> tuple[int, int]:
        """Channels of a tensor that a float site reads, and their axis; zeros if none does.

        Between a ``DequantizeLinear`` with one scale and a ``QuantizeLinear`` ONNX Runtime rounds float weights to
        8 bits on its own (its ``WeightBiasQuantization``) and runs the integer kernel. Whoever asks for a float site
        must get one: equal scales written out by channel keep the runtime from it. Products without a bias count, too:
        the runtime makes a ``Gemm`` of ``MatMul`` and ``Add``.
        """
        for index in self.graph.consumers.get(tensor, ()):
            node = self.graph.model.graph.node[index]
            if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or node.input[0] != tensor:
                continue
            shape = self.graph.shapes.get(node.input[1], ())
            if node.input[1] not in self.graph.constants or len(shape) < 2:
                continue
            match node.op_type:
                case "Conv":
                    return (shape[1] or 0) * attribute_int(node, "group", 1), 1
                case "ConvTranspose":
                    return shape[0] or 0, 1
                case "Gemm":
                    return shape[1 if attribute_int(node, "transB", 0) else 0] or 0, 1
                case _:
                    return shape[-2] or 0, -1
        return 0, 0

    def as_float(self, tensor: str) -> str:
        """Return the float form of a tensor, dequantized once where only integers exist."""
        self.original(tensor)
        if not self.is_float(tensor) and tensor in self._integers:
            name, params = self._integers[tensor]
            channels, axis = self._guard(tensor)
            if channels:
                scale, zero = (np.full(channels, self.tensor_value(k)) for k in self.scalars(params))
                ends = [self.constant(scale), self.constant(zero)]
                self.node("DequantizeLinear", [name, *ends], [tensor], axis=axis)
            else:
                self.node("DequantizeLinear", [name, *self.scalars(params)], [tensor])
            self._floats.add(tensor)
        return tensor

    def as_integer(self, tensor: str, params: QuantParams) -> tuple[str, QuantParams]:
        """Return the integer form of a tensor, quantized once with ``params`` where only floats exist."""
        if tensor not in self._integers:
            if tensor in self.graph.constants:
                value = np.asarray(self.graph.constants[tensor], np.float32)
                self._integers[tensor] = (self.constant(params.quantized(value)), params)
            else:
                name = f"{tensor}/q"
                self.node("QuantizeLinear", [tensor, *self.scalars(params)], [name])
                self._integers[tensor] = (name, params)
        return self._integers[tensor]

    def unpacked(self, planes: NDArray[np.uint8], shape: tuple[int, ...], *, signed: bool) -> str:
        """Return the name of the int8 tensor that packed planes unfold to while the runtime loads the model."""
        self.uses_packing = True
        out = self.fresh("w")
        worth = self.constant(plane_weights(planes.shape[0], signed=signed))
        self.nodes.append(unpack_node(self.constant(planes), worth, self.constant(np.array(shape, np.int64)), out))
        return out

    def decoded(self, tree: Tree, shape: tuple[int, ...]) -> str:
        """Return the name of the int8 tensor that a coded weight unfolds to while the runtime loads the model."""
        out = self.fresh("w")
        ends = [self._joined(tree), self.constant(np.array(shape, np.int64))]
        self.node(SHAPE, ends, [out], domain=DOMAIN)
        return out

    def _joined(self, tree: Tree | NDArray[np.int8] | int) -> str:
        if isinstance(tree, int):
            return self.constant(np.array([tree], np.int32))
        if isinstance(tree, np.ndarray):
            plain = self.fresh("t")
            self.node("Cast", [self.constant(tree)], [plain], to=TensorProto.INT32)
            return plain
        out = self.fresh("t")
        ends = [self.constant(tree.bits), self._joined(tree.left), self._joined(tree.right)]
        self.node(JOIN, ends, [out], domain=DOMAIN)
        return out

    def tensor_value(self, name: str) -> NDArray[np.generic]:
        """Return the value of an initializer that was added."""
        return numpy_helper.to_array(self.tensors[name])
