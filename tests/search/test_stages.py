from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modeltailor.errors import ModelError
from modeltailor.search.stages import graph_key, prepare
from modeltailor.workloads import DataSpec, MetricSpec, ModelSpec, WorkloadSpec


def net(weight: np.ndarray, *, name: str = "w", stride: int = 1, shape: tuple[int, ...] = (1, -1)) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", name], ["y_" + name], strides=[stride, stride]),
        helper.make_node("Reshape", ["y_" + name, "s"], ["z"]),
    ]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    constants = [numpy_helper.from_array(weight, name), numpy_helper.from_array(np.array(shape, np.int64), "s")]
    return helper.make_model(helper.make_graph(nodes, "g", ports, outputs, constants))


ONES = np.ones((4, 3, 3, 3), np.float32)


def test_values_and_names_of_weights_do_not_change_what_executes() -> None:
    assert graph_key(net(ONES)) == graph_key(net(2 * ONES, name="other"))


@pytest.mark.parametrize(
    "changed",
    [
        net(np.ones((5, 3, 3, 3), np.float32)),
        net(ONES.astype(np.float16)),
        net(ONES, stride=2),
        net(ONES, shape=(2, -1)),
    ],
)
def test_shapes_types_attributes_and_shape_constants_do(changed: onnx.ModelProto) -> None:
    assert graph_key(changed) != graph_key(net(ONES))


@pytest.mark.parametrize(
    ("place", "value", "refused"), [("mask", -np.inf, False), ("mask", np.nan, True), ("w", -np.inf, True)]
)
def test_infinity_is_fine_in_a_mask_and_nowhere_else(tmp_path: Path, place: str, value: float, refused: bool) -> None:
    held = {"mask": np.zeros((1, 4), np.float32), "w": np.ones((4, 4), np.float32)}
    held[place][0, -1] = value
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "mask"], ["b"]),
         helper.make_node("Softmax", ["b"], ["y"])],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(v, k) for k, v in held.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(400, 4)).astype(np.float32), y=rng.integers(0, 4, 400))
    spec = WorkloadSpec(
        root=tmp_path, model=ModelSpec(source="m.onnx"), data=DataSpec(files=(("train", "d.npz"),)), metric=MetricSpec()
    )
    (tmp_path / "work").mkdir()
    if refused:
        with pytest.raises(ModelError, match="NaN or infinity"):
            prepare(spec, tmp_path / "work", None, 0, structures=False)
    else:
        assert prepare(spec, tmp_path / "work", None, 0, structures=False).parameters == 20
