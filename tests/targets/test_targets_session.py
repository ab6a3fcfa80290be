"""Sessions run what they are given, say what really executes, and refuse with a reason."""

import numpy as np
import onnxruntime as ort
import pytest

from modeltailor.errors import DeviceError, ModelError
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.agent.device_side import precision_settings, providers_for
from modeltailor.targets.session import (
    input_specs,
    nearest_here,
    open_session,
    optimized_model,
    output_specs,
    profile_nodes,
    run_batches,
    runtime_name,
)

OPTIONS = RuntimeOptions()


def expected(path, x):
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_batches_give_every_sample_once_and_in_order(models):
    x = np.random.default_rng(0).normal(size=(10, 3, 16, 16)).astype(np.float32)
    for batch_size in (1, 3, 10, 64):
        got = run_batches(models["small"], {"x": x}, batch_size=batch_size)
        assert list(got) == ["y"]
        np.testing.assert_allclose(got["y"], expected(models["small"], x), rtol=1e-5, atol=1e-6)


def test_fixed_batch_is_filled_up_and_cut_again(models):
    x = np.random.default_rng(0).normal(size=(10, 3, 16, 16)).astype(np.float32)
    got = run_batches(open_session(models["fixed"], OPTIONS), {"x": x}, batch_size=1, output_names=["y"])["y"]
    np.testing.assert_allclose(got, run_batches(models["small"], {"x": x}, batch_size=10)["y"], rtol=1e-5, atol=1e-6)


def test_specs_name_free_and_fixed_sizes(models):
    (given,) = input_specs(models["small"])
    assert (given.name, given.dtype, given.shape) == ("x", "float32", ("n", 3, 16, 16))
    (made,) = output_specs(models["fixed"])
    assert (made.name, made.dtype, made.shape) == ("y", "float32", (4, 8))


def test_optimized_graph_shows_the_fusion(models, capfd):
    kernels = [node.op_type for node in optimized_model(models["small"], OPTIONS).graph.node]
    assert "Relu" not in kernels
    assert any("Conv" in kernel for kernel in kernels)
    plain = optimized_model(models["small"], RuntimeOptions(optimization="none"))
    assert [n.op_type for n in plain.graph.node] == ["Conv", "Relu", "GlobalAveragePool", "Flatten"]
    assert capfd.readouterr() == ("", "")


def test_profile_times_each_executed_node(models, one_image):
    times = profile_nodes(models["small"], one_image, OPTIONS, n=7)
    executed = [(n.name, n.op_type, n.domain) for n in optimized_model(models["small"], OPTIONS).graph.node]
    assert [(t.name, t.op_type, t.domain) for t in times] == executed
    assert all(t.calls == 7 and t.ms > 0 and t.provider == "CPUExecutionProvider" for t in times)


def test_options_reach_the_session(models):
    session = open_session(models["small"], RuntimeOptions(intra_op_threads=2))
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert runtime_name() == f"onnxruntime {ort.__version__}"


def test_lower_precisions_are_switched_explicitly(models):
    def bf16(options):
        return (
            open_session(models["small"], options)
            .get_session_options()
            .get_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16")
        )

    assert bf16(RuntimeOptions()) == "0"
    assert bf16(RuntimeOptions(precision=("bf16",))) == "1"
    with pytest.raises(DeviceError, match="no switch for tf32"):
        open_session(models["small"], RuntimeOptions(precision=("tf32",)))
    assert precision_settings("CUDAExecutionProvider", ()) == ({}, {"use_tf32": "0"})
    assert precision_settings("CUDAExecutionProvider", ("tf32",)) == ({}, {"use_tf32": "1"})
    assert precision_settings("XnnpackExecutionProvider", ()) == ({}, {})
    assert providers_for("CUDAExecutionProvider", {"use_tf32": "0"}) == [
        ("CUDAExecutionProvider", {"use_tf32": "0"}),
        "CPUExecutionProvider",
    ]
    assert providers_for("CPUExecutionProvider", {}) == ["CPUExecutionProvider"]


def test_refusals_say_what_to_do(models, one_image, tmp_path):
    with pytest.raises(ModelError, match=r"garbage\.onnx"):
        open_session(models["garbage"], OPTIONS)
    with pytest.raises(ModelError, match="no such file"):
        open_session(tmp_path / "absent.onnx", OPTIONS)
    with pytest.raises(DeviceError, match="NoSuchProvider"):
        open_session(models["small"], RuntimeOptions(provider="NoSuchProvider"))
    with pytest.raises(ModelError, match="cannot run it"):
        run_batches(models["small"], {"x": np.zeros((2, 5, 16, 16), np.float32)}, batch_size=1)
    with pytest.raises(ModelError, match="'x'"):
        profile_nodes(models["small"], {"wrong": one_image["x"]}, OPTIONS)


def test_what_another_device_computes_with_is_stood_in_for_by_the_processor_here():
    there = RuntimeOptions(provider="QNNExecutionProvider", precision=("fp16",), intra_op_threads=3)
    assert nearest_here(there) == RuntimeOptions(intra_op_threads=3)
    assert nearest_here(OPTIONS) == OPTIONS


def test_a_provider_that_is_listed_but_does_not_open_is_none(monkeypatch):
    listed = ["QNNExecutionProvider", *ort.get_available_providers()]
    monkeypatch.setattr(ort, "get_available_providers", lambda: listed)
    assert nearest_here(RuntimeOptions(provider="QNNExecutionProvider")) == RuntimeOptions()
