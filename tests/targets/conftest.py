"""Small ONNX models for the tests of this room."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def conv_net(channels: int = 8, batch: int | str = "n", side: int = 16) -> onnx.ModelProto:
    """Conv, Relu, global pool: input ``x`` of shape (batch, 3, side, side), output ``y`` of (batch, channels)."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(channels, 3, 3, 3)).astype(np.float32), "W")
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["y"], name="flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, channels])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def endless() -> onnx.ModelProto:
    """A loop that ends only after 2**62 turns."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Sin", ["v"], ["w"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["turns", "yes", "x"], ["y"], body=body)],
        "endless",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [
            numpy_helper.from_array(np.array(2**62, dtype=np.int64), "turns"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def crashing() -> onnx.ModelProto:
    """A pool kernel larger than its map, then a Slice: ONNX Runtime 1.32 aborts while it opens the session."""
    ends = [numpy_helper.from_array(np.array([v], np.int64), n) for n, v in (("s", 0), ("e", 2), ("a", 2))]
    graph = helper.make_graph(
        [
            helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[40, 40]),
            helper.make_node("Slice", ["p", "s", "e", "a"], ["y"]),
        ],
        "crashing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        ends,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def heavy(n_bytes: int) -> onnx.ModelProto:
    """A MatMul with ``n_bytes`` of weights; input ``v`` of shape (1, 1024)."""
    columns = n_bytes // 4 // 1024
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["v", "W"], ["y"])],
        "heavy",
        [helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 1024])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, columns])],
        [numpy_helper.from_array(np.ones((1024, columns), np.float32), "W")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def save_heavy(tmp_path: Path):
    """Save a model with that many bytes of weights."""

    def save(n_bytes: int) -> Path:
        onnx.save(heavy(n_bytes), tmp_path / "heavy.onnx")
        return tmp_path / "heavy.onnx"

    return save


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """Files by name: ``small``, ``wide`` (slower), ``fixed`` (batch of 4), ``endless``, ``crashing``, ``garbage``."""
    made = {
        "small": conv_net(8),
        "wide": conv_net(256),
        "fixed": conv_net(8, batch=4),
        "endless": endless(),
        "crashing": crashing(),
    }
    paths = {}
    for name, model in made.items():
        paths[name] = tmp_path / f"{name}.onnx"
        onnx.save(model, paths[name])
    paths["garbage"] = tmp_path / "garbage.onnx"
    paths["garbage"].write_bytes(b"\x08\x09" + b"not a model" * 20)
    return paths


@pytest.fixture
def one_image() -> dict[str, np.ndarray]:
    """One input of the models."""
    return {"x": np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)}
