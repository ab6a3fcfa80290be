"""A tiny workload that real searches run on in seconds: 8x8 digits and a two-block network."""

from __future__ import annotations

from pathlib import Path

import pytest

MODEL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + x)


class Net(nn.Module):
    def __init__(self, channels=16, blocks=2):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(blocks)))
        self.head = nn.Linear(channels * 16, 10)

    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x)))
        return self.head(nn.functional.max_pool2d(x, 2).flatten(1))


def build():
    torch.manual_seed(0)
    return Net()


def student(width, depth):
    torch.manual_seed(0)
    return Net(max(8, int(16 * width)), max(1, round(2 * depth)))


def broken():
    raise RuntimeError("no such layer")


def no_module():
    return 7
"""

DATA = """
import numpy as np


def load():
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images / 16.0).astype(np.float32)[:, None]
    return {"train": {"x": x, "y": digits.target.astype(np.int64)}}


def wrong_shape():
    parts = load()
    parts["train"]["x"] = parts["train"]["x"][:, :, :6, :6]
    return parts
"""

TRAIN = """
import sys

import torch
from data import load
from model import build
from safetensors.torch import save_file

torch.set_num_threads(1)
torch.manual_seed(0)
net = build()
split = load()["train"]
x, y = torch.from_numpy(split["x"]), torch.from_numpy(split["y"])
optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)
for _ in range(4):
    for rows in torch.randperm(len(x)).split(64):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
save_file(net.state_dict(), sys.argv[1])
"""

JOB = """
model: {source: "model.py:build", weights: weights.safetensors}
data: data.py:load
budget: {max_drop: 3.0}
search: {trials: 9, time: 20m, training: {epochs: 2}}
"""


@pytest.fixture(scope="session")
def trained_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained tiny network; do not write into it."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("digits")
    for name, text in (("model.py", MODEL), ("data.py", DATA), ("train.py", TRAIN), ("job.yaml", JOB)):
        (folder / name).write_text(text)
    subprocess.run([sys.executable, "-W", "ignore", "train.py", "weights.safetensors"], cwd=folder, check=True)
    return folder


@pytest.fixture
def digits(trained_digits: Path, tmp_path: Path) -> Path:
    """A private copy of the tiny workload."""
    import shutil

    folder = tmp_path / "digits"
    shutil.copytree(trained_digits, folder)
    return folder
