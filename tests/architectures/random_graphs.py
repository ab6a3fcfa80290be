"""Random networks: operators in orders that nobody writes, shared weights, several outputs, any opset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from architectures.case import Case, pictures

__all__ = ["NEWEST_OPSET", "random_case"]

NEWEST_OPSET = 28
_SIDE = 12


@dataclass(frozen=True, slots=True)
class _Map:
    """A feature map: its tensor and its channels, height and width."""

    name: str
    shape: tuple[int, int, int]


class _Builder:
    def __init__(self, seed: int, opset: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.tensors: dict[str, TensorProto] = {}
        self.kernels: list[tuple[str, tuple[int, ...]]] = []
        self._count = 0

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attributes: object) -> list[str]:
        self._count += 1
        made = [f"t{self._count}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, made, name=f"{op}_{self._count}", **attributes))
        return made

    def constant(self, value: NDArray[np.generic], stem: str = "c") -> str:
        name = f"{stem}{len(self.tensors)}"
        self.tensors[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def floats(self, *shape: int, gain: float = 1.0) -> NDArray[np.float32]:
        return (self.rng.standard_normal(shape) * gain).astype(np.float32)

    def choose(self, *values: int) -> int:
        return int(values[int(self.rng.integers(len(values)))])

    # --- steps: each takes maps and gives one ---------------------------------------------------------------------------

    def conv(self, x: _Map) -> _Map:
        channels, height, width = x.shape
        size, stride, dilation = self.choose(1, 3, 3, 5), self.choose(1, 1, 2), self.choose(1, 1, 2)
        group = self.choose(1, 1, 2, channels)
        out = self.choose(4, 8, 12) if group != channels else channels
        group = group if channels % group == 0 and out % group == 0 else 1
        shape = (out, channels // group, size, size)
        again = [name for name, known in self.kernels if known == shape]
        if again and self.rng.random() < 0.5:
            weight = again[0]
        else:
            fan_in = shape[1] * size * size
            weight = self.constant(self.floats(*shape, gain=1.5 / fan_in**0.5), "k")
            self.kernels.append((weight, shape))
        inputs = [x.name, weight]
        if self.rng.random() < 0.6:
            inputs.append(self.constant(self.floats(out, gain=0.2), "b"))
        attributes: dict[str, object] = {"strides": [stride] * 2, "dilations": [dilation] * 2, "group": group}
        if dilation == 1 and self.rng.random() < 0.2:
            attributes["auto_pad"] = "SAME_UPPER" if self.rng.random() < 0.5 else "SAME_LOWER"
        else:
            attributes["pads"] = [dilation * (size // 2)] * 4
        return _Map(self.add("Conv", inputs, **attributes)[0], (out, -(-height // stride), -(-width // stride)))

    def transposed(self, x: _Map) -> _Map:
        channels, height, width = x.shape
        if height > _SIDE:
            return x
        group = 2 if channels % 2 == 0 and self.rng.random() < 0.4 else 1
        weight = self.constant(self.floats(channels, 4 // group, 2, 2, gain=1 / channels**0.5), "k")
        inputs = [x.name, weight]
        if self.rng.random() < 0.5:
            inputs.append(self.constant(self.floats(4, gain=0.1), "b"))
        made = self.add("ConvTranspose", inputs, strides=[2, 2], group=group)[0]
        return _Map(made, (4, 2 * height, 2 * width))

    def norm(self, x: _Map) -> _Map:
        width = x.shape[0]
        ends = [self.rng.uniform(0.6, 1.4, width), self.floats(width, gain=0.2), self.floats(width, gain=0.2)]
        ends.append(self.rng.uniform(0.6, 1.4, width))
        names = [self.constant(e.astype(np.float32), "n") for e in ends]
        return _Map(self.add("BatchNormalization", [x.name, *names])[0], x.shape)

    def activation(self, x: _Map) -> _Map:
        kind = str(self.rng.choice(["Relu", "Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh", "Elu"]))
        inputs = [x.name]
        if kind == "Clip":
            low = self.constant(np.float32(self.choose(0, -1)))
            inputs += [low, self.constant(np.float32(self.choose(1, 6)))]
        return _Map(self.add(kind, inputs)[0], x.shape)

    def pool(self, x: _Map) -> _Map:
        channels, height, width = x.shape
        if min(height, width) < 2:
            return x
        kind = "MaxPool" if self.rng.random() < 0.5 else "AveragePool"
        made = self.add(kind, [x.name], kernel_shape=[2, 2], strides=[2, 2])[0]
        return _Map(made, (channels, height // 2, width // 2))

    def move(self, x: _Map) -> _Map:
        channels, height, width = x.shape
        match self.choose(0, 1, 2, 3, 4):
            case 0:
                made = self.add("Pad", [x.name, self.ints(0, 0, 1, 1, 0, 0, 1, 1)])[0]
                return _Map(made, (channels, height + 2, width + 2))
            case 1 if height > 3:
                ends = [self.ints(1), self.ints(height), self.ints(2)]
                return _Map(self.add("Slice", [x.name, *ends])[0], (channels, height - 1, width))
            case 2 if channels % 2 == 0:
                parts = self.add("Split", [x.name, self.ints(channels // 2, channels // 2)], 2, axis=1)
                joined = self.add("Concat", parts[::-1], axis=1)[0]
                return _Map(joined, x.shape)
            case 3:
                turned = self.add("Transpose", [x.name], perm=[0, 2, 3, 1])[0]
                return _Map(self.add("Transpose", [turned], perm=[0, 3, 1, 2])[0], x.shape)
            case _ if height <= _SIDE:
                scales = self.constant(np.array([1, 1, 2, 2], np.float32))
                made = self.add(
                    "Resize", [x.name, "", scales], mode="nearest", nearest_mode="floor",
                    coordinate_transformation_mode="asymmetric",
                )[0]  # fmt: skip
                return _Map(made, (channels, 2 * height, 2 * width))
        return x

    def by_constant(self, x: _Map) -> _Map:
        shape = (1, x.shape[0], 1, 1) if self.rng.random() < 0.7 else ()
        return _Map(
            self.add(str(self.rng.choice(["Add", "Mul"])), [x.name, self.constant(self.floats(*shape))])[0], x.shape
        )

    def excited(self, x: _Map) -> _Map:
        """Squeeze and excitation."""
        channels = x.shape[0]
        pooled = _Map(self.add("GlobalAveragePool", [x.name])[0], (channels, 1, 1))
        weights = [self.constant(self.floats(channels, channels, 1, 1, gain=channels**-0.5), "k") for _ in range(2)]
        inner = self.add("Relu", self.add("Conv", [pooled.name, weights[0]]))
        gate = self.add("Sigmoid", self.add("Conv", [inner[0], weights[1]]))
        return _Map(self.add("Mul", [x.name, gate[0]])[0], x.shape)

    def joined(self, maps: list[_Map]) -> _Map:
        x = maps[-1]
        alike = [m for m in maps[:-1] if m.shape == x.shape]
        same_size = [m for m in maps[:-1] if m.shape[1:] == x.shape[1:]]
        if alike and self.rng.random() < 0.7:
            other = alike[int(self.rng.integers(len(alike)))]
            return _Map(self.add("Mul" if self.rng.random() < 0.2 else "Add", [x.name, other.name])[0], x.shape)
        if same_size and x.shape[0] < 24:
            other = same_size[int(self.rng.integers(len(same_size)))]
            made = self.add("Concat", [other.name, x.name], axis=1)[0]
            return _Map(made, (x.shape[0] + other.shape[0], *x.shape[1:]))
        return x

    def head(self, x: _Map) -> str:
        """Pooled to a vector, one or two layers."""
        if self.rng.random() < 0.5:
            if self.opset >= 18:
                pooled = self.add("ReduceMean", [x.name, self.ints(2, 3)], keepdims=0)[0]
            else:
                pooled = self.add("ReduceMean", [x.name], axes=[2, 3], keepdims=0)[0]
        else:
            pooled = self.add("Flatten", self.add("GlobalAveragePool", [x.name]))[0]
        width = x.shape[0]
        for out in (16, 8) if self.rng.random() < 0.6 else (8,):
            bias = self.constant(self.floats(out, gain=0.2), "b")
            if self.rng.random() < 0.5:
                matrix = self.constant(self.floats(width, out, gain=width**-0.5), "w")
                product = self.add("MatMul", [pooled, matrix])[0]
                pooled = self.add("Add", [product, bias] if self.rng.random() < 0.5 else [bias, product])[0]
            else:
                matrix = self.constant(self.floats(out, width, gain=width**-0.5), "w")
                pooled = self.add("Gemm", [pooled, matrix, bias], transB=1)[0]
            if out == 16:
                pooled = self.add("Relu", [pooled])[0]
            width = out
        return pooled


def random_case(seed: int, folder: Path) -> Case:
    """Write a random network and return it.

    Args:
        seed: of everything: operators, shapes, weights, opset, whether the batch is fixed.
        folder: where the file goes.
    """
    rng = np.random.default_rng(seed)
    opset = int(rng.integers(13, NEWEST_OPSET + 1))
    builder = _Builder(seed, opset)
    maps = [_Map("x", (3, _SIDE, _SIDE))]
    maps.append(builder.conv(maps[-1]))
    steps = (
        builder.conv, builder.conv, builder.conv, builder.norm, builder.activation, builder.activation, builder.pool,
        builder.move, builder.by_constant, builder.excited, builder.transposed,
    )  # fmt: skip
    for _ in range(int(rng.integers(4, 16))):
        source = maps[-1] if rng.random() < 0.8 else maps[int(rng.integers(1, len(maps)))]
        made = builder.joined([*maps, source]) if rng.random() < 0.25 else steps[int(rng.integers(len(steps)))](source)
        if made.name != source.name:
            maps.append(made)
    outputs = [builder.head(maps[-1])]
    if rng.random() < 0.3:
        outputs.append(maps[int(rng.integers(1, len(maps)))].name)
    fixed = rng.random() < 0.3
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4 if fixed else "n", 3, _SIDE, _SIDE])
    made_outputs = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in dict.fromkeys(outputs)]
    graph = helper.make_graph(builder.nodes, "random", [x], made_outputs, list(builder.tensors.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)

    path = folder / f"random{seed}.onnx"
    onnx.save(model, path)
    return Case(path, {"x": pictures(24, _SIDE, seed=seed)})
