"""Pruning and factorization of ONNX files without PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from modeltailor.compress import Structure
from modeltailor.compress.structure import (
    factorize_onnx,
    onnx_factorizable,
    onnx_groups,
    prune_onnx,
    realize_onnx,
    sparsify_onnx,
)
from modeltailor.compress.structure.contract import TechniqueCase, TechniqueContract
from modeltailor.errors import CandidateError
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session
from modeltailor.workloads.export import export_onnx

EXAMPLE = {"x": torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))}
CALIBRATION = {"x": np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32)}


class Net(nn.Module):
    """Residual add, concatenation, depthwise, squeeze and excitation, flattening, two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.inner, self.back = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)
        self.side = nn.Conv2d(16, 8, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.squeeze, self.excite = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.grouped = nn.Conv2d(24, 24, 3, padding=1, groups=4)
        self.dense, self.head = nn.Linear(24 * 16, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.back(torch.relu(self.inner(x)))
        y = torch.relu(self.depthwise(x))
        y = y * torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        y = torch.cat([y, self.side(x)], 1)
        y = nn.functional.max_pool2d(torch.relu(self.grouped(y)), 2)
        return self.head(torch.relu(self.dense(y.flatten(1))))


class Plain(nn.Module):
    """The same without the grouped convolution, so that everything can be cut."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = Net()
        self.net.grouped = nn.Conv2d(24, 24, 3, padding=1)  # type: ignore[assignment]
        with torch.no_grad():
            for norm in (self.net.norm,):
                norm.running_mean.normal_()  # type: ignore[union-attr]
                norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelProto]:
    folder = tmp_path_factory.mktemp("onnx")
    found = {}
    for name, module in (("net", Net()), ("plain", Plain())):
        export_onnx(module.eval(), EXAMPLE, folder / f"{name}.onnx")
        found[name] = onnx.load(folder / f"{name}.onnx")
    return found


def outputs(model: ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = open_session(model.SerializeToString(), RuntimeOptions())
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def parameters(model: ModelProto) -> int:
    arrays = (numpy_helper.to_array(t) for t in model.graph.initializer)
    return sum(a.size for a in arrays if a.dtype.kind == "f")


def short(name: str) -> str:
    return name.removeprefix("net.")


def test_groups_are_those_of_the_network(files: dict[str, ModelProto]) -> None:
    groups, refused = onnx_groups(files["plain"])
    by_name = {short(g.name): g for g in groups}
    assert {n: g.channels for n, g in by_name.items()} == {
        "stem": 16, "inner": 24, "squeeze": 8, "side": 8, "grouped": 24, "dense": 32,
    }  # fmt: skip
    assert {short(p) for p in by_name["stem"].producers} == {"stem", "back", "excite"}
    assert by_name["stem"].coupled
    assert not by_name["inner"].coupled
    assert [(short(r.name), r.reason) for r in refused] == [("head", "its channels are the model's output")]


def test_what_cannot_be_cut_is_refused_with_a_reason(files: dict[str, ModelProto]) -> None:
    groups, refused = onnx_groups(files["net"])
    reasons = {short(r.name): r.reason for r in refused}
    assert {"stem", "side"} <= set(reasons)
    assert "grouped convolution" in reasons["side"]
    assert {short(g.name) for g in groups} == {"inner", "squeeze", "dense"}
    with pytest.raises(CandidateError, match="grouped convolution"):
        prune_onnx(files["net"], {next(r.name for r in refused if short(r.name) == "side"): 0.5})
    with pytest.raises(CandidateError, match="not a channel group"):
        prune_onnx(files["net"], {"nothing": 0.5})


@pytest.mark.parametrize("name", ["stem", "squeeze", "side", "grouped"])
def test_dead_channels_go_without_changing_the_function(
    name: str, files: dict[str, ModelProto], tmp_path: Path
) -> None:
    module = Plain().eval()
    readers = {
        "stem": ("inner", "depthwise", "side"), "inner": ("back",), "squeeze": ("excite",), "side": ("grouped",),
        "grouped": ("dense",), "dense": ("head",),
    }[name]  # fmt: skip
    with torch.no_grad():
        for reader in readers:
            weight = module.net.get_submodule(reader).weight
            if reader == "dense":
                weight.view(32, 24, 16)[:, ::2] = 0
            elif reader == "grouped":
                weight[:, 16::2] = 0
            elif reader == "depthwise":
                weight[::2] = 0
                module.net.depthwise.bias[::2] = 0
            else:
                weight[:, ::2] = 0
        if name == "stem":  # the others of the group count, too
            for layer in (module.net.stem, module.net.back, module.net.excite):
                layer.weight[::2] *= 1e-4
            module.net.squeeze.weight[:, ::2] = 0
            module.net.grouped.weight[:, :16:2] = 0
            module.net.norm.weight[::2] = 0
            module.net.norm.bias[::2] = 0
            module.net.back.bias[::2] = 0
    export_onnx(module, EXAMPLE, tmp_path / "dead.onnx")
    model = onnx.load(tmp_path / "dead.onnx")
    group = next(g for g in onnx_groups(model)[0] if short(g.name) == name)
    made = prune_onnx(model, {group.name: 0.5}, multiple=4)
    assert parameters(made) < parameters(model)
    x = CALIBRATION["x"][:8]
    assert np.allclose(outputs(made, x), outputs(model, x), atol=1e-4)


def test_everything_can_be_halved_at_once_and_data_helps(files: dict[str, ModelProto]) -> None:
    model, x = files["plain"], CALIBRATION["x"]
    groups, _ = onnx_groups(model)
    wanted, lost = outputs(model, x), []
    for calibration in (None, CALIBRATION):
        made = prune_onnx(model, {g.name: 0.75 for g in groups}, multiple=4, calibration=calibration)
        lost.append(float(np.square(outputs(made, x) - wanted).mean()))
    assert lost[1] < 0.8 * lost[0]
    halved = prune_onnx(model, {g.name: 0.5 for g in groups}, multiple=4)
    assert {short(g.name): g.channels for g in onnx_groups(halved)[0]} == {
        "stem": 8, "inner": 12, "squeeze": 4, "side": 4, "grouped": 12, "dense": 16,
    }  # fmt: skip


def test_ranks_that_lose_nothing_change_nothing(files: dict[str, ModelProto]) -> None:
    model = files["plain"]
    layers = {short(f.name): f for f in onnx_factorizable(model)}
    assert {"inner", "back", "dense"} <= set(layers)
    dense = layers["dense"]
    assert dense.largest_rank == (32 * 384 - 1) // (32 + 384)
    low = prune_onnx(model, {})
    weight = next(t for t in low.graph.initializer if short(t.name).startswith("dense.weight"))
    array = numpy_helper.to_array(weight)
    u, s, vt = np.linalg.svd(array.astype(np.float64), full_matrices=False)
    weight.CopyFrom(numpy_helper.from_array((u[:, :3] * s[:3] @ vt[:3]).astype(np.float32), weight.name))
    x = CALIBRATION["x"][:8]
    made = factorize_onnx(low, {dense.name: 3}, calibration=CALIBRATION)
    assert np.allclose(outputs(made, x), outputs(low, x), atol=1e-3)
    assert parameters(made) == parameters(low) - 32 * 384 + 3 * (32 + 384)
    with pytest.raises(CandidateError, match="save something"):
        factorize_onnx(model, {dense.name: 30})


def test_whitening_loses_less_at_the_output(files: dict[str, ModelProto]) -> None:
    model = files["plain"]
    inner = next(f.name for f in onnx_factorizable(model) if short(f.name) == "grouped")
    wanted, lost = outputs(model, CALIBRATION["x"]), []
    for calibration in (None, CALIBRATION):
        made = factorize_onnx(model, {inner: 6}, calibration=calibration)
        lost.append(float(np.square(outputs(made, CALIBRATION["x"]) - wanted).mean()))
    assert lost[1] < lost[0]


def test_reshapes_with_written_out_channels_are_rewritten() -> None:
    rng = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array(rng.normal(size=(6, 8)).astype(np.float32), "a.weight"),
        numpy_helper.from_array(np.array([2, 8, 1, 1], np.int64), "shape"),
        numpy_helper.from_array(rng.normal(size=(4, 8, 1, 1)).astype(np.float32), "b.weight"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "a.weight"], ["h"]),
        helper.make_node("Reshape", ["h", "shape"], ["r"]),
        helper.make_node("Conv", ["r", "b.weight"], ["y"], kernel_shape=[1, 1]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [2, 6])], [value("y", TensorProto.FLOAT, [2, 4, 1, 1])], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    made = prune_onnx(model, {"a": 0.5}, multiple=1)
    assert outputs(made, rng.normal(size=(2, 6)).astype(np.float32)).shape == (2, 4, 1, 1)
    assert parameters(made) == 6 * 4 + 4 * 4


class _Case:
    def __init__(self, apply: Callable[[ModelProto], ModelProto]) -> None:
        self.apply = apply

    def __call__(
        self, subject: ModelProto, *, seed: int, cache_dir: Path | None, progress: Callable[[float], None] | None
    ) -> ModelProto:
        return self.apply(subject)


def _named(model: ModelProto, wanted: str) -> str:
    return next(g.name for g in onnx_groups(model)[0] if short(g.name) == wanted)


class TestChannels(TechniqueContract):
    @pytest.fixture
    def case(self, files: dict[str, ModelProto]) -> TechniqueCase[ModelProto]:
        model = files["plain"]
        folded = parameters(prune_onnx(model, {}))
        gone = 12 * (16 * 9 + 1) + 12 * 16 * 9
        return TechniqueCase(
            subject=model, example_inputs=EXAMPLE, parameters=folded - gone,
            apply=_Case(lambda m: prune_onnx(m, {_named(m, "inner"): 0.5}, multiple=4, calibration=CALIBRATION)),
        )  # fmt: skip


class TestLowRank(TechniqueContract):
    @pytest.fixture
    def case(self, files: dict[str, ModelProto]) -> TechniqueCase[ModelProto]:
        model = files["plain"]
        folded = parameters(prune_onnx(model, {}))
        return TechniqueCase(
            subject=model, example_inputs=EXAMPLE, parameters=folded - 24 * 144 + 5 * (24 + 144),
            apply=_Case(lambda m: factorize_onnx(m, {_named(m, "inner"): 5}, calibration=CALIBRATION)),
        )  # fmt: skip


class TestZeros(TechniqueContract):
    @pytest.fixture(params=["magnitude", "wanda", "obs"])
    def case(self, files: dict[str, ModelProto], request: pytest.FixtureRequest) -> TechniqueCase[ModelProto]:
        model = prune_onnx(files["plain"], {})
        return TechniqueCase(
            subject=model, example_inputs=EXAMPLE, counts="non-zero",
            parameters=parameters(model) - 24 * 144 // 2 - 32 * 384 // 2,
            apply=_Case(
                lambda m: sparsify_onnx(
                    m, dict.fromkeys(("net.inner", "net.dense"), 0.5), pattern="2:4", score=request.param,
                    calibration=CALIBRATION,
                )
            ),
        )  # fmt: skip


def test_a_structure_is_carried_out_as_far_as_a_file_allows(files: dict[str, ModelProto]) -> None:
    inner, dense = "net.inner", "net.dense"
    structure = Structure(
        keep=((inner, 0.5),), ranks=((dense, 8),), sparsity=(("net.back", 0.5),), sparsity_score="obs"
    )
    made = realize_onnx(structure, files["plain"], calibration=CALIBRATION, multiple=4)
    assert parameters(made) < parameters(files["plain"]) - 12 * 145 - 32 * 384 // 2
    assert np.isfinite(outputs(made, CALIBRATION["x"][:4])).all()
    for refused in (
        Structure(removed=("net",)),
        Structure(resolution=0.5),
        Structure(keep=((inner, 0.5),), score="fisher"),
    ):
        with pytest.raises(CandidateError, match="PyTorch"):
            realize_onnx(refused, files["plain"])


def _gemm_file(tensors: dict[str, NDArray[np.generic]], nodes: list[onnx.NodeProto], out: str) -> ModelProto:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, ["n", "m"])],
        [numpy_helper.from_array(v, k) for k, v in tensors.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made)
    return made


def _weights(*shapes: tuple[int, ...]) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=s).astype(np.float32) for s in shapes]


def test_a_product_that_adds_what_is_computed_keeps_its_channels() -> None:
    a, b, c = _weights((8, 16), (16, 16), (16, 4))
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["p"]), helper.make_node("Relu", ["p"], ["q"]),
        helper.make_node("Gemm", ["q", "b", "p"], ["r"]), helper.make_node("Gemm", ["r", "c"], ["y"]),
    ]  # fmt: skip
    groups, refusals = onnx_groups(_gemm_file({"a": a, "b": b, "c": c}, nodes, "y"))
    assert groups == ()
    assert any("adds a tensor that is computed" in r.reason for r in refusals)


def test_channels_that_a_branch_reads_stay() -> None:
    a, c = _weights((8, 16), (16, 4))
    value = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    branches = {
        name: helper.make_graph([helper.make_node(op, ["q"], ["o"])], name, [], [value])
        for name, op in (("then_branch", "Relu"), ("else_branch", "Identity"))
    }
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["q"]),
        helper.make_node("If", ["yes"], ["r"], **branches), helper.make_node("MatMul", ["r", "c"], ["y"]),
    ]  # fmt: skip
    groups, refusals = onnx_groups(_gemm_file({"a": a, "c": c, "yes": np.array(True)}, nodes, "y"))
    assert groups == ()
    assert any("is read" in r.reason or "are read" in r.reason for r in refusals)


def test_a_bias_of_several_layers_is_not_moved_for_one_of_them() -> None:
    a, b, c, bias = _weights((8, 16), (16, 4), (8, 4), (4,))
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["p"]), helper.make_node("Relu", ["p"], ["q"]),
        helper.make_node("Gemm", ["q", "b", "bias"], ["r"]), helper.make_node("Gemm", ["x", "c", "bias"], ["s"]),
        helper.make_node("Concat", ["r", "s"], ["y"], axis=1),
    ]  # fmt: skip
    made = _gemm_file({"a": a, "b": b, "c": c, "bias": bias}, nodes, "y")
    x = np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)
    (group,), _ = onnx_groups(made)
    pruned = prune_onnx(made, {group.name: 0.5}, calibration={"x": x})
    (y,) = open_session(pruned.SerializeToString(), RuntimeOptions()).run(None, {"x": x})
    np.testing.assert_allclose(y[:, 4:], x @ c + bias, rtol=1e-4, atol=1e-5)


def _wide(width: int) -> tuple[ModelProto, NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    """A product over many inputs, half of which hardly carry anything."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(width, 4)).astype(np.float32)
    x = (rng.normal(size=(64, width)) * np.where(np.arange(width) % 2, 1.0, 1e-3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "wide.weight"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(a, "wide.weight")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), a, {"x": x}


@pytest.mark.parametrize("width", [64, 8200])
def test_zeros_lie_where_little_enters_whatever_the_number_of_inputs(width: int) -> None:
    model, a, x = _wide(width)
    made = sparsify_onnx(model, {"wide": 0.5}, score="wanda", calibration=x)
    kept = numpy_helper.to_array(made.graph.initializer[0]) != 0
    assert kept[1::2].mean() > 0.98
    expected = np.abs(a) * np.sqrt(np.square(x["x"]).mean(0))[:, None]
    for column in range(4):
        assert set(np.flatnonzero(kept[:, column])) == set(np.argsort(-expected[:, column])[: width // 2])


def test_compensation_over_too_many_inputs_is_refused() -> None:
    model, _, x = _wide(8200)
    with pytest.raises(CandidateError, match=r"wide: .*8200"):
        sparsify_onnx(model, {"wide": 0.5}, score="obs", calibration=x)
