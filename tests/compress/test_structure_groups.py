from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from modeltailor.compress import Structure
from modeltailor.compress.structure import channel_groups, kept_channels, removable_blocks, reshape
from modeltailor.compress.structure.shortcuts import rewrite_shortcuts
from modeltailor.errors import CandidateError


class ZeroPad(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut: nn.Module = nn.Identity() if stride == 1 else ZeroPad()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.stage = nn.Sequential(Block(16, 16), Block(16, 32, 2), Block(32, 32))
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(self.stem(x)).mean((2, 3)))


class Mixed(nn.Module):
    """Concatenation, depthwise and grouped convolutions, flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(3, 24, 3, padding=1)
        self.depthwise = nn.Conv2d(40, 40, 3, padding=1, groups=40)
        self.point = nn.Conv2d(40, 32, 1)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.head = nn.Linear(32 * 16, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.depthwise(torch.cat([self.a(x), self.b(x)], 1)))
        return self.head(torch.relu(self.grouped(self.point(x))).flatten(1))


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_residual_adds_couple_and_the_output_is_no_group(image: Tensor) -> None:
    groups = {g.name: g for g in channel_groups(Residual(), image)}
    assert list(groups) == ["stem", "stage.0.conv1", "stage.1.conv1", "stage.1.conv2", "stage.2.conv1"]
    assert {n for n, g in groups.items() if g.coupled} == {"stem", "stage.1.conv2"}
    assert groups["stem"].producers[0] == "stem"
    assert groups["stage.1.conv1"].channels == 32
    assert not groups["stage.1.conv1"].coupled
    assert all(0 < g.macs_share < 1 for g in groups.values())
    alone = groups["stage.0.conv1"].macs_share
    both = 2 * 16 * 16 * 9 * 64
    total = 3 * 16 * 9 * 64 + both + (16 * 32 + 32 * 32) * 9 * 16 + 2 * 32 * 32 * 9 * 16 + 32 * 5
    assert alone == pytest.approx(both / total)


def test_shortcut_becomes_an_exact_convolution(image: Tensor) -> None:
    module = Residual().eval()
    rewritten = copy.deepcopy(module)
    assert list(rewrite_shortcuts(rewritten, {"x": image})) == ["stage.1.shortcut"]
    assert isinstance(rewritten.stage[1].shortcut, nn.Conv2d)
    x = image.repeat(1, 6, 1, 1)[:, :16]
    assert torch.equal(module.stage[1].shortcut(x), rewritten.stage[1].shortcut(x))
    assert torch.allclose(module(image), rewritten(image), atol=1e-6)


def test_shortcut_that_computes_something_else_stays() -> None:
    class Squares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.pad(x[:, :, ::2, ::2] ** 2, (0, 0, 0, 0, 8, 8))

    module = Residual().eval()
    module.stage[1].shortcut = Squares()
    assert rewrite_shortcuts(module, {"x": torch.randn(1, 3, 8, 8)}) == {}


def test_removing_channels_of_every_group_keeps_the_output(image: Tensor) -> None:
    for module in (Residual().eval(), Mixed().eval()):
        for group in channel_groups(module, image if isinstance(module, Residual) else image[:, :, :4, :4]):
            x = image if isinstance(module, Residual) else image[:, :, :4, :4]
            made = reshape(Structure(keep=((group.name, 0.5),)), module, x)
            layer = made.get_submodule(group.name)
            assert isinstance(layer, nn.Conv2d)
            assert layer.out_channels == kept_channels(group.channels, 0.5, 8, group.divisor) < group.channels
            assert made(x).shape == module(x).shape
            assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in module.parameters())


def test_dead_channels_go_without_changing_the_function(image: Tensor) -> None:
    """Channels whose weights are zero have the lowest magnitude, and removing them changes nothing."""
    module = Residual().eval()
    with torch.no_grad():
        for channel in range(0, 16, 2):
            module.stage[0].conv1.weight[channel] = 0
            module.stage[0].conv2.weight[:, channel] = 0
    made = reshape(Structure(keep=(("stage.0.conv1", 0.5),)), module, image)
    assert made.stage[0].conv1.out_channels == 8
    assert torch.allclose(made(image), module(image), atol=1e-5)


def test_untouched_shortcuts_stay_without_weights(image: Tensor) -> None:
    made = reshape(Structure(keep=(("stage.0.conv1", 0.5),)), Residual(), image)
    assert isinstance(made.stage[1].shortcut, ZeroPad)
    made = reshape(Structure(keep=(("stem", 0.5),)), Residual(), image)
    assert isinstance(made.stage[1].shortcut, nn.Conv2d)


def test_blocks_with_agreeing_shapes_can_go(image: Tensor) -> None:
    module = Residual().eval()
    assert removable_blocks(module, image) == ("stage.0", "stage.2")
    made = reshape(Structure(removed=("stage.0",)), module, image)
    without = module.head(module.stage[2](module.stage[1](module.stem(image))).mean((2, 3)))
    assert torch.equal(made(image), without)


def test_blocks_and_channels_together(image: Tensor) -> None:
    structure = Structure(removed=("stage.0",), keep=(("stage.0.conv1", 0.5), ("stage.1.conv2", 0.5)))
    made = reshape(structure, Residual(), image)
    assert made.head.in_features == 16
    assert made(image).shape == (2, 5)


def test_transformer_layers_can_go() -> None:
    module = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 3, enable_nested_tensor=False
    )
    x = torch.randn(2, 4, 16)
    assert removable_blocks(module, x) == ("layers.0", "layers.1", "layers.2")
    made = reshape(Structure(removed=("layers.1",)), module, x)
    assert torch.allclose(made(x), module.layers[2].eval()(module.layers[0].eval()(x)), atol=1e-6)


@pytest.mark.parametrize(
    "structure",
    [Structure(keep=(("head", 0.5),)), Structure(keep=(("nothing", 0.5),)), Structure(removed=("stage.1",))],
)
def test_what_cannot_go_is_named(structure: Structure, image: Tensor) -> None:
    with pytest.raises(CandidateError, match=r"head|nothing|stage\.1"):
        reshape(structure, Residual(), image)


@pytest.mark.parametrize("score", ["magnitude", "bn-scale", "taylor", "fisher", "activation"])
def test_each_score_finds_the_channels_that_do_nothing(score: str, image: Tensor) -> None:
    from modeltailor.compress.structure import TrainingData

    module = Residual().eval()
    dead = [1, 2, 5, 7, 8, 10, 13, 14]
    with torch.no_grad():
        module.stage[0].conv1.weight[dead] = 0
        module.stage[0].bn1.weight[dead] = 0
        module.stage[0].conv2.weight[:, dead] = 0
    calibration = TrainingData(inputs={"x": image.numpy()})
    made = reshape(
        Structure(keep=(("stage.0.conv1", 0.5),), score=score), module, image, calibration=calibration  # type: ignore[arg-type]
    )  # fmt: skip
    assert torch.allclose(made(image), module(image), atol=1e-5)


def test_a_broken_timm_beside_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "timm").mkdir()
    code = "import modeltailor.compress.structure.pruning_graph, sys; assert 'timm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
