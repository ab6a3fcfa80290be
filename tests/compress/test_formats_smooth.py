"""Scaling of input channels computes the same in float, helps rounding, and says what it leaves out."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modeltailor.compress import Format, Settings
from modeltailor.compress.formats import Composer
from modeltailor.compress.formats.graph import prepare
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session

WIDTH, HEADS = 32, 4


def _block(*, norm: str = "LayerNormalization") -> onnx.ModelProto:
    """A pre-norm attention layer and a pre-norm feed-forward layer, some channels a hundred times larger than others."""
    rng = np.random.default_rng(0)
    n = helper.make_node
    outlying = np.where(rng.random(WIDTH) < 0.1, 40.0, 0.5)
    tensors = {
        "norm1.g": outlying, "norm1.b": rng.normal(size=WIDTH) * 0.1, "norm2.g": outlying[::-1].copy(),
        "norm2.b": rng.normal(size=WIDTH) * 0.1, "half": np.float32(0.125),
        **{f"{k}.weight": rng.normal(size=(WIDTH, WIDTH)) / WIDTH for k in ("query", "key", "value", "out")},
        "value.bias": rng.normal(size=WIDTH), "up.weight": rng.normal(size=(WIDTH, 64)) / WIDTH,
        "down.weight": rng.normal(size=(64, WIDTH)) / 8, "last.weight": rng.normal(size=(WIDTH, 16)) / WIDTH,
    }  # fmt: skip
    shapes = {"split": (0, 0, HEADS, WIDTH // HEADS), "merge": (0, 0, WIDTH)}
    nodes = []

    def normal(x: str, k: int, out: str) -> None:
        if norm == "LayerNormalization":
            nodes.append(n(norm, [x, f"norm{k}.g", f"norm{k}.b"], [out]))
        else:
            nodes.extend([n("Mul", [x, f"norm{k}.g"], [f"m{k}"]), n("Add", [f"m{k}", f"norm{k}.b"], [out])])

    normal("x", 1, "a")
    nodes += [n("MatMul", ["a", f"{k}.weight"], [f"{k[0]}0"]) for k in ("query", "key", "value")]
    nodes += [n("Add", ["v0", "value.bias"], ["v"])]
    for name, source, perm in (("q", "q0", (0, 2, 1, 3)), ("k", "k0", (0, 2, 3, 1)), ("w", "v", (0, 2, 1, 3))):
        nodes += [n("Reshape", [source, "split"], [f"{name}s"]), n("Transpose", [f"{name}s"], [f"{name}t"], perm=perm)]
    nodes += [
        n("MatMul", ["qt", "kt"], ["s0"]), n("Mul", ["s0", "half"], ["s1"]), n("Softmax", ["s1"], ["p"], axis=-1),
        n("MatMul", ["p", "wt"], ["c0"]), n("Transpose", ["c0"], ["c1"], perm=(0, 2, 1, 3)),
        n("Reshape", ["c1", "merge"], ["c"]), n("MatMul", ["c", "out.weight"], ["o"]), n("Add", ["o", "x"], ["r"]),
    ]  # fmt: skip
    normal("r", 2, "b")
    nodes += [
        n("MatMul", ["b", "up.weight"], ["u"]), n("Tanh", ["u"], ["g"]), n("MatMul", ["g", "down.weight"], ["d"]),
        n("Add", ["d", "r"], ["e"]), n("MatMul", ["e", "last.weight"], ["y"]),
    ]  # fmt: skip
    made = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in tensors.items()]
    made += [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in shapes.items()]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6, 16])], made,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


INPUTS = {"x": np.random.default_rng(1).normal(size=(48, 6, WIDTH)).astype(np.float32)}


def _run(model: bytes) -> np.ndarray:
    return open_session(model, RuntimeOptions()).run(None, INPUTS)[0]


@pytest.fixture(scope="module", params=["LayerNormalization", "Mul and Add"])
def composer(request) -> Composer:
    return Composer(_block(norm=request.param), INPUTS)


@pytest.mark.parametrize("kind", ["smoothquant", "awq"])
def test_the_float_network_computes_the_same(composer, kind: str) -> None:
    before = composer.graph.model.SerializeToString(deterministic=True)
    settings = Settings(smoothing=kind)
    reference = _run(composer.float_model())
    # every site stays fp32, but with scaled weights
    out = _run(composer.compose({}, settings).model_bytes)
    np.testing.assert_allclose(out, reference, rtol=1e-4, atol=1e-4 * np.abs(reference).max())
    assert composer.compose({}, settings).model_bytes != composer.float_model()
    assert composer.graph.model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("kind", ["smoothquant", "awq"])
def test_what_cannot_be_folded_is_left_out_with_a_reason(composer, kind: str) -> None:
    left = composer.left_unsmoothed(Settings(smoothing=kind))
    assert set(left) == {"down", "last"}
    assert "Tanh" in left["down"]
    assert "Add" in left["last"]
    assert composer.left_unsmoothed(Settings()) == {}
    unscaled = composer.graph
    made = onnx.load_from_string(composer.compose({}, Settings(smoothing=kind)).model_bytes)
    kept = {numpy_helper.to_array(t).tobytes() for t in made.graph.initializer}
    for name in ("down", "last"):
        assert unscaled.weight(unscaled.site(name)).tobytes() in kept


@pytest.mark.parametrize(("kind", "fmt"), [("smoothquant", "w8a8"), ("awq", "w4")])
def test_smoothing_pays_where_channels_differ(composer, kind: str, fmt: str) -> None:
    formats = {s.name: Format.parse(fmt) for s in composer.sites}
    reference = _run(composer.float_model())
    plain = Settings(rounding="nearest", bias_correction=False)
    errors = [
        float(np.linalg.norm(_run(composer.compose(formats, s).model_bytes) - reference))
        for s in (plain, Settings(rounding="nearest", bias_correction=False, smoothing=kind))
    ]
    assert errors[1] < errors[0]


def test_same_bytes_from_the_cache_and_without(tmp_path) -> None:
    settings = Settings(smoothing="awq")
    made = []
    for cache in (None, tmp_path, tmp_path):
        composer = Composer(_block(), INPUTS, cache_dir=cache)
        formats = {s.name: Format.parse("w4a8-dynamic") for s in composer.sites}
        made.append(hashlib.sha256(composer.compose(formats, settings).model_bytes).hexdigest())
    assert len(set(made)) == 1


def test_a_graph_that_more_folding_would_change_keeps_its_nodes() -> None:
    """Preparing folds a scale into the convolution in front; only then could the normalisation behind it follow."""
    rng = np.random.default_rng(0)
    n = helper.make_node
    tensors = {
        "kernel": rng.normal(size=(WIDTH, WIDTH, 1, 1)), "scale": rng.uniform(0.5, 2, (1, WIDTH, 1, 1)),
        "offset": rng.normal(size=(1, WIDTH, 1, 1)), "bn.g": rng.uniform(0.5, 2, WIDTH), "bn.b": rng.normal(size=WIDTH),
        "bn.m": rng.normal(size=WIDTH), "bn.v": rng.uniform(0.5, 2, WIDTH),
        "norm.g": np.where(np.arange(WIDTH) % 5, 0.5, 40.0), "norm.b": rng.normal(size=WIDTH),
        "up.weight": rng.normal(size=(WIDTH, 16)), "down.weight": rng.normal(size=(16, WIDTH)),
    }  # fmt: skip
    nodes = [
        n("Transpose", ["x"], ["t"], perm=(0, 2, 1)), n("Unsqueeze", ["t", "last"], ["i"]),
        n("Conv", ["i", "kernel"], ["c"]), n("Mul", ["c", "scale"], ["s"]),
        n("Add", ["s", "offset"], ["o"]), n("BatchNormalization", ["o", "bn.g", "bn.b", "bn.m", "bn.v"], ["b"]),
        n("Squeeze", ["b", "last"], ["q"]), n("Transpose", ["q"], ["r"], perm=(0, 2, 1)),
        n("LayerNormalization", ["r", "norm.g", "norm.b"], ["a"]),
        n("MatMul", ["a", "up.weight"], ["u"]), n("Tanh", ["u"], ["g"]), n("MatMul", ["g", "down.weight"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6, WIDTH])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in tensors.items()]
        + [numpy_helper.from_array(np.array([3]), "last")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    reference = _run(model.SerializeToString())
    composer = Composer(model, INPUTS)
    assert len(prepare(composer.graph.model).model.graph.node) < len(composer.graph.model.graph.node)
    settings = Settings(smoothing="smoothquant", rounding="nearest")
    out = _run(composer.compose({}, settings).model_bytes)
    np.testing.assert_allclose(out, reference, rtol=1e-3, atol=1e-3 * np.abs(reference).max())
    formats = {s.name: Format.parse("w8a8") for s in composer.sites}
    lost = [
        float(np.linalg.norm(_run(composer.compose(formats, s).model_bytes) - reference))
        for s in (settings, Settings(rounding="nearest"))
    ]
    assert lost[0] < lost[1]
