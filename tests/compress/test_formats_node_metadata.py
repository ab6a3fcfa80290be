"""What graph viewers show: bits and zeros at the nodes of compressed layers, in files that load and stay small."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modeltailor.compress import Format
from modeltailor.compress.formats import Composer
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session

RNG = np.random.default_rng(3)


def _weight(name: str, *shape: int, zeros: float = 0.0) -> onnx.TensorProto:
    value = (RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    value[RNG.random(shape) < zeros] = 0.0
    return numpy_helper.from_array(value, name)


@pytest.fixture(scope="module")
def composer() -> Composer:
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["c"], pads=[1] * 4, name="theirs"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "b.weight"], ["d"], pads=[1] * 4),
        helper.make_node("Flatten", ["d"], ["f"]),
        helper.make_node("MatMul", ["f", "m.weight"], ["y"]),
    ]
    tensors = [
        _weight("a.weight", 8, 3, 3, 3),
        _weight("b.weight", 4, 8, 3, 3, zeros=0.5),
        _weight("m.weight", 256, 10),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return Composer(model, {"x": RNG.normal(size=(16, 3, 8, 8)).astype(np.float32)})


def _shown(data: bytes) -> dict[str, dict[str, str]]:
    graph = onnx.load_from_string(data).graph
    return {n.name: {p.key: p.value for p in n.metadata_props} for n in graph.node if n.metadata_props}


def test_compressed_layers_show_bits_and_zeros_and_float_ones_nothing(composer: Composer) -> None:
    made = composer.compose({"a": Format.parse("w8a8"), "b": Format.parse("w2a8")})
    shown = _shown(made.model_bytes)
    assert set(shown) == {"s0", "s1"}
    assert shown["s0"]["bits"] == "8"
    assert shown["s1"]["bits"] == "2"
    report = made.sites[1]
    assert report.sparsity is not None
    assert report.sparsity >= 0.3  # two bits round many weights to zero
    assert shown["s1"]["sparsity"] == f"{report.sparsity:.2f}"
    assert made.sites[2].sparsity == 0.0
    onnx.checker.check_model(onnx.load_from_string(made.model_bytes))
    open_session(made.model_bytes, options=RuntimeOptions())


def test_zeros_are_counted_where_weights_stay_float(composer: Composer) -> None:
    made = composer.compose({"b": Format.parse("fp16")})
    assert made.sites[1].sparsity == pytest.approx(0.5, abs=0.12)
    assert composer.compose({}).sites[1].sparsity == made.sites[1].sparsity
    assert _shown(composer.compose({}).model_bytes) == {}


@pytest.mark.parametrize("name", ["w4", "codebook3", "w8-block32", "w8a8-dynamic"])
def test_every_scheme_names_its_node(composer: Composer, name: str) -> None:
    made = composer.compose({"m": Format.parse(name)})
    assert _shown(made.model_bytes)["s2"]["bits"] == str(Format.parse(name).weight_bits)


def test_the_entries_cost_little_and_the_same_recipe_gives_the_same_bytes(composer: Composer) -> None:
    formats = {"a": Format.parse("w4a8"), "b": Format.parse("w4a8"), "m": Format.parse("w4")}
    made = composer.compose(formats)
    assert made.model_bytes == composer.compose(formats).model_bytes
    bare = onnx.load_from_string(made.model_bytes)
    for node in bare.graph.node:
        del node.metadata_props[:]
    cost = len(made.model_bytes) - len(bare.SerializeToString(deterministic=True))
    assert 0 < cost <= 30 * len(made.sites)


def test_sites_know_their_channels(composer: Composer) -> None:
    assert [s.channels for s in composer.sites] == [8, 4, 10]
