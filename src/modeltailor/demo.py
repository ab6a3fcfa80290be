"""The demo's workload: handwritten digits and a small residual network that is trained on the spot.

The images are scikit-learn's (1,797 digits of 8x8 pixels, from the UCI repository), enlarged to 16x16. The functions
here are named by the demo's job file just as a user's own would be.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

__all__ = ["build", "export", "load", "student", "train"]

_CLASSES = 10
_PARTS = (("train", 1000), ("calibration", 160), ("search", 320), ("test", 317))


class Block(nn.Module):
    """A residual block of two 3x3 convolutions.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        stride: of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, outputs, H/stride, W/stride]``."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitsNet(nn.Module):
    """A small residual network for ``[N, 1, 16, 16]`` images.

    Args:
        width: multiplies the channels of both stages.
        depth: multiplies the blocks of each stage.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        a, b = max(8, round(32 * width / 8) * 8), max(8, round(64 * width / 8) * 8)
        n = max(1, round(2 * depth))
        self.stem = nn.Conv2d(1, a, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(a)
        self.stage1 = nn.Sequential(*(Block(a, a) for _ in range(n)))
        self.stage2 = nn.Sequential(Block(a, b, 2), *(Block(b, b) for _ in range(n - 1)))
        self.head = nn.Linear(b, _CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``[N, 10]``."""
        x = torch.relu(self.bn(self.stem(x)))
        x = self.stage2(self.stage1(x))
        logits: torch.Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


def build() -> nn.Module:
    """Return the demo's network, untrained."""
    return DigitsNet()


def student(width: float, depth: float) -> nn.Module:
    """Return a narrower or shallower network of the same kind, untrained."""
    return DigitsNet(width, depth)


def load() -> dict[str, dict[str, NDArray[np.generic]]]:
    """Return the splits: images ``[n, 1, 16, 16]`` in 0..1 and labels ``[n]``."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images / 16.0).astype(np.float32)[:, None].repeat(2, axis=2).repeat(2, axis=3)
    order = np.random.default_rng(0).permutation(len(x))
    splits, start = {}, 0
    for name, n in _PARTS:
        rows = order[start : start + n]
        splits[name] = {"x": x[rows], "y": digits.target[rows].astype(np.int64)}
        start += n
    return splits


def export(path: Path) -> None:
    """Write the untrained network as ONNX."""
    from modeltailor.workloads.export import export_onnx

    torch.manual_seed(0)
    export_onnx(build(), {"x": torch.randn(2, 1, 16, 16)}, path)


def train(weights: Path, epochs: int = 8, seed: int = 0) -> float:
    """Train the network and save its weights.

    Args:
        weights: where the ``.safetensors`` file goes.
        epochs: passes over the training images.
        seed: of initial weights and shuffling.

    Returns:
        accuracy on the training images in the last epoch.
    """
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    split = load()["train"]
    x, y = torch.from_numpy(split["x"]), torch.from_numpy(split["y"])
    net = build().train()
    steps = epochs * -(-len(x) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    hits = 0
    for _ in range(epochs):
        hits = 0
        for rows in torch.split(torch.randperm(len(x)), 64):
            optimizer.zero_grad()
            logits = net(x[rows])
            nn.functional.cross_entropy(logits, y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            hits += int((logits.argmax(1) == y[rows]).sum())
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), weights)
    return hits / len(x)
