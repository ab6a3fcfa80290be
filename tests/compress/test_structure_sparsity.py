"""Zeros: what the scores choose, that training and quantization leave them alone, and that the file gets smaller."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeltailor.compress import Format, Structure, Training
from modeltailor.compress.formats import Composer
from modeltailor.compress.structure import TrainingData, kept_weights, realize, recover, sparse_layers
from modeltailor.compress.structure.moments import input_moments, weight_rows
from modeltailor.errors import CandidateError, ConfigError
from modeltailor.workloads.export import export_onnx

EXAMPLE = torch.zeros(1, 8, 6, 6)


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(8, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=4), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    return made.eval()


@pytest.fixture(scope="module")
def data() -> TrainingData:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(8, 8)) * np.geomspace(1, 0.05, 8)
    x = np.einsum("nchw,cd->ndhw", rng.normal(size=(300, 8, 6, 6)), mixing)
    return TrainingData(inputs={"x": x.astype(np.float32)})


def error(made: nn.Module, whole: nn.Module, data: TrainingData) -> float:
    x = torch.from_numpy(data.inputs["x"])
    with torch.no_grad():
        return float((made(x) - whole(x)).square().mean() / whole(x).square().mean())


def pruned(whole: nn.Module, data: TrainingData, score: str, **more: object) -> nn.Module:
    structure = Structure(sparsity=(("0", 0.5), ("3", 0.5), ("5", 0.5)), sparsity_score=score, **more)  # type: ignore[arg-type]
    return realize(structure, whole, example_inputs=EXAMPLE, calibration=data).module


def test_scores_that_look_at_data_lose_less(data: TrainingData) -> None:
    whole = network()
    lost = {s: error(pruned(whole, data, s), whole, data) for s in ("magnitude", "wanda", "obs")}
    assert lost["obs"] < 0.5 * lost["magnitude"]
    assert lost["obs"] < 0.7 * lost["wanda"]


def test_patterns_hold_in_every_block(data: TrainingData) -> None:
    made = pruned(network(), data, "obs", pattern="2:4")
    for name in ("0", "3", "5"):
        rows = weight_rows(made.get_submodule(name))
        assert rows is not None
        assert bool(((rows.reshape(-1, 4) != 0).sum(1) == 2).all())


def test_moments_are_those_of_the_layer(data: TrainingData) -> None:
    whole = network()
    few = TrainingData(inputs={"x": data.inputs["x"][:64]})
    for name, moment in input_moments(whole, few, ["3", "5", "8"]):
        layer = whole.get_submodule(name)
        outputs: list[Tensor] = []
        hook = layer.register_forward_hook(lambda _, __, out, o=outputs: o.append(out.detach()))
        with torch.no_grad():
            whole(torch.from_numpy(few.inputs["x"]))
        hook.remove()
        bias = layer.bias.detach()  # type: ignore[union-attr, operator]
        out = outputs[0] - bias.view(1, -1, *[1] * (outputs[0].ndim - 2))
        energy = out.transpose(0, 1).flatten(1).square().mean(1)
        rows = weight_rows(layer)
        assert rows is not None
        assert torch.allclose(torch.einsum("gok,gkl,gol->go", rows, moment, rows).flatten(), energy, rtol=1e-3)


def test_training_and_recovery_keep_the_zeros(data: TrainingData) -> None:
    training = Training(epochs=1, batch_size=50, learning_rate=0.02)
    structure = Structure(sparsity=(("0", 0.5), ("3", 0.75)), training=training)
    made = realize(structure, network(), example_inputs=EXAMPLE, train=data).module
    assert sparse_layers(made) == ("0", "3")
    assert int(torch.count_nonzero(made[3].weight)) == kept_weights((32, 288), 0.75)
    zeros = made[3].weight == 0
    formats = {"3": Format.parse("w4a8")}
    taught = recover(made, formats, teacher=made, example_inputs=EXAMPLE, train=data, training=training).module
    assert bool((taught[3].weight[zeros] == 0).all())
    assert not torch.equal(taught[3].weight, made[3].weight)
    assert bool((taught[0].weight[made[0].weight == 0] == 0).all())  # an 8-bit layer beside it


@pytest.fixture(scope="module")
def composers(data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> list[Composer]:
    """Of a network, and of the same with three quarters of the second layer's weights at zero."""
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()).eval()
    structure = Structure(sparsity=(("2", 0.75),), sparsity_score="obs")
    thin = realize(structure, whole, example_inputs=EXAMPLE, calibration=data).module
    folder, names, found = tmp_path_factory.mktemp("files"), {"2.weight": "2", "0.weight": "0"}, []
    for label, module in (("whole", whole), ("thin", thin)):
        path = folder / f"{label}.onnx"
        export_onnx(module, (EXAMPLE,), path, input_names=["x"], output_names=["y"])
        found.append(Composer(path, {"x": data.inputs["x"][:32]}, site_names=names))
    return found


@pytest.mark.parametrize(("name", "share"), [("w8a8", 0.6), ("w4a8", 0.75), ("codebook4", 0.8)])
def test_quantization_keeps_the_zeros_and_the_file_gets_smaller(
    name: str, share: float, composers: list[Composer]
) -> None:
    built = [c.compose({"2": Format.parse(name)}) for c in composers]
    zeros = next(s for s in built[1].sites if s.site == "2").sparsity
    assert zeros is not None
    assert zeros >= 0.75
    first_layer = 4 * (8 * 64 * 9)  # stays float
    dense, sparse = (len(b.model_bytes) - first_layer for b in built)
    assert sparse < share * dense


def test_what_cannot_be_sparse_is_named(data: TrainingData) -> None:
    with pytest.raises(CandidateError, match="nothing"):
        realize(Structure(sparsity=(("nothing", 0.5),)), network(), example_inputs=EXAMPLE)
    with pytest.raises(CandidateError, match="ReLU"):
        realize(Structure(sparsity=(("2", 0.5),)), network(), example_inputs=EXAMPLE)
    with pytest.raises(ConfigError, match="calibration"):
        realize(Structure(sparsity=(("0", 0.5),), sparsity_score="wanda"), network(), example_inputs=EXAMPLE)
    with pytest.raises(ConfigError, match=r"2:4 leaves 0\.5"):
        Structure(sparsity=(("0", 0.7),), pattern="2:4")
    with pytest.raises(ConfigError, match="4:2"):
        Structure(pattern="4:2")


@pytest.mark.parametrize("score", ["wanda", "obs"])
def test_a_layer_that_is_never_called_is_refused_where_inputs_count(score: str, data: TrainingData) -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body, self.head = network(), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) @ self.head.weight.T

    whole = Reading().eval()
    with pytest.raises(CandidateError, match=r"head: .*never called"):
        realize(
            Structure(sparsity=(("body.0", 0.5), ("head", 0.5)), sparsity_score=score), whole,  # type: ignore[arg-type]
            example_inputs=EXAMPLE, calibration=data,
        )  # fmt: skip
    made = realize(Structure(sparsity=(("head", 0.4),)), whole, example_inputs=EXAMPLE).module
    assert int((made.head.weight == 0).sum()) == 8
