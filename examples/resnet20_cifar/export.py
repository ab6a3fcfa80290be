"""Write the trained network as ONNX, as somebody else's tool would hand it over."""

from __future__ import annotations

from pathlib import Path

import torch
from model import trained

from modeltailor.workloads.export import export_onnx

if __name__ == "__main__":
    made = export_onnx(trained(), {"x": torch.zeros(2, 3, 32, 32)}, Path(__file__).with_name("resnet20.onnx"))
    print(made.path)
