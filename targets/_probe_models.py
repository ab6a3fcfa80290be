"""Small ONNX models, each the same few layers in another number format; what the probe and tests run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "block_net",
    "conv_net",
    "conversion_net",
    "dynamic_conv_net",
    "matmul_net",
    "quantized_conv_net",
    "quantized_matmul_net",
]

_TYPES = {"u8": np.uint8, "s8": np.int8, "u16": np.uint16}
_MOST = {"u8": 127.0, "s8": 63.0}  # signed weights take 7 bits: with 8, x86 kernels without VNNI saturate their sums
_OPSET = 18
_OPSET_16_BIT = 21  # the first whose quantization takes 16 bits
_OPSET_BF16 = 22  # the first whose convolution takes bf16
_FLOATS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@dataclass
class _Net:
    """A graph under construction; ``value`` is the tensor that the next layer reads."""

    value: str = "x"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    opset: int = _OPSET

    def tensor(self, name: str, data: NDArray[np.generic]) -> str:
        self.tensors.append(numpy_helper.from_array(data, name))
        return name

    def real(self, name: str, data: NDArray[np.float32], number: str) -> str:
        """A float tensor as ``fp32``, ``fp16`` or ``bf16``."""
        if number == "bf16":  # the upper half of an fp32 number; NumPy has no such type
            upper = (np.ascontiguousarray(data).view(np.uint32) >> 16).astype("<u2")
            self.tensors.append(helper.make_tensor(name, TensorProto.BFLOAT16, data.shape, upper.tobytes(), raw=True))
            return name
        return self.tensor(name, data.astype(np.float16) if number == "fp16" else data)

    def cast(self, number: str, name: str) -> None:
        """Go on in another kind of float; fp32 needs no node."""
        if number != "fp32":
            self.value = self.node("Cast", [self.value], name, to=_FLOATS[number])
        if number == "bf16":
            self.opset = _OPSET_BF16

    def back(self, number: str) -> None:
        """Return to fp32."""
        if number != "fp32":
            self.value = self.node("Cast", [self.value], "up", to=TensorProto.FLOAT)

    def weights(self, shape: tuple[int, ...], fan_in: int) -> NDArray[np.float32]:
        return (self.rng.normal(size=shape) / math.sqrt(fan_in)).astype(np.float32)

    def node(self, op: str, inputs: list[str], name: str, *, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, domain=domain, **attributes))
        return f"{name}_out"

    def pair(self, value: str, name: str, scale: float, kind: str, *, positive: bool = False) -> str:
        """Quantize and dequantize ``value``; behind a Relu the zero point is the least integer, so that it folds."""
        least, middle = {"u8": (0, 128), "s8": (-128, 0), "u16": (0, 32768)}[kind]
        zero = least if positive else middle
        if kind == "u16":
            self.opset, scale = _OPSET_16_BIT, scale / 256.0
        names = [
            self.tensor(f"{name}_scale", np.array(scale, np.float32)),
            self.tensor(f"{name}_zero", np.array(zero, _TYPES[kind])),
        ]
        quantized = self.node("QuantizeLinear", [value, *names], f"{name}_q")
        return self.node("DequantizeLinear", [quantized, *names], f"{name}_dq")

    def stored(
        self, name: str, weight: NDArray[np.float32], kind: str, axis: int | None
    ) -> tuple[str, NDArray[np.float32]]:
        """Store a weight as integers behind a ``DequantizeLinear``; return it and its scale(s)."""
        rest = tuple(a for a in range(weight.ndim) if a != axis) if axis is not None else None
        scale = np.asarray(np.abs(weight).max(axis=rest) / _MOST[kind], np.float32)
        shape = [-1 if a == axis else 1 for a in range(weight.ndim)] if axis is not None else []
        rounded = np.round(weight / (scale.reshape(shape) if shape else scale))
        zero = 128 if kind == "u8" else 0
        names = [
            self.tensor(
                f"{name}_int", (rounded + zero).clip(0 if zero else -127, 255 if zero else 127).astype(_TYPES[kind])
            ),
            self.tensor(f"{name}_wscale", scale),
            self.tensor(f"{name}_wzero", np.full(scale.shape, zero, _TYPES[kind])),
        ]
        extra: dict[str, Any] = {"axis": axis} if axis is not None else {}
        return self.node("DequantizeLinear", names, f"{name}_wdq", **extra), scale

    def model(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity", [self.value], ["y"], name="last"))
        graph = helper.make_graph(
            self.nodes,
            "probe",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, in_shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, out_shape)],
            self.tensors,
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10 if self.opset > _OPSET else 9)


def conv_net(
    *,
    channels: int,
    side: int,
    inputs: int | None = None,
    depthwise: bool = False,
    number: str = "fp32",
    zeros: str = "",
) -> onnx.ModelProto:
    """3x3 convolutions in float: a first one, then a residual block of two; input ``x`` of (1, inputs, side, side).

    The block is there because a tensor that two branches read is what integer kernels most often stumble over. A
    depthwise network is a plain chain of three.

    Args:
        channels: of every layer.
        side: of the image.
        inputs: channels of the input; as many as ``channels`` if ``None``.
        depthwise: one group a channel.
        number: ``fp32``, ``fp16`` or ``bf16``; input and output stay fp32.
        zeros: weights that are zero: ``0.5`` for that share anywhere, ``2:4`` for two of every four along the input
            channels.
    """
    net = _Net()
    first = channels if inputs is None else inputs
    net.cast(number, "down")
    skip = ""
    for k in range(3):
        reads = first if k == 0 else channels
        groups = channels if depthwise else 1
        weight = _thinned(net.weights((channels, reads // groups, 3, 3), 9 * reads // groups), zeros, net.rng)
        bias = np.zeros(channels, np.float32)
        names = [net.value, net.real(f"w{k}", weight, number), net.real(f"b{k}", bias, number)]
        made = net.node("Conv", names, f"c{k}", pads=[1, 1, 1, 1], group=groups)
        if k == 2 and not depthwise:
            made = net.node("Add", [skip, made], "add")
        net.value = net.node("Relu", [made], f"r{k}")
        skip = net.value if k == 0 else skip
    net.back(number)
    return net.model((1, first, side, side), (1, channels, side, side))


def _thinned(weight: NDArray[np.float32], zeros: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Set weights to zero: none if ``zeros`` is empty, ``2:4`` or a share."""
    if not zeros:
        return weight
    if zeros == "2:4":
        kept = np.arange(weight.shape[1]) % 4 < 2
        return weight * kept.reshape(1, -1, *[1] * (weight.ndim - 2)).astype(np.float32)
    return weight * (rng.random(weight.shape) >= float(zeros)).astype(np.float32)


def dynamic_conv_net(*, channels: int, side: int, weight: str) -> onnx.ModelProto:
    """The layers of :func:`conv_net`, each input quantized as it comes (``DynamicQuantizeLinear``, ``ConvInteger``).

    Args:
        channels: of input and every layer.
        side: of the image.
        weight: ``u8`` or ``s8``, one scale a tensor.
    """
    net = _Net()
    skip = ""
    for k in range(3):
        values = net.weights((channels, channels, 3, 3), 9 * channels)
        made = _dynamic_layer(net, k, values, weight, "ConvInteger", pads=[1, 1, 1, 1])
        if k == 2:
            made = net.node("Add", [skip, made], "add")
        net.value = net.node("Relu", [made], f"r{k}")
        skip = net.value if k == 0 else skip
    shape = (1, channels, side, side)
    return net.model(shape, shape)


def matmul_net(*, rows: int, width: int, layers: int = 3, number: str = "fp32", dynamic: str = "") -> onnx.ModelProto:
    """Layers of ``MatMul`` in float, or with dynamically quantized inputs; input ``x`` of (1, rows, width).

    Args:
        rows: of the input.
        width: of every layer.
        layers: how many.
        number: ``fp32``, ``fp16`` or ``bf16``; input and output stay fp32.
        dynamic: empty, ``u8`` or ``s8`` (weights per tensor), or ``s8c`` (weights per column).
    """
    net = _Net()
    net.cast(number, "down")
    for k in range(layers):
        weight = net.weights((width, width), width)
        if dynamic:
            net.value = _dynamic_layer(net, k, weight, dynamic, "MatMulInteger")
        else:
            net.value = net.node("MatMul", [net.value, net.real(f"w{k}", weight, number)], f"m{k}")
    net.back(number)
    shape = (1, rows, width)
    return net.model(shape, shape)


def _dynamic_layer(net: _Net, k: int, weight: NDArray[np.float32], kind: str, op: str, **attributes: Any) -> str:
    """The pattern of nodes that the runtime fuses, into ``DynamicQuantizeMatMul`` for one; returns the result."""
    scale = np.asarray(np.abs(weight).max(axis=0 if kind == "s8c" else None) / _MOST[kind[:2]], np.float32)
    zero = 128 if kind == "u8" else 0
    stored = (np.round(weight / scale) + zero).astype(_TYPES[kind[:2]])
    outs = [f"d{k}_q", f"d{k}_scale", f"d{k}_zero"]
    net.nodes.append(helper.make_node("DynamicQuantizeLinear", [net.value], outs, name=f"d{k}"))
    inputs = [
        outs[0],
        net.tensor(f"w{k}", stored),
        outs[2],
        net.tensor(f"w{k}_zero", np.full(scale.shape, zero, _TYPES[kind[:2]])),
    ]
    product = net.node(op, inputs, f"m{k}", **attributes)
    both = net.node("Mul", [outs[1], net.tensor(f"w{k}_scale", scale)], f"s{k}")
    return net.node("Mul", [net.node("Cast", [product], f"f{k}", to=TensorProto.FLOAT), both], f"o{k}")


def quantized_conv_net(
    *,
    channels: int,
    side: int,
    activation: str,
    weight: str,
    per_channel: bool,
    inputs: int | None = None,
    depthwise: bool = False,
    relu_folds: bool = True,
) -> onnx.ModelProto:
    """The layers of :func:`conv_net` between pairs of ``QuantizeLinear`` and ``DequantizeLinear``.

    Args:
        channels: of every layer.
        side: of the image.
        activation: ``u8``, ``s8`` or ``u16``.
        weight: ``u8`` or ``s8``.
        per_channel: one scale an output channel.
        inputs: channels of the input; as many as ``channels`` if ``None``.
        depthwise: one group a channel.
        relu_folds: zero points behind a Relu are the least integer; otherwise the runtime keeps the Relu, and with it
            the convolution in float.
    """
    net = _Net()
    first = channels if inputs is None else inputs
    groups = channels if depthwise else 1
    net.value = net.pair(net.value, "x", 0.03, activation)
    skip = ""
    for k in range(3):
        reads = first if k == 0 else channels
        values = net.weights((channels, reads // groups, 3, 3), 9 * reads // groups)
        stored, scale = net.stored(f"l{k}", values, weight, 0 if per_channel else None)
        bias_scale = np.asarray((0.03 / 256.0 if activation == "u16" else 0.03) * scale, np.float32)
        bias = [
            net.tensor(f"l{k}_bias", np.zeros(channels, np.int32)),
            net.tensor(f"l{k}_bscale", bias_scale),
            net.tensor(f"l{k}_bzero", np.zeros(bias_scale.shape, np.int32)),
        ]
        extra: dict[str, Any] = {"axis": 0} if per_channel else {}
        names = [net.value, stored, net.node("DequantizeLinear", bias, f"l{k}_bdq", **extra)]
        made = net.node("Conv", names, f"l{k}", pads=[1, 1, 1, 1], group=groups)
        if k == 2 and not depthwise:
            made = net.node("Add", [skip, net.pair(made, "inner", 0.03, activation)], "add")
        net.value = net.pair(net.node("Relu", [made], f"r{k}"), f"a{k}", 0.03, activation, positive=relu_folds)
        skip = net.value if k == 0 else skip
    return net.model((1, first, side, side), (1, channels, side, side))


def quantized_matmul_net(
    *, rows: int, width: int, activation: str, weight: str, per_channel: bool, layers: int = 3
) -> onnx.ModelProto:
    """The layers of :func:`matmul_net` between pairs of ``QuantizeLinear`` and ``DequantizeLinear``."""
    net = _Net()
    net.value = net.pair(net.value, "x", 0.03, activation)
    for k in range(layers):
        stored, _ = net.stored(f"l{k}", net.weights((width, width), width), weight, 1 if per_channel else None)
        net.value = net.pair(net.node("MatMul", [net.value, stored], f"l{k}"), f"a{k}", 0.03, activation)
    return net.model((1, rows, width), (1, rows, width))


def block_net(
    *, rows: int, width: int, bits: int, accuracy_level: int, block: int = 32, layers: int = 3
) -> onnx.ModelProto:
    """The layers of :func:`matmul_net` as ``MatMulNBits``: weights in blocks, activations in float."""
    net = _Net()
    for k in range(layers):
        n_blocks = width // block
        packed = net.rng.integers(0, 256, (width, n_blocks, block * bits // 8), dtype=np.uint8)
        inputs = [
            net.value,
            net.tensor(f"w{k}", packed),
            net.tensor(f"s{k}", np.full(width * n_blocks, 0.01 / 2**bits, np.float32)),
        ]
        net.value = net.node(
            "MatMulNBits",
            inputs,
            f"m{k}",
            domain="com.microsoft",
            K=width,
            N=width,
            bits=bits,
            block_size=block,
            accuracy_level=accuracy_level,
        )
    shape = (1, rows, width)
    return net.model(shape, shape)


def conversion_net(*, channels: int, side: int, pairs: int) -> onnx.ModelProto:
    """Four operators without an integer kernel, with ``pairs`` quantize-dequantize pairs between them.

    What a border between number formats costs is the difference to no pairs.
    """
    net = _Net()
    for k in range(4):
        net.value = net.node("Neg" if k % 2 else "Abs", [net.value], f"r{k}")
        if k < pairs:
            net.value = net.pair(net.value, f"p{k}", 0.03, "u8")
    shape = (1, channels, side, side)
    return net.model(shape, shape)
