"""How far a student's answer is from its teacher's: class probabilities, embeddings, values.

Hinton et al. 2015 (arXiv:1503.02531) for classes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from modeltailor.compress.training import Training
from modeltailor.workloads.metric import Task

__all__ = ["Task", "answer_loss", "class_axis", "labels_teach", "task_of"]


def task_of(output: Tensor, labels: Tensor | None) -> Task:
    """Guess what the output means.

    Labels that fit say it: integers, one for each row of scores, make classes; floats, one for each value, values. Else
    3-D outputs are embeddings, and so is what float labels do not fit; rows of several values are class scores.
    """
    if labels is not None and _are_classes(output, labels):
        return "classification"
    if labels is not None and _are_values(output, labels):
        return "regression"
    if output.ndim == 3 or (labels is not None and labels.is_floating_point() and output.ndim == 2):
        return "embedding"
    return "classification" if output.ndim in (2, 4) and output.shape[1] > 1 else "regression"


def labels_teach(output: Tensor, labels: Tensor, task: Task, *, guessed: bool) -> bool:
    """Say whether labels can teach beside the teacher.

    Args:
        output: of the network for some rows.
        labels: of the same rows.
        task: what the output means.
        guessed: whether the task was guessed: whole numbers then are no values to come near to, because outputs may be
            logits.
    """
    if task == "classification":
        return _are_classes(output, labels)
    return task == "regression" and _are_values(output, labels) and (labels.is_floating_point() or not guessed)


def class_axis(output: Tensor, labels: Tensor | None) -> int:
    """Return the axis of the classes.

    Images and volumes have it behind the samples. Of 3-D outputs labels tell: [n, L] of [n, classes, L] leave the second
    axis over. Else it is the last one (tokens).
    """
    if output.ndim >= 4:
        return 1
    if output.ndim == 3 and labels is not None and output.shape[1] != output.shape[2]:
        return 1 if labels.shape == (output.shape[0], output.shape[2]) else -1
    return -1


def _are_classes(output: Tensor, labels: Tensor) -> bool:
    classes = output.shape[class_axis(output, labels)]
    return not labels.is_floating_point() and classes > 1 and labels.numel() * classes == output.numel()


def _are_values(output: Tensor, labels: Tensor) -> bool:
    return labels.numel() == output.numel()


def answer_loss(
    answer: Tensor,
    target: Tensor,
    labels: Tensor | None,
    training: Training,
    task: Task | None = None,
    axis: int | None = None,
) -> Tensor:
    """Return the mean loss of a batch.

    Args:
        answer: of the student.
        target: of the teacher, the same shape.
        labels: [n] or [n, ...], of which :func:`labels_teach` is true; or ``None``.
        training: temperature and the weight of the labels.
        task: what the output means; guessed if ``None``.
        axis: of the classes; found by ``labels`` if ``None``.
    """
    task = task or task_of(target, labels)
    if task == "classification":
        return _class_loss(answer, target, labels, training, class_axis(target, labels) if axis is None else axis)
    if task == "embedding":
        return _embedding_loss(answer, target)
    learned = functional.mse_loss(answer, target)
    weight = training.hard_label_weight if labels is not None else 0.0
    if weight > 0 and labels is not None:
        return (1 - weight) * learned + weight * functional.mse_loss(answer, labels.to(answer.dtype).view_as(answer))
    return learned


def _class_loss(answer: Tensor, target: Tensor, labels: Tensor | None, training: Training, axis: int) -> Tensor:
    answer, target = answer.movedim(axis, -1).flatten(0, -2), target.movedim(axis, -1).flatten(0, -2)
    soft = training.temperature
    loss = functional.kl_div(
        functional.log_softmax(answer / soft, -1), functional.log_softmax(target / soft, -1),
        reduction="batchmean", log_target=True,
    ) * (soft * soft)  # fmt: skip
    weight = training.hard_label_weight
    if weight > 0 and labels is not None:
        hard = labels.flatten()
        known = (hard >= 0) & (hard < answer.shape[-1])  # others are void: pixels that belong to no class
        if bool(known.any()):
            loss = (1 - weight) * loss + weight * functional.cross_entropy(answer[known], hard[known])
    return loss


def _embedding_loss(answer: Tensor, target: Tensor) -> Tensor:
    away = 1 - functional.cosine_similarity(answer, target, dim=-1).mean()
    return away + functional.mse_loss(answer, target) / target.pow(2).mean().clamp_min(1e-12)
