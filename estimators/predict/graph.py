"""An ONNX graph as it is executed: what is folded at load, what is a view, what runs as one kernel.

A graph that a runtime has settled is taken as it stands: every node is a kernel, but for views. From another one the reader
folds what every runtime folds: nodes on constants alone, quantize/dequantize pairs around a kernel, batch norms and
activations behind it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from modeltailor.errors import ModelError
from modeltailor.estimators.predict.shapes import with_shapes

__all__ = ["ExecutedGraph", "Kernel", "Tensor", "bits_of", "has_inserted_casts", "read_graph", "read_model"]

_INTEGERS = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16})
_INSERTED = ("InsertedPrecisionFreeCast_", "InsertedCast_")
"""How ONNX Runtime calls a conversion that it inserts around what it cannot compute in half floats, and its tensor of floats."""
_VIEWS = frozenset({"Reshape", "Flatten", "Identity", "Squeeze", "Unsqueeze", "Dropout"})
_QUANTIZE = frozenset({"QuantizeLinear"})
_DEQUANTIZE = frozenset({"DequantizeLinear"})
_CARRIERS = frozenset(
    {"Conv", "FusedConv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "BatchNormalization", "Add"}
)
_FOLLOWERS = frozenset(
    {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "BatchNormalization"}
)
_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.DOUBLE: 64, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16,
    TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.INT16: 16, TensorProto.UINT16: 16, TensorProto.INT32: 32,
    TensorProto.UINT32: 32, TensorProto.INT64: 64, TensorProto.UINT64: 64, TensorProto.BOOL: 8,
    TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT2: 2, TensorProto.UINT2: 2,
    TensorProto.FLOAT8E4M3FN: 8, TensorProto.FLOAT8E5M2: 8, TensorProto.COMPLEX64: 64, TensorProto.COMPLEX128: 128,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor.

    Attributes:
        name: its name in the file.
        shape: every dimension known.
        bits: of one element as it is kept in memory.
        constant: known before the run: a weight.
        integer: whether the elements are integers.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    constant: bool
    integer: bool = False

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes in memory; elements under eight bits are packed."""
        return -(-self.elements * self.bits // 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One call of the runtime.

    Attributes:
        name: name of its first node.
        operator: operator of that node.
        inputs: tensors read, weights among them, in the order of the node.
        outputs: tensors written.
        attributes: integers and lists of integers of the node, by name.
        domain: of the operator; empty for standard ONNX.
        texts: attributes of the node that are text, by name.
        places: which argument of the node each input is: arguments may be left out. As they come, if empty.
        bodies: domain and operator of all nodes in the bodies of a loop or the branches of a choice.
    """

    name: str
    operator: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    attributes: Mapping[str, tuple[int, ...]]
    domain: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    places: tuple[int, ...] = ()
    bodies: frozenset[tuple[str, str]] = frozenset()

    def given(self, place: int) -> Tensor | None:
        """Return the input that is a certain argument of the node; ``None`` where that was left out."""
        places = self.places or range(len(self.inputs))
        return next((t for t, at in zip(self.inputs, places, strict=True) if at == place), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedGraph:
    """All kernels in the order of execution.

    Attributes:
        kernels: what is called.
        inputs: tensors that come from outside.
        outputs: tensors that are handed out.
        stored_bytes: of all constants as they lie in the file, packed weights packed.
    """

    kernels: tuple[Kernel, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    stored_bytes: int


def bits_of(element_type: int) -> int:
    """Return the bits that one element of an ONNX type takes in memory; 32 for types that are not known."""
    return _BITS.get(element_type, 32)


def has_inserted_casts(model: onnx.ModelProto) -> bool:
    """Whether the runtime put conversions around what it cannot compute in half floats."""
    return any(n.op_type == "Cast" and n.name.startswith(_INSERTED) for n in model.graph.node)


def read_graph(path: Path, dimensions: Mapping[str, int] | None = None) -> ExecutedGraph:
    """Read an ONNX file as it stands.

    Args:
        path: the file.
        dimensions: sizes of symbolic dimensions by name; a leading one that is not named is 1.

    Raises:
        ModelError: the file cannot be read, or the shape of a tensor stays unknown.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # onnx raises whatever protobuf and its own checks raise
        raise ModelError("MOD-20", path.name, f"cannot read the graph ({type(error).__name__})") from error
    return read_model(model, path.name, dimensions)


def read_model(
    model: onnx.ModelProto,
    where: str,
    dimensions: Mapping[str, int] | None = None,
    *,
    settled: bool = False,
    elsewhere: bool = False,
) -> ExecutedGraph:
    """Read a model that is loaded; it is changed, its large weights may be without values.

    Args:
        model: the model.
        where: the file, for messages.
        dimensions: as for :func:`read_graph`.
        settled: a runtime has done all its optimizations; what is left runs.
        elsewhere: it runs on what computes in half floats. The runtime here did not find that, and put conversions to
            floats and back around all that does; they are none there.

    Raises:
        ModelError: the shape of a tensor stays unknown.
    """
    try:
        shaped = with_shapes(model, dict(dimensions or {}))
    except Exception as error:  # onnx raises whatever protobuf and its own checks raise
        raise ModelError("MOD-20", where, f"cannot read the graph ({type(error).__name__})") from error
    return _Reader(where, shaped, settled, elsewhere).read()


@dataclass
class _Reader:
    where: str
    model: onnx.ModelProto
    settled: bool
    elsewhere: bool = False
    tensors: dict[str, Tensor] = field(default_factory=dict)
    same_as: dict[str, str] = field(default_factory=dict)

    def read(self) -> ExecutedGraph:
        graph = self.model.graph
        stored = 0
        for weight in graph.initializer:
            bits = self._bits(weight.name, weight.data_type)
            self.tensors[weight.name] = Tensor(name=weight.name, shape=tuple(weight.dims), bits=bits, constant=True)
            stored += self.tensors[weight.name].size_bytes
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.name not in self.tensors:
                self._declare(value)
        kernels: list[tuple[str, onnx.NodeProto, list[str]]] = []
        readers = self._readers()
        made_by: dict[str, int] = {}
        for node in graph.node:
            known = node.input and not self.settled and all(self._constant(i) for i in node.input if i)
            if node.op_type == "Constant" or known:
                stored += self._fold(node)
                continue
            if self._is_alias(node, readers, made_by, kernels):
                continue
            kernels.append((node.name or node.output[0], node, [o for o in node.output if o]))
            made_by.update({o: len(kernels) - 1 for o in node.output if o})
        return ExecutedGraph(
            kernels=tuple(self._kernel(name, node, outputs) for name, node, outputs in kernels),
            inputs=tuple(self._tensor(i.name) for i in graph.input if not self._constant(i.name)),
            outputs=tuple(self._tensor(o.name) for o in graph.output),
            stored_bytes=stored,
        )

    def _declare(self, value: onnx.ValueInfoProto) -> None:
        kind = value.type.tensor_type
        if not kind.HasField("shape"):
            return
        shape = []
        for dimension in kind.shape.dim:
            if dimension.HasField("dim_value"):
                shape.append(dimension.dim_value)
            else:
                return
        self.tensors[value.name] = Tensor(
            name=value.name,
            shape=tuple(shape),
            bits=self._bits(value.name, kind.elem_type),
            constant=False,
            integer=kind.elem_type in _INTEGERS,
        )

    def _bits(self, name: str, element_type: int) -> int:
        return 16 if self.elsewhere and name.startswith(_INSERTED) else bits_of(element_type)

    def _readers(self) -> dict[str, int]:
        count: dict[str, int] = {o.name: 1 for o in self.model.graph.output}
        for node in self.model.graph.node:
            for name in node.input:
                count[name] = count.get(name, 0) + 1
        return count

    def _constant(self, name: str) -> bool:
        return name in self.tensors and self.tensors[name].constant

    def _fold(self, node: onnx.NodeProto) -> int:
        """Mark the outputs as constants; return the bytes that a ``Constant`` node brings of its own."""
        own = 0
        for output in node.output:
            if node.op_type == "Constant":
                value = next((a.t for a in node.attribute if a.name == "value"), None)
                shape: tuple[int, ...] = tuple(value.dims) if value is not None else ()
                bits = bits_of(value.data_type) if value is not None else 64
                own += -(-math.prod(shape) * bits // 8)
            elif node.op_type in _DEQUANTIZE:  # the kernel behind reads the integers
                first = self.tensors[node.input[0]]
                shape, bits = first.shape, max(first.bits, 8)
            else:
                known = self.tensors.get(output)
                shape = known.shape if known else self.tensors[node.input[0]].shape if node.input else ()
                bits = known.bits if known else self._bits(output, TensorProto.FLOAT)
            self.tensors[output] = Tensor(name=output, shape=shape, bits=bits, constant=True)
        return own

    def _is_alias(
        self,
        node: onnx.NodeProto,
        readers: dict[str, int],
        made_by: dict[str, int],
        kernels: list[tuple[str, onnx.NodeProto, list[str]]],
    ) -> bool:
        """Whether the node makes no kernel of its own; if so, its output becomes another name."""
        inserted = self.elsewhere and node.op_type == "Cast" and node.name.startswith(_INSERTED)
        if inserted or node.op_type in _VIEWS or (node.op_type in _DEQUANTIZE and not self.settled):
            self.same_as[node.output[0]] = node.input[0]
            return True
        if not node.input or self.settled:
            return False
        source = self._root(node.input[0])
        at = made_by.get(source)
        alone = at is not None and source in kernels[at][2] and readers.get(node.input[0], 0) == 1
        if node.op_type in _QUANTIZE:
            if alone and at is not None:  # the kernel in front writes the integers itself
                self._now_writes(kernels[at][2], source, node.output[0])
                made_by[node.output[0]] = at
                return True
            if source in self.tensors and self.tensors[source].bits == 8:
                self.same_as[node.output[0]] = node.input[0]
                return True
            return False
        if node.op_type in _FOLLOWERS and alone and at is not None and kernels[at][1].op_type in _CARRIERS:
            self._now_writes(kernels[at][2], source, node.output[0])
            made_by[node.output[0]] = at
            return True
        return False

    @staticmethod
    def _now_writes(outputs: list[str], old: str, new: str) -> None:
        outputs[outputs.index(old)] = new

    def _root(self, name: str) -> str:
        while name in self.same_as:
            name = self.same_as[name]
        return name

    def _tensor(self, name: str) -> Tensor:
        root = self._root(name)
        if root not in self.tensors:
            raise ModelError(
                "MOD-21", self.where, f"the shape of tensor {root!r} is not known", "give the symbolic dimensions"
            )
        found, own = self.tensors[root], self.tensors.get(name)
        if own is not None and own.shape != found.shape and own.elements == found.elements:
            return replace(found, shape=own.shape)  # seen through a view: the same bytes in another shape
        return found

    def _kernel(self, name: str, node: onnx.NodeProto, outputs: list[str]) -> Kernel:
        attributes: dict[str, tuple[int, ...]] = {}
        texts: dict[str, str] = {}
        for attribute in node.attribute:
            value: Any = helper.get_attribute_value(attribute)
            if isinstance(value, int):
                attributes[attribute.name] = (value,)
            elif isinstance(value, list) and all(isinstance(v, int) for v in value):
                attributes[attribute.name] = tuple(value)
            elif isinstance(value, bytes):
                texts[attribute.name] = value.decode(errors="replace")
        return Kernel(
            name=name,
            operator=node.op_type,
            inputs=tuple(self._tensor(i) for i in node.input if i),
            outputs=tuple(self._tensor(o) for o in outputs),
            attributes=attributes,
            domain=node.domain,
            texts=texts,
            places=tuple(place for place, i in enumerate(node.input) if i),
            bodies=frozenset((n.domain, n.op_type) for n in _inner_nodes(node)),
        )


def _inner_nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of all graphs that a node holds, and of those that they hold."""
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for inner in graph.node:
                yield inner
                yield from _inner_nodes(inner)
