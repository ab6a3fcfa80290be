"""A network of the structure asked for, taught by the original; trained once, used often."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from modeltailor.canonical import content_key
from modeltailor.compress.structure.assistants import assistant_structures, n_assistants
from modeltailor.compress.structure.calling import Inputs, named_inputs
from modeltailor.compress.structure.cost import count_parameters, layer_costs
from modeltailor.compress.structure.fake_quantization import settle_weights
from modeltailor.compress.structure.learning import fingerprint, learn_once
from modeltailor.compress.structure.losses import Task
from modeltailor.compress.structure.reshaping import StudentFactory, kept_channels, reshape
from modeltailor.compress.structure.scores import NEEDS_DATA
from modeltailor.compress.structure.sparsity import hold_zeros, zero_masks
from modeltailor.compress.structure.training_data import TrainingData
from modeltailor.compress.structure.weight_cache import WeightCache
from modeltailor.compress.structures import Structure
from modeltailor.compress.training import Training

__all__ = ["Realized", "StudentFactory", "kept_channels", "realize", "reshape"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Realized:
    """A network that has the structure asked for.

    Attributes:
        module: in ``eval`` mode, on the CPU; the original is unchanged.
        parameters: how many it has.
        macs: multiply-accumulate operations of one sample.
        key: content key of structure, original weights, data, schedule and seed.
        trained: it learned after it was cut.
        from_cache: its weights were trained before.
        assistants: middle sizes that learned before it did.
        seconds: wall-clock time of the whole call.
    """

    module: nn.Module
    parameters: int
    macs: int
    key: str
    trained: bool
    from_cache: bool
    assistants: int
    seconds: float


def realize(
    structure: Structure,
    module: nn.Module,
    *,
    example_inputs: Inputs,
    train: TrainingData | None = None,
    calibration: TrainingData | None = None,
    cache_dir: Path | None = None,
    cut_short_dir: Path | None = None,
    seed: int = 0,
    multiple: int = 8,
    task: Task | None = None,
    student: StudentFactory | None = None,
    progress: Callable[[float], None] | None = None,
    deadline_s: float | None = None,
) -> Realized:
    """Build the network that ``structure`` describes and let it learn from the original.

    Args:
        structure: the decision.
        module: the original; not changed.
        example_inputs: one example, for tracing.
        train: what it learns from; without it, or without ``structure.training``, weights are only inherited.
        calibration: what scores, low ranks and zeros are decided by, as far as they look at data.
        cache_dir: trained weights and checkpoints lie here; ``None`` keeps nothing.
        cut_short_dir: trained weights of schedules that ``deadline_s`` shortened lie here, for whoever must find the same
            network again; ``None`` keeps none.
        seed: of shuffling and augmentation, mixed with the schedule's own.
        multiple: kept channels are rounded to it.
        task: what the output means; guessed from labels and output if ``None``.
        student: builds a smaller network, for ``width`` or ``depth`` below 1.
        progress: called with 0..1 while it learns.
        deadline_s: seconds that learning may take; a schedule that was cut short is not kept in ``cache_dir``.

    Raises:
        CandidateError: a group or block is unknown, cannot be removed, or the result does not keep the output's shape.
        ConfigError: width or depth are asked for without ``student``.
    """
    started = time.monotonic()
    inputs = named_inputs(module, example_inputs)

    def build(wanted: Structure) -> nn.Module:
        return reshape(wanted, module, inputs, multiple=multiple, calibration=calibration, student=student)

    made = build(structure)
    training = structure.training
    learns = training is not None and training.epochs > 0 and train is not None and not structure.is_original
    key = _key(structure, module, inputs, train if learns else None, calibration, seed, multiple, task)
    from_cache, chain = False, 0
    if learns:
        assert training is not None
        assert train is not None
        course = _Course(
            original=module, train=train, seed=seed, key=key, cache_dir=cache_dir, cut_short_dir=cut_short_dir, task=task,
            progress=progress, deadline_s=deadline_s,
        )  # fmt: skip
        middle = assistant_structures(
            structure, n_assistants(count_parameters(module), count_parameters(made), training.assistants)
        )
        chain = len(middle)
        made, from_cache = course.teach(made, training, [partial(build, m) for m in middle], structure)
    return Realized(
        module=made,
        parameters=count_parameters(made),
        macs=sum(c.macs for c in layer_costs(made, inputs)),
        key=key,
        trained=learns,
        from_cache=from_cache,
        assistants=chain,
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Course:
    """One student's way from the original, over its assistants, to its last weights."""

    original: nn.Module
    train: TrainingData
    seed: int
    key: str
    cache_dir: Path | None
    cut_short_dir: Path | None
    task: Task | None
    progress: Callable[[float], None] | None
    deadline_s: float | None

    def teach(
        self, student: nn.Module, training: Training, assistants: list[Callable[[], nn.Module]], structure: Structure
    ) -> tuple[nn.Module, bool]:
        """Return the trained student and whether it came from the cache; the stages share epochs and deadline.

        What an assistant in a hurry taught depends on more than the key, and counts as cut short.
        """
        stages = len(assistants) + 1
        started = time.monotonic()
        cache_dir = self.cache_dir
        part = dataclasses.replace(
            training, epochs=training.epochs / stages, seed=training.seed * 1_000_003 + self.seed
        )
        plain = copy.deepcopy(student)
        if structure.sparsity:
            hold_zeros(student, zero_masks(student, dict(structure.sparsity)))
        teacher = self.original
        done_before = any(
            WeightCache(folder=d).load(f"{self.key}.weights") is not None
            for d in (self.cache_dir, self.cut_short_dir)
            if d is not None
        )
        for stage, make in enumerate([] if done_before else assistants):
            assistant = make()
            learned = learn_once(
                assistant, teacher, self.train, dataclasses.replace(part, features=()), key=f"{self.key}-{stage}",
                cache_dir=cache_dir, task=self.task, progress=self._share(stage, stages),
                deadline_s=self._left(started, stage, stages),
            )  # fmt: skip
            cache_dir = cache_dir if learned.full else None
            teacher = assistant
        learned = learn_once(
            student, teacher, self.train, part, key=self.key, cache_dir=cache_dir, cut_short_dir=self.cut_short_dir,
            task=self.task, settle=settle_weights, settled=plain, progress=self._share(stages - 1, stages),
            deadline_s=self._left(started, stages - 1, stages),
        )  # fmt: skip
        return (plain if learned.from_cache else student), learned.from_cache

    def _share(self, stage: int, stages: int) -> Callable[[float], None] | None:
        progress = self.progress
        return None if progress is None else lambda position: progress((stage + position) / stages)

    def _left(self, started: float, stage: int, stages: int) -> float | None:
        """What is left of the deadline, in equal parts for the stages to come."""
        if self.deadline_s is None:
            return None
        return max(0.0, self.deadline_s - (time.monotonic() - started)) / (stages - stage)


def _key(
    structure: Structure,
    module: nn.Module,
    inputs: dict[str, Tensor],
    train: TrainingData | None,
    calibration: TrainingData | None,
    seed: int,
    multiple: int,
    task: Task | None,
) -> str:
    looks = bool(structure.keep and structure.score in NEEDS_DATA) or bool(structure.ranks)
    looks = looks or bool(structure.sparsity and structure.sparsity_score != "magnitude")
    scored = calibration if looks else None
    return content_key(
        {
            "structure": structure,
            "model": fingerprint(module),
            "inputs": {k: list(v.shape) for k, v in inputs.items()},
            "train": None if train is None else train.fingerprint(),
            "calibration": None if scored is None else scored.fingerprint(),
            "seed": seed,
            "multiple": multiple,
            "task": task,
            "version": 3,
        },
        32,
    )
