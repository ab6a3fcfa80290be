"""A MobileNetV2-like network for 32 x 32 images, distilled from ResNet56 on CIFAR-10; its weights are kept.

    python benchmarks/networks/depthwise.py [--seconds N]

trains on one core, about 12 minutes (``--seconds`` shortens the schedule to a wall clock), and keeps the weights under
``$MODELTAILOR_BENCH_CACHE`` (default ``~/.cache/modeltailor/benchmarks``), where the benchmark of formats finds them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from modeltailor.compress import Format, Training
from modeltailor.compress.formats import Composer
from modeltailor.compress.structure import TrainingData, WeightCache, distill
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session
from modeltailor.workloads.export import export_onnx
from networks.cifar import EXAMPLE, images, resnet

__all__ = ["DepthwiseNetwork", "trained"]

CACHE = Path(os.environ.get("MODELTAILOR_BENCH_CACHE", Path.home() / ".cache" / "modeltailor" / "benchmarks"))
NAME = "depthwise-1"  # counts up when network or schedule change
EPOCHS = 16.0
_STAGES = (  # outputs, stride, expansion
    (32, 2, 2), (32, 1, 3), (32, 1, 3), (64, 2, 3), (64, 1, 3), (64, 1, 3), (64, 1, 3),
)  # fmt: skip


class Inverted(nn.Module):
    """An inverted residual block (Sandler et al. 2018, arXiv:1801.04381)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inputs * expand
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.joins = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Images in, images out, ``[n, c, h, w]``."""
        y: Tensor = self.body(x)
        return x + y if self.joins else y


class DepthwiseNetwork(nn.Sequential):
    """Stem, seven inverted residual blocks, a wide 1x1 convolution, global average, classifier."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
        width = 16
        for outputs, stride, expand in _STAGES:
            layers.append(Inverted(width, outputs, stride, expand))
            width = outputs
        layers += [nn.Conv2d(width, 192, 1, bias=False), nn.BatchNorm2d(192), nn.ReLU6()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, 10))


class _Int8Teacher(nn.Module):
    """ResNet56 in int8 by ONNX Runtime: answers as the float network does, in a tenth of PyTorch's time."""

    def __init__(self, calibration: np.ndarray) -> None:
        super().__init__()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "teacher.onnx"
            export_onnx(resnet("resnet56"), (EXAMPLE,), path, input_names=["x"], output_names=["y"])
            composer = Composer(path, {"x": calibration})
        formats = {s.name: Format.parse("w8a8") for s in composer.sites}
        self._session = open_session(composer.compose(formats).model_bytes, RuntimeOptions())

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[n, 10]`` of images ``[n, 3, 32, 32]``."""
        return torch.from_numpy(self._session.run(None, {"x": x.contiguous().float().numpy()})[0])


def trained(seconds: float | None = None) -> nn.Module:
    """Return the trained network in ``eval`` mode, from the cache if it is there.

    Args:
        seconds: wall clock that the schedule is shortened to; ``None`` leaves it whole.
    """
    network = DepthwiseNetwork()
    cache = WeightCache(folder=CACHE)
    found = cache.load(NAME)
    if found is not None:
        network.load_state_dict(found[0])
        return network.eval()
    torch.manual_seed(0)
    network = DepthwiseNetwork()
    splits = images.load_whole_test()
    x, y = (images.load()["train"][k] for k in ("x", "y"))
    teacher = _Int8Teacher(splits["calibration"]["x"][:256])
    training = Training(epochs=EPOCHS, learning_rate=0.1, hard_label_weight=0.1, ema=0.998, weight_decay=1e-4)
    shown = [time.monotonic()]

    def progress(share: float) -> None:
        if time.monotonic() - shown[0] > 20:
            shown[0] = time.monotonic()
            print(f"  training: {share:.0%}", flush=True)

    done = distill(
        network, teacher, TrainingData(inputs={"x": x}, labels=y), training, progress=progress, deadline_s=seconds
    )
    test = splits["test"]
    with torch.no_grad():
        logits = torch.cat([network(torch.from_numpy(test["x"][k : k + 250])) for k in range(0, len(test["x"]), 250)])
    accuracy = float((logits.argmax(1).numpy() == test["y"]).mean())
    print(f"  {done.steps} steps in {done.seconds:.0f} s, accuracy {accuracy:.4f}", flush=True)
    facts = {"steps": str(done.steps), "seconds": f"{done.seconds:.0f}", "accuracy": f"{accuracy:.4f}"}
    cache.store(NAME, {k: v.contiguous() for k, v in network.state_dict().items()}, facts)
    return network.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float)
    torch.set_num_threads(1)
    trained(parser.parse_args().seconds)
