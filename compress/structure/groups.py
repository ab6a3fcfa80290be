"""Channel groups: the sets of channels whose number can be decided on."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from modeltailor.compress.structure.calling import Inputs, named_inputs
from modeltailor.compress.structure.cost import layer_costs
from modeltailor.compress.structure.pruning_graph import Coupling, PruningGraph
from modeltailor.compress.structure.shortcuts import rewrite_shortcuts

__all__ = ["ChannelGroup", "channel_groups"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGroup:
    """Channels that can only be removed together.

    Attributes:
        name: the first layer, in the order of the module, that produces these channels; stable for a given module.
        channels: how many there are.
        members: names of all layers that change when one of them goes.
        producers: the members whose outputs they are.
        coupled: several layers produce them (they meet in a residual add).
        divisor: the number kept must be a multiple of it (grouped convolutions).
        macs_share: share of the model's multiply-accumulate operations that lies in the members, 0..1.
    """

    name: str
    channels: int
    members: tuple[str, ...]
    producers: tuple[str, ...]
    coupled: bool
    divisor: int
    macs_share: float


def channel_groups(module: nn.Module, example_inputs: Inputs) -> tuple[ChannelGroup, ...]:
    """List the channel groups of a module; those that reach its output are left out.

    Args:
        module: not changed.
        example_inputs: one example.

    Raises:
        CandidateError: the module cannot be traced.
    """
    copied = copy.deepcopy(module).eval()
    inputs = named_inputs(copied, example_inputs)
    macs = {c.name: c.macs for c in layer_costs(copied, inputs)}
    rewrite_shortcuts(copied, inputs)
    total = max(1, sum(macs.values()))
    return tuple(
        ChannelGroup(
            name=found.root,
            channels=found.channels,
            members=tuple(dict.fromkeys(m.name for m in found.members)),
            producers=found.producers,
            coupled=len(set(found.producers)) > 1,
            divisor=found.divisor,
            macs_share=sum(macs.get(n, 0) for n in {m.name for m in found.members}) / total,
        )
        for found in prunable(PruningGraph(copied, inputs))
    )


def prunable(graph: PruningGraph) -> tuple[Coupling, ...]:
    """The couplings that do not reach the output and have a channel to spare."""
    return tuple(c for c in graph.couplings() if not c.reaches_output and c.channels > c.divisor)
