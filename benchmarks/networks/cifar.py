"""CIFAR-10 from JPEG and the ResNets trained on it, as the example has them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MODELTAILOR_DATA", ROOT.parent / "shared" / "data"))
sys.path.insert(0, str(ROOT / "examples" / "resnet20_cifar"))
import data as images  # noqa: E402
import model as resnets  # noqa: E402

__all__ = ["DATA", "EXAMPLE", "images", "resnet"]

EXAMPLE = torch.zeros(1, 3, 32, 32)


def resnet(name: str) -> nn.Module:
    """Return ``resnet20`` or ``resnet56`` with its published weights, in ``eval`` mode."""
    made = resnets.build() if name == "resnet20" else resnets.build_resnet56()
    made.load_state_dict(load_file(DATA / "cifar10_jpeg" / f"{name}.safetensors"), strict=False)
    return made.eval()
