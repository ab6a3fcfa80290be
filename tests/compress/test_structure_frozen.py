"""Networks whose parameters do not all learn by themselves: frozen ones, and weights under two names."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeltailor.compress import Format, Structure, Training
from modeltailor.compress.structure import TrainingData, WeightCache, channel_groups, distill, realize, recover, reshape
from modeltailor.compress.structures import ChannelScore

EXAMPLE = torch.zeros(1, 6)


class Net(nn.Module):
    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 16)
        self.third, self.head = nn.Linear(16, 16), nn.Linear(16, 3)
        if tied:
            self.third.weight = self.second.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.head(torch.tanh(self.third(x)))


def data(rows: int = 200) -> TrainingData:
    return TrainingData(inputs={"x": np.random.default_rng(0).normal(size=(rows, 6)).astype(np.float32)})


TRAINING = Training(epochs=2, batch_size=20, learning_rate=0.02)


def frozen(*names: str) -> Net:
    made = Net()
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(not name.startswith(names))
    return made


def test_weights_under_two_names_are_stored_and_stay_one(tmp_path: Path) -> None:
    cache, net = WeightCache(folder=tmp_path), Net(tied=True)
    cache.store("x", net.state_dict(), {"step": "3"})
    found = cache.load("x")
    assert found is not None
    assert found[1] == {"step": "3"}
    assert {k: v.shape for k, v in found[0].items()} == {k: v.shape for k, v in net.state_dict().items()}
    again = Net(tied=True)
    with torch.no_grad():
        again.second.weight.zero_()
    again.load_state_dict(found[0])
    assert again.third.weight is again.second.weight
    assert torch.equal(again.second.weight, net.second.weight)


def test_a_view_of_what_is_stored_is_stored_with_its_own_values(tmp_path: Path) -> None:
    cache, whole = WeightCache(folder=tmp_path), torch.arange(12.0).view(3, 4)
    cache.store("x", {"whole": whole, "row": whole[1], "turned": whole.T}, {})
    found = cache.load("x")
    assert found is not None
    for name, value in (("whole", whole), ("row", whole[1]), ("turned", whole.T)):
        assert torch.equal(found[0][name], value)


def test_networks_with_tied_weights_learn_and_recover(tmp_path: Path) -> None:
    whole = Net(tied=True).eval()
    structure = Structure(ranks=(("head", 2),), training=TRAINING)
    made = [
        realize(structure, whole, example_inputs=EXAMPLE, train=data(), cache_dir=tmp_path, task="regression")
        for _ in range(2)
    ]
    assert [m.from_cache for m in made] == [False, True]
    for one in made:
        assert one.module.second.weight is one.module.third.weight
        assert not torch.equal(one.module.second.weight, whole.second.weight)
    assert torch.equal(made[0].module.second.weight, made[1].module.second.weight)
    formats = {n: Format.parse("w4") for n in ("second", "third")}
    rounded = [
        recover(
            whole, formats, teacher=whole, example_inputs=EXAMPLE, train=data(), training=TRAINING, cache_dir=tmp_path,
            task="regression",
        )
        for _ in range(2)
    ]  # fmt: skip
    assert [m.from_cache for m in rounded] == [False, True]
    weights = [m.module.get_submodule(n).weight for m in rounded for n in ("second", "third")]
    assert all(torch.equal(w, weights[0]) for w in weights)
    assert all(len(row.unique()) <= 16 for row in weights[0])


@pytest.mark.parametrize("names", [("first", "second", "third", "head"), ("first", "second", "third")])
def test_what_was_frozen_learns_in_the_copy_alone(names: tuple[str, ...]) -> None:
    whole = frozen(*names)
    before = copy.deepcopy(whole.state_dict())
    structure = Structure(keep=(("second", 0.5),), training=TRAINING)
    made = realize(structure, whole, example_inputs=EXAMPLE, train=data(), multiple=4, task="regression").module
    untrained = reshape(structure, whole, EXAMPLE, multiple=4)
    for name in ("first", "second", "third", "head"):
        assert not torch.equal(made.get_submodule(name).weight, untrained.get_submodule(name).weight)
    assert {n for n, p in whole.named_parameters() if not p.requires_grad} == {
        n for n, _ in whole.named_parameters() if n.startswith(names)
    }
    assert all(torch.equal(v, before[k]) for k, v in whole.state_dict().items())


def test_learning_is_the_same_whatever_was_frozen() -> None:
    results = []
    for student in (Net(), frozen("first", "second")):
        with torch.no_grad():
            student.third.weight.zero_()
        distill(student, Net().eval(), data(), TRAINING, task="regression")
        results.append(student)
    assert all(torch.equal(a, b) for a, b in zip(*(r.state_dict().values() for r in results), strict=True))
    assert [p.requires_grad for p in results[1].parameters()] == [
        p.requires_grad for p in frozen("first", "second").parameters()
    ]


def test_frozen_networks_recover() -> None:
    whole = frozen("first", "second", "third", "head").eval()
    made = recover(
        whole, {"second": Format.parse("w2")}, teacher=whole, example_inputs=EXAMPLE, train=data(), training=TRAINING,
        task="regression",
    ).module  # fmt: skip
    assert not torch.equal(made.first.weight, whole.first.weight)
    assert all(len(row.unique()) <= 4 for row in made.second.weight)


@pytest.mark.parametrize("score", ["taylor", "fisher"])
def test_frozen_layers_are_scored_as_others_are(score: ChannelScore) -> None:
    structure = Structure(keep=(("second", 0.5),), score=score)
    made = [
        reshape(structure, whole, EXAMPLE, multiple=4, calibration=data())
        for whole in (Net(), frozen("second"), frozen("first", "second", "third", "head"))
    ]
    assert all(torch.equal(m.second.weight, made[0].second.weight) for m in made)


def test_frozen_indices_stay_as_they_are() -> None:
    class Ordered(Net):
        def __init__(self) -> None:
            super().__init__()
            self.order = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, self.order]

    whole = Ordered()
    assert {g.name for g in channel_groups(whole, EXAMPLE)} >= {"first", "second"}
    structure = Structure(keep=(("second", 0.5),), score="taylor", training=TRAINING)
    made = realize(
        structure, whole, example_inputs=EXAMPLE, train=data(), calibration=data(), multiple=4, task="regression"
    ).module
    assert torch.equal(made.order, whole.order)
