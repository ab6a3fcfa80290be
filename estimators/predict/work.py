"""The work of each kernel of a network: class, multiply-accumulates, bytes at the real formats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeltailor.estimators.predict.amounts import OperatorClass, amount_of, weight_of
from modeltailor.estimators.predict.graph import ExecutedGraph, Kernel, Tensor, read_graph

__all__ = ["GraphWork", "KernelWork", "OperatorClass", "graph_work", "work_of"]

_INTEGER = frozenset({"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "QGemm", "DynamicQuantizeMatMul",
                      "MatMulIntegerToFloat", "DynamicQuantizeLSTM", "QAttention", "QLinearAdd", "QLinearMul"})  # fmt: skip
_PARTLY = frozenset(
    {"Gather", "GatherElements", "GatherND", "GatherBlockQuantized", "EmbedLayerNormalization", "Slice"}
)
"""Read no more elements of any input than they write: rows of a table, a piece of a tensor."""
_MASKED = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention", "LSTM", "GRU", "RNN"})
"""Have masks or lengths among their inputs, which say nothing of what they compute in."""
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
        counted: whether that is all; else it computes an amount that is not known, as the body of a loop does.
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
    counted: bool = True

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
        uncounted: those of them whose work is not known: no latency can be told of a network that has any.
    """

    kernels: tuple[KernelWork, ...]

    @property
    def operators(self) -> frozenset[str]:
        """The operators that occur."""
        return frozenset(k.operator for k in self.kernels)

    @property
    def uncounted(self) -> frozenset[str]:
        """The operators that compute nobody knows how much."""
        return frozenset(k.operator for k in self.kernels if not k.counted)

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
    amount = amount_of(kernel)
    kind, macs, channels = amount.kind, amount.macs, amount.channels
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
        counted=amount.counted,
    )


def _gathered(kernel: Kernel) -> int:
    """Return the bytes of the addresses that a convolution with windows, or with steps, collects."""
    window = weight_of(kernel).shape[2:]
    if math.prod(window) == 1 and math.prod(kernel.attributes.get("strides", (1,))) == 1:
        return 0
    out = kernel.outputs[0]
    return _ADDRESS * out.elements // max(weight_of(kernel).shape[0], 1) * math.prod(window)


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
    if kernel.operator in _MASKED:
        moving = moving[:1]
    if moving and all(t.bits == 8 for t in moving) and any(t.bits == 8 for t in kernel.outputs):
        return "int8"  # dequantize, compute, quantize: fused by every runtime that has the integer kernel
    return "fp16" if moving and all(t.bits == 16 and not t.integer for t in moving) else "fp32"
