"""The audit names what executes and why, on graphs whose fate is known."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from modeltailor.compress import Format
from modeltailor.errors import CandidateError, ModelError
from modeltailor.estimators.audit import audit, read
from modeltailor.targets import _probe_models as nets
from modeltailor.targets.session import NodeTime

IMAGE = {"x": np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)}
ROWS = {"x": np.random.default_rng(0).normal(size=(1, 8, 64)).astype(np.float32)}
U8S8 = {"channels": 16, "side": 16, "activation": "u8", "weight": "s8", "per_channel": True}


@pytest.fixture
def save(tmp_path: Path):
    def saved(model, name="model.onnx"):
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return saved


def test_float_model_says_that_nothing_is_quantized(save):
    found = audit(save(nets.conv_net(channels=16, side=16)), IMAGE, n=10)
    assert found.sentence.startswith("Nothing is quantized: all 3 heavy nodes compute in float32")
    assert dict(found.compute_share)["float32"] > 0.3
    assert found.fall_backs == ()
    assert sum(n.share for n in found.nodes) == pytest.approx(1.0)
    assert found.model == "model.onnx"


def test_integer_model_runs_as_integers_throughout(save):
    found = audit(save(nets.quantized_conv_net(**U8S8)), IMAGE, n=10)
    heavy = [n for n in found.nodes if n.role == "compute"]
    assert [n.op_type for n in heavy] == ["QLinearConv"] * 3
    assert {n.precision for n in heavy} == {"int8"}
    assert found.fall_backs == ()
    assert found.conversions == 2


def test_signed_activations_are_found_in_float_and_the_mixed_types_are_named(save):
    found = audit(save(nets.quantized_conv_net(**{**U8S8, "activation": "s8"})), IMAGE, n=10)
    assert found.fall_backs, "ONNX Runtime 1.32 leaves convolutions around a branch in float when activations are int8"
    assert any("int8 and uint8" in f.reason for f in found.fall_backs)
    assert found.conversions > 5


def test_unfoldable_activation_function_is_named(save):
    found = audit(save(nets.quantized_conv_net(**U8S8, relu_folds=False, depthwise=True)), IMAGE, n=10)
    assert len(found.fall_backs) == 3
    assert all("activation function does not fold" in f.reason for f in found.fall_backs)
    assert "do not run as asked" in found.sentence or "conversions" in found.sentence


def test_weight_only_and_dynamic_kernels_are_told_apart(save):
    block = audit(save(nets.block_net(rows=8, width=64, bits=4, accuracy_level=4)), ROWS, n=10)
    assert [p for p, _ in block.compute_share] == ["weights only"]
    dynamic = audit(save(nets.matmul_net(rows=8, width=64, dynamic="s8c")), ROWS, n=10)
    assert [p for p, _ in dynamic.compute_share] == ["int8"]
    assert dynamic.sentence.startswith("All 3 heavy nodes run as int8") or "Only" in dynamic.sentence


def test_request_that_is_not_kept_is_listed_by_site(save):
    model = nets.matmul_net(rows=8, width=64)
    requested = {"m0": Format.parse("w8a8"), "m1": Format.parse("w4-block32"), "m2": Format.parse("w4")}
    found = audit(save(model), ROWS, requested=requested, n=10)
    assert {(f.name, f.asked) for f in found.fall_backs} == {("m0", "w8a8"), ("m1", "w4-block32")}
    assert "unfolded" in next(f.reason for f in found.fall_backs if f.name == "m1")


def test_borders_between_formats_are_counted_with_their_cost(save):
    image = {"x": np.ones((1, 16, 32, 32), np.float32)}
    none = audit(save(nets.conversion_net(channels=16, side=32, pairs=0)), image, n=20)
    four = audit(save(nets.conversion_net(channels=16, side=32, pairs=4)), image, n=20)
    assert none.conversions == 0
    assert none.conversion_share == 0.0
    assert four.conversions >= 4
    assert four.conversion_share > 0.02


def test_bad_files_are_refused_by_name(save, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\x00" * 40)
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        audit(tmp_path / "bad.onnx", IMAGE)
    with pytest.raises(CandidateError, match=r"model\.onnx") as caught:
        audit(save(nets.conv_net(channels=16, side=16)), IMAGE, timeout_s=0.05)
    assert caught.value.code == "TIMEOUT"


def test_node_that_the_provider_left_to_the_cpu_is_named():
    def node(name, provider, ms):
        return NodeTime(
            name=name, op_type="Conv", domain="", provider=provider, ms=ms, calls=1, input_types=("float", "float")
        )

    times = (node("first", "CUDAExecutionProvider", 1.0), node("second", "CPUExecutionProvider", 3.0))
    found = read("m.onnx", nets.conv_net(channels=4, side=4), times, {}, "CUDAExecutionProvider")
    assert [(f.name, f.asked, f.share) for f in found.fall_backs] == [("second", "CUDAExecutionProvider", 0.75)]
    assert "CPUExecutionProvider runs it" in found.fall_backs[0].reason
    assert "75 % of the time" in found.sentence
