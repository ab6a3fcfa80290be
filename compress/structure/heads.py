"""Attention heads: taken out whole, because queries, keys, values and the projection behind them must agree.

Which layers form an attention is recognised by their names, and then checked: taking a head out must give what
silencing it gives (Michel et al. 2019, "Are Sixteen Heads Really Better than One?").
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modeltailor.compress.structure.calling import call, first_tensor
from modeltailor.compress.structure.scores import Figures, weight_values
from modeltailor.compress.structures import ChannelScore

__all__ = ["Attention", "find_attention", "head_scores", "remove_heads"]

_COUNTS = ("num_heads", "num_attention_heads", "n_heads")
_WIDTHS = ("attn_dim", "all_head_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One attention whose heads can be removed.

    Attributes:
        name: of the module that holds the projections.
        inputs: the layers that make queries, keys and values; one layer if they are fused, in this order.
        output: the layer that projects the joined heads.
        heads: how many there are.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    heads: int

    @property
    def members(self) -> tuple[str, ...]:
        """All layers that change."""
        return (*self.inputs, self.output)


def find_attention(module: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Attention, ...]:
    """List the attentions whose heads can be removed, in the order of the module.

    Args:
        module: in ``eval`` mode; not changed.
        inputs: one example.
    """
    found = [a for name, part in module.named_modules() if (a := _recognised(module, name, part)) is not None]
    verdicts: dict[type[nn.Module], bool] = {}
    for attention in found:  # one of a kind is enough: the same class computes the same
        kind = type(module.get_submodule(attention.name))
        if kind not in verdicts:
            verdicts[kind] = _removal_is_silence(module, inputs, attention)
    return tuple(a for a in found if verdicts[type(module.get_submodule(a.name))])


def remove_heads(module: nn.Module, attention: Attention, gone: Sequence[int]) -> None:
    """Remove those heads, in place."""
    kept = [h for h in range(attention.heads) if h not in set(gone)]
    part = module.get_submodule(attention.name)
    width = _linear(module, attention.output).in_features
    size = width // attention.heads
    columns = torch.tensor([h * size + i for h in kept for i in range(size)])
    fused = 3 if len(attention.inputs) == 1 else 1
    rows = torch.cat([columns + k * width for k in range(fused)])
    for name in attention.inputs:
        layer = _linear(module, name)
        layer.weight = nn.Parameter(layer.weight.detach()[rows].clone())
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.detach()[rows].clone())
        layer.out_features = len(rows)
    output = _linear(module, attention.output)
    output.weight = nn.Parameter(output.weight.detach()[:, columns].clone())
    output.in_features = len(columns)
    for names, value in ((_COUNTS, len(kept)), (_WIDTHS, len(columns))):
        for name in names:
            if isinstance(getattr(part, name, None), int):
                setattr(part, name, value)


def head_scores(
    module: nn.Module, attention: Attention, score: ChannelScore = "magnitude", figures: Figures | None = None
) -> Tensor:
    """Score the heads as :func:`modeltailor.compress.structure.scores.channel_scores` scores channels.

    Args:
        module: what the attention belongs to.
        attention: the attention.
        score: which; there are no normalisations inside, so ``bn-scale`` means ``magnitude``.
        figures: from :func:`modeltailor.compress.structure.scores.figures_for`.

    Returns:
        float32 [heads].
    """
    total = torch.zeros(attention.heads)
    for name in attention.members:
        weight = _linear(module, name).weight.detach()
        value = weight_values(name, weight, score, figures)
        axis = 1 if name == attention.output else 0
        if score == "activation" and figures is not None:
            if axis == 0:
                continue
            value = value * figures.energies[name]
        per_entry = value.sum(1 - axis).view(-1, attention.heads, weight.shape[axis] // attention.heads)
        if name in attention.inputs and len(attention.inputs) == 1:
            per_entry = value.sum(1).view(3, attention.heads, -1)
        part = per_entry.sum((0, 2))
        total += part / part.mean().clamp_min(1e-12) if score in ("magnitude", "bn-scale") else part.abs()
    return total


def _recognised(module: nn.Module, name: str, part: nn.Module) -> Attention | None:
    heads = next((v for n in _COUNTS if isinstance(v := getattr(part, n, None), int)), 0)
    if heads < 2 or not name:
        return None
    found: tuple[str, ...] = ()
    for names in (("qkv",), ("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q_lin", "k_lin", "v_lin")):
        if all(isinstance(getattr(part, n, None), nn.Linear) for n in names):
            found = tuple(f"{name}.{n}" for n in names)
            break
    outputs = [f"{name}.{n}" for n in ("proj", "out_proj", "o_proj", "out_lin")]
    outputs.append(f"{name.rpartition('.')[0]}.output.dense")
    output = next((o for o in outputs if isinstance(_maybe(module, o), nn.Linear)), None)
    if not found or output is None:
        return None
    widths = {_linear(module, n).out_features for n in found}
    width = _linear(module, output).in_features
    if widths != {width * (3 if len(found) == 1 else 1)} or width % heads:
        return None  # grouped queries, or a layout that is not known
    return Attention(name=name, inputs=found, output=output, heads=heads)


def _removal_is_silence(module: nn.Module, inputs: Mapping[str, Tensor], attention: Attention) -> bool:
    silent, without = copy.deepcopy(module), copy.deepcopy(module)
    output = _linear(silent, attention.output)
    with torch.no_grad():
        output.weight[:, : output.in_features // attention.heads] = 0
        remove_heads(without, attention, (0,))
        try:
            wanted, got = first_tensor(call(silent, inputs)), first_tensor(call(without, inputs))
        except Exception:  # an attention that keeps its number of heads elsewhere too raises whatever it meets first
            return False
    return wanted.shape == got.shape and torch.allclose(wanted, got, rtol=1e-3, atol=1e-4)


def _maybe(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def _linear(module: nn.Module, name: str) -> nn.Linear:
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer
