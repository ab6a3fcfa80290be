"""What can be changed of a network, told even where a part of the telling fails."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeltailor.search.stages.shaping import shapes_of_module


class Block(nn.Module):
    """Fails on more than two samples, as a block does that needs more memory than there is."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.a, self.b, self.error = nn.Linear(8, 8), nn.Linear(8, 8), error

    def forward(self, x: Tensor) -> Tensor:
        if self.error is not None and len(x) > 2:
            raise self.error
        return x + self.b(torch.relu(self.a(x)))


def workshop(error: Exception | None, task: str | None = None) -> SimpleNamespace:
    module = nn.Sequential(nn.Linear(6, 8), nn.Sequential(Block(error), Block(None)), nn.Linear(8, 3)).eval()
    return SimpleNamespace(
        module=module,
        task=task,
        example=lambda: {"input": torch.zeros(2, 6)},
        calibration=lambda: {"input": np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)},
    )


@pytest.mark.parametrize("error", [RuntimeError("not enough memory: you tried to allocate 9 GB"), MemoryError()])
def test_blocks_that_cannot_be_ranked_stay_and_the_rest_is_told(error: Exception) -> None:
    whole, found = shapes_of_module(workshop(None)), shapes_of_module(workshop(error))  # type: ignore[arg-type]
    assert set(whole.blocks) == {"1.0", "1.1"}
    assert whole.notes == ()
    assert found.blocks == ()
    assert (found.groups, found.factors, found.macs) == (whole.groups, whole.factors, whole.macs)
    (note,) = found.notes
    assert "blocks" in note
    assert type(error).__name__ in note


@pytest.mark.parametrize("task", ["classification", "regression", "embedding"])
def test_blocks_are_ranked_by_what_the_metric_says_that_outputs_mean(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str | None] = []

    def order(*_: object, task: str | None = None) -> tuple[str, ...]:
        told.append(task)
        return ("1.0", "1.1")

    monkeypatch.setattr("modeltailor.compress.structure.removal_order", order)
    shapes_of_module(workshop(None, task))  # type: ignore[arg-type]
    assert told == [task]
