"""The uniform baselines: the usual ones always, the others where somebody found that their kernels pay."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modeltailor.compress.formats import Composer


def composer(op: str) -> Composer:
    rng = np.random.default_rng(0)
    shape = (64, 8) if op == "MatMul" else (4, 3, 3, 3)
    ports = [["n", 64], ["n", 8]] if op == "MatMul" else [["n", 3, 8, 8], ["n", 4, 6, 6]]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ports[0])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ports[1])],
        [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), "w")],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Composer(model, {"x": rng.normal(size=(4, *ports[0][1:])).astype(np.float32)})


USUAL = {"int8 static", "int8 weight-only", "fp16"}


def test_convolutions_have_no_dynamic_and_no_block_wise_baseline() -> None:
    made = composer("Conv")
    assert set(made.baselines()) == USUAL
    assert set(made.baselines(blocks=True, wide=True)) == {*USUAL, "int8, 16-bit activations"}


def test_products_have_block_wise_ones_where_asked_for() -> None:
    made = composer("MatMul")
    (site,) = made.sites
    assert set(made.baselines()) == {*USUAL, "int8 dynamic"}
    more = made.baselines(blocks=True, wide=True)
    assert set(more) == {*USUAL, "int8 dynamic", "int8 block-wise", "int8, 16-bit activations"}
    assert more["int8 block-wise"][0][site.name].name == "w8-block32"
    assert more["int8, 16-bit activations"][0][site.name].name == "w8a16"
