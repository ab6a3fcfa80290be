"""Calling a module by named inputs, and finding the one output that is learned from."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from modeltailor.errors import ModelError

__all__ = ["Inputs", "call", "evaluating", "first_tensor", "named_inputs", "output_shapes"]

Inputs = Mapping[str, Tensor] | tuple[Tensor, ...] | Tensor
"""Example inputs: by name, by position, or the only one."""


def named_inputs(module: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Return ``inputs`` by name; inputs by position get the names of the parameters of ``forward``."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    given = (inputs,) if isinstance(inputs, Tensor) else inputs
    names = [
        p.name
        for p in inspect.signature(module.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    names += [f"input_{i}" for i in range(len(names), len(given))]
    return dict(zip(names, given, strict=False))


def call(module: nn.Module, inputs: Mapping[str, Tensor]) -> object:
    """Run ``module``: one input by position; several by keyword where ``forward`` knows the names, else by position."""
    if len(inputs) == 1:
        return module(*inputs.values())
    known = inspect.signature(module.forward).parameters
    if all(name in known for name in inputs):
        return module(**inputs)
    return module(*inputs.values())


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into ``eval`` mode inside; afterwards each of its parts is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def first_tensor(output: object) -> Tensor:
    """Return the output that counts: the tensor itself, ``logits``, or the first tensor of a tuple or mapping.

    Raises:
        ModelError: there is no tensor in the output.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        if isinstance(output.get("logits"), Tensor):
            return output["logits"]  # type: ignore[no-any-return]
        output = tuple(output.values())
    if isinstance(output, tuple | list):
        for part in output:
            if isinstance(part, Tensor):
                return part
    raise ModelError("MODEL-17", "model", f"must return a tensor; got {type(output).__name__}", "wrap its forward")


def output_shapes(module: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of all tensors that ``module`` returns."""
    with torch.no_grad():
        output = call(module, inputs)
    parts = (
        output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else (output,)
    )
    return tuple(tuple(p.shape) for p in parts if isinstance(p, Tensor))
