"""From a decision about structure to a network that has it: cut, inherit, learn again; trained once, used often."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from modeltailor.canonical import content_key
from modeltailor.compress.structure.blocks import remove_blocks
from modeltailor.compress.structure.calling import Inputs, named_inputs, output_shapes
from modeltailor.compress.structure.cost import count_parameters, layer_costs
from modeltailor.compress.structure.distillation import Task
from modeltailor.compress.structure.groups import prunable
from modeltailor.compress.structure.heads import find_attention, head_scores, remove_heads
from modeltailor.compress.structure.learning import fingerprint, learn_once
from modeltailor.compress.structure.pruning_graph import Coupling, PruningGraph
from modeltailor.compress.structure.scores import channel_scores, gradients
from modeltailor.compress.structure.shortcuts import rewrite_shortcuts
from modeltailor.compress.structure.training_data import TrainingData
from modeltailor.compress.vocabulary import Structure
from modeltailor.errors import CandidateError, ConfigError

__all__ = ["Realized", "StudentFactory", "kept_channels", "realize", "reshape"]

StudentFactory = Callable[[float, float], nn.Module]
"""The user's ``student(width, depth)``: a smaller network with the same inputs and outputs."""

_SCORE_ROWS = 256


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
        seconds: wall-clock time of the whole call.
    """

    module: nn.Module
    parameters: int
    macs: int
    key: str
    trained: bool
    from_cache: bool
    seconds: float


def kept_channels(channels: int, share: float, multiple: int, divisor: int = 1) -> int:
    """Return how many of ``channels`` stay: the nearest multiple, at least one multiple; or all, if that is nearer.

    Groups smaller than a multiple are cut to multiples of ``divisor`` instead.
    """
    step = math.lcm(multiple, divisor)
    if step >= channels:
        step = divisor
    wanted = share * channels
    nearest = max(step, math.floor(wanted / step + 0.5) * step)
    return channels if nearest > channels or channels - wanted < abs(nearest - wanted) else nearest


def realize(
    structure: Structure,
    module: nn.Module,
    *,
    example_inputs: Inputs,
    train: TrainingData | None = None,
    calibration: TrainingData | None = None,
    cache_dir: Path | None = None,
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
        calibration: batches for the ``taylor`` score.
        cache_dir: trained weights and checkpoints lie here; ``None`` keeps nothing.
        seed: of shuffling and augmentation, mixed with the schedule's own.
        multiple: kept channels are rounded to it.
        task: what the output means; guessed from labels and output if ``None``.
        student: builds a smaller network, for ``width`` or ``depth`` below 1.
        progress: called with 0..1 while it learns.
        deadline_s: seconds that learning may take; a schedule that was cut short is not kept in the cache.

    Raises:
        CandidateError: a group or block is unknown, cannot be removed, or the result does not keep the output's shape.
        ConfigError: width or depth are asked for without ``student``.
    """
    started = time.monotonic()
    inputs = named_inputs(module, example_inputs)
    made = reshape(structure, module, inputs, multiple=multiple, calibration=calibration, student=student)
    training = structure.training
    learns = training is not None and training.epochs > 0 and train is not None and not structure.is_original
    key = _key(structure, module, inputs, train if learns else None, calibration, seed, multiple, task)
    from_cache = False
    if learns:
        assert training is not None
        assert train is not None
        from_cache = learn_once(
            made, module, train, dataclasses.replace(training, seed=training.seed * 1_000_003 + seed), key=key,
            cache_dir=cache_dir, task=task, progress=progress, deadline_s=deadline_s,
        )  # fmt: skip
    return Realized(
        module=made,
        parameters=count_parameters(made),
        macs=sum(c.macs for c in layer_costs(made, inputs)),
        key=key,
        trained=learns,
        from_cache=from_cache,
        seconds=time.monotonic() - started,
    )


def reshape(
    structure: Structure,
    module: nn.Module,
    example_inputs: Inputs,
    *,
    multiple: int = 8,
    calibration: TrainingData | None = None,
    student: StudentFactory | None = None,
) -> nn.Module:
    """Return a copy of ``module`` with that structure and inherited weights, untrained.

    Raises:
        CandidateError, ConfigError: as :func:`realize`.
    """
    inputs = named_inputs(module, example_inputs)
    wanted = output_shapes(copy.deepcopy(module).eval(), inputs)
    if structure.width != 1.0 or structure.depth != 1.0:
        if student is None:
            raise ConfigError(
                "CFG-11", "structure", "width and depth need a student function", "name student(width, depth)"
            )
        made = student(structure.width, structure.depth)
        _inherit(made, module)
    else:
        made = copy.deepcopy(module)
    made.eval()
    producers = _producers(made, inputs) if structure.keep and structure.removed else {}
    if structure.removed:
        remove_blocks(made, inputs, structure.removed)
    if structure.keep:
        _remove_channels(made, inputs, structure, producers, multiple, calibration)
    try:
        got = output_shapes(made, inputs)
    except (RuntimeError, ValueError, IndexError) as error:
        raise CandidateError(
            "UNSUPPORTED", ", ".join(g for g, _ in structure.keep) or "structure",
            f"the changed network does not run: {error}", "keep these groups whole",
        ) from error  # fmt: skip
    if got != wanted:
        raise CandidateError("UNSUPPORTED", "structure", f"outputs must keep shape {wanted}; got {got}", "keep more")
    return made


def _producers(made: nn.Module, inputs: dict[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """The layers behind each group, before blocks go."""
    copied = copy.deepcopy(made)
    rewrite_shortcuts(copied, inputs)
    return {
        **{c.root: c.producers for c in prunable(PruningGraph(copied, inputs))},
        **{a.name: a.inputs for a in find_attention(copied, inputs)},
    }


def _remove_channels(
    made: nn.Module,
    inputs: dict[str, Tensor],
    structure: Structure,
    producers: dict[str, tuple[str, ...]],
    multiple: int,
    calibration: TrainingData | None,
) -> None:
    replaced = rewrite_shortcuts(made, inputs)
    before = {name: _shape(made, name) for name in replaced}
    slopes: dict[str, Tensor] | None = None
    if structure.score == "taylor":
        if calibration is None:
            raise ConfigError("CFG-11", "structure.score", "taylor needs calibration data", "give it, or use magnitude")
        rows = torch.arange(min(_SCORE_ROWS, len(calibration))).numpy()
        slopes = gradients(made, *calibration.batch(rows))
    attentions = {a.name: a for a in find_attention(made, inputs)}
    silent: dict[str, list[int]] = {}
    for name, share in structure.keep:
        if name in attentions:
            scores = head_scores(made, attentions[name], slopes)
            silent[name] = _weakest(scores, attentions[name].heads - kept_channels(len(scores), share, 1), 1)
    graph = PruningGraph(made, inputs)
    couplings = prunable(graph)
    plans: list[tuple[Coupling, list[int]]] = []
    for name, share in structure.keep:
        if name in attentions:
            continue
        coupling = _coupling(couplings, name, producers)
        if coupling is None:
            continue  # it went with its block
        keep = kept_channels(coupling.channels, share, multiple, coupling.divisor)
        scores = channel_scores(made, coupling, structure.score, slopes)
        plans.append((coupling, _weakest(scores, coupling.channels - keep, coupling.divisor)))
    for coupling, gone in plans:
        if gone:
            graph.remove(coupling, gone)
    for name, heads in silent.items():
        remove_heads(made, attentions[name], heads)
    for name, original in replaced.items():
        if _shape(made, name) == before[name]:
            made.set_submodule(name, original)  # untouched: the shortcut without weights is cheaper


def _coupling(couplings: tuple[Coupling, ...], name: str, producers: dict[str, tuple[str, ...]]) -> Coupling | None:
    """The coupling of that name; if its first layer went with a block, the one that shares a layer with it.

    Raises:
        CandidateError: the original network has no such group.
    """
    exact = next((c for c in couplings if c.root == name), None)
    if exact is not None:
        return exact
    if name not in producers:
        raise CandidateError("UNSUPPORTED", name, "is not a channel group of this model", "list channel_groups()")
    return next((c for c in couplings if set(c.producers) & set(producers[name])), None)


def _shape(module: nn.Module, name: str) -> tuple[int, ...]:
    return tuple(module.get_parameter(f"{name}.weight").shape)


def _weakest(scores: Tensor, n: int, divisor: int) -> list[int]:
    """Channels to remove, equally many in each part of a grouped convolution."""
    parts = scores.view(divisor, -1)
    order = torch.argsort(parts, dim=1, stable=True)[:, : n // divisor]
    return sorted((order + torch.arange(divisor)[:, None] * parts.shape[1]).flatten().tolist())


def _inherit(made: nn.Module, module: nn.Module) -> None:
    """Copy the weights whose names and shapes agree."""
    own, given = made.state_dict(), module.state_dict()
    made.load_state_dict({k: given[k] if k in given and given[k].shape == v.shape else v for k, v in own.items()})


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
    scored = calibration if structure.score == "taylor" and structure.keep else None
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
            "version": 1,
        },
        32,
    )
