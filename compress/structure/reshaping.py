"""From a decision about structure to a network that has it, with inherited weights, untrained."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from modeltailor.compress.structure.blocks import remove_blocks
from modeltailor.compress.structure.calling import Inputs, named_inputs, output_shapes
from modeltailor.compress.structure.groups import prunable
from modeltailor.compress.structure.heads import find_attention, head_scores, remove_heads
from modeltailor.compress.structure.low_rank import factorize
from modeltailor.compress.structure.pruning_graph import Coupling, PruningGraph
from modeltailor.compress.structure.resolution import reduce_resolution
from modeltailor.compress.structure.scores import channel_scores, figures_for
from modeltailor.compress.structure.shortcuts import rewrite_shortcuts
from modeltailor.compress.structure.sparsity import sparsify
from modeltailor.compress.structure.training_data import TrainingData
from modeltailor.compress.structures import Structure
from modeltailor.errors import CandidateError, ConfigError

__all__ = ["StudentFactory", "kept_channels", "reshape"]

StudentFactory = Callable[[float, float], nn.Module]
"""The user's ``student(width, depth)``: a smaller network with the same inputs and outputs."""


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
    _thin_out(made, inputs, structure, calibration)
    try:
        got = output_shapes(made, inputs)
    except (RuntimeError, ValueError, IndexError, AttributeError) as error:
        raise CandidateError(
            "UNSUPPORTED", ", ".join(g for g, _ in structure.keep) or "structure",
            f"the changed network does not run: {error}", "keep these groups whole",
        ) from error  # fmt: skip
    if got != wanted:
        raise CandidateError("UNSUPPORTED", "structure", f"outputs must keep shape {wanted}; got {got}", "keep more")
    return made


def _thin_out(
    made: nn.Module, inputs: dict[str, Tensor], structure: Structure, calibration: TrainingData | None
) -> None:
    """Ranks, zeros and resolution: what leaves the channels as they are."""
    if structure.ranks:
        factorize(made, dict(structure.ranks), calibration=calibration)
    if structure.sparsity:
        sparsify(
            made, dict(structure.sparsity), pattern=structure.pattern, score=structure.sparsity_score,
            calibration=calibration,
        )  # fmt: skip
    if structure.resolution != 1.0:
        reduce_resolution(made, inputs, structure.resolution)


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
    figures = figures_for(made, structure.score, calibration)
    attentions = {a.name: a for a in find_attention(made, inputs)}
    silent: dict[str, list[int]] = {}
    for name, share in structure.keep:
        if name in attentions:
            scores = head_scores(made, attentions[name], structure.score, figures)
            silent[name] = _weakest(scores, attentions[name].heads - kept_channels(len(scores), share, 1))
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
        scores = channel_scores(made, coupling, structure.score, figures)
        gone = _weakest(scores, coupling.channels - keep, coupling.divisor, coupling.alike)
        plans.append((coupling, gone))
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


def _weakest(scores: Tensor, n: int, divisor: int = 1, alike: int = 1) -> list[int]:
    """Channels to remove: equally many in each of ``divisor`` parts, at the same positions in each of ``alike`` parts.

    Positions that go together are ranked by their mean score.
    """
    parts = scores.view(alike, divisor // alike, -1).mean(0)
    order = torch.argsort(parts, dim=1, stable=True)[:, : n // divisor]
    once = (order + torch.arange(len(parts))[:, None] * parts.shape[1]).flatten()
    return sorted((once + torch.arange(alike)[:, None] * parts.numel()).flatten().tolist())


def _inherit(made: nn.Module, module: nn.Module) -> None:
    """Copy the weights whose names and shapes agree."""
    own, given = made.state_dict(), module.state_dict()
    made.load_state_dict({k: given[k] if k in given and given[k].shape == v.shape else v for k, v in own.items()})
