from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modeltailor.search.stages import graph_key


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
