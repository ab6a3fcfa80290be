"""The real networks of the table: ResNet20 on CIFAR-10, MiniLM on pairs of sentences."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from networks import minilm
from networks.cifar import DATA, EXAMPLE, images, resnet
from numpy.typing import NDArray
from scipy import stats

from modeltailor.compress.formats import Composer
from modeltailor.workloads.export import export_onnx
from search_table.network import Network, Part

__all__ = ["NETWORKS", "accuracy_of", "minilm_network", "resnet20_network"]

_STATIC = ("fp32", "w8a8", "w7a8", "w6a8", "w5a8", "w4a8", "w3a8", "w2a8")
_DYNAMIC = tuple(f if f == "fp32" else f"{f}-dynamic" for f in _STATIC)
"""What a run on a desktop CPU offers: the family of the fastest uniform setting, at every width."""

_SENTENCE_TOKENS = 32


def accuracy_of(session: onnxruntime.InferenceSession, inputs: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of the inputs ``x`` that are classified right."""
    right = 0
    for a in range(0, len(labels), 100):
        (logits,) = session.run(None, {"x": inputs[a : a + 100]})
        right += int((logits.argmax(axis=1) == labels[a : a + 100]).sum())
    return right / len(labels)


def _parts(table: Path | None) -> Path | None:
    """Folder beside a table where what is made of a network is kept."""
    return table.with_suffix("") if table else None


def resnet20_network(table: Path | None, *, quick: bool) -> Network | None:
    """ResNet20: half of the test images is what a search sees, the others are fresh. ``None`` without the data."""
    if not (DATA / "cifar10_jpeg" / "resnet20.safetensors").exists():
        return None
    torch.set_num_threads(1)
    splits = images.load_whole_test()
    path = Path(tempfile.mkdtemp()) / "resnet20.onnx"
    export_onnx(resnet("resnet20"), (EXAMPLE,), path, input_names=["x"], output_names=["y"])
    calibration = splits["calibration"]["x"][:512].astype(np.float32)
    x, y = splits["test"]["x"].astype(np.float32), splits["test"]["y"]
    seen = 500 if quick else len(y) // 2  # fewer, and 400 evaluations win by luck
    parts = {"few": slice(0, min(seen, 1000)), "seen": slice(0, seen), "fresh": slice(seen, None)}

    def accuracy(session: onnxruntime.InferenceSession, part: Part) -> float:
        return accuracy_of(session, x[parts[part]], y[parts[part]])

    composer = Composer(path, {"x": calibration}, cache_dir=_parts(table))
    return Network("ResNet20", composer, _STATIC, accuracy, {"x": x[:1]}, table=table)


def minilm_network(table: Path | None, *, quick: bool) -> Network | None:
    """MiniLM at 32 tokens: what a search sees are 500 short pairs. ``None`` without the packages."""
    source = minilm.folder()
    if source is None or not (DATA / "sts").exists():
        return None
    torch.set_num_threads(1)
    path = Path(tempfile.mkdtemp()) / "minilm.onnx"
    minilm.export(source, path)
    texts = minilm.sentences(source)
    n = len(texts.score)
    lengths = np.maximum(texts.mask[:n].sum(axis=1), texts.mask[n:].sum(axis=1))
    short = texts.scored[lengths[texts.scored] <= _SENTENCE_TOKENS]
    seen = 60 if quick else 500  # fewer, and 400 evaluations win by luck
    parts = {"few": short[: seen // 2], "seen": short[:seen], "fresh": short[seen : seen + (120 if quick else 1000)]}
    calibration = {k: v[:256, :_SENTENCE_TOKENS] for k, v in texts.calibration().items()}

    def spearman(session: onnxruntime.InferenceSession, part: Part) -> float:
        which = parts[part]
        rows = np.concatenate([which, which + n])
        order = rows[np.argsort(texts.mask[rows].sum(axis=1), kind="stable")]
        found = {}
        for a in range(0, len(order), 8):
            at = order[a : a + 8]
            length = int(texts.mask[at].sum(axis=1).max())
            feed = {"input_ids": texts.ids[at, :length], "attention_mask": texts.mask[at, :length]}
            found.update(zip(at.tolist(), session.run(None, feed)[0], strict=True))
        similar = [float(found[i] @ found[i + n]) for i in which.tolist()]
        return float(stats.spearmanr(similar, texts.score[which]).statistic)

    ids = texts.ids[:1, :_SENTENCE_TOKENS]
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    composer = Composer(path, calibration, cache_dir=_parts(table))
    # eight sentences are too little work for two threads
    return Network("MiniLM", composer, _DYNAMIC, spearman, feed, table=table, runs=3, turns=16, score_threads=1)


NETWORKS = {"resnet20": resnet20_network, "minilm": minilm_network}
