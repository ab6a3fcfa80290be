"""What a network answers for some rows: the output that counts, and whatever else it gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from modeltailor.compress.structure.calling import first_tensor

__all__ = ["Answer", "answer_of", "others_loss"]

_NO_ENERGY = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """Outputs in float32.

    Attributes:
        first: the output that counts, which labels and metric speak of.
        others: every other floating-point tensor, by where it stands in the output.
    """

    first: Tensor
    others: Mapping[str, Tensor]

    @property
    def n_values(self) -> int:
        """How many numbers it holds."""
        return self.first.numel() + sum(v.numel() for v in self.others.values())

    def has_rows(self, n: int) -> bool:
        """Whether every output has one entry for each of ``n`` samples."""
        return all(v.shape[:1] == (n,) for v in (self.first, *self.others.values()))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Answer:
        """Return the answer with each tensor changed."""
        return Answer(first=change(self.first), others={k: change(v) for k, v in self.others.items()})

    def room(self, n: int) -> Answer:
        """Return place for ``n`` samples on the CPU, filled with NaN."""
        return self.mapped(lambda v: torch.full((n, *v.shape[1:]), math.nan))

    def write(self, rows: Tensor, answer: Answer) -> None:
        """Put an answer of the same outputs at those rows, in place."""
        self.first[rows] = answer.first
        for name, value in self.others.items():
            value[rows] = answer.others[name]


def answer_of(output: object) -> Answer:
    """Sort what a network returned.

    Raises:
        ModelError: there is no tensor in it.
    """
    first = first_tensor(output)
    others = {k: v.float() for k, v in _tensors(output, "") if v is not first and v.is_floating_point()}
    return Answer(first=first.float(), others=others)


def others_loss(answer: Answer, target: Answer, read: Tensor | None = None) -> Tensor | None:
    """Return the mean over the other outputs of the squared error relative to the target's energy.

    Outputs that only one of the networks has, or in another shape (hidden states of another width), are passed over, and
    those that are all but zero in the target (an auxiliary output that is not used), to which nothing is relative; of the
    rest, values that are not finite in the target (masks).

    Args:
        answer: of the student.
        target: of the teacher.
        read: [n, positions] bool: what is read of outputs of these positions; ``None`` reads all.

    Returns:
        ``None`` if there is nothing to compare.
    """
    parts = []
    for name, wanted in target.others.items():
        got = answer.others.get(name)
        if got is None or got.shape != wanted.shape:
            continue
        known = wanted.isfinite()
        if read is not None and wanted.ndim == 3 and read.shape == wanted.shape[:2]:
            known = known & read[:, :, None]
        if bool(known.any()):
            energy = wanted[known].square().mean()
            if float(energy) > _NO_ENERGY:
                parts.append(functional.mse_loss(got[known], wanted[known]) / energy)
    return torch.stack(parts).mean() if parts else None


def _tensors(value: object, place: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _tensors(part, f"{place}/{key}")
    elif isinstance(value, tuple | list):
        for key, part in enumerate(value):
            yield from _tensors(part, f"{place}/{key}")
