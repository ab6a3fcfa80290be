from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from modeltailor.compress import Structure
from modeltailor.compress.structure import channel_groups, removable_blocks, reshape


class Fused(nn.Module):
    """Attention with fused projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = heads, width // heads, width
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(n, t, self.attn_dim))


class Split(nn.Module):
    """Attention with separate projections whose sizes follow from the weights."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_attention_heads, self.size = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], -1, self.size).transpose(1, 2) for f in (self.query, self.key, self.value))
        return self.out_proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Fixed(Fused):
    """Attention that knows its number of heads by heart: cannot be cut."""

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 32))


class Layer(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.attn = attention
        self.fc1, self.fc2 = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(10, 32)
        self.layers = nn.ModuleList(Layer(kind(32, 4)) for _ in range(2))
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(2, 5, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [Fused, Split])
def test_heads_and_widths_are_groups(kind: type[nn.Module], tokens: Tensor) -> None:
    module = Transformer(kind).eval()
    groups = {g.name: g for g in channel_groups(module, tokens)}
    assert [n for n, g in groups.items() if g.kind == "heads"] == ["layers.0.attn", "layers.1.attn"]
    assert groups["layers.0.attn"].channels == 4
    assert {"embed", "layers.0.fc1", "layers.1.fc1"} <= set(groups)
    assert not any(".qkv" in n or ".query" in n or ".value" in n for n in groups)
    assert removable_blocks(module, tokens) == ("layers.0", "layers.1")

    keep = tuple((n, 0.5) for n in groups)
    made = reshape(Structure(keep=keep), module, tokens)
    assert made.layers[0].attn.get_submodule("qkv" if kind is Fused else "query").in_features == 16
    assert made.layers[0].fc1.out_features == 32
    assert made(tokens).shape == (2, 3)


@pytest.mark.parametrize("kind", [Fused, Split])
@pytest.mark.parametrize("score", ["magnitude", "taylor", "fisher", "activation"])
def test_silent_heads_go_without_changing_the_function(kind: type[nn.Module], score: str, tokens: Tensor) -> None:
    from modeltailor.compress.structure import TrainingData

    module = Transformer(kind).eval()
    output = module.layers[1].attn.get_submodule("proj" if kind is Fused else "out_proj")
    inputs = [
        module.layers[1].attn.get_submodule(n) for n in (("qkv",) if kind is Fused else ("query", "key", "value"))
    ]
    with torch.no_grad():
        for head in (0, 2):
            output.weight[:, head * 8 : head * 8 + 8] = 0
            for layer in inputs:
                layer.weight.view(-1, 4, 8, 32)[:, head] *= 0.01
    calibration = TrainingData(inputs={"x": tokens.numpy()})
    structure = Structure(keep=(("layers.1.attn", 0.5),), score=score)  # type: ignore[arg-type]
    made = reshape(structure, module, tokens, calibration=calibration)
    assert output.in_features == 32
    assert made.layers[1].attn.get_submodule("proj" if kind is Fused else "out_proj").in_features == 16
    assert torch.allclose(made(tokens), module(tokens), atol=1e-5)


def test_attention_that_cannot_be_cut_is_left_out(tokens: Tensor) -> None:
    names = {g.name for g in channel_groups(Transformer(Fixed).eval(), tokens)}
    assert not any(".attn" in n for n in names)
    assert {"layers.0.fc1", "layers.1.fc1"} <= names


def test_what_a_module_remembers_of_the_traced_pass_is_forgotten(tokens: Tensor) -> None:
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.bias = nn.Linear(10, 16), nn.Linear(16, 3), nn.Parameter(torch.zeros(3))
            self.known: dict[str, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            if "bias" not in self.known:
                self.known["bias"] = self.bias * 2
            return self.second(torch.relu(self.first(x))) + self.known["bias"]

    groups = channel_groups(Remembering(), tokens)
    assert [g.name for g in groups] == ["first"]
    made = reshape(Structure(keep=(("first", 0.5),)), Remembering(), tokens)
    assert copy.deepcopy(made)(tokens).shape == (2, 5, 3)
