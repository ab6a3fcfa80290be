"""What of a network is kept, and how the rest learns: channels, blocks, ranks, zeros, resolution, students.

Names are loaded on first use, because they bring PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeltailor.compress.structure.assistants import assistant_structures, n_assistants
    from modeltailor.compress.structure.block_ranking import RankedBlock, rank_blocks, removal_order
    from modeltailor.compress.structure.blocks import removable_blocks
    from modeltailor.compress.structure.cost import LayerCost, count_parameters, layer_costs
    from modeltailor.compress.structure.distillation import Distilled, Task, distill
    from modeltailor.compress.structure.groups import ChannelGroup, channel_groups
    from modeltailor.compress.structure.low_rank import Factorizable, factorizable_layers, factorize
    from modeltailor.compress.structure.onnx_channels import OnnxGroup, Refusal, onnx_groups, prune_onnx
    from modeltailor.compress.structure.onnx_low_rank import factorize_onnx, onnx_factorizable
    from modeltailor.compress.structure.onnx_realization import NEEDS_TRAINING, realize_onnx
    from modeltailor.compress.structure.onnx_sparsity import sparsify_onnx
    from modeltailor.compress.structure.realization import Realized, realize
    from modeltailor.compress.structure.recovery import Recovered, recover
    from modeltailor.compress.structure.reshaping import kept_channels, reshape
    from modeltailor.compress.structure.resolution import reduce_resolution, resolutions
    from modeltailor.compress.structure.sparsity import kept_weights, sparse_layers, sparsify
    from modeltailor.compress.structure.training_data import TrainingData
    from modeltailor.compress.structure.weight_cache import WeightCache

__all__ = [
    "NEEDS_TRAINING",
    "ChannelGroup",
    "Distilled",
    "Factorizable",
    "LayerCost",
    "OnnxGroup",
    "RankedBlock",
    "Realized",
    "Recovered",
    "Refusal",
    "Task",
    "TrainingData",
    "WeightCache",
    "assistant_structures",
    "channel_groups",
    "count_parameters",
    "distill",
    "factorizable_layers",
    "factorize",
    "factorize_onnx",
    "kept_channels",
    "kept_weights",
    "layer_costs",
    "n_assistants",
    "onnx_factorizable",
    "onnx_groups",
    "prune_onnx",
    "rank_blocks",
    "realize",
    "realize_onnx",
    "recover",
    "reduce_resolution",
    "removable_blocks",
    "removal_order",
    "reshape",
    "resolutions",
    "sparse_layers",
    "sparsify",
    "sparsify_onnx",
]

_HOMES = {
    "ChannelGroup": "groups",
    "Distilled": "distillation",
    "Factorizable": "low_rank",
    "LayerCost": "cost",
    "NEEDS_TRAINING": "onnx_realization",
    "OnnxGroup": "onnx_channels",
    "RankedBlock": "block_ranking",
    "Realized": "realization",
    "Recovered": "recovery",
    "Refusal": "onnx_channels",
    "Task": "distillation",
    "TrainingData": "training_data",
    "WeightCache": "weight_cache",
    "assistant_structures": "assistants",
    "channel_groups": "groups",
    "count_parameters": "cost",
    "distill": "distillation",
    "factorizable_layers": "low_rank",
    "factorize": "low_rank",
    "factorize_onnx": "onnx_low_rank",
    "kept_channels": "reshaping",
    "kept_weights": "sparsity",
    "layer_costs": "cost",
    "n_assistants": "assistants",
    "onnx_factorizable": "onnx_low_rank",
    "onnx_groups": "onnx_channels",
    "prune_onnx": "onnx_channels",
    "rank_blocks": "block_ranking",
    "realize": "realization",
    "realize_onnx": "onnx_realization",
    "recover": "recovery",
    "reduce_resolution": "resolution",
    "removable_blocks": "blocks",
    "removal_order": "block_ranking",
    "reshape": "reshaping",
    "resolutions": "resolution",
    "sparse_layers": "sparsity",
    "sparsify": "sparsity",
    "sparsify_onnx": "onnx_sparsity",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
