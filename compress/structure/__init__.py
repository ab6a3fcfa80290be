"""What of a network is kept, and how the rest learns: channels, blocks, students.

Names are loaded on first use, because they bring PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeltailor.compress.structure.block_ranking import RankedBlock, rank_blocks, removal_order
    from modeltailor.compress.structure.blocks import removable_blocks
    from modeltailor.compress.structure.cost import LayerCost, count_parameters, layer_costs
    from modeltailor.compress.structure.distillation import Distilled, Task, distill
    from modeltailor.compress.structure.groups import ChannelGroup, channel_groups
    from modeltailor.compress.structure.realization import Realized, kept_channels, realize, reshape
    from modeltailor.compress.structure.recovery import Recovered, recover
    from modeltailor.compress.structure.training_data import TrainingData
    from modeltailor.compress.structure.weight_cache import WeightCache

__all__ = [
    "ChannelGroup",
    "Distilled",
    "LayerCost",
    "RankedBlock",
    "Realized",
    "Recovered",
    "Task",
    "TrainingData",
    "WeightCache",
    "channel_groups",
    "count_parameters",
    "distill",
    "kept_channels",
    "layer_costs",
    "rank_blocks",
    "realize",
    "recover",
    "removable_blocks",
    "removal_order",
    "reshape",
]

_HOMES = {
    "ChannelGroup": "groups",
    "Distilled": "distillation",
    "LayerCost": "cost",
    "RankedBlock": "block_ranking",
    "Realized": "realization",
    "Recovered": "recovery",
    "Task": "distillation",
    "TrainingData": "training_data",
    "WeightCache": "weight_cache",
    "channel_groups": "groups",
    "count_parameters": "cost",
    "distill": "distillation",
    "layer_costs": "cost",
    "kept_channels": "realization",
    "rank_blocks": "block_ranking",
    "realize": "realization",
    "recover": "recovery",
    "removable_blocks": "blocks",
    "removal_order": "block_ranking",
    "reshape": "realization",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
