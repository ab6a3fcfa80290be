"""A student learns from its teacher (Hinton et al. 2015, arXiv:1503.02531), by a one-cycle schedule (Smith 2018)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from modeltailor.compress.structure.losses import Task, task_of
from modeltailor.compress.structure.pupil import Pupil
from modeltailor.compress.structure.thawing import thawed
from modeltailor.compress.structure.training_data import TrainingData
from modeltailor.compress.structure.weight_cache import WeightCache
from modeltailor.compress.training import Training

__all__ = ["Checkpoint", "Distilled", "Task", "distill", "task_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where a training that was stopped goes on from.

    Attributes:
        cache: folder of the file.
        name: file name; one a training.
        every_s: seconds between two writes.
    """

    cache: WeightCache
    name: str
    every_s: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """How a training went.

    Attributes:
        steps: optimizer steps done, those before an interruption included.
        samples: images or rows seen.
        loss: running mean of the loss at the end.
        full: the schedule ended by itself; ``False``: the deadline shortened it.
        stopped_early: patience ran out before the schedule did.
        seconds: wall-clock time of this call.
    """

    steps: int
    samples: int
    loss: float
    full: bool
    stopped_early: bool
    seconds: float


def distill(
    student: nn.Module,
    teacher: nn.Module,
    data: TrainingData,
    training: Training,
    *,
    task: Task | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[float], None] | None = None,
    deadline_s: float | None = None,
) -> Distilled:
    """Train ``student`` in place to answer as ``teacher`` does.

    Of several outputs the first is the one that ``task`` and labels speak of; the others come near to the teacher's, and
    together weigh as one.
    The draws of each step depend on seed and step number alone, so an interrupted training ends at the same weights.
    A deadline is met by running faster through the schedule, so that the learning rate still ends near zero.

    Args:
        student: changed in place, left on the CPU in ``eval`` mode; weights averaged if ``training.ema`` says so. Frozen
            parameters learn, too, and are frozen again afterwards.
        teacher: not changed.
        data: the ``train`` split.
        training: the schedule.
        task: what the output means; guessed if ``None``.
        checkpoint: written now and then, and when ``progress`` raises; read at the start, removed by the caller.
        progress: called after each step with its position, 0..1; what it raises stops the training.
        deadline_s: seconds from now that the training may take.

    Raises:
        CandidateError: the loss became NaN or infinite.
        ConfigError: the schedule asks for what these networks or these data do not have.
    """
    if training.hard_label_weight > 0 and data.labels is None:
        training = dataclasses.replace(training, hard_label_weight=0.0)
    with thawed(student):
        pupil = Pupil(student, teacher, data, training, task)
        try:
            return _learn(pupil, checkpoint, progress, deadline_s)
        finally:
            pupil.leave()


def _learn(
    pupil: Pupil,
    checkpoint: Checkpoint | None,
    progress: Callable[[float], None] | None,
    deadline_s: float | None,
) -> Distilled:
    found = None if checkpoint is None else checkpoint.cache.load(checkpoint.name)
    if found is not None:
        pupil.restore(*found)
    started = last_write = time.monotonic()
    while pupil.n_done < pupil.n_steps and not pupil.stopped:
        step = pupil.n_done
        elapsed = time.monotonic() - started
        hurried = 0.0 if deadline_s is None else elapsed / max(deadline_s, 1e-6)
        position = max(step / pupil.n_steps, hurried)
        if position >= 1.0:
            pupil.full = False
            break
        pupil.full = pupil.full and position == step / pupil.n_steps
        pupil.step(step, position)
        try:
            if progress is not None:
                progress(position)
        except BaseException:
            if checkpoint is not None:
                checkpoint.cache.store(checkpoint.name, *pupil.state())
            raise
        if checkpoint is not None and time.monotonic() - last_write > checkpoint.every_s:
            checkpoint.cache.store(checkpoint.name, *pupil.state())
            last_write = time.monotonic()
    pupil.finish()
    return Distilled(
        steps=pupil.n_done,
        samples=pupil.n_done * pupil.batch_size,
        loss=pupil.loss,
        full=pupil.full,
        stopped_early=pupil.stopped,
        seconds=time.monotonic() - started,
    )
