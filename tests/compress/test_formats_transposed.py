"""Transposed convolutions as plain ones: the same sums, term by term, on the integer kernel."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from modeltailor.compress import Format
from modeltailor.compress.formats import Composer, executed_kernels
from modeltailor.compress.formats.emitter import Emitter
from modeltailor.compress.formats.graph import prepare
from modeltailor.compress.formats.transposed import spread_of
from modeltailor.compress.pack import unpack_model
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session, optimized_model

RNG = np.random.default_rng(0)


def network(kernel: tuple[int, int] = (3, 3), *, width: int = 3, **attributes: object) -> onnx.ModelProto:
    """One transposed convolution with integers for weights, so that every sum is exact."""
    weight = RNG.integers(-4, 5, (2, width, *kernel)).astype(np.float32)
    tensors = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.arange(width, dtype=np.float32), "b")]
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 5, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto | bytes, x: np.ndarray) -> np.ndarray:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return np.asarray(open_session(data, RuntimeOptions()).run(None, {"x": x})[0])


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.integers(1, 3),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.integers(0, 2),
)
@settings(max_examples=40, deadline=None)
def test_the_plain_form_gives_the_same_sums(
    kernel: tuple[int, int], step: int, pads: tuple[int, ...], more: int
) -> None:
    assume(more < step and all(p < k for p, k in zip(pads, kernel * 2, strict=True)))
    model = network(kernel, strides=[step, step], pads=list(pads), output_padding=[more, more])
    ready = prepare(model)
    site = ready.sites[0]
    spread = spread_of(ready, site)
    assume(spread is not None)
    assert spread is not None
    x = RNG.integers(-9, 10, (2, 2, 5, 4)).astype(np.float32)
    wanted = run(model, x)
    assume(wanted.size > 0)

    emitter = Emitter(ready)
    weight = spread.of_weight(ready.weight(site).astype(np.int8))
    bias = spread.of_values(ready.bias(site))
    names = ["x", emitter.constant(weight.astype(np.float32)), emitter.constant(bias)]
    emitter.node("Conv", names, ["v"], pads=spread.pads)
    if spread.is_plain:
        emitter.node("Identity", ["v"], ["y"])
    spread.emit_output(emitter, "v", "y")
    graph = helper.make_graph(
        list(emitter.nodes), "g", list(model.graph.input), list(model.graph.output), list(emitter.tensors.values())
    )
    plain = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=8)
    np.testing.assert_array_equal(run(plain, x), wanted)


@pytest.mark.parametrize(
    "attributes",
    [{"group": 2}, {"strides": [2, 1]}, {"dilations": [2, 2]}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}],
)
def test_what_has_no_plain_form_is_offered_no_integer_kernel(attributes: dict[str, object]) -> None:
    composer = Composer(network(**attributes), {"x": RNG.normal(size=(4, 2, 5, 4)).astype(np.float32)})
    offered = {f.name for f in composer.formats(composer.sites[0])}
    assert {"w8", "w3", "fp16", "w8a16"} <= offered
    assert not any(n.endswith("a8") for n in offered)


@pytest.mark.parametrize("fmt", ["w8a8", "w5a8", "w2a8", "codebook3a8"])
@pytest.mark.parametrize("kernel", [(2, 2), (3, 3)])
def test_it_runs_on_the_integer_kernel_and_unpacks_to_the_same(fmt: str, kernel: tuple[int, int]) -> None:
    x = RNG.normal(size=(64, 2, 5, 4)).astype(np.float32)
    composer = Composer(network(kernel, width=8, strides=[2, 2]), {"x": x})
    (site,) = composer.sites
    made = composer.compose({site.name: Format.parse(fmt)})
    optimized = optimized_model(made.model_bytes)
    assert made.sites[0].kernel == "QLinearConv"
    assert executed_kernels(optimized, made.sites) == {site.name: "QLinearConv"}
    # what lays the weight out anew is computed while loading
    assert not {"Pad", "Reshape", "Gather"} & set(Counter(n.op_type for n in optimized.graph.node))
    plain = unpack_model(onnx.load_from_string(made.model_bytes))
    assert not plain.functions
    np.testing.assert_array_equal(run(plain, x), run(made.model_bytes, x))
    if fmt == "w8a8":
        wanted = run(composer.float_model(), x)
        assert np.abs(run(made.model_bytes, x) - wanted).mean() < 0.02 * np.abs(wanted).mean()
