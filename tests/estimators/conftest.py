"""Small networks as files."""

import itertools

import numpy as np
import pytest
from onnx import TensorProto, checker, helper, numpy_helper, save

FLOAT = TensorProto.FLOAT


def _weight(name, shape):
    return numpy_helper.from_array(np.zeros(shape, np.float32), name)


def _chain(path, widths, side=16, kernel=3, depthwise=False):
    """A chain of convolutions, each followed by a ReLU."""
    nodes, weights, last = [], [], "x"
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        group = a if depthwise else 1
        weights.append(_weight(f"w{i}", (b, a // group, kernel, kernel)))
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], name=f"conv{i}", pads=pads, group=group))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"relu{i}"))
        last = f"r{i}"
    given = [helper.make_tensor_value_info("x", FLOAT, ["batch", widths[0], side, side])]
    made = [helper.make_tensor_value_info(last, FLOAT, ["batch", widths[-1], side, side])]
    model = helper.make_model(
        helper.make_graph(nodes, "chain", given, made, weights), opset_imports=[helper.make_opsetid("", 21)]
    )
    checker.check_model(model)
    save(model, path)
    return path


@pytest.fixture(scope="session")
def chain():
    """Write a chain of convolutions to a path: ``chain(path, widths, side=16, kernel=3, depthwise=False)``."""
    return _chain
