"""Re-load every model of a run's front, with nothing of modeltailor, and compare accuracy and size with summary.json.

python examples/resnet20_cifar/verify.py runs/resnet20_cifar
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

DATA = Path(os.environ.get("MODELTAILOR_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
MEAN = np.array((0.485, 0.456, 0.406), np.float32)[:, None, None]
STD = np.array((0.229, 0.224, 0.225), np.float32)[:, None, None]


def test_images() -> tuple[np.ndarray, np.ndarray]:
    with np.load(DATA / "cifar10_jpeg" / "test.npz") as file:
        jpeg, offset, label = file["jpeg"], file["offset"], file["label"]
    images = [
        np.asarray(Image.open(io.BytesIO(jpeg[a:b].tobytes())).convert("RGB"), np.float32).transpose(2, 0, 1) / 255.0
        for a, b in itertools.pairwise(offset)
    ]
    rows = np.sort(np.random.default_rng(0).permutation(len(label))[2_000:])  # the job searches on the other 2,000
    return ((np.stack(images) - MEAN) / STD)[rows], label[rows]


def main() -> int:
    folder = Path(sys.argv[1])
    summary = json.loads((folder / "summary.json").read_text())
    images, labels = test_images()
    wrong = 0
    for model in summary["models"]:
        test = model["accuracy"]["test"]
        if test is None:
            continue
        data = (folder / model["file"]).read_bytes()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        hits = sum(
            int((session.run(None, {name: images[i : i + 100]})[0].argmax(1) == labels[i : i + 100]).sum())
            for i in range(0, len(labels), 100)
        )
        same = (
            len(data) == model["size_bytes"]
            and hashlib.sha256(data).hexdigest() == model["sha256"]
            and abs(hits / len(labels) - test["value"]) < 1e-9
        )
        wrong += not same
        print(f"{'ok   ' if same else 'WRONG'} {hits / len(labels):.4f} {len(data):>9,} bytes  {model['file']}")
    print(f"{wrong} of the models differ from summary.json")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
