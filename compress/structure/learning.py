"""Learning once for each content key: cached weights, checkpoints of a training that was stopped, or a new training."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from modeltailor.compress.structure.calling import call, first_tensor
from modeltailor.compress.structure.distillation import Checkpoint, Task, distill
from modeltailor.compress.structure.training_data import TrainingData
from modeltailor.compress.structure.weight_cache import WeightCache
from modeltailor.compress.vocabulary import Training
from modeltailor.errors import CandidateError
from modeltailor.workloads.model import not_finite

__all__ = ["Learned", "fingerprint", "learn_once", "norms_behind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Where the weights of a training come from.

    Attributes:
        from_cache: it was trained before.
        full: the schedule ended by itself; ``False``: a deadline shortened it.
    """

    from_cache: bool
    full: bool


def learn_once(
    student: nn.Module,
    teacher: nn.Module,
    train: TrainingData,
    training: Training,
    *,
    key: str,
    cache_dir: Path | None,
    cut_short_dir: Path | None = None,
    task: Task | None = None,
    settle: Callable[[nn.Module], None] | None = None,
    settled: nn.Module | None = None,
    progress: Callable[[float], None] | None = None,
    deadline_s: float | None = None,
) -> Learned:
    """Give a network, in place, the weights that this training leads to; say where they come from.

    Args:
        student: changed in place, left in ``eval`` mode.
        teacher: not changed.
        train: what it learns from.
        training: the schedule.
        key: content key of everything that the result depends on.
        cache_dir: weights and checkpoints lie here; ``None`` keeps nothing.
        cut_short_dir: weights of schedules that a deadline shortened lie here, and are taken before any others: who went on
            with them once must find the same again; ``None`` keeps none.
        task: what the output means.
        settle: applied after training, before weights are stored (removes what only training needs).
        settled: takes the weights from the cache instead of ``student``, where ``settle`` changes what a network holds.
        progress: called with 0..1.
        deadline_s: seconds the training may take.

    Raises:
        CandidateError: the training ran into NaN or infinity.
        EnvironmentFault: the cache cannot be written.
    """
    settle = settle or (lambda _: None)
    cache, cut_short = (None if d is None else WeightCache(folder=d) for d in (cache_dir, cut_short_dir))
    plain = student if settled is None else settled
    for kept in filter(None, (cut_short, cache)):
        if _from_cache(plain, kept, f"{key}.weights"):
            plain.eval()
            return Learned(from_cache=True, full=kept is cache)
    checkpoint = None if cache is None else Checkpoint(cache=cache, name=f"{key}.checkpoint")
    done = distill(
        student, _ready_to_teach(teacher, train, fold=not training.features), train, training,
        task=task, checkpoint=checkpoint, progress=progress, deadline_s=deadline_s,
    )  # fmt: skip
    settle(student)
    student.eval()
    bad = not_finite(student)
    if bad:
        raise CandidateError("NONFINITE", bad[0], "holds NaN or infinity after training", "lower learning_rate")
    if cache is not None:
        cache.remove(f"{key}.checkpoint")
    place = cache if done.full and cache is not None else cut_short
    if place is not None:
        place.store(f"{key}.weights", student.state_dict(), {"steps": str(done.steps)})
    if progress is not None:
        progress(1.0)
    return Learned(from_cache=False, full=done.full)


def _ready_to_teach(teacher: nn.Module, train: TrainingData, *, fold: bool = True) -> nn.Module:
    """A copy that answers the same, faster: normalisations folded, weights laid out for image convolutions.

    Without ``fold`` each layer still gives what it gave, for those who look inside.
    """
    made = copy.deepcopy(teacher).eval()
    if not fold or len(train.inputs) > 1 or next(iter(train.inputs.values())).ndim != 4:
        return made
    made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs, _ = train.batch(np.arange(min(4, len(train))))
    folded = copy.deepcopy(made)
    for name, norm_name in norms_behind(folded, inputs).items():
        layer, norm = folded.get_submodule(name), folded.get_submodule(norm_name)
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            folded.set_submodule(name, fuse_conv_bn_eval(layer, norm))
            folded.set_submodule(norm_name, nn.Identity())
    with torch.no_grad():
        wanted, got = first_tensor(call(made, inputs)), first_tensor(call(folded, inputs))
    return folded if torch.allclose(wanted, got, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())) else made


def norms_behind(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the batch normalisation that reads each layer's output as it is, by layer name.

    Left out is what cannot be seen as one layer with its normalisation: outputs that anything else reads (a shortcut,
    another normalisation, the caller), layers and normalisations that are called more than once.
    """
    made: list[tuple[str, object]] = []
    read: list[tuple[str, object]] = []
    readings = _Readings()

    def note(name: str, layer: nn.Module, output: object) -> None:
        if isinstance(layer, nn.Linear) and isinstance(output, Tensor) and output.ndim != 2:
            return  # its channels lie last, those of a normalisation behind the samples
        readings.counts[id(output)] = 0  # it is kept from here on: no other tensor gets its identity
        made.append((name, output))

    hooks = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            hooks.append(
                layer.register_forward_pre_hook(lambda _, given, n=name: read.append((n, next(iter(given), None))))
            )
        elif isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            hooks.append(layer.register_forward_hook(lambda m, _, out, n=name: note(n, m, out)))
    try:
        with torch.no_grad(), readings:
            returned = {id(leaf) for leaf in pytree.tree_leaves(call(module, inputs))}
    finally:
        for hook in hooks:
            hook.remove()
    calls = Counter(name for name, _ in (*made, *read))
    return {
        name: norm
        for name, value in made
        for norm, given in read
        if given is value and readings.counts[id(value)] == 1 and id(value) not in returned
        if calls[name] == calls[norm] == 1
    }


class _Readings(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that read each tensor, by the tensor's identity."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[int] = Counter()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        self.counts.update({id(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)})
        return func(*args, **(kwargs or {}))


def fingerprint(module: nn.Module) -> str:
    """Return the SHA-256 of a module's architecture, as it prints, and of its weights and buffers."""
    digest = hashlib.sha256(f"{type(module).__qualname__}\n{module}".encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(value: Tensor) -> memoryview:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _from_cache(made: nn.Module, cache: WeightCache, name: str) -> bool:
    found = cache.load(name)
    if found is None:
        return False
    own = made.state_dict()
    if {k: v.shape for k, v in found[0].items()} != {k: v.shape for k, v in own.items()}:
        cache.remove(name)
        return False
    made.load_state_dict(found[0])
    return True
