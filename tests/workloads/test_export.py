from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from modeltailor.errors import CandidateError
from modeltailor.targets.device import RuntimeOptions
from modeltailor.targets.session import open_session, run_batches
from modeltailor.workloads import ModelSpec, load_module
from modeltailor.workloads.export import export_onnx


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(torch.relu(self.bn(self.conv(image))).mean((2, 3)))


def test_file_agrees_is_quiet_and_keeps_layer_names(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    module = Small()
    module(torch.randn(8, 1, 6, 6))  # statistics other than the start values
    path = tmp_path / "model.onnx"
    made = export_onnx(module, (torch.randn(1, 1, 6, 6),), path, output_names=["logits"])
    assert module.training  # the input is unchanged
    assert (made.exporter, made.note, made.inputs, made.outputs) == ("dynamo", "", ("image",), ("logits",))
    names = {t.name for t in onnx.load(path).graph.initializer}
    assert {"conv.weight", "linear.weight", "linear.bias"} <= names
    x = torch.randn(5, 1, 6, 6)
    with torch.no_grad():
        wanted = module.eval()(x).numpy()
    got = run_batches(open_session(path, RuntimeOptions()), {"image": x.numpy()}, batch_size=2)["logits"]
    assert np.abs(got - wanted).max() < 1e-5
    assert capfd.readouterr() == ("", "")


def test_fixed_batch(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(Small(), {"image": torch.randn(1, 1, 6, 6)}, path, dynamic_batch=False)
    assert open_session(path, RuntimeOptions()).get_inputs()[0].shape == [1, 1, 6, 6]


def test_several_inputs_and_outputs_by_name(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 8)
            self.dense = nn.Linear(8, 8)

        def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
            hidden = self.dense(self.embed(ids)) * mask.unsqueeze(-1)
            return {"hidden": hidden, "pooled": hidden.sum(1)}

    example = {"mask": torch.ones(2, 5), "ids": torch.arange(10).view(2, 5)}
    made = export_onnx(Two(), example, tmp_path / "two.onnx", output_names=["hidden", "pooled"])
    assert set(made.inputs) == {"ids", "mask"}
    names = {t.name for t in onnx.load(made.path).graph.initializer}
    assert {"embed.weight", "dense.weight"} <= names  # a transposed weight keeps its layer's name too
    assert made.largest_difference < 1e-5


def test_a_file_that_computes_something_else_is_not_left_behind(tmp_path: Path) -> None:
    """Whoever finds it takes it for an export that was checked."""
    with pytest.raises(CandidateError, match="PARITY"):
        export_onnx(Small(), (torch.randn(1, 1, 6, 6),), tmp_path / "model.onnx", tolerance=-1.0)
    assert not list(tmp_path.iterdir())


def test_branch_on_data_is_found(tmp_path: Path) -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if float(x.sum()) > 0 else x - 1

    with pytest.raises(CandidateError, match=r"PARITY|EXPORT"):
        export_onnx(Branch(), (torch.full((2, 40), 0.01),), tmp_path / "branch.onnx")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_checkpoint_of_half_precision_is_a_model_of_floats(tmp_path: Path, kind: torch.dtype) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16,
    )  # fmt: skip
    transformers.BertModel(config).to(kind).save_pretrained(tmp_path / "bert")
    module = load_module(ModelSpec(source="bert"), tmp_path)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
