"""Which block is missed least: the answers with one block taken out against those of the whole network."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from modeltailor.compress.structure.blocks import removable_blocks, remove_blocks
from modeltailor.compress.structure.calling import Inputs, call, first_tensor, named_inputs
from modeltailor.compress.structure.cost import layer_costs
from modeltailor.compress.structure.distillation import Task, task_of
from modeltailor.compress.structure.training_data import TrainingData

__all__ = ["RankedBlock", "rank_blocks", "removal_order"]

_ROWS = 256
_MANY_BLOCKS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedBlock:
    """A removable block and what it is worth.

    Attributes:
        name: of the block.
        divergence: how far the outputs move without it, before any training: mean KL divergence of class
            probabilities, or squared error relative to the output's energy.
        macs_share: share of the model's multiply-accumulate operations that go with it, 0..1.
        parameters: that go with it.
    """

    name: str
    divergence: float
    macs_share: float
    parameters: int


def rank_blocks(
    module: nn.Module, example_inputs: Inputs, calibration: TrainingData, *, task: Task | None = None
) -> tuple[RankedBlock, ...]:
    """List the removable blocks, the one that is missed least first.

    Args:
        module: not changed.
        example_inputs: one example.
        calibration: the first 256 rows are used; labels only tell what the output means.
        task: what the output means; guessed if ``None``.
    """
    inputs = named_inputs(module, example_inputs)
    whole = copy.deepcopy(module).eval()
    macs = {c.name: c.macs for c in layer_costs(whole, inputs)}
    total = max(1, sum(macs.values()))
    batch, labels = calibration.batch(np.arange(min(_ROWS, len(calibration))))
    with torch.no_grad():
        wanted = first_tensor(call(whole, batch)).float()
    task = task or task_of(wanted, labels)
    found: list[RankedBlock] = []
    for name in removable_blocks(whole, inputs):
        without = copy.deepcopy(whole)
        remove_blocks(without, inputs, (name,))
        with torch.no_grad():
            got = first_tensor(call(without, batch)).float()
        found.append(
            RankedBlock(
                name=name,
                divergence=_divergence(got, wanted, task),
                macs_share=sum(m for n, m in macs.items() if n.startswith(f"{name}.")) / total,
                parameters=sum(p.numel() for p in whole.get_submodule(name).parameters()),
            )
        )
    return tuple(sorted(found, key=lambda b: (b.divergence, b.name)))


def removal_order(
    module: nn.Module, example_inputs: Inputs, calibration: TrainingData, *, task: Task | None = None
) -> tuple[str, ...]:
    """Say which block to take out first, which second, and so on, each choice given the ones before.

    A block is cheap if the answers hardly move without it, and if little goes with it that training could use: the
    order is by divergence times parameters. (On ResNet20 a block of the last stage costs two points after training that
    one of the first stage, with the same multiply-accumulates and the same untrained loss, does not cost.)

    Args:
        module: not changed.
        example_inputs: one example.
        calibration: the first rows are used.
        task: what the output means; guessed if ``None``.
    """
    inputs = named_inputs(module, example_inputs)
    made = copy.deepcopy(module).eval()
    left = list(removable_blocks(made, inputs))
    rows = _ROWS if len(left) <= _MANY_BLOCKS else _ROWS // 4
    batch, labels = calibration.batch(np.arange(min(rows, len(calibration))))
    with torch.no_grad():
        wanted = first_tensor(call(made, batch)).float()
    task = task or task_of(wanted, labels)
    order: list[str] = []
    while left:
        costs: list[tuple[float, int, str]] = []
        for position, name in enumerate(left):
            without = copy.deepcopy(made)
            remove_blocks(without, inputs, (name,))
            with torch.no_grad():
                got = first_tensor(call(without, batch)).float()
            size = sum(p.numel() for p in made.get_submodule(name).parameters())
            costs.append((_divergence(got, wanted, task) * size, position, name))
        chosen = min(costs)[2]
        remove_blocks(made, inputs, (chosen,))
        left.remove(chosen)
        order.append(chosen)
    return tuple(order)


def _divergence(got: Tensor, wanted: Tensor, task: Task) -> float:
    if task != "classification":
        return float((got - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12))
    axis = 1 if wanted.ndim == 4 else -1
    got, wanted = got.movedim(axis, -1).flatten(0, -2), wanted.movedim(axis, -1).flatten(0, -2)
    return float(
        functional.kl_div(
            functional.log_softmax(got, -1), functional.log_softmax(wanted, -1), reduction="batchmean", log_target=True
        )
    )
