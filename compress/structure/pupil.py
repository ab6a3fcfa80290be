"""The state of one training: student, optimizer, running average, best look; and one step of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modeltailor.compress.structure.answers import Answer, answer_of, others_loss
from modeltailor.compress.structure.augment import mix, vary
from modeltailor.compress.structure.calling import call
from modeltailor.compress.structure.computing import autocast, drawing, training_device
from modeltailor.compress.structure.feature_matching import FeatureMatching
from modeltailor.compress.structure.losses import Task, answer_loss, class_axis, labels_teach, task_of
from modeltailor.compress.structure.schedule import make_optimizer, rate_at
from modeltailor.compress.structure.training_data import TrainingData
from modeltailor.compress.structure.watching import LOOKS_AN_EPOCH, Watch, held_out_rows
from modeltailor.compress.training import Training
from modeltailor.errors import CandidateError, ConfigError

__all__ = ["Pupil"]

_SMALLEST_AUGMENTED = 16
_MOST_REMEMBERED = 1 << 26  # values of the teacher's answers: 256 MiB
_WATCH_BATCH = 256
_OF_THE_NETWORK = 1  # sets the draws of a network apart from those of augmentation


class Pupil:
    """A student while it learns. Everything that the rest of the training depends on is in :meth:`state`.

    No dropout of a module is on. What a network draws by itself (stochastic depth) follows from the seed and the step.

    Args:
        student: changed in place; moved to the GPU where there is one, until :meth:`leave`.
        teacher: moved likewise; its weights do not change.
        data: what is learned from.
        training: the schedule.
        task: what the output means; guessed if ``None``.

    Raises:
        ConfigError: the schedule asks for what these networks or these data do not have.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, data: TrainingData, training: Training, task: Task | None
    ) -> None:
        self.student, self.teacher, self.data, self.training = student, teacher, data, training
        self.mixup = training.mixup or 0.0
        self.device = training_device(training)
        self.rows, self.watched = held_out_rows(len(data), training.holdout, training.seed)
        self.batch_size = min(training.batch_size, len(self.rows))
        self.n_steps = max(1, round(training.epochs * len(self.rows) / self.batch_size))
        first = next(iter(data.inputs.values()))
        self.is_image = first.ndim == 4 and len(data.inputs) == 1
        self.augments = training.augment and self.is_image and min(first.shape[2:]) >= _SMALLEST_AUGMENTED
        self.mirrors = self.augments and first.shape[1] == 3  # digits and letters must not be mirrored
        self.suits_low_precision = self.is_image or first.dtype.kind in "iu"
        if self.mixup > 0 and not (self.is_image and first.dtype.kind == "f"):
            raise ConfigError("CFG-08", "training.mixup", "needs one image input [n, c, h, w] of floats", "turn it off")
        if self.is_image:
            student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        student.to(self.device)
        self._dropouts = _without_dropout(student)
        teacher.to(self.device).eval()
        self.task, self.class_axis, self.labels_teach = self._settled(task)
        self._start_training()
        self.features = self._matched()
        self.optimizer = make_optimizer(student, training, self.features.parameters() if self.features else ())
        self.averaged = {}
        if training.ema > 0:  # a mask of infinity has no average
            self.averaged = {k: v.detach().clone() for k, v in _floats(student) if bool(v.isfinite().all())}
        self.watch = Watch(patience=training.patience) if training.patience else None
        self.look_every = max(1, round(len(self.rows) / self.batch_size / LOOKS_AN_EPOCH))
        self.n_done = 0
        self.loss = math.nan
        self.full = True
        self.stopped = False
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self._known: Answer | None = None

    def step(self, step: int, position: float) -> None:
        """One optimizer step.

        Args:
            step: its number; what is drawn depends on it and on the seed alone.
            position: in the schedule, 0..1.

        Raises:
            CandidateError: the loss is NaN or infinite.
        """
        rows = self._rows(step)
        inputs, labels, varied = self._drawn(rows, step)
        with drawing(_mixed(self.training.seed, step, _OF_THE_NETWORK), self.device):
            with self._precision():
                target = self._teach(inputs) if varied or self.features else self._remembered(rows, inputs)
                answer = answer_of(call(self.student, inputs))
            loss = self._loss(inputs, answer, target, labels)
            if self.features is not None:
                loss = loss + self.training.feature_weight * self.features.loss()
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
        if self.watch is not None and (self.n_done % self.look_every == 0 or self.n_done == self.n_steps):
            self.stopped = not self._look(self.watch)

    def finish(self) -> None:
        """Put the weights that are handed back in place: of the best look, else the average."""
        kept = self.watch.weights if self.watch is not None and self.watch.weights else self.averaged
        if kept:
            with torch.no_grad():
                for name, value in _floats(self.student):
                    value.copy_(kept.get(name, value))

    def leave(self) -> None:
        """Take hooks off, bring both networks back to the CPU, leave training mode."""
        if self.features is not None:
            self.features.close()
        for layer, name, value in self._dropouts:
            setattr(layer, name, value)
        self.student.to("cpu").to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.student.eval()
        self.teacher.to("cpu")

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return everything that the rest of the training depends on, as tensors and facts."""
        tensors = {f"student.{k}": v for k, v in self.student.state_dict().items()}
        tensors |= {f"averaged.{k}": v for k, v in self.averaged.items()}
        if self.features is not None:
            tensors |= {f"features.{k}": v for k, v in self.features.projections.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        facts = {"step": str(self.n_done), "loss": repr(self.loss), "full": str(self.full)}
        if self.watch is not None:
            tensors |= {f"best.{k}": v for k, v in self.watch.weights.items()}
            facts |= {"best": repr(self.watch.best), "since": str(self.watch.since), "stopped": str(self.stopped)}
        return {k: v.cpu() for k, v in tensors.items()}, facts

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
        """Go on from what :meth:`state` returned; what is no such state is passed over."""
        if "step" not in facts:
            return
        self.student.load_state_dict(_under(tensors, "student"))
        self.averaged = {k: v.to(self.device) for k, v in _under(tensors, "averaged").items()}
        if self.features is not None:
            self.features.projections.load_state_dict(_under(tensors, "features"))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(tensors, "optimizer").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.loss, self.full, self.n_done = float(facts["loss"]), facts["full"] == "True", int(facts["step"])
        if self.watch is not None:
            self.watch.best, self.watch.since = float(facts["best"]), int(facts["since"])
            self.watch.weights = {k: v.to(self.device) for k, v in _under(tensors, "best").items()}
            self.stopped = facts["stopped"] == "True"

    def _settled(self, task: Task | None) -> tuple[Task, int, bool]:
        """What the output means, where its classes lie, whether labels teach: asked before anything is mixed or varied."""
        inputs, labels = self._on_device(self.rows[:2])
        output = self._teach(inputs).first
        settled, axis = task or task_of(output, labels), class_axis(output, labels)
        if labels is None or not labels_teach(output, labels, settled, guessed=task is None):
            return settled, axis, False
        moved = self.augments and labels.numel() != len(labels)  # labels of places, which varied images move
        return settled, axis, not moved and self.mixup == 0

    def _start_training(self) -> None:
        self.student.train()
        for module in self.student.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()  # a student of a few epochs underfits: dropout costs accuracy

    def _matched(self) -> FeatureMatching | None:
        training = self.training
        if not training.features or training.feature_weight == 0:
            return None
        made = FeatureMatching(self.student, self.teacher, training.features, training.feature_loss, training.seed)
        inputs, _ = self._on_device(self.rows[:2])
        self.student.eval()  # this pass must not reach the running statistics
        try:
            with torch.no_grad():
                call(self.teacher, inputs)
                call(self.student, inputs)
            made.prepare()
        except ConfigError:
            made.close()
            raise
        finally:
            self._start_training()
        return made

    def _drawn(self, rows: NDArray[np.int64], step: int) -> tuple[dict[str, Tensor], Tensor | None, bool]:
        """Inputs and labels of a step (``None``: the teacher alone teaches), and whether the inputs were varied."""
        training = self.training
        inputs, labels = self.data.batch(rows)
        generator = torch.Generator().manual_seed(_mixed(training.seed, step))
        if self.augments:
            inputs = {k: vary(v, generator, mirror=self.mirrors) for k, v in inputs.items()}
        if self.mixup > 0:
            inputs = {k: mix(v, self.mixup, generator) for k, v in inputs.items()}
        if self.is_image:
            inputs = {k: v.contiguous(memory_format=torch.channels_last) for k, v in inputs.items()}
        moved = {k: v.to(self.device) for k, v in inputs.items()}
        taught = labels.to(self.device) if labels is not None and self.labels_teach else None
        return moved, taught, self.augments or self.mixup > 0

    def _on_device(self, rows: NDArray[np.int64]) -> tuple[dict[str, Tensor], Tensor | None]:
        inputs, labels = self.data.batch(rows)
        moved = {k: v.to(self.device) for k, v in inputs.items()}
        return moved, None if labels is None else labels.to(self.device)

    def _rows(self, step: int) -> NDArray[np.int64]:
        """Rows of a step: the epochs' shuffles one after another, cut into batches."""
        n = len(self.rows)
        position = step * self.batch_size + np.arange(self.batch_size)
        drawn = np.concatenate(
            [self._shuffle(int(e))[position[position // n == e] % n] for e in np.unique(position // n)]
        )
        return np.asarray(self.rows[drawn])

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self.training.seed, epoch)).permutation(len(self.rows)))
        return self._order[1]

    def _precision(self) -> AbstractContextManager[object]:
        return autocast(self.training, self.device, suits=self.suits_low_precision)

    def _teach(self, inputs: dict[str, Tensor]) -> Answer:
        with torch.no_grad():
            return answer_of(call(self.teacher, inputs))

    def _remembered(self, rows: NDArray[np.int64], inputs: dict[str, Tensor]) -> Answer:
        """The teacher's answers without augmentation: asked once a row."""
        at = torch.from_numpy(rows)
        if self._known is not None:
            known = self._known.mapped(lambda v: v[at])
            if not bool(known.first.isnan().any()):
                return known.mapped(lambda v: v.to(self.device))
        asked = self._teach(inputs)
        if self._known is None:
            if not asked.has_rows(len(rows)) or asked.n_values // len(rows) * len(self.data) > _MOST_REMEMBERED:
                return asked
            self._known = asked.room(len(self.data))
        self._known.write(at, asked.mapped(Tensor.cpu))
        return asked

    def _loss(self, inputs: dict[str, Tensor], given: Answer, wanted: Answer, labels: Tensor | None) -> Tensor:
        answer, target, mask = given.first, wanted.first, inputs.get("attention_mask")
        read = None if mask is None else mask.bool()  # what stands at padded positions is read by nobody
        if read is not None and answer.ndim == 3 and read.shape == answer.shape[:2]:
            answer, target = answer[read][None], target[read][None]
            labels = (
                labels.reshape(read.shape)[read] if labels is not None and labels.numel() == read.numel() else labels
            )
        loss = answer_loss(answer, target, labels, self.training, self.task, self.class_axis)
        others = others_loss(given, wanted, read)
        return loss if others is None else loss + others

    def _look(self, watch: Watch) -> bool:
        """Compute the loss of what would be handed back on the held-out rows; return whether to go on."""
        held = {k: v.detach().clone() for k, v in _floats(self.student)}
        with torch.no_grad():
            for name, value in _floats(self.student) if self.averaged else ():
                value.copy_(self.averaged.get(name, value))
            self.student.eval()
            total = 0.0
            for start in range(0, len(self.watched), _WATCH_BATCH):
                inputs, labels = self._on_device(rows := self.watched[start : start + _WATCH_BATCH])
                labels = labels if self.labels_teach else None
                answer, target = answer_of(call(self.student, inputs)), self._teach(inputs)
                total += float(self._loss(inputs, answer, target, labels)) * len(rows)
            go_on = watch.look(total / len(self.watched), lambda: dict(_floats(self.student)))
            for name, value in _floats(self.student):
                value.copy_(held[name])
        self._start_training()
        return go_on

    def _average(self) -> None:
        decay = min(self.training.ema, (1 + self.n_done) / (10 + self.n_done))
        for name, value in _floats(self.student) if self.averaged else ():
            if name in self.averaged:
                self.averaged[name].lerp_(value.detach(), 1 - decay)


def _floats(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((k, v) for k, v in module.state_dict().items() if v.is_floating_point())


def _without_dropout(module: nn.Module) -> list[tuple[nn.Module, str, float]]:
    """Turn off, in place, the dropout that modules have as a number; return module, attribute and what it was.

    Attentions of transformers read the number of their dropout themselves, whatever mode it is in.
    """
    kinds = (
        (nn.MultiheadAttention | nn.RNNBase, "dropout"),
        (nn.modules.dropout._DropoutNd, "p"),
    )
    found: list[tuple[nn.Module, str, float]] = [
        (m, name, value)
        for m in module.modules()
        for kind, name in kinds
        if isinstance(m, kind) and isinstance(value := getattr(m, name), float)
    ]
    for layer, name, _ in found:
        setattr(layer, name, 0.0)
    return found


def _under(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{kind}."): v for k, v in tensors.items() if k.startswith(f"{kind}.")}


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
