"""Thirty of timm's networks, without weights: all their channel groups halved, one block taken out, exported and run."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from architectures.timm_without_torchvision import load_timm
from modeltailor.compress import Structure
from modeltailor.compress.structure import channel_groups, count_parameters, removable_blocks, reshape
from modeltailor.errors import CandidateError
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session
from modeltailor.workloads.export import export_onnx


@dataclass(frozen=True, slots=True)
class Network:
    """A network of the test.

    Attributes:
        name: timm's name.
        size: side of the picture.
        options: smaller depths, so that the test ends.
        has_blocks: there is a block that can be taken out.
    """

    name: str
    size: int = 64
    options: Mapping[str, object] = field(default_factory=dict)
    has_blocks: bool = True


NETWORKS = (
    Network("resnet18"),
    Network("resnet26d"),
    Network("seresnet18"),
    Network("resnetv2_18"),
    Network("resnext26ts"),
    Network("res2net50_14w_8s", options={"layers": (2, 1, 1, 1)}),
    Network("regnetx_002"),
    Network("regnety_002"),
    Network("densenet121", options={"block_config": (2, 3, 3, 2)}, has_blocks=False),
    Network("vgg11_bn", has_blocks=False),
    Network("mobilenetv1_100"),
    Network("mobilenetv2_035"),
    Network("mobilenetv3_small_050"),
    Network("mobilenetv4_conv_small_035"),
    Network("mnasnet_small"),
    Network("efficientnet_b0"),
    Network("tf_efficientnetv2_b0"),
    Network("ghostnet_050"),
    Network("lcnet_035"),
    Network("hardcorenas_a"),
    Network("rexnet_100", has_blocks=False),
    Network("repvgg_a0"),
    Network("hrnet_w18_small"),
    Network("convnext_atto", options={"depths": (1, 1, 2, 1)}),
    Network("poolformerv2_s12"),
    Network("starnet_s1"),
    Network("vit_tiny_patch16_224", options={"img_size": 64, "depth": 3}),
    Network("deit_tiny_patch16_224", options={"img_size": 64, "depth": 3}),
    Network("mixer_s32_224", size=224),
    Network(
        "swin_tiny_patch4_window7_224",
        size=56,
        options={"img_size": 56, "embed_dim": 32, "depths": (1, 2, 1), "num_heads": (2, 4, 8), "window_size": 7},
    ),
)

REFUSED: dict[str, str] = {}
"""Networks that cannot be cut, and a pattern of the sentence that says why."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm"),
]


@pytest.fixture(autouse=True)
def quiet() -> None:
    torch.set_num_threads(1)


def build(network: Network) -> nn.Module:
    torch.manual_seed(0)
    timm = load_timm()
    made: nn.Module = timm.create_model(
        network.name, pretrained=False, exportable=True, **{"num_classes": 10, **network.options}
    )
    return made.eval()


def exported_shape(module: nn.Module, x: torch.Tensor, path: Path) -> tuple[int, ...]:
    export_onnx(module, (x,), path, input_names=["x"])
    output = open_session(path.read_bytes(), RuntimeOptions()).run(None, {"x": x.numpy()})[0]
    assert bool(np.isfinite(output).all())
    return tuple(output.shape)


def test_nearly_all_can_be_cut() -> None:
    assert len(NETWORKS) == 30
    assert len(REFUSED) <= 2


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
@pytest.mark.filterwarnings("ignore")
def test_half_of_the_channels(network: Network, tmp_path: Path) -> None:
    module, x = build(network), torch.randn(2, 3, network.size, network.size)
    if network.name in REFUSED:
        with pytest.raises(CandidateError, match=REFUSED[network.name]):
            halve(module, x)
        return
    made = halve(module, x)
    assert count_parameters(made) < 0.75 * count_parameters(module)
    assert exported_shape(made, x, tmp_path / "halved.onnx") == (2, 10)


def halve(module: nn.Module, x: torch.Tensor) -> nn.Module:
    keep = tuple((g.name, 0.5) for g in channel_groups(module, x))
    assert keep, "no channel group was found"
    return reshape(Structure(keep=keep), module, x, multiple=4)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
@pytest.mark.filterwarnings("ignore")
def test_one_block_less(network: Network, tmp_path: Path) -> None:
    module, x = build(network), torch.randn(2, 3, network.size, network.size)
    blocks = removable_blocks(module, x)
    assert bool(blocks) == network.has_blocks
    if blocks:
        made = reshape(Structure(removed=blocks[-1:]), module, x)
        assert count_parameters(made) < count_parameters(module)
        assert exported_shape(made, x, tmp_path / "shorter.onnx") == (2, 10)
