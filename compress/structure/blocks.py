"""Blocks that can be taken out because what comes out has the shape of what went in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modeltailor.compress.structure.calling import Inputs, call, evaluating, named_inputs
from modeltailor.errors import CandidateError

__all__ = ["PassThrough", "removable_blocks", "remove_blocks"]

_LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention)


class PassThrough(nn.Module):
    """Stands where a block was and hands on its first argument, in a tuple if the block gave a tuple."""

    def __init__(self, as_tuple: bool) -> None:
        super().__init__()
        self.as_tuple = as_tuple

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor | tuple[Tensor]:
        """Return ``x`` as it came."""
        return (x,) if self.as_tuple else x


def removable_blocks(module: nn.Module, example_inputs: Inputs) -> tuple[str, ...]:
    """List the blocks that can be replaced by the identity, in the order of the module.

    A block is a child of a ``Sequential``, a ``ModuleList`` or a module that is nothing but a row of modules of one class
    (``b1``, ``b2`` ...). It has at least two convolutions or linear layers, is called once, and returns a tensor of the
    shape of its first argument, and nothing else.

    Args:
        module: not changed.
        example_inputs: one example.
    """
    return tuple(_blocks(module, example_inputs))


def remove_blocks(module: nn.Module, example_inputs: Inputs, names: Sequence[str]) -> None:
    """Replace those blocks, in place, by :class:`PassThrough`.

    Raises:
        CandidateError: one of them is not a removable block.
    """
    found = _blocks(module, example_inputs)
    for name in names:
        if name not in found:
            raise CandidateError(
                "UNSUPPORTED", name, f"is not a removable block; those are {', '.join(found) or 'none'}", "choose one"
            )
        module.set_submodule(name, PassThrough(found[name]))


def _is_row(parent: nn.Module) -> bool:
    children = dict(parent.named_children())
    kinds = {type(child) for child in children.values()}
    return len(children) > 1 and len(kinds) == 1 and all(name[-1].isdigit() for name in children)


def _blocks(module: nn.Module, example_inputs: Inputs) -> dict[str, bool]:
    """Names of removable blocks, and whether each returns a tuple."""
    seen: dict[str, list[bool | None]] = {}

    def note(name: str, given: tuple[object, ...], named: dict[str, object], output: object) -> None:
        first = given[0] if given else next(iter(named.values()), None)
        is_tuple = isinstance(output, tuple)
        result = output[0] if isinstance(output, tuple) and output else output
        fits = isinstance(first, Tensor) and isinstance(result, Tensor) and first.shape == result.shape
        seen.setdefault(name, []).append(is_tuple if fits and (not is_tuple or len(output) == 1) else None)  # type: ignore[arg-type]

    candidates = {
        f"{name}.{key}" if name else key: child
        for name, parent in module.named_modules()
        if isinstance(parent, nn.Sequential | nn.ModuleList) or _is_row(parent)
        for key, child in parent.named_children()
        if sum(isinstance(m, _LAYERS) for m in child.modules()) >= 2
    }
    hooks = [
        child.register_forward_hook(lambda _, a, k, out, n=name: note(n, a, k, out), with_kwargs=True)
        for name, child in candidates.items()
    ]
    try:
        with evaluating(module), torch.no_grad():
            call(module, named_inputs(module, example_inputs))
    finally:
        for hook in hooks:
            hook.remove()
    fitting = {n: seen[n][0] for n in candidates if len(seen.get(n, ())) == 1}
    found = {n: v for n, v in fitting.items() if v is not None}
    parents = {name.rpartition(".")[0] for name in found}
    return {n: v for n, v in found.items() if n not in parents}  # a stage is no block: its blocks are
