"""Low-rank factorization: one layer becomes two thin ones.

Singular value decomposition of the weight, after whitening by the covariance of what enters the layer, so that the
truncated part is the one that changes the *outputs* least (Wang et al. 2024, "SVD-LLM", arXiv:2403.07378; Yuan et al.
2023, "ASVD", arXiv:2312.05821). Convolutions are cut between the kernel and the output channels: a ``kernel x kernel``
convolution to ``rank`` channels and a 1x1 convolution behind it (Zhang et al. 2015, arXiv:1505.06798).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from modeltailor.compress.structure.calling import Inputs, named_inputs
from modeltailor.compress.structure.cost import layer_costs
from modeltailor.compress.structure.moments import damped, input_moments, weight_rows
from modeltailor.compress.structure.training_data import TrainingData
from modeltailor.errors import CandidateError

__all__ = ["Factorizable", "factorizable_layers", "factorize"]

_SMALLEST_RANK = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Factorizable:
    """A layer that can become two.

    Attributes:
        name: of the layer.
        full_rank: the smaller side of its weight.
        largest_rank: the largest rank that still saves parameters and multiply-accumulates.
        macs_share: share of the model's multiply-accumulate operations, 0..1.
    """

    name: str
    full_rank: int
    largest_rank: int
    macs_share: float

    def rank(self, share: float) -> int:
        """Return the largest rank at which the two layers cost at most about that share of the one, at least 1."""
        return max(1, min(self.largest_rank, int(share * (self.largest_rank + 1))))


def factorizable_layers(module: nn.Module, example_inputs: Inputs) -> tuple[Factorizable, ...]:
    """List the linear layers and ungrouped convolutions that a lower rank makes cheaper, in the order of execution.

    Args:
        module: not changed.
        example_inputs: one example.
    """
    costs = layer_costs(copy.deepcopy(module).eval(), named_inputs(module, example_inputs))
    total = max(1, sum(c.macs for c in costs))
    found = []
    for cost in costs:
        layer = module.get_submodule(cost.name)
        largest = 0 if _is_read_past_its_forward(module, cost.name) else _largest_rank(layer)
        if largest >= _SMALLEST_RANK:
            rows = weight_rows(layer)
            assert rows is not None
            found.append(
                Factorizable(
                    name=cost.name, full_rank=min(rows.shape[1:]), largest_rank=largest, macs_share=cost.macs / total
                )
            )
    return tuple(found)


def factorize(module: nn.Module, ranks: Mapping[str, int], *, calibration: TrainingData | None = None) -> None:
    """Replace layers, in place, by ``Sequential(thin, wide)`` of the given rank.

    Args:
        module: in ``eval`` mode; changed in place.
        ranks: rank by layer name.
        calibration: what enters the layers is read off here; without it the weight alone is approximated.

    Raises:
        CandidateError: a layer is unknown, cannot be factorized, or that rank saves nothing.
    """
    for name, rank in ranks.items():
        _check(module, name, rank)
    moments = dict(input_moments(module, calibration, list(ranks))) if calibration is not None else {}
    for name, rank in ranks.items():
        layer = module.get_submodule(name)
        rows = weight_rows(layer)
        assert rows is not None
        left, right = factors(rows[0], rank, moments[name][0] if name in moments else None)
        module.set_submodule(name, _two_layers(layer, left, right))


def factors(weight: Tensor, rank: int, moment: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return ``A [out, rank]`` and ``B [rank, K]`` of the smallest mean squared output error ``(A B - W) x``.

    Args:
        weight: [out, K].
        rank: at most ``min(out, K)``.
        moment: ``E[x x^T]``, [K, K]; ``None`` counts all inputs alike.
    """
    wide = weight.double()
    white = torch.eye(wide.shape[1], dtype=wide.dtype) if moment is None else torch.linalg.cholesky(damped(moment))
    u, values, vt = torch.linalg.svd(wide @ white, full_matrices=False)
    root = values[:rank].sqrt()
    left = u[:, :rank] * root
    right = torch.linalg.solve_triangular(white, root[:, None] * vt[:rank], upper=False, left=False)
    return left.float(), right.float()


def _largest_rank(layer: nn.Module) -> int:
    """The largest rank that saves something; 0 if none does or the layer has no low-rank form."""
    rows = weight_rows(layer)
    if rows is None or rows.shape[0] != 1 or type(layer) not in (nn.Linear, nn.Conv1d, nn.Conv2d):
        return 0
    out, inputs = rows.shape[1:]
    return int((out * inputs - 1) // (out + inputs))


def _is_read_past_its_forward(module: nn.Module, name: str) -> bool:
    """Whether the parent computes with the weight itself: PyTorch's transformer layers do when nothing learns."""
    parent, _, own = name.rpartition(".")
    return own in ("linear1", "linear2") and isinstance(module.get_submodule(parent), nn.TransformerEncoderLayer)


def _check(module: nn.Module, name: str, rank: int) -> None:
    try:
        layer = module.get_submodule(name)
    except AttributeError:
        raise CandidateError("UNSUPPORTED", name, "is no layer of this network", "list factorizable_layers()") from None
    if _is_read_past_its_forward(module, name):
        raise CandidateError("UNSUPPORTED", name, "the layer around it reads its weight as it is", "leave it whole")
    largest = _largest_rank(layer)
    if not largest:
        raise CandidateError("UNSUPPORTED", name, f"a {type(layer).__name__} has no low-rank form", "leave it whole")
    if rank > largest:
        raise CandidateError("UNSUPPORTED", name, f"only ranks up to {largest} save something; got {rank}", "lower it")


def _two_layers(layer: nn.Module, left: Tensor, right: Tensor) -> nn.Sequential:
    rank = len(right)
    bias = layer.bias
    has_bias = isinstance(bias, Tensor)
    make: Callable[..., nn.Module] = skip_init  # draws nothing from the global random state
    if isinstance(layer, nn.Linear):
        thin = make(nn.Linear, layer.in_features, rank, bias=False)
        wide = make(nn.Linear, rank, layer.out_features, bias=has_bias)
    else:
        assert isinstance(layer, nn.Conv1d | nn.Conv2d)
        shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        thin = make(type(layer), layer.in_channels, rank, *shape, bias=False)
        wide = make(type(layer), rank, layer.out_channels, 1, bias=has_bias)
    with torch.no_grad():
        _fill(thin.weight, right)
        _fill(wide.weight, left)
        if isinstance(bias, Tensor):
            _fill(wide.bias, bias)
    return nn.Sequential(thin, wide).train(layer.training)


def _fill(parameter: Tensor | nn.Module, value: Tensor) -> None:
    assert isinstance(parameter, Tensor)
    parameter.copy_(value.reshape(parameter.shape))
