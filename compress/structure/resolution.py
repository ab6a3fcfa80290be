"""Input resolution: the network sees a smaller image than it is given, where its head does not depend on the size.

What comes in and what goes out keep their shapes: the image is resized inside the file, so that data, metrics and the
user's program stay as they are (the input axis of Tan and Le 2019, "EfficientNet", arXiv:1905.11946).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from modeltailor.compress.structure.calling import Inputs, named_inputs, output_shapes
from modeltailor.errors import CandidateError

__all__ = ["reduce_resolution", "resolutions"]

_SHARES = (0.875, 0.75, 0.625, 0.5)
_SMALLEST_SIDE = 16


def resolutions(module: nn.Module, example_inputs: Inputs) -> tuple[float, ...]:
    """List the shares of the image's side at which the network still runs and keeps the shape of its output.

    Args:
        module: not changed.
        example_inputs: one example.

    Returns:
        Descending; empty where the input is not one image, or the head needs the size that it was made for.
    """
    inputs = named_inputs(module, example_inputs)
    found = []
    for share in _SHARES:
        made = copy.deepcopy(module).eval()
        try:
            reduce_resolution(made, inputs, share)
        except CandidateError:
            continue
        found.append(share)
    return tuple(found)


def reduce_resolution(module: nn.Module, example_inputs: Inputs, share: float) -> None:
    """Make a network, in place, resize its image before it looks at it.

    Args:
        module: in ``eval`` mode; changed in place: a hook in front of its ``forward``, no new layer and no weight.
        example_inputs: one example.
        share: of the side.

    Raises:
        CandidateError: the input is not one image, would be smaller than 16 pixels, or the output changes its shape.
    """
    inputs = named_inputs(module, example_inputs)
    image = next(iter(inputs.values()))
    where = f"resolution {share:g}"
    if len(inputs) != 1 or image.ndim != 4:
        raise CandidateError("UNSUPPORTED", where, "needs one image input [n, c, h, w]", "keep the resolution")
    size = tuple(max(1, math.floor(s * share + 0.5)) for s in image.shape[2:])
    if min(size) < _SMALLEST_SIDE:
        raise CandidateError("UNSUPPORTED", where, f"leaves {size[0]}x{size[1]} pixels, under {_SMALLEST_SIDE} a side")
    wanted = output_shapes(module, inputs)
    small = functional.interpolate(image, size=size, mode="bilinear", align_corners=False)
    try:
        with torch.no_grad():
            got = output_shapes(module, dict.fromkeys(inputs, small))
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise CandidateError(
            "UNSUPPORTED", where, f"the network is made for {image.shape[2]}x{image.shape[3]} pixels", "keep them"
        ) from error
    if got != wanted:
        raise CandidateError(
            "UNSUPPORTED", where, f"outputs must keep shape {wanted}; got {got}", "keep the resolution"
        )
    module.register_forward_pre_hook(_Resize((size[0], size[1])))


class _Resize:
    """The hook: bilinear, to a fixed size."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, _: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the resized image in front of whatever else is given."""
        resized = functional.interpolate(given[0], size=self.size, mode="bilinear", align_corners=False)
        return (resized, *given[1:])
