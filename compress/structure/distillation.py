"""A student learns from its teacher (Hinton et al. 2015, arXiv:1503.02531), by a one-cycle schedule (Smith 2018)."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from modeltailor.compress.structure.augment import mix, vary
from modeltailor.compress.structure.calling import call, first_tensor
from modeltailor.compress.structure.training_data import TrainingData
from modeltailor.compress.structure.weight_cache import WeightCache
from modeltailor.compress.vocabulary import Training
from modeltailor.errors import CandidateError, ConfigError

__all__ = ["Checkpoint", "Distilled", "Task", "distill", "task_of"]

Task = Literal["classification", "regression", "embedding"]
_WARM_UP_SHARE = 0.15
_LAST_RATE_SHARE = 0.002
_SMALLEST_AUGMENTED = 16
_MOST_REMEMBERED = 1 << 26  # values of the teacher's answers: 256 MiB
_PEAKS = {"sgd": 0.05, "adamw": 1e-3}


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
        full: the whole schedule ran; ``False``: the deadline shortened it.
        seconds: wall-clock time of this call.
    """

    steps: int
    samples: int
    loss: float
    full: bool
    seconds: float


def task_of(output: Tensor, labels: Tensor | None) -> Task:
    """Guess what the output means: integer labels make classes, float labels values, 3-D outputs embeddings."""
    if labels is not None:
        return "regression" if labels.is_floating_point() else "classification"
    if output.ndim == 3:
        return "embedding"
    return "classification" if output.ndim in (2, 4) and output.shape[1] > 1 else "regression"


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

    The draws of each step depend on seed and step number alone, so an interrupted training ends at the same weights.
    A deadline is met by running faster through the schedule, so that the learning rate still ends near zero.

    Args:
        student: changed in place, left in ``eval`` mode; weights averaged if ``training.ema`` says so.
        teacher: not changed.
        data: the ``train`` split.
        training: the schedule.
        task: what the output means; guessed if ``None``.
        checkpoint: written now and then, read at the start, removed by the caller.
        progress: called with 0..1.
        deadline_s: seconds from now that the training may take.

    Raises:
        CandidateError: the loss became NaN or infinite.
        ConfigError: hard labels are asked for and there are none.
    """
    if training.hard_label_weight > 0 and data.labels is None:
        training = _without_labels(training)
    run = _Run(student, teacher, data, training, task)
    done = run.resume(checkpoint)
    started = last_write = time.monotonic()
    for step in range(done, run.n_steps):
        elapsed = time.monotonic() - started
        hurried = 0.0 if deadline_s is None else elapsed / max(deadline_s, 1e-6)
        position = max(step / run.n_steps, hurried)
        if position >= 1.0:
            run.full = False
            break
        run.full = run.full and position == step / run.n_steps
        run.step(step, position)
        if progress is not None:
            progress(position)
        if checkpoint is not None and time.monotonic() - last_write > checkpoint.every_s:
            run.save(checkpoint, step + 1)
            last_write = time.monotonic()
    run.finish()
    if progress is not None:
        progress(1.0)
    return Distilled(
        steps=run.n_done,
        samples=run.n_done * run.batch_size,
        loss=run.loss,
        full=run.full,
        seconds=time.monotonic() - started,
    )


def _without_labels(training: Training) -> Training:
    return dataclasses.replace(training, hard_label_weight=0.0)


def rate_at(position: float) -> float:
    """One-cycle learning rate as a share of its peak: linear up, then half a cosine down to nearly zero."""
    if position < _WARM_UP_SHARE:
        return max(position / _WARM_UP_SHARE, 0.04)
    down = (position - _WARM_UP_SHARE) / (1 - _WARM_UP_SHARE)
    return _LAST_RATE_SHARE + (1 - _LAST_RATE_SHARE) * 0.5 * (1 + math.cos(math.pi * down))


class _Run:
    """The state of one training."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module, data: TrainingData, training: Training, task: Task | None
    ) -> None:
        self.student, self.teacher, self.data, self.training, self.task = student, teacher, data, training, task
        self.batch_size = min(training.batch_size, len(data))
        self.n_steps = max(1, round(training.epochs * len(data) / self.batch_size))
        self.is_image = all(a.ndim == 4 for a in data.inputs.values()) and len(data.inputs) == 1
        shape = next(iter(data.inputs.values())).shape
        self.augments = training.augment and self.is_image and min(shape[2:]) >= _SMALLEST_AUGMENTED
        self.mirrors = self.augments and shape[1] == 3  # digits and letters must not be mirrored
        if training.mixup > 0 and not self.is_image:
            raise ConfigError("CFG-08", "training.mixup", "needs one image input [n, c, h, w]", "turn it off")
        if self.is_image:
            student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        teacher.eval()
        student.train()
        for module in student.modules():
            if isinstance(module, nn.Dropout):
                module.eval()  # a student of a few epochs underfits: dropout costs accuracy
        self.optimizer = _optimizer(student, training)
        self.averaged = {k: v.detach().clone() for k, v in _floats(student)} if training.ema > 0 else {}
        self.n_done = 0
        self.loss = math.nan
        self.full = True
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self._known: Tensor | None = None

    def step(self, step: int, position: float) -> None:
        """One optimizer step."""
        training = self.training
        rows = self._rows(step)
        inputs, labels = self.data.batch(rows)
        generator = torch.Generator().manual_seed(_mixed(training.seed, step))
        varied = self.augments or training.mixup > 0
        if self.augments:
            inputs = {k: vary(v, generator, mirror=self.mirrors) for k, v in inputs.items()}
        if training.mixup > 0:
            inputs = {k: mix(v, training.mixup, generator) for k, v in inputs.items()}
            labels = None  # the teacher sees the mixture, so the teacher alone teaches
        if self.is_image:
            inputs = {k: v.contiguous(memory_format=torch.channels_last) for k, v in inputs.items()}
        with self._precision():
            target = self._teach(inputs) if varied else self._remembered(rows, inputs)
            answer = first_tensor(call(self.student, inputs)).float()
        mask = inputs.get("attention_mask")
        if mask is not None and answer.ndim == 3 and mask.shape == answer.shape[:2]:
            read = mask.bool()  # what stands at padded positions is read by nobody
            answer, target = answer[read][None], target[read][None]
            labels = labels[read] if labels is not None and labels.shape == mask.shape else labels
        loss = self._loss(answer, target, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate_at(position)
        nn.utils.clip_grad_norm_([p for p in self.student.parameters() if p.grad is not None], 5.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._average()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise CandidateError("NONFINITE", "distill", f"the loss is {value} at step {step}", "lower learning_rate")
        self.loss = value if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * value
        self.n_done = step + 1

    def finish(self) -> None:
        """Put the averaged weights in place and leave training mode."""
        if self.averaged:
            with torch.no_grad():
                for name, value in _floats(self.student):
                    value.copy_(self.averaged[name])
        self.student.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.student.eval()

    def save(self, checkpoint: Checkpoint, step: int) -> None:
        """Write everything that the rest of the training depends on."""
        tensors = {f"student.{k}": v for k, v in self.student.state_dict().items()}
        tensors |= {f"averaged.{k}": v for k, v in self.averaged.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        facts = {"step": str(step), "loss": repr(self.loss), "full": str(self.full)}
        checkpoint.cache.store(checkpoint.name, tensors, facts)

    def resume(self, checkpoint: Checkpoint | None) -> int:
        """Read the checkpoint, if there is one, and return the number of steps already done."""
        found = None if checkpoint is None else checkpoint.cache.load(checkpoint.name)
        if found is None:
            return 0
        tensors, facts = found
        if "step" not in facts:
            return 0
        part = {kind: _under(tensors, kind) for kind in ("student", "averaged", "optimizer")}
        self.student.load_state_dict(part["student"])
        self.averaged = part["averaged"]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in part["optimizer"].items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.loss, self.full, self.n_done = float(facts["loss"]), facts["full"] == "True", int(facts["step"])
        return self.n_done

    def _rows(self, step: int) -> NDArray[np.int64]:
        """Rows of a step: the epochs' shuffles one after another, cut into batches."""
        n = len(self.data)
        position = step * self.batch_size + np.arange(self.batch_size)
        return np.concatenate(
            [self._shuffle(int(e))[position[position // n == e] % n] for e in np.unique(position // n)]
        )

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self.training.seed, epoch)).permutation(len(self.data)))
        return self._order[1]

    def _precision(self) -> AbstractContextManager[object]:
        fast = self.training.precision == "auto" and self.is_image and torch.cpu._is_avx512_bf16_supported()
        return torch.autocast("cpu", torch.bfloat16) if fast else nullcontext()

    def _teach(self, inputs: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return first_tensor(call(self.teacher, inputs)).float()

    def _remembered(self, rows: NDArray[np.int64], inputs: dict[str, Tensor]) -> Tensor:
        """The teacher's answers without augmentation: asked once a row."""
        if self._known is None:
            shape = self._teach({k: v[:1] for k, v in inputs.items()}).shape[1:]
            if shape.numel() * len(self.data) > _MOST_REMEMBERED:
                return self._teach(inputs)
            self._known = torch.full((len(self.data), *shape), math.nan)
        known = self._known[torch.from_numpy(rows)]
        if bool(known.isnan().any()):
            known = self._teach(inputs)
            self._known[torch.from_numpy(rows)] = known
        return known

    def _loss(self, answer: Tensor, target: Tensor, labels: Tensor | None) -> Tensor:
        task = self.task or task_of(target, labels)
        if task == "classification":
            return _class_loss(answer, target, labels, self.training)
        if task == "embedding":
            return _embedding_loss(answer, target)
        learned = functional.mse_loss(answer, target)
        weight = self.training.hard_label_weight if labels is not None else 0.0
        if weight > 0 and labels is not None:
            return (1 - weight) * learned + weight * functional.mse_loss(answer, labels.view_as(answer))
        return learned

    def _average(self) -> None:
        decay = min(self.training.ema, (1 + self.n_done) / (10 + self.n_done))
        for name, value in _floats(self.student) if self.averaged else ():
            self.averaged[name].lerp_(value.detach(), 1 - decay)


def _class_loss(answer: Tensor, target: Tensor, labels: Tensor | None, training: Training) -> Tensor:
    axis = 1 if answer.ndim == 4 else -1
    answer, target = answer.movedim(axis, -1).flatten(0, -2), target.movedim(axis, -1).flatten(0, -2)
    soft = training.temperature
    loss = functional.kl_div(
        functional.log_softmax(answer / soft, -1), functional.log_softmax(target / soft, -1),
        reduction="batchmean", log_target=True,
    ) * (soft * soft)  # fmt: skip
    weight = training.hard_label_weight
    if weight > 0 and labels is not None:
        loss = (1 - weight) * loss + weight * functional.cross_entropy(answer, labels.flatten())
    return loss


def _embedding_loss(answer: Tensor, target: Tensor) -> Tensor:
    away = 1 - functional.cosine_similarity(answer, target, dim=-1).mean()
    return away + functional.mse_loss(answer, target) / target.pow(2).mean().clamp_min(1e-12)


def _optimizer(student: nn.Module, training: Training) -> torch.optim.Optimizer:
    matrices = [p for p in student.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in student.parameters() if p.requires_grad and p.ndim <= 1]
    kind = training.optimizer
    if kind == "auto":
        has_norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in student.modules())
        kind = "sgd" if has_norms else "adamw"
    peak = _PEAKS[kind] if training.learning_rate is None else training.learning_rate
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay, "peak": peak},
        {"params": vectors, "weight_decay": 0.0, "peak": peak},
    ]
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.99))
    return torch.optim.SGD(groups, lr=peak, momentum=0.9, nesterov=True)


def _floats(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((k, v) for k, v in module.state_dict().items() if v.is_floating_point())


def _under(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{kind}."): v for k, v in tensors.items() if k.startswith(f"{kind}.")}


def _mixed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)
