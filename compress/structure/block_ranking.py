"""Which block is missed least: the answers with one block taken out against those of the whole network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from modeltailor.compress.structure.blocks import removable_blocks, remove_blocks
from modeltailor.compress.structure.calling import Inputs, call, first_tensor, named_inputs
from modeltailor.compress.structure.cost import layer_costs
from modeltailor.compress.structure.losses import Task, class_axis, task_of
from modeltailor.compress.structure.training_data import TrainingData

__all__ = ["RankedBlock", "rank_blocks", "removal_order"]

_ROWS = 256
_BATCH = 32
_MOST_HELD = 1 << 26  # values of samples and answers: 256 MiB
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
    names = removable_blocks(whole, inputs)
    if not names:
        return ()
    macs = {c.name: c.macs for c in layer_costs(whole, inputs)}
    total = max(1, sum(macs.values()))
    reference = _Reference(whole, calibration, _ROWS, task)
    found: list[RankedBlock] = []
    for name in names:
        without = copy.deepcopy(whole)
        remove_blocks(without, inputs, (name,))
        found.append(
            RankedBlock(
                name=name,
                divergence=reference.divergence(without),
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
    if not left:
        return ()
    reference = _Reference(made, calibration, _ROWS if len(left) <= _MANY_BLOCKS else _ROWS // 4, task)
    order: list[str] = []
    while left:
        costs: list[tuple[float, int, str]] = []
        for position, name in enumerate(left):
            without = copy.deepcopy(made)
            remove_blocks(without, inputs, (name,))
            size = sum(p.numel() for p in made.get_submodule(name).parameters())
            costs.append((reference.divergence(without) * size, position, name))
        chosen = min(costs)[2]
        remove_blocks(made, inputs, (chosen,))
        left.remove(chosen)
        order.append(chosen)
    return tuple(order)


class _Reference:
    """What the whole network answers, and how far others are from it: a few rows at a time.

    Args:
        whole: in ``eval`` mode.
        calibration: its first rows are used.
        rows: how many, at most; fewer where answers are so large that they would fill the memory.
        task: what the output means; guessed if ``None``.
    """

    def __init__(self, whole: nn.Module, calibration: TrainingData, rows: int, task: Task | None) -> None:
        self._answers: list[tuple[Mapping[str, Tensor], Tensor]] = []
        held, rows = 0, min(rows, len(calibration))
        for start in range(0, rows, _BATCH):
            batch, labels = calibration.batch(np.arange(start, min(start + _BATCH, rows)))
            wanted = _answered(whole, batch)
            if not self._answers:
                self._task, self._axis = task or task_of(wanted, labels), class_axis(wanted, labels)
            self._answers.append((batch, wanted))
            held += wanted.numel() + sum(v.numel() for v in batch.values())
            if held > _MOST_HELD:
                break

    def divergence(self, other: nn.Module) -> float:
        """Mean KL divergence of class probabilities, or squared error relative to the energy of the answers."""
        error = scale = 0.0
        for batch, wanted in self._answers:
            got = _answered(other, batch)
            if self._task != "classification":
                error += float((got - wanted).square().sum(dtype=torch.float64))
                scale += float(wanted.square().sum(dtype=torch.float64))
                continue
            logs = [functional.log_softmax(v.movedim(self._axis, -1).flatten(0, -2), -1) for v in (got, wanted)]
            error += float(functional.kl_div(logs[0], logs[1], reduction="sum", log_target=True))
            scale += len(logs[0])
        return error / max(scale, 1e-12)


def _answered(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return first_tensor(call(module, batch)).float()
