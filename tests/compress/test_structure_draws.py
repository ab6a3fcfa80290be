"""What a network draws while it learns: nothing by dropout, and by its step alone where it draws by itself."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeltailor.compress import Training
from modeltailor.compress.structure import TrainingData, WeightCache, distill
from modeltailor.compress.structure.distillation import Checkpoint

TRAINING = Training(epochs=1, batch_size=8, learning_rate=0.01, ema=0.9, optimizer="sgd")


class Killed(Exception):
    pass


class Depth(nn.Module):
    """Stochastic depth as many models write it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x + self.layer(x)
        kept = torch.rand(len(x), *[1] * (x.ndim - 1)) < 0.5
        return x + kept * self.layer(x)


class Attending(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, dropout=dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Recurring(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layers = nn.GRU(6, 6, num_layers=2, dropout=dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)[0]


class Attention(nn.Module):
    """Reads the number of its dropout itself, whatever mode that is in, as attentions of transformers do."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=self.dropout.p if self.training else 0.0)


def data() -> TrainingData:
    return TrainingData(inputs={"x": np.random.default_rng(0).normal(size=(80, 4, 6)).astype(np.float32)})


def network(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 6), *copy.deepcopy(layers), nn.Linear(6, 6))
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


TEACHER = network().eval()


def learned(student: nn.Module, **more: object) -> nn.Module:
    distill(student, TEACHER, data(), TRAINING, task="regression", **more)  # type: ignore[arg-type]
    return student


def alike(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("dropping", "plain"),
    [
        (nn.Dropout(0.5), nn.Identity()),
        (nn.Dropout1d(0.5), nn.Identity()),
        (nn.AlphaDropout(0.5), nn.Identity()),
        (nn.FeatureAlphaDropout(0.5), nn.Identity()),
        (Attending(0.5), Attending(0.0)),
        (Recurring(0.5), Recurring(0.0)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_no_kind_of_dropout_is_on(dropping: nn.Module, plain: nn.Module) -> None:
    student = network(dropping)
    shown = str(student)
    assert alike(learned(student), learned(network(plain)))
    assert str(student) == shown
    assert [m.dropout for m in student.modules() if isinstance(getattr(m, "dropout", None), float)] == [
        m.dropout for m in dropping.modules() if isinstance(getattr(m, "dropout", None), float)
    ]


def test_draws_of_a_network_follow_from_the_step_and_move_nothing_else(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    student = network(Depth())
    torch.random.set_rng_state(state)
    whole = learned(student)
    assert torch.equal(torch.random.get_rng_state(), state)

    def kill(position: float) -> None:
        if position > 0.5:
            raise Killed

    checkpoint = Checkpoint(cache=WeightCache(folder=tmp_path), name="x.checkpoint")
    stopped = network(Depth())
    torch.manual_seed(2)
    with pytest.raises(Killed):
        learned(stopped, checkpoint=checkpoint, progress=kill)
    resumed = network(Depth())
    torch.manual_seed(3)
    assert alike(learned(resumed, checkpoint=checkpoint), whole)
    seeds = [distilled_with(seed) for seed in (0, 1)]
    assert not alike(*seeds)


def distilled_with(seed: int) -> nn.Module:
    student = network(Depth())
    one = Training(epochs=0.1, batch_size=80, learning_rate=0.01, ema=0.0, seed=seed, optimizer="sgd")
    distill(student, TEACHER, data(), one, task="regression")
    return student


def test_steps_draw_differently() -> None:
    seen: list[Tensor] = []

    class Noted(Depth):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(torch.rand(4))
            return super().forward(x)

    learned(network(Noted()))
    assert len(seen) == 10
    assert len({tuple(s.tolist()) for s in seen}) == 10


def test_a_dropout_whose_number_is_read_by_another_module_is_off_and_comes_back() -> None:
    without, with_it = (learned(network(Attention(p))) for p in (0.0, 0.5))
    assert alike(without, with_it)
    assert next(m for m in with_it.modules() if isinstance(m, nn.Dropout)).p == 0.5
