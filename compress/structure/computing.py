"""Where a training computes, in which precision (mixed precision after Micikevicius et al. 2018), from which draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from modeltailor.compress.training import Training

__all__ = ["autocast", "drawing", "training_device"]


def training_device(training: Training) -> torch.device:
    """Return the GPU if there is one and the schedule allows it, else the CPU."""
    if training.device == "auto" and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def autocast(training: Training, device: torch.device, *, suits: bool) -> AbstractContextManager[object]:
    """Return the context of a forward pass: bfloat16 where the hardware computes it, else float32.

    Args:
        training: ``precision`` float32 never casts.
        device: from :func:`training_device`.
        suits: the input is images or tokens; plain numbers may need every digit that float32 has.
    """
    if training.precision != "auto" or not suits:
        return nullcontext()
    if device.type == "cuda":
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_it = torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16) if has_it else nullcontext()


@contextmanager
def drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Let what a network draws inside follow from ``seed`` alone, and leave the global random states as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        for one in devices:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield
