"""Zero-padded (option A) shortcuts as exact 1x1 convolutions, so that dependency graphs can see through them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from modeltailor.compress.structure.calling import call

__all__ = ["rewrite_shortcuts"]


def rewrite_shortcuts(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """Replace, in place, submodules without weights that subsample an image and place its channels among zero channels.

    A submodule is replaced only if a strided 1x1 convolution gives exactly its output on random inputs of two sizes.

    Args:
        module: changed in place.
        inputs: one example.

    Returns:
        The replaced submodules by name, as they were.
    """
    shapes: dict[str, tuple[torch.Size, torch.Size]] = {}

    def note(name: str, given: tuple[object, ...], output: object) -> None:
        x = given[0] if len(given) == 1 else None
        if not isinstance(x, Tensor) or not isinstance(output, Tensor):
            return
        if x.ndim == output.ndim == 4 and x.shape[1] != output.shape[1]:
            shapes[name] = (x.shape, output.shape)

    bare = [(n, m) for n, m in module.named_modules() if n and next(iter(m.parameters()), None) is None]
    hooks = [m.register_forward_hook(lambda _, a, out, n=n: note(n, a, out)) for n, m in bare]
    try:
        with torch.no_grad():
            call(module, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    replaced: dict[str, nn.Module] = {}
    for name, layer in bare:
        if name in shapes and not any(name.startswith(f"{done}.") for done in replaced):
            made = _as_convolution(layer, *shapes[name])
            if made is not None:
                replaced[name] = layer
                module.set_submodule(name, made)
    return replaced


def _as_convolution(layer: nn.Module, given: torch.Size, output: torch.Size) -> nn.Conv2d | None:
    _, channels, height, width = given
    if output[2] == 0 or output[3] == 0:
        return None
    stride = (-(-height // output[2]), -(-width // output[3]))
    side = (4 * stride[0], 4 * stride[1])
    with torch.no_grad():
        impulses = torch.eye(channels)[:, :, None, None].expand(-1, -1, *side).contiguous()
        try:
            weight = layer(impulses)[:, :, 1, 1].T[:, :, None, None].contiguous()
            for height_, width_ in (side, (6 * stride[0], 2 * stride[1])):
                x = torch.randn(2, channels, height_, width_, generator=torch.Generator().manual_seed(7))
                wanted = layer(x)
                made = functional.conv2d(x, weight, stride=stride)
                if made.shape != wanted.shape or not torch.equal(made, wanted):
                    return None
        except (RuntimeError, IndexError):
            return None
    convolution = nn.Conv2d(channels, output[1], 1, stride, bias=False)
    convolution.weight = nn.Parameter(weight.to(torch.float32))
    return convolution
