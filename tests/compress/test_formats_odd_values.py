"""Formats where numbers are odd: channels without weights, masks of infinity, inputs far from zero, half precision."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.compress.random_graphs import checked_model as _model
from tests.compress.random_graphs import ints as _ints
from tests.compress.random_graphs import random_tensor

from modeltailor.compress import Format, Settings
from modeltailor.compress.formats import Composer, prepare
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session

RNG = np.random.default_rng(0)
F32 = TensorProto.FLOAT
_tensor = partial(random_tensor, RNG)


def _dead_channels() -> onnx.ModelProto:
    """The second convolution has channels without weights, and with all but none; all have a bias."""
    weight = RNG.normal(size=(6, 4, 3, 3)).astype(np.float32)
    weight[1], weight[2] = 0.0, weight[2] * 1e-8
    dense = RNG.normal(size=(6, 5)).astype(np.float32)
    dense[:, 3] = 0.0
    nodes = [
        helper.make_node("Conv", ["x", "first.weight"], ["a"], pads=[1] * 4),
        helper.make_node("Conv", ["a", "dead.weight", "dead.bias"], ["b"], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["b"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head.weight", "head.bias"], ["y"]),
    ]
    tensors = [
        _tensor("first.weight", 4, 3, 3, 3),
        numpy_helper.from_array(weight, "dead.weight"),
        numpy_helper.from_array(np.array([0.1, 0.5, -0.7, 0.2, 0.3, 0.4], np.float32), "dead.bias"),
        numpy_helper.from_array(dense, "head.weight"),
        numpy_helper.from_array(np.array([0.1, 0.5, -0.7, 2.0, 0.3], np.float32), "head.bias"),
    ]
    x = helper.make_tensor_value_info("x", F32, ["n", 3, 8, 8])
    return _model(nodes, [x], [helper.make_tensor_value_info("y", F32, ["n", 5])], tensors)


@pytest.mark.parametrize("name", ["w8a8", "w4a8", "codebook3a8"])
def test_channels_without_weights_keep_their_bias(name: str) -> None:
    model = _dead_channels()
    x = {"x": RNG.normal(size=(64, 3, 8, 8)).astype(np.float32)}
    composer = Composer(model, x)
    fmt = Format.parse(name)
    sites = [s.name for s in composer.sites if fmt in composer.formats(s)]
    assert "dead" in sites
    built = composer.compose(dict.fromkeys(sites, fmt))
    (wanted,) = open_session(model.SerializeToString(), RuntimeOptions()).run(None, x)
    (made,) = open_session(built.model_bytes, RuntimeOptions()).run(None, x)
    assert abs(made - wanted).mean() < 0.12 * wanted.std()
    assert abs(made[:, 3] - 2.0).max() < 0.05


def _masked_attention() -> onnx.ModelProto:
    """A convolution, so that integers may flow, and scores of attention under a mask of minus infinity."""
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"]),
        helper.make_node("Reshape", ["c", "shape"], ["f"]),
        helper.make_node("Transpose", ["f"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "f"], ["scores"]),
        helper.make_node("Add", ["scores", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "t"], ["read"]),
        helper.make_node("MatMul", ["read", "out.weight"], ["y"]),
    ]
    tensors = [_tensor("conv.weight", 8, 3, 1, 1), numpy_helper.from_array(mask, "mask"), _tensor("out.weight", 8, 5)]
    tensors.append(_ints("shape", -1, 8, 4))
    x = helper.make_tensor_value_info("x", F32, ["n", 3, 2, 2])
    return _model(nodes, [x], [helper.make_tensor_value_info("y", F32, ["n", 4, 5])], tensors)


def test_a_mask_of_infinity_stands_in_the_way_of_no_format() -> None:
    model = _masked_attention()
    x = {"x": RNG.normal(size=(64, 3, 2, 2)).astype(np.float32)}
    composer = Composer(model, x)
    built = composer.compose({s.name: Format.parse("w8a8") for s in composer.sites})
    (wanted,) = open_session(model.SerializeToString(), RuntimeOptions()).run(None, x)
    (made,) = open_session(built.model_bytes, RuntimeOptions()).run(None, x)
    assert np.isfinite(wanted).all()
    assert abs(made - wanted).max() < 0.1 * abs(wanted).max()


def test_blocks_have_their_mean_error_taken_up_at_every_product() -> None:
    """Inputs far from zero: without the correction, the mean of the outputs is off."""
    x = {"x": (RNG.normal(size=(256, 1, 64)) + 3.0).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "plain.weight"], ["a"]),
        helper.make_node("MatMul", ["x", "biased.weight"], ["b"]),
        helper.make_node("Add", ["b", "biased.bias"], ["c"]),
        helper.make_node("Concat", ["a", "c"], ["y"], axis=-1),
    ]
    tensors = [_tensor("plain.weight", 64, 32), _tensor("biased.weight", 64, 32), _tensor("biased.bias", 32)]
    port = helper.make_tensor_value_info("x", F32, ["n", 1, 64])
    model = _model(nodes, [port], [helper.make_tensor_value_info("y", F32, ["n", 1, 64])], tensors)
    composer = Composer(model, x)
    (wanted,) = open_session(model.SerializeToString(), RuntimeOptions()).run(None, x)
    off = {}
    for correct in (False, True):
        settings = Settings(rounding="nearest", bias_correction=correct, block_accuracy=1)
        built = composer.compose({s.name: Format.parse("w4-block32") for s in composer.sites}, settings)
        (made,) = open_session(built.model_bytes, RuntimeOptions()).run(None, x)
        off[correct] = abs((made - wanted).mean(axis=(0, 1))).reshape(2, 32).mean(axis=1)
    assert (off[True] < 0.05 * off[False]).all(), off


def test_half_precision_files_stay_valid() -> None:
    half = TensorProto.FLOAT16
    norm = {"g": RNG.uniform(0.5, 2, 8), "b": RNG.normal(size=8), "m": RNG.normal(size=8), "v": RNG.uniform(0.5, 2, 8)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *norm], ["y"]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(v, np.float16), k) for k, v in norm.items()]
    tensors.append(numpy_helper.from_array(RNG.normal(size=(8, 3, 1, 1)).astype(np.float16), "w"))
    ports = [helper.make_tensor_value_info(n, half, ["n", c, 4, 4]) for n, c in (("x", 3), ("y", 8))]
    onnx.checker.check_model(prepare(_model(nodes, ports[:1], ports[1:], tensors)).model, full_check=True)
