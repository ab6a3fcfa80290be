"""Layers that may saturate are found by their weights, and reported where the processor really saturates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from modeltailor.compress import Format, Settings
from modeltailor.compress.formats import Composer
from modeltailor.compress.formats.names import label_of, site_label
from modeltailor.estimators.audit import audit
from modeltailor.estimators.audit_saturation import saturating_nodes
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.saturation import saturates_here
from modeltailor.targets.session import open_session, optimized_model

RNG = np.random.default_rng(0)
INPUTS = {"x": RNG.normal(size=(32, 8, 10, 10)).astype(np.float32)}
LAYERS = {"first", "wide"}  # a depthwise kernel widens before it adds


@pytest.fixture(scope="module")
def composer() -> Composer:
    n = helper.make_node
    nodes = [
        n("Conv", ["x", "first.weight"], ["a"], pads=[1] * 4), n("Relu", ["a"], ["ra"]),
        n("Conv", ["ra", "deep.weight"], ["b"], pads=[1] * 4, group=16), n("Relu", ["b"], ["rb"]),
        n("Conv", ["rb", "wide.weight"], ["y"], pads=[1] * 4),
    ]  # fmt: skip
    shapes = {"first.weight": (16, 8, 3, 3), "deep.weight": (16, 1, 3, 3), "wide.weight": (8, 16, 3, 3)}
    tensors = [numpy_helper.from_array(RNG.normal(size=s).astype(np.float32) / 6, k) for k, s in shapes.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8, 10, 10]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return Composer(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), INPUTS)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(reduce_range=False), LAYERS),
        (Settings(), set()),
        (Settings(reduce_range=False, activation_signed=True), set()),
    ],
)
def test_full_weights_behind_unsigned_activations_are_named(
    composer: Composer, settings: Settings, expected: set[str], tmp_path: Path
) -> None:
    formats = {s.name: Format.parse("w8a8") for s in composer.sites}
    path = tmp_path / "m.onnx"
    path.write_bytes(composer.compose(formats, settings).model_bytes)
    named = saturating_nodes(optimized_model(path, RuntimeOptions()))
    labels = {label_of(name) for name in named}
    assert {s.name for s in composer.sites if site_label(s.position) in labels} == expected
    assert len(named) == len(expected)

    found = audit(path, {"x": INPUTS["x"][:1]}, n=5)
    assert found.saturating == (named if saturates_here() else ())


@pytest.mark.skipif(not saturates_here(), reason="this processor adds exactly")
def test_what_is_named_computes_something_else_here() -> None:
    weight = numpy_helper.from_array(np.full((16, 8, 3, 3), 0.1, np.float32), "w")
    values = (helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 10, 10]),)
    results = (helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16, 10, 10]),)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    graph = helper.make_graph([node], "g", values, results, [weight])
    bright = {"x": RNG.uniform(0.8, 1.0, size=(16, 8, 10, 10)).astype(np.float32)}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    summed = Composer(model, bright)

    def error(reduced: bool) -> float:
        settings = Settings(reduce_range=reduced, rounding="nearest", bias_correction=False)
        made = summed.compose({s.name: Format.parse("w8a8") for s in summed.sites}, settings).model_bytes
        got, want = (open_session(m, RuntimeOptions()).run(None, bright)[0] for m in (made, summed.float_model()))
        return float(np.abs(got - want).mean() / np.abs(want).mean())

    assert error(reduced=True) < 0.01
    assert error(reduced=False) > 0.2
