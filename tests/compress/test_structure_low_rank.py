from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeltailor.compress import Structure
from modeltailor.compress.structure import TrainingData, factorizable_layers, realize, reshape, resolutions
from modeltailor.errors import CandidateError, ConfigError
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session
from modeltailor.workloads.export import export_onnx

EXAMPLE = torch.zeros(1, 8, 16, 16)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(8, 32, 3, padding="same", stride=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1, stride=2, dilation=1),
        nn.ReLU(), nn.Conv2d(32, 32, 3, groups=32), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 64),
        nn.ReLU(), nn.Linear(64, 2),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def data() -> TrainingData:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(8, 8)) * np.geomspace(1, 0.02, 8)
    x = np.einsum("nchw,cd->ndhw", rng.normal(size=(200, 8, 16, 16)), mixing)
    return TrainingData(inputs={"x": x.astype(np.float32)})


def test_layers_that_a_lower_rank_makes_cheaper() -> None:
    found = {f.name: f for f in factorizable_layers(network(), EXAMPLE)}
    assert set(found) == {"0", "2", "7"}  # neither the depthwise one nor the last, which has two outputs
    assert found["2"].full_rank == 32
    assert found["2"].largest_rank == (32 * 288 - 1) // (32 + 288)
    assert found["7"].rank(0.5) == 21
    assert sum(f.macs_share for f in found.values()) < 1


def test_full_rank_is_the_layer_itself_and_low_rank_saves(data: TrainingData) -> None:
    whole = network()
    x = torch.from_numpy(data.inputs["x"][:16])
    with torch.no_grad():
        layer = whole[7]
        layer.weight.copy_(torch.randn(64, 5) @ torch.randn(5, 128))
        wanted = whole(x)
        made = reshape(Structure(ranks=(("7", 5),)), whole, EXAMPLE, calibration=data)
        assert torch.allclose(made(x), wanted, atol=1e-3 * float(wanted.abs().max()))
    assert made[7][0].weight.shape == (5, 128)
    assert made[7][1].weight.shape == (64, 5)


def test_knowing_the_inputs_loses_less(data: TrainingData) -> None:
    whole, x = network(), torch.from_numpy(data.inputs["x"])
    lost = []
    for calibration in (None, data):
        made = reshape(Structure(ranks=(("0", 5), ("2", 10))), whole, EXAMPLE, calibration=calibration)
        with torch.no_grad():
            lost.append(float((made(x) - whole(x)).square().mean()))
    assert lost[1] < 0.5 * lost[0]


def test_channels_and_ranks_together_run_as_a_file(data: TrainingData, tmp_path: Path) -> None:
    structure = Structure(keep=(("0", 0.5),), ranks=(("2", 6),))
    made = realize(structure, network(), example_inputs=EXAMPLE, calibration=data)
    assert made.macs < 0.6 * realize(Structure(), network(), example_inputs=EXAMPLE).macs
    assert made.module[2][0].in_channels == 16
    export_onnx(made.module, (EXAMPLE,), tmp_path / "low.onnx")


@pytest.mark.parametrize(
    ("ranks", "match"), [((("2", 29),), "up to 28"), ((("4", 2),), "no low-rank form"), ((("nothing", 2),), "no layer")]
)
def test_ranks_that_save_nothing_are_refused(ranks: tuple[tuple[str, int], ...], match: str) -> None:
    with pytest.raises(CandidateError, match=match):
        reshape(Structure(ranks=ranks), network(), EXAMPLE)


def test_resolution_where_the_head_allows_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    free = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    bound = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 32 * 32, 4))
    image = torch.randn(2, 3, 32, 32)
    assert resolutions(free, image) == (0.875, 0.75, 0.625, 0.5)
    assert resolutions(bound, image) == ()
    made = realize(Structure(resolution=0.5), free, example_inputs=image)
    assert made.macs < 0.26 * realize(Structure(), free, example_inputs=image).macs
    export_onnx(made.module, (image,), tmp_path / "small.onnx")  # compares the file with the module
    session = open_session((tmp_path / "small.onnx").read_bytes(), RuntimeOptions())
    assert session.get_inputs()[0].shape[1:] == [3, 32, 32]
    with pytest.raises(CandidateError, match="32x32"):
        reshape(Structure(resolution=0.5), bound, image)
    with pytest.raises(CandidateError, match="8x8 pixels"):
        reshape(Structure(resolution=0.25), free, image)
    with pytest.raises(ConfigError, match="resolution"):
        Structure(resolution=2.0)


def test_layers_whose_parent_reads_their_weight_stay_whole() -> None:
    """A ``TransformerEncoderLayer`` that does not learn computes with the weights of its layers, past their forward."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.layers, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layers(x))

    whole, example = Encoder().eval(), torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    found = {f.name for f in factorizable_layers(whole, example)}
    assert not any(n.endswith(("linear1", "linear2")) for n in found)
    assert "head" in found
    made = reshape(Structure(ranks=(("head", 4),)), whole, example)
    with torch.no_grad():
        assert made(example).shape == whole(example).shape
    with pytest.raises(CandidateError, match=r"layers\.layers\.0\.linear1"):
        reshape(Structure(ranks=(("layers.layers.0.linear1", 4),)), whole, example)


def test_a_parent_that_reads_a_weight_refuses_the_structure() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.inner.weight.T

    with pytest.raises(CandidateError, match="does not run"):
        reshape(Structure(ranks=(("inner", 4),)), Reading(), torch.randn(2, 16))
