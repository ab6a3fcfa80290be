"""The work of each kernel of a network: class, multiply-accumulates, bytes at the real formats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeltailor.estimators.predict.graph import ExecutedGraph, Kernel, Tensor, read_graph

__all__ = ["GraphWork", "KernelWork", "OperatorClass", "graph_work", "work_of"]

OperatorClass = Literal["conv", "pointwise", "depthwise", "matmul", "blocks", "move", "convert"]
"""What decides the rate: sorts of convolution, products, products whose weights are unpacked in blocks while they run, work
that only moves or changes elements, conversions between formats and layouts."""

_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "QLinearConv", "ConvInteger", "NhwcFusedConv", "NhwcConv"})
_PRODUCTS = frozenset({
    "Gemm", "QGemm", "FusedGemm", "MatMul", "FusedMatMul", "QLinearMatMul", "MatMulInteger", "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat", "MatMulNBits", "GemmFloat8",
})  # fmt: skip
_CONVERSIONS = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ReorderInput",
                          "ReorderOutput", "Transpose", "MemcpyFromHost", "MemcpyToHost"})  # fmt: skip
_INTEGER = frozenset({"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "QGemm", "DynamicQuantizeMatMul",
                      "MatMulIntegerToFloat", "QLinearAdd", "QLinearMul"})  # fmt: skip
_PARTLY = frozenset(
    {"Gather", "GatherElements", "GatherND", "GatherBlockQuantized", "EmbedLayerNormalization", "Slice"}
)
"""Read no more elements of any input than they write: rows of a table, a piece of a tensor."""
_UNREAD = frozenset({"Shape", "Size"})
_ADDRESS = 16  # bytes of an address, written and read again
_SHARING = 4  # registers of output channels that a convolution's inner loop keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelWork:
    """What one kernel does.

    Attributes:
        name: of the kernel.
        operator: as in the graph.
        operator_class: which rate it runs at.
        number_format: what it computes in: ``fp32``, ``fp16`` or ``int8``.
        macs: multiply-accumulates.
        padded_macs: the same with output channels filled up to the vector width.
        read_bytes: activations and weights read, at the formats they are kept in.
        written_bytes: outputs.
        variant: what else decides which code runs: of weights in blocks their bits, and the level they are computed at.
        registers: vector registers that the output channels of a float convolution fill; 0 where that does not count.
        gathered_bytes: what an integer convolution collects before it multiplies: where each pixel of each window lies.
        weight_bytes: of the bytes read, those of weights: an inference comes back to them when it has passed over all others.
    """

    name: str
    operator: str
    operator_class: OperatorClass
    number_format: Literal["fp32", "fp16", "int8"]
    macs: int
    padded_macs: int
    read_bytes: int
    written_bytes: int
    variant: str = ""
    registers: int = 0
    gathered_bytes: int = 0
    weight_bytes: int = 0

    @property
    def rated_macs(self) -> float:
        """Multiply-accumulates in the time that one takes in a convolution of many channels.

        Kernels keep up to four registers of output channels at a time, which share each input that is loaded, and are
        independent sums. With fewer, the same work takes longer: ONNX Runtime's float kernels did 17 to 25, 31 and 38 billion a
        second with 1, 2 and 4 registers (AVX2, one core).
        """
        if not self.registers:
            return self.padded_macs
        return self.padded_macs * (1.0 - 1.0 / _SHARING + 1.0 / min(self.registers, _SHARING))

    @property
    def moved_bytes(self) -> int:
        """Bytes read and written."""
        return self.read_bytes + self.written_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphWork:
    """The work of a network.

    Attributes:
        kernels: in the order of execution.
        operators: the operators that occur.
    """

    kernels: tuple[KernelWork, ...]

    @property
    def operators(self) -> frozenset[str]:
        """The operators that occur."""
        return frozenset(k.operator for k in self.kernels)

    @property
    def macs(self) -> int:
        """All multiply-accumulates."""
        return sum(k.macs for k in self.kernels)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one inference reads."""
        return sum(k.weight_bytes for k in self.kernels)


def graph_work(path: Path, dimensions: Mapping[str, int] | None = None, lanes: int = 8) -> GraphWork:
    """Return the work of an ONNX file.

    Args:
        path: the file; the graph as the runtime optimized it gives the truest kernels.
        dimensions: sizes of symbolic dimensions by name.
        lanes: elements of 32 bits in a vector register. 8-bit kernels add up in 32 bits, two registers at a time.

    Raises:
        ModelError: the file cannot be read, or a shape stays unknown.
    """
    return work_of(read_graph(path, dimensions), lanes)


def work_of(graph: ExecutedGraph, lanes: int = 8) -> GraphWork:
    """Return the work of a graph that was read."""
    return GraphWork(kernels=tuple(_kernel_work(k, lanes) for k in graph.kernels))


def _kernel_work(kernel: Kernel, lanes: int) -> KernelWork:
    kind, macs, channels = _amount(kernel)
    number_format = _format(kernel)
    width = lanes if number_format == "fp32" else 2 * lanes
    padded = macs if channels == 0 else math.ceil(macs * (-(-channels // width) * width) / channels)
    return KernelWork(
        name=kernel.name,
        operator=kernel.operator,
        operator_class=kind,
        number_format=number_format,
        macs=macs,
        padded_macs=padded,
        read_bytes=sum(_bytes_read(t, kernel) for t in kernel.inputs),
        written_bytes=sum(t.size_bytes for t in kernel.outputs),
        variant=_variant(kernel) if kind == "blocks" else "",
        registers=-(-channels // width) if kind in ("conv", "pointwise") and number_format != "int8" else 0,
        gathered_bytes=_gathered(kernel)
        if number_format == "int8" and kind in ("conv", "depthwise", "pointwise")
        else 0,
        weight_bytes=sum(_bytes_read(t, kernel) for t in kernel.inputs if t.constant),
    )


def _gathered(kernel: Kernel) -> int:
    """Return the bytes of the addresses that a convolution with windows, or with steps, collects."""
    window = _weight(kernel).shape[2:]
    if math.prod(window) == 1 and math.prod(kernel.attributes.get("strides", (1,))) == 1:
        return 0
    out = kernel.outputs[0]
    return _ADDRESS * out.elements // max(_weight(kernel).shape[0], 1) * math.prod(window)


def _bytes_read(tensor: Tensor, kernel: Kernel) -> int:
    """Return the bytes that a kernel reads of one input, which may be a table of which it needs a few rows."""
    if kernel.operator in _UNREAD:
        return 0
    if kernel.operator in _PARTLY:
        elements = min(tensor.elements, max(t.elements for t in kernel.outputs))
        return -(-elements * tensor.bits // 8)
    return tensor.size_bytes


def _variant(kernel: Kernel) -> str:
    bits, level = (kernel.attributes.get(name, (usual,))[0] for name, usual in (("bits", 4), ("accuracy_level", 0)))
    return f"{bits} bits, level {level}"


def _format(kernel: Kernel) -> Literal["fp32", "fp16", "int8"]:
    if kernel.operator in _INTEGER:
        return "int8"
    moving = [t for t in kernel.inputs if not t.constant and t.elements > 1]
    if moving and all(t.bits == 8 for t in moving) and any(t.bits == 8 for t in kernel.outputs):
        return "int8"  # dequantize, compute, quantize: fused by every runtime that has the integer kernel
    return "fp16" if moving and all(t.bits == 16 and not t.integer for t in moving) else "fp32"


def _amount(kernel: Kernel) -> tuple[OperatorClass, int, int]:
    """Return class, multiply-accumulates, and the channels that are laid along a vector (0: none)."""
    if kernel.operator in _CONVOLUTIONS:
        return _convolution(kernel)
    if kernel.operator == "ConvTranspose":
        weight = _weight(kernel)
        return "conv", kernel.inputs[0].elements * math.prod(weight.shape[1:]), weight.shape[1]
    if kernel.operator in _PRODUCTS:
        return _product(kernel)
    if kernel.operator in {"LSTM", "GRU", "RNN"}:
        steps = math.prod(kernel.inputs[0].shape[:2])
        return "matmul", steps * sum(t.elements for t in kernel.inputs[1:3]), 0
    if kernel.operator == "Attention" and len(kernel.inputs) > 1 and len(kernel.inputs[0].shape) == 3:
        batch, length, width = kernel.inputs[0].shape
        inner = kernel.inputs[1].shape[-1] // 3
        return "matmul", batch * length * (width * 3 * inner + 2 * length * inner), 0
    return ("convert" if kernel.operator in _CONVERSIONS else "move"), 0, 0


def _weight(kernel: Kernel) -> Tensor:
    return next(t for t in kernel.inputs[1:] if len(t.shape) == len(kernel.inputs[0].shape))


def _convolution(kernel: Kernel) -> tuple[OperatorClass, int, int]:
    weight = _weight(kernel)
    out_channels, in_of_group, *window = weight.shape
    macs = kernel.outputs[0].elements * in_of_group * math.prod(window)
    groups = kernel.attributes.get("group", (1,))[0]
    if groups > 1 and in_of_group == 1:
        return "depthwise", macs, out_channels
    return ("pointwise" if math.prod(window) == 1 else "conv"), macs, out_channels


def _product(kernel: Kernel) -> tuple[OperatorClass, int, int]:
    out = kernel.outputs[0]
    if "K" in kernel.attributes and "N" in kernel.attributes:  # weights packed in blocks
        return "blocks", out.elements * kernel.attributes["K"][0], kernel.attributes["N"][0]
    weight = next((t for t in kernel.inputs[1:] if t.constant and len(t.shape) == 2), None)
    if weight is not None and weight.elements % out.shape[-1] == 0:
        return "matmul", out.elements * (weight.elements // out.shape[-1]), out.shape[-1]
    transposed = kernel.operator in {"Gemm", "QGemm", "FusedGemm"} and kernel.attributes.get("transA", (0,))[0]
    depth = kernel.inputs[0].shape[0 if transposed else -1]
    return "matmul", out.elements * depth, out.shape[-1]
