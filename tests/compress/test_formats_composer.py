"""The contract of every format at every kind of site: it builds, loads, runs its promised kernel and is close."""

from __future__ import annotations

import hashlib
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.compress.random_graphs import checked_model as _model
from tests.compress.random_graphs import ints as _ints
from tests.compress.random_graphs import random_tensor

from modeltailor.compress import Format, Settings
from modeltailor.compress.formats import Composer, executed_kernels, kernels_agree, prepare
from modeltailor.compress.pack import unpack_model
from modeltailor.errors import CandidateError, DataError, ModelError
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session, optimized_model

RNG = np.random.default_rng(0)
F32 = TensorProto.FLOAT
_tensor = partial(random_tensor, RNG)


def convolutional(opset: int = 18) -> onnx.ModelProto:
    """A residual network with a subsampled, zero-padded shortcut, a depthwise layer, batch norm and a classifier."""
    n = helper.make_node
    nodes = [
        n("Conv", ["x", "stem.weight"], ["c0"], pads=[1] * 4),
        n("BatchNormalization", ["c0", "g", "b", "m", "v"], ["n0"]),
        n("Relu", ["n0"], ["r0"]),
        n("Conv", ["r0", "deep.weight", "deep.bias"], ["c1"], pads=[1] * 4, group=8),
        n("Clip", ["c1", "zero", "six"], ["r1"]),
        n("Conv", ["r1", "wide.weight", "wide.bias"], ["c2"], strides=[2, 2], pads=[1] * 4),
        n("Slice", ["r0", "start", "end", "ax2", "two"], ["s0"]),
        n("Slice", ["s0", "start", "end", "ax3", "two"], ["s1"]),
        n("Pad", ["s1", "pads"], ["p"]),
        n("Add", ["c2", "p"], ["a"]),
        n("Relu", ["a"], ["r2"]),
        n("MaxPool", ["r2"], ["mp"], kernel_shape=[2, 2], strides=[2, 2]),
        n("GlobalAveragePool", ["mp"], ["gap"]),
        n("Flatten", ["gap"], ["f"]),
        n("Gemm", ["f", "hidden.weight", "hidden.bias"], ["h"], transB=1),
        n("Relu", ["h"], ["rh"]),
        n("Gemm", ["rh", "head.weight", "head.bias"], ["y"], transB=1),
    ]
    tensors = [
        _tensor("stem.weight", 8, 3, 3, 3, gain=1.4),
        _tensor("deep.weight", 8, 1, 3, 3),
        _tensor("deep.bias", 8),
        _tensor("wide.weight", 16, 8, 3, 3),
        _tensor("wide.bias", 16, gain=0.1),
        _tensor("hidden.weight", 24, 16, gain=1.4),
        _tensor("hidden.bias", 24, gain=0.1),
        _tensor("head.weight", 10, 24),
        _tensor("head.bias", 10, gain=0.1),
        *(numpy_helper.from_array(v.astype(np.float32), k) for k, v in _norm(8).items()),
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.float32(6), "six"),
        *(_ints(k, *v) for k, v in {"start": (0,), "end": (99,), "ax2": (2,), "ax3": (3,), "two": (2,)}.items()),
        _ints("pads", 0, 4, 0, 0, 0, 4, 0, 0),
    ]
    x = helper.make_tensor_value_info("x", F32, ["n", 3, 12, 12])
    return _model(nodes, [x], [helper.make_tensor_value_info("y", F32, ["n", 10])], tensors, opset)


def _norm(width: int) -> dict[str, np.ndarray]:
    return {
        "g": RNG.uniform(0.5, 2, width),
        "b": RNG.normal(size=width) * 0.3,
        "m": RNG.normal(size=width) * 0.3,
        "v": RNG.uniform(0.5, 2, width),
    }


def transformer_like() -> onnx.ModelProto:
    """An embedding, two projections that read the same activation, a residual and a last projection."""
    n = helper.make_node
    nodes = [
        n("Gather", ["table.weight", "ids"], ["e"]),
        n("MatMul", ["e", "query.weight"], ["q0"]),
        n("Add", ["q0", "query.bias"], ["q"]),
        n("MatMul", ["e", "key.weight"], ["k"]),
        n("Mul", ["q", "k"], ["qk"]),
        n("Add", ["qk", "e"], ["s"]),
        n("MatMul", ["s", "out.weight"], ["o"]),
        n("Add", ["out.bias", "o"], ["y"]),
    ]
    tensors = [
        _tensor("table.weight", 50, 64, gain=8.0),
        _tensor("query.weight", 64, 64),
        _tensor("query.bias", 64, gain=0.1),
        _tensor("key.weight", 64, 64),
        _tensor("out.weight", 64, 32),
        _tensor("out.bias", 32, gain=0.1),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"])
    return _model(nodes, [ids], [helper.make_tensor_value_info("y", F32, ["n", "t", 32])], tensors)


INPUTS = {
    "conv": {"x": RNG.normal(size=(48, 3, 12, 12)).astype(np.float32)},
    "transformer": {"ids": RNG.integers(0, 50, (48, 12))},
}
MODELS = {"conv": convolutional(), "transformer": transformer_like()}
COMPOSERS = {name: Composer(model, INPUTS[name]) for name, model in MODELS.items()}
# what may be lost at a number of stored bits: relative error of the outputs, whole network in that format
BOUNDS = {8: 0.03, 7: 0.04, 6: 0.06, 5: 0.11, 4: 0.22, 3: 0.45, 2: 0.95, 16: 0.005, 32: 1e-5}


def _run(model: bytes, name: str) -> np.ndarray:
    return open_session(model, RuntimeOptions()).run(None, dict(INPUTS[name]))[0]


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


CASES = sorted({(m, f.name) for m, c in COMPOSERS.items() for s in c.sites for f in c.formats(s)})


@pytest.mark.parametrize(("name", "fmt"), CASES)
def test_every_format_keeps_its_contract(name: str, fmt: str) -> None:
    composer = COMPOSERS[name]
    wanted = Format.parse(fmt)
    formats = {s.name: wanted for s in composer.sites if wanted in composer.formats(s)}
    made = composer.compose(formats)
    reference = _run(composer.float_model(), name)
    out = _run(made.model_bytes, name)
    assert _relative(out, reference) <= BOUNDS[wanted.weight_bits]

    executed = executed_kernels(optimized_model(made.model_bytes), composer.sites)
    for site, report in zip(composer.sites, made.sites, strict=True):
        assert report.site == site.name
        assert kernels_agree(report.kernel, executed[site.name])
        if site.name in formats:
            assert report.format == fmt
            assert report.storage_bits == wanted.weight_bits
            assert report.stored_bytes <= composer.stored_bytes(site, wanted)

    plain = unpack_model(onnx.load_from_string(made.model_bytes))
    assert not plain.functions
    np.testing.assert_array_equal(_run(plain.SerializeToString(), name), out)


@pytest.mark.parametrize("fmt", ["w8a8", "w4a8", "codebook3a8"])
def test_a_quantized_region_has_no_conversion_inside(fmt: str) -> None:
    composer = COMPOSERS["conv"]
    wanted = Format.parse(fmt)
    made = composer.compose({s.name: wanted for s in composer.sites if s.kind != "gemm"})
    kept = [n.op_type for n in optimized_model(made.model_bytes).graph.node]
    assert kept.count("QLinearConv") == 3
    assert kept.count("QLinearAdd") == 1
    assert kept.count("QuantizeLinear") == 1
    assert kept.count("DequantizeLinear") == 1
    assert "Relu" not in kept
    assert "Conv" not in kept


@pytest.mark.parametrize("settings", [Settings(), Settings(rounding="adaround")])
def test_the_same_recipe_gives_the_same_bytes(tmp_path, settings: Settings) -> None:
    formats = {"stem": Format.parse("w3a8"), "wide": Format.parse("w4"), "head": Format.parse("codebook2")}
    first = COMPOSERS["conv"].compose(formats, settings)
    again = Composer(MODELS["conv"], INPUTS["conv"], cache_dir=tmp_path).compose(formats, settings)
    cached = Composer(MODELS["conv"], INPUTS["conv"], cache_dir=tmp_path).compose(formats, settings)
    assert len({hashlib.sha256(m.model_bytes).hexdigest() for m in (first, again, cached)}) == 1
    assert list(tmp_path.iterdir())


def test_mixed_neighbours_run() -> None:
    name = "conv"
    composer = COMPOSERS[name]
    rng = np.random.default_rng(1)
    reference = _run(composer.float_model(), name)
    for _ in range(6):
        formats = {}
        for site in composer.sites:
            choices = [f for f in composer.formats(site) if f.weight_bits >= 4]
            formats[site.name] = choices[int(rng.integers(len(choices)))]
        made = composer.compose(formats)
        assert _relative(_run(made.model_bytes, name), reference) < 0.3
        assert [r.format for r in made.sites] == [formats[s.name].name for s in composer.sites]
        executed = executed_kernels(optimized_model(made.model_bytes), composer.sites)
        assert all(kernels_agree(r.kernel, executed[r.site]) for r in made.sites)


@pytest.mark.parametrize("fmt", ["fp32", "fp16", "w4", "codebook4", "w4a16"])
def test_a_float_site_between_integer_sites_stays_float(fmt: str) -> None:
    """The runtime would round such weights to 8 bits by itself, and per tensor at that."""
    composer = COMPOSERS["conv"]
    formats = {s.name: Format.parse("w8a8") for s in composer.sites}
    made = composer.compose(formats | {"deep": Format.parse(fmt)})
    executed = executed_kernels(optimized_model(made.model_bytes), composer.sites)
    assert executed["deep"] in ("Conv", "FusedConv")
    assert executed["wide"] == "QLinearConv"


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_activation_settings(method: str, signed: bool, symmetric: bool) -> None:
    composer = COMPOSERS["conv"]
    settings = Settings(range_method=method, activation_signed=signed, activation_symmetric=symmetric)
    made = composer.compose({s.name: Format.parse("w8a8") for s in composer.sites}, settings)
    bound = 0.2 if method == "entropy" else 0.06  # entropy cuts far more of the tails, on purpose
    assert _relative(_run(made.model_bytes, "conv"), _run(composer.float_model(), "conv")) < bound
    kinds = {n.name: n.data_type for n in onnx.load_from_string(made.model_bytes).graph.initializer if not n.dims}
    assert (TensorProto.UINT8 in kinds.values()) is not signed


@pytest.mark.parametrize("fmt", ["w8a8", "w8a8-dynamic", "codebook4a8"])
def test_two_products_fit_16_bits_unless_the_whole_range_is_asked_for(fmt: str) -> None:
    composer = COMPOSERS["transformer" if fmt == "w8a8-dynamic" else "conv"]
    formats = {s.name: Format.parse(fmt) for s in composer.sites if fmt in {f.name for f in composer.formats(s)}}
    assert formats

    def largest(settings: Settings) -> int:
        plain = unpack_model(onnx.load_from_string(composer.compose(formats, settings).model_bytes))
        weights = [numpy_helper.to_array(t) for t in plain.graph.initializer if t.data_type == TensorProto.INT8]
        return max(int(np.abs(w.astype(np.int64)).max()) for w in weights if w.ndim > 1)

    assert largest(Settings()) == 63  # 2 * 255 * 63 < 2 ** 15
    assert largest(Settings(reduce_range=False)) == 127
    if fmt == "w8a8":
        assert largest(Settings(activation_signed=True)) == 127  # 2 * 127 * 127 fits anyway


@pytest.mark.parametrize(
    "settings",
    [
        Settings(per_channel=False),
        Settings(rounding="nearest"),
        Settings(bias_correction=False),
        Settings(equalize=True),
        Settings(rounding="adaround"),
    ],
)
def test_weight_settings(settings: Settings) -> None:
    composer = COMPOSERS["conv"]
    formats = {s.name: Format.parse("w6a8") for s in composer.sites}
    made = composer.compose(formats, settings)
    assert _relative(_run(made.model_bytes, "conv"), _run(composer.float_model(), "conv")) < 0.2
    for site, report in zip(composer.sites, made.sites, strict=True):
        assert report.stored_bytes <= composer.stored_bytes(site, formats[site.name], settings)


@pytest.mark.parametrize("fmt", ["w8-block32", "w4-block32", "w2-block32"])
@pytest.mark.parametrize("rounding", ["nearest", "gptq", "adaround"])
def test_block_settings(fmt: str, rounding: str) -> None:
    """Zero points never make blocks worse by much, are stored packed, and both accuracy levels run."""
    composer = COMPOSERS["transformer"]
    formats = {s.name: Format.parse(fmt) for s in composer.sites if Format.parse(fmt) in composer.formats(s)}
    reference = _run(composer.float_model(), "transformer")
    errors = {}
    for symmetric in (True, False):
        settings = Settings(rounding=rounding, block_symmetric=symmetric, block_accuracy=1)
        made = composer.compose(formats, settings)
        errors[symmetric] = _relative(_run(made.model_bytes, "transformer"), reference)
        for site, report in zip(composer.sites, made.sites, strict=True):
            if site.name in formats:
                assert report.stored_bytes <= composer.stored_bytes(site, formats[site.name], settings)
        graph = onnx.load_from_string(made.model_bytes).graph
        nodes = [n for n in graph.node if n.op_type == "MatMulNBits"]
        assert {len(n.input) for n in nodes} == {3 if symmetric else 4}
        assert {a.i for n in nodes for a in n.attribute if a.name == "accuracy_level"} == {1}
    assert errors[False] < max(1.15 * errors[True], 0.02)


@pytest.mark.parametrize("fmt", ["w3a8", "codebook3a8", "codebook3"])
def test_learned_rounding_is_as_good_as_compensation(fmt: str) -> None:
    composer = COMPOSERS["conv"]
    formats = {s.name: Format.parse(fmt) for s in composer.sites if Format.parse(fmt) in composer.formats(s)}
    reference = _run(composer.float_model(), "conv")
    errors = {
        r: _relative(_run(composer.compose(formats, Settings(rounding=r)).model_bytes, "conv"), reference)
        for r in ("nearest", "gptq", "adaround")
    }
    assert errors["adaround"] < 0.95 * errors["nearest"]
    assert errors["adaround"] < 1.2 * errors["gptq"]


def test_compensation_and_correction_pay() -> None:
    composer = COMPOSERS["conv"]
    formats = {s.name: Format.parse("w3a8") for s in composer.sites}
    reference = _run(composer.float_model(), "conv")
    plain = composer.compose(formats, Settings(rounding="nearest", bias_correction=False))
    best = composer.compose(formats)
    assert _relative(_run(best.model_bytes, "conv"), reference) < 0.8 * _relative(
        _run(plain.model_bytes, "conv"), reference
    )


@pytest.mark.parametrize("opset", [13, 15, 18, 21])
def test_opsets(opset: int) -> None:
    composer = Composer(convolutional(opset), INPUTS["conv"])
    made = composer.compose({s.name: Format.parse("w5a8") for s in composer.sites})
    assert {o.version for o in onnx.load_from_string(made.model_bytes).opset_import if not o.domain} == {opset}
    executed = executed_kernels(optimized_model(made.model_bytes), composer.sites)
    assert set(executed.values()) == {"QLinearConv", "QGemm"}


def test_preparation_folds_and_names(tmp_path) -> None:
    path = tmp_path / "model.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(MODELS["conv"])  # saving with external data changes the proto
    onnx.save(copy, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.iterdir()}
    graph = prepare(path)
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.iterdir()} == before
    assert [s.site.name for s in graph.sites] == ["stem", "deep", "wide", "hidden", "head"]
    assert [s.site.kind for s in graph.sites] == ["conv", "depthwise", "conv", "gemm", "gemm"]
    assert graph.sites[0].site.macs == 8 * 3 * 9 * 12 * 12
    ops = [n.op_type for n in graph.model.graph.node]
    assert "BatchNormalization" not in ops
    assert ops.count("Slice") == 1
    original = open_session(MODELS["conv"].SerializeToString(), RuntimeOptions()).run(None, dict(INPUTS["conv"]))[0]
    assert _relative(_run(graph.model.SerializeToString(), "conv"), original) < 1e-5


def test_what_cannot_be_done_is_said() -> None:
    composer = COMPOSERS["conv"]
    with pytest.raises(CandidateError, match="no such site"):
        composer.compose({"nothing": Format.parse("w8a8")})
    with pytest.raises(CandidateError, match="cannot be built"):
        composer.compose({"stem": Format.parse("w8a8-dynamic")})
    with pytest.raises(DataError, match="'x'"):
        Composer(MODELS["conv"], {"y": np.zeros((2, 3))}).compose({"stem": Format.parse("w8a8")})
    with pytest.raises(ModelError, match="not a readable ONNX"):
        prepare(b"garbage")


@pytest.mark.parametrize(("fmt", "kind", "width"), [("w8", TensorProto.INT8, 64), ("w4", TensorProto.UINT8, 32)])
def test_tables_stay_small_in_memory(fmt: str, kind: int, width: int) -> None:
    composer = COMPOSERS["transformer"]
    made = composer.compose({"table": Format.parse(fmt)})
    held = optimized_model(made.model_bytes).graph.initializer
    assert [(t.data_type, tuple(t.dims)) for t in held if t.dims and t.dims[0] == 50 and t.dims[-1] != 1] == [
        (kind, (50, width))
    ]


def recurrent() -> onnx.ModelProto:
    """A GRU that stays in float, between two projections."""
    n = helper.make_node
    nodes = [
        n("MatMul", ["x", "into.weight"], ["e"]),
        n("Transpose", ["e"], ["t"], perm=[1, 0, 2]),
        n("GRU", ["t", "gru.W", "gru.R", "gru.B"], ["", "last"], hidden_size=8),
        n("Squeeze", ["last", "axis"], ["h"]),
        n("Gemm", ["h", "head.weight", "head.bias"], ["y"], transB=1),
    ]
    tensors = [
        _tensor("into.weight", 6, 16), _tensor("gru.W", 1, 24, 16), _tensor("gru.R", 1, 24, 8), _tensor("gru.B", 1, 48),
        _tensor("head.weight", 4, 8), _tensor("head.bias", 4), _ints("axis", 0),
    ]  # fmt: skip
    x = helper.make_tensor_value_info("x", F32, ["n", 5, 6])
    return _model(nodes, [x], [helper.make_tensor_value_info("y", F32, ["n", 4])], tensors)


def test_recurrent_layers_stay_float_and_are_listed() -> None:
    inputs = {"x": RNG.normal(size=(16, 5, 6)).astype(np.float32)}
    composer = Composer(recurrent(), inputs)
    assert [s.kind for s in composer.sites] == ["matmul", "recurrent", "gemm"]
    assert [f.name for f in composer.formats(composer.sites[1])] == ["fp32"]
    made = composer.compose({"into": Format.parse("w8a8-dynamic"), "head": Format.parse("w4a8")})
    assert made.sites[1].format == "fp32"
    executed = executed_kernels(optimized_model(made.model_bytes), composer.sites)
    assert [executed[s.name] for s in composer.sites] == ["DynamicQuantizeMatMul", "GRU", "QGemm"]
    out, reference = (
        open_session(m, RuntimeOptions()).run(None, inputs)[0] for m in (made.model_bytes, composer.float_model())
    )
    assert _relative(out, reference) < 0.2


def test_sparse_weights_take_fewer_bytes_and_give_the_same() -> None:
    """A pruned layer is coded: the file shrinks, and what runs is the same int8 weight."""
    rng = np.random.default_rng(3)
    weight = (rng.normal(size=(64, 64, 3, 3)) * (rng.random((64, 64, 3, 3)) < 0.1)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "a.weight"], ["y"], pads=[1] * 4)]
    x = helper.make_tensor_value_info("x", F32, ["n", 64, 6, 6])
    y = helper.make_tensor_value_info("y", F32, ["n", 64, 6, 6])
    inputs = {"x": rng.normal(size=(8, 64, 6, 6)).astype(np.float32)}
    composer = Composer(_model(nodes, [x], [y], [numpy_helper.from_array(weight, "a.weight")]), inputs)
    made = composer.compose({"a": Format.parse("w4a8")}, Settings(rounding="nearest"))
    assert made.sites[0].stored_bytes < 0.45 * composer.stored_bytes(composer.sites[0], Format.parse("w4a8"))
    assert len(made.model_bytes) < 0.6 * weight.size / 2
    assert executed_kernels(optimized_model(made.model_bytes), composer.sites) == {"a": "QLinearConv"}
    plain = unpack_model(onnx.load_from_string(made.model_bytes)).SerializeToString()
    a, b = (open_session(m, RuntimeOptions()).run(None, inputs)[0] for m in (made.model_bytes, plain))
    np.testing.assert_array_equal(a, b)
