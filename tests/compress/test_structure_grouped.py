"""Channels in parts: grouped convolutions and group normalisation, when some of the channels go."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from modeltailor.compress import Structure
from modeltailor.compress.structure import channel_groups, reshape
from modeltailor.compress.structure.calling import Inputs

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Grouped(nn.Module):
    """A block of ResNeXt; ``repeat`` puts a second grouped convolution with other groups behind the first."""

    def __init__(self, width: int = 32, groups: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv1 = nn.Conv2d(16, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=groups)
        self.conv3 = nn.Conv2d(width, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.conv3(torch.relu(self.conv2(torch.relu(self.conv1(x)))))
        return self.head(x.mean((2, 3)))


class Normed(nn.Module):
    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.GroupNorm(parts, width)
        self.conv2 = nn.Conv2d(width, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)
        with torch.no_grad():
            self.norm.weight.copy_(torch.randn(width))
            self.norm.bias.copy_(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv2(torch.relu(self.norm(self.conv1(x))))).mean((2, 3)))


def rows_kept(made: nn.Module, whole: nn.Module, name: str) -> list[int]:
    """Which output channels of the original's layer are left, found by their weights."""
    new, old = (m.get_submodule(name).weight.detach().flatten(1) for m in (made, whole))  # type: ignore[operator]
    return [int((old == row).all(1).nonzero()) for row in new]


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_each_group_of_a_convolution_keeps_the_weights_of_its_own_channels(groups: int) -> None:
    whole = Grouped(groups=groups).eval()
    made = reshape(Structure(keep=(("conv1", 0.5),)), whole, IMAGE, multiple=1)
    kept = rows_kept(made, whole, "conv1")
    assert len(kept) == 16
    masked = copy.deepcopy(whole)
    with torch.no_grad():
        for channel in set(range(32)) - set(kept):
            masked.conv1.weight[channel] = 0
            masked.conv1.bias[channel] = 0  # relu hands on zero: nobody reads the channel any more
        assert torch.allclose(made(IMAGE), masked(IMAGE), atol=1e-6)


def test_outputs_of_a_grouped_convolution_go_by_their_own_weights() -> None:
    whole = Grouped().eval()
    with torch.no_grad():
        dead = [0, 1, 2, 3, 12, 13, 14, 15, 17, 19, 21, 23, 24, 25, 30, 31]  # four of each group, at other positions
        whole.conv2.weight[dead] = 0
        whole.conv2.bias[dead] = 0
        whole.conv3.weight[:, dead] = 0
        made = reshape(Structure(keep=(("conv2", 0.5),)), whole, IMAGE, multiple=1)
        assert made.conv2.out_channels == 16
        assert torch.allclose(made(IMAGE), whole(IMAGE), atol=1e-6)


@pytest.mark.parametrize(
    ("width", "parts", "share", "left"), [(64, 32, 0.5, 32), (64, 32, 0.75, 64), (48, 4, 0.75, 36)]
)
def test_every_part_of_a_group_normalisation_loses_equally(width: int, parts: int, share: float, left: int) -> None:
    whole = Normed(width, parts).eval()
    assert {g.name: g.divisor for g in channel_groups(whole, IMAGE)}["conv1"] == parts
    made = reshape(Structure(keep=(("conv1", share),)), whole, IMAGE, multiple=1)
    assert made.conv1.out_channels == made.norm.num_channels == left
    kept = rows_kept(made, whole, "conv1")
    parts_of_kept = [c // (width // parts) for c in kept]
    assert parts_of_kept == [c // (left // parts) for c in range(left)]
    with torch.no_grad():  # what is left, normalised within the parts where it was
        x = whole.conv1(IMAGE)[:, kept]
        normal = nn.functional.group_norm(x, parts, whole.norm.weight[kept], whole.norm.bias[kept])
        wanted = whole.head(
            torch.relu(
                nn.functional.conv2d(torch.relu(normal), whole.conv2.weight[:, kept], whole.conv2.bias, padding=1)
            ).mean((2, 3))
        )
        assert torch.allclose(made(IMAGE), wanted, atol=1e-5)


class Halves(nn.Module):
    """The parts of what reads the channels are not parts of the channels: each reads one branch, or pieces of both."""

    def __init__(self, reader: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 24, 3, padding=1)
        self.reader = reader
        self.last = nn.Conv2d(40, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(torch.relu(self.reader(torch.cat([self.a(x), self.b(x)], 1)))).mean((2, 3)))


@pytest.mark.parametrize("reader", [nn.Conv2d(40, 40, 3, padding=1, groups=4), nn.GroupNorm(4, 40)])
def test_branches_that_are_read_in_other_parts_stay_whole(reader: nn.Module) -> None:
    inputs: Inputs = IMAGE
    names = {g.name for g in channel_groups(Halves(reader).eval(), inputs)}
    assert not names & {"a", "b"}
    assert "last" in names
