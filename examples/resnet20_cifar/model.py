"""The CIFAR ResNets of He et al. 2016 (arXiv:1512.03385, section 4.2): zero-padded (option A) shortcuts."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ResNet", "build", "build_resnet56", "trained", "trained_resnet56"]


class ZeroPadShortcut(nn.Module):
    """Subsamples by two and pads ``planes // 4`` zero channels on each side; no weights."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.pad = planes // 4

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut: nn.Module = nn.Identity() if stride == 1 else ZeroPadShortcut(planes)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, three stages of residual blocks, global average, classifier."""

    def __init__(self, blocks: tuple[int, int, int] = (3, 3, 3), n_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks[0], 1)
        self.layer2 = self._stage(16, 32, blocks[1], 2)
        self.layer3 = self._stage(32, 64, blocks[2], 2)
        self.linear = nn.Linear(64, n_classes)

    @staticmethod
    def _stage(in_planes: int, planes: int, n_blocks: int, stride: int) -> nn.Sequential:
        rest = [BasicBlock(planes, planes, 1) for _ in range(n_blocks - 1)]
        return nn.Sequential(BasicBlock(in_planes, planes, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n, classes] of normalised images [n, 3, 32, 32]."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def build() -> ResNet:
    """ResNet20 without weights."""
    return ResNet((3, 3, 3))


def build_resnet56() -> ResNet:
    """ResNet56 without weights."""
    return ResNet((9, 9, 9))


def _weights(name: str) -> dict[str, Tensor]:
    root = Path(__file__).resolve().parents[2]
    data = Path(os.environ.get("MODELTAILOR_DATA", root.parent / "shared" / "data"))
    return load_file(data / "cifar10_jpeg" / f"{name}.safetensors")


def trained() -> ResNet:
    """ResNet20 with the weights of the data folder: 0.8798 on the test images."""
    model = build()
    model.load_state_dict(_weights("resnet20"))
    return model


def trained_resnet56() -> ResNet:
    """ResNet56 with the weights of the data folder: 0.8924 on the test images."""
    model = build_resnet56()
    model.load_state_dict(_weights("resnet56"))
    return model
