"""Channel groups: the sets of channels, and of attention heads, whose number can be decided on."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modeltailor.compress.structure.calling import Inputs, named_inputs, output_shapes
from modeltailor.compress.structure.cost import layer_costs
from modeltailor.compress.structure.heads import find_attention
from modeltailor.compress.structure.pruning_graph import Coupling, PruningGraph
from modeltailor.compress.structure.shortcuts import rewrite_shortcuts
from modeltailor.errors import CandidateError

__all__ = ["ChannelGroup", "channel_groups", "prunable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGroup:
    """Channels that can only be removed together.

    Attributes:
        name: the first layer, in the order of the module, that produces these channels (of heads: the attention);
            stable for a given module.
        channels: how many there are.
        members: names of all layers that change when one of them goes.
        producers: the members whose outputs they are.
        coupled: several layers produce them (they meet in a residual add).
        divisor: the number kept must be a multiple of it (grouped convolutions, group normalisation).
        macs_share: share of the model's multiply-accumulate operations that lies in the members, 0..1.
        kind: ``channels``, or ``heads`` of an attention: one head is one channel here.
    """

    name: str
    channels: int
    members: tuple[str, ...]
    producers: tuple[str, ...]
    coupled: bool
    divisor: int
    macs_share: float
    kind: Literal["channels", "heads"] = "channels"


def channel_groups(module: nn.Module, example_inputs: Inputs) -> tuple[ChannelGroup, ...]:
    """List the groups of a module. Left out is what reaches its output, and what was tried and does not run when cut.

    Args:
        module: not changed.
        example_inputs: one example.

    Raises:
        CandidateError: the module cannot be traced.
    """
    copied = copy.deepcopy(module).eval()
    inputs = named_inputs(copied, example_inputs)
    macs = {c.name: c.macs for c in layer_costs(copied, inputs)}
    total = max(1, sum(macs.values()))
    attentions = find_attention(copied, inputs)
    rewrite_shortcuts(copied, inputs)
    inside = {n for a in attentions for n in a.inputs}
    couplings = [c for c in prunable(PruningGraph(copied, inputs)) if not inside & set(c.producers)]
    position = {name: k for k, (name, _) in enumerate(module.named_modules())}
    found = [
        ChannelGroup(
            name=c.root,
            channels=c.channels,
            members=tuple(dict.fromkeys(m.name for m in c.members)),
            producers=c.producers,
            coupled=len(set(c.producers)) > 1,
            divisor=c.divisor,
            macs_share=sum(macs.get(n, 0) for n in {m.name for m in c.members}) / total,
        )
        for c in _that_run(copied, inputs, couplings)
    ] + [
        ChannelGroup(
            name=a.name,
            channels=a.heads,
            members=a.members,
            producers=a.inputs,
            coupled=False,
            divisor=1,
            macs_share=sum(macs.get(n, 0) for n in a.members) / total,
            kind="heads",
        )
        for a in attentions
    ]
    return tuple(sorted(found, key=lambda g: position[g.name]))


def prunable(graph: PruningGraph) -> tuple[Coupling, ...]:
    """The couplings that do not reach the output and have a channel to spare."""
    return tuple(c for c in graph.couplings() if not c.reaches_output and c.channels > c.divisor)


def _that_run(module: nn.Module, inputs: Mapping[str, Tensor], couplings: Sequence[Coupling]) -> list[Coupling]:
    """Cut all groups at once; if the result does not run, cut one of each kind alone and keep the kinds that run.

    Models reshape by numbers that no graph shows (windows, heads, shuffles): only running tells.
    """
    if not couplings or _runs(module, inputs, couplings):
        return list(couplings)
    verdicts: dict[tuple[str, int], bool] = {}
    for coupling in couplings:
        kind = _kind(coupling)
        if kind not in verdicts:
            verdicts[kind] = _runs(module, inputs, (coupling,))
    return [c for c in couplings if verdicts[_kind(c)]]


def _kind(coupling: Coupling) -> tuple[str, int]:
    return re.sub(r"\d+", "#", coupling.root), len(coupling.members)


def _runs(module: nn.Module, inputs: Mapping[str, Tensor], couplings: Sequence[Coupling]) -> bool:
    copied = copy.deepcopy(module)
    wanted = output_shapes(copied, inputs)
    try:
        graph = PruningGraph(copied, inputs)
        for coupling in couplings:
            part = coupling.channels // coupling.divisor
            gone = [k * part + i for k in range(coupling.divisor) for i in range(max(1, part // 2))]
            graph.remove(coupling, gone)
        with torch.no_grad():
            return output_shapes(copied, inputs) == wanted
    except (CandidateError, RuntimeError, ValueError, IndexError, AssertionError):
        return False
