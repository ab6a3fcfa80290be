"""Recovery after quantization: the network learns again with the rounding of its weights in the forward pass."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from modeltailor.canonical import content_key
from modeltailor.compress.structure.calling import Inputs, named_inputs
from modeltailor.compress.structure.distillation import Task
from modeltailor.compress.structure.fake_quantization import round_weights, settle_weights
from modeltailor.compress.structure.learning import fingerprint, learn_once, norms_behind
from modeltailor.compress.structure.schedule import optimizer_of
from modeltailor.compress.structure.sparsity import hold_zeros, sparse_layers, zero_masks
from modeltailor.compress.structure.training_data import TrainingData
from modeltailor.compress.vocabulary import Format, Training

__all__ = ["Recovered", "recover"]

_GENTLER = 0.2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recovered:
    """A network whose weights lie on the grids of their formats.

    Attributes:
        module: in ``eval`` mode; building its formats from it loses nothing more at the weights.
        bits: stored bits by layer name, of the layers that were rounded.
        key: content key of weights, formats, data, schedule and seed.
        from_cache: it was trained before.
        seconds: wall-clock time of the whole call.
    """

    module: nn.Module
    bits: Mapping[str, int]
    key: str
    from_cache: bool
    seconds: float


def recover(
    module: nn.Module,
    formats: Mapping[str, Format],
    *,
    teacher: nn.Module,
    example_inputs: Inputs,
    train: TrainingData,
    training: Training,
    cache_dir: Path | None = None,
    seed: int = 0,
    task: Task | None = None,
    progress: Callable[[float], None] | None = None,
    deadline_s: float | None = None,
) -> Recovered:
    """Train ``module`` with its weights rounded as ``formats`` will store them.

    Rounded are the layers below 8 bits with a scale an output channel (``w2`` to ``w7``, ``w2a8`` to ``w7a8``). 8-bit
    activations are left to calibration: what they cost is small beside what low bits of weights cost. Layers that are
    sparse stay sparse.

    Args:
        module: the network to quantize; not changed.
        formats: format by layer name; names that are no layer of ``module`` are left alone.
        teacher: whose answers are learned, usually the fp32 original; not changed.
        example_inputs: one example, for finding the normalisation behind each layer.
        train: what it learns from.
        training: the schedule; without a learning rate a fifth of the usual peak: the weights are good already.
        cache_dir: trained weights and checkpoints lie here.
        seed: of shuffling and augmentation.
        task: what the output means; guessed if ``None``.
        progress: called with 0..1.
        deadline_s: seconds that learning may take.

    Raises:
        CandidateError: the training diverged.
    """
    started = time.monotonic()
    made = copy.deepcopy(module).eval()
    training = dataclasses.replace(training, learning_rate=_gentle_rate(made, training))
    layers = {n for n, m in made.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)}
    bits = {
        name: fmt.weight_bits
        for name, fmt in sorted(formats.items())
        if name in layers and fmt.scheme in ("static", "dynamic", "weight-only") and 2 <= fmt.weight_bits < 8
    }
    key = content_key(
        {
            "recovery": 3,
            "model": fingerprint(module),
            "teacher": fingerprint(teacher),
            "bits": bits,
            "train": train.fingerprint(),
            "training": training,
            "seed": seed,
            "task": task,
        },
        32,
    )
    from_cache = False
    if bits:
        plain = copy.deepcopy(made)
        masks = zero_masks(made, sparse_layers(made))
        round_weights(made, bits, norms_behind(made, named_inputs(made, example_inputs)))
        hold_zeros(made, masks)
        from_cache = learn_once(
            made, teacher, train, dataclasses.replace(training, seed=training.seed * 1_000_003 + seed), key=key,
            cache_dir=cache_dir, task=task, settle=settle_weights, settled=plain,
            progress=progress, deadline_s=deadline_s,
        ).from_cache  # fmt: skip
        made = plain if from_cache else made
    return Recovered(module=made, bits=bits, key=key, from_cache=from_cache, seconds=time.monotonic() - started)


def _gentle_rate(module: nn.Module, training: Training) -> float:
    _, peak = optimizer_of(module, training)
    return peak if training.learning_rate is not None else peak * _GENTLER
