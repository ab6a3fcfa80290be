from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeltailor.compress import Format, Training
from modeltailor.compress.structure import (
    TrainingData,
    layer_costs,
    rank_blocks,
    recover,
    removable_blocks,
    removal_order,
)
from modeltailor.compress.structure.fake_quantization import RoundedWeight, grid_limits, round_weights, settle_weights
from modeltailor.compress.structure.learning import norms_behind
from modeltailor.compress.structure.losses import Task

EXAMPLE = torch.zeros(1, 1, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 4),
    )  # fmt: skip
    for norm in (made[1], made[4]):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.running_mean, std=0.1)
    nn.init.normal_(made[8].weight)
    return made.eval()


def data(n: int = 600) -> TrainingData:
    return TrainingData(inputs={"x": np.random.default_rng(0).normal(size=(n, 1, 8, 8)).astype(np.float32)})


def rows_on_grid(weight: Tensor, bits: int) -> int:
    """How many output channels are integers of that many bits times one step."""
    low, high = grid_limits(bits)
    count = 0
    for row in weight.detach().flatten(1).double():
        steps = [row.abs().max() / k for k in range(1, -low + 1)]
        units = [(row / s, (row / s).round()) for s in steps if s > 0] or [(row, row)]
        count += any(torch.allclose(a, b, atol=1e-4) and low <= b.min() and b.max() <= high for a, b in units)
    return count


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounding_uses_the_stored_grid_and_the_best_step(bits: int) -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    rounded = RoundedWeight(weight, bits)(weight).detach()
    assert rows_on_grid(rounded, bits) == 6
    assert rounded.flatten(1)[0].unique().numel() <= 2**bits
    relative = float((rounded - weight).square().mean() / weight.square().mean())
    assert relative < {2: 0.15, 3: 0.045, 4: 0.015, 8: 1e-3}[bits]


def test_gradients_reach_weights_and_steps() -> None:
    weight = torch.randn(4, 9, requires_grad=True, generator=torch.Generator().manual_seed(0))
    rounding = RoundedWeight(weight, 2)
    rounding(weight).square().sum().backward()
    assert weight.grad is not None
    assert rounding.scale.grad is not None
    assert bool((rounding.scale.grad != 0).all())
    scale = rounding.scale.detach()[:, None]
    inside = (weight / scale > -2) & (weight / scale < 1)
    assert bool((weight.grad[~inside] == 0).all())
    assert bool((weight.grad[inside].abs() > 0).any())


def test_mirroring_before_rounding_changes_nothing() -> None:
    module, x = network(), torch.randn(3, 1, 8, 8)
    before = module(x).detach()
    followers = norms_behind(module, {"x": x})
    assert followers == {"0": "1", "3": "4"}
    round_weights(module, {"0": 8, "3": 8}, followers)
    assert torch.allclose(module(x), before, atol=0.05 * float(before.abs().max()))
    settle_weights(module)
    assert bool((module[1].weight > 0).all())
    assert isinstance(module[0].weight, nn.Parameter)


class Reading(nn.Module):
    """A convolution with a normalisation behind it, whose output, or layers, something else uses, too."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.conv, self.other = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(1, 6, 1)
        self.norm, self.second = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)
        with torch.no_grad():
            for norm in (self.norm, self.second):
                norm.weight.copy_(torch.tensor([1.0, -1.0, 0.7, -0.5, 1.3, -2.0]))
                norm.running_mean.copy_(torch.randn(6))
            self.second.weight.mul_(torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        match self.way:
            case "alone":
                y = torch.relu(self.norm(y))
            case "shortcut":
                y = y + torch.relu(self.norm(y))
            case "view":
                y = torch.relu(self.norm(y)) + y.view(*y.shape)
            case "changed":
                y = torch.relu(self.norm(y.add_(1)))
            case "two norms":
                y = torch.relu(self.norm(y)) + torch.relu(self.second(y))
            case "norm twice":
                y = torch.relu(self.norm(y)) + torch.relu(self.norm(self.other(x)))
            case "layer twice":
                y = torch.relu(self.norm(y)) + torch.relu(self.conv(2 * x))
            case "output":
                return self.head(torch.relu(self.norm(y)).mean((2, 3))), y
        return self.head(torch.relu(y).mean((2, 3)))


@pytest.mark.parametrize(
    "way", ["alone", "shortcut", "view", "changed", "two norms", "norm twice", "layer twice", "output"]
)
def test_channels_are_mirrored_only_where_the_normalisation_alone_reads_them(way: str) -> None:
    module, x = Reading(way).eval(), torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    followers = norms_behind(module, {"x": x})
    assert followers == ({"conv": "norm"} if way == "alone" else {})
    with torch.no_grad():
        before = module(x)
        round_weights(module, {"conv": 8}, followers)
        after = module(x)
    pairs = zip(before, after, strict=True) if way == "output" else ((before, after),)
    for wanted, got in pairs:
        assert torch.allclose(got, wanted, atol=0.02 * float(wanted.abs().max()))
    assert bool((module.norm.weight > 0).all()) == (way == "alone")


def test_a_normalisation_of_positions_is_none_of_the_channels() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).eval()  # [n, 5 positions, 5 channels]
    assert norms_behind(module, {"x": torch.randn(2, 5, 6)}) == {}
    assert norms_behind(module, {"x": torch.randn(2, 6)}) == {"0": "1"}


def test_recovered_weights_lie_on_their_grids_also_after_folding(tmp_path: Path) -> None:
    teacher = network()
    formats = {"0": Format.parse("w4a8"), "3": Format.parse("w2a8"), "8": Format.parse("w3"), "9": Format.parse("w8a8")}
    training = Training(epochs=6, learning_rate=0.02, batch_size=50, ema=0.9)

    def made() -> nn.Module:
        return recover(
            teacher, formats, teacher=teacher, example_inputs=EXAMPLE, train=data(), training=training,
            cache_dir=tmp_path,
        ).module  # fmt: skip

    module = made()
    assert rows_on_grid(module[0].weight, 4) == 12
    assert rows_on_grid(module[3].weight, 2) == 12
    assert rows_on_grid(module[8].weight, 3) == 4
    norm = module[4]
    folded = module[3].weight * (norm.weight / (norm.running_var + norm.eps).sqrt()).view(-1, 1, 1, 1)
    assert rows_on_grid(folded, 2) == 12  # the exporter folds normalisation: the grid must survive it
    again = made().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in module.state_dict().items())


def test_training_recovers_what_rounding_lost() -> None:
    teacher, x = network(), torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted = teacher(x).softmax(1)
    formats = {n: Format.parse("w2a8") for n in ("0", "3", "8")}
    losses = []
    for epochs in (0.02, 20):
        training = Training(epochs=epochs, learning_rate=0.05 if epochs > 1 else 1e-6, batch_size=50, temperature=1.0)
        made = recover(teacher, formats, teacher=teacher, example_inputs=EXAMPLE, train=data(), training=training)
        with torch.no_grad():
            losses.append(float((made.module(x).softmax(1) - wanted).square().mean()))
    assert losses[1] < 0.5 * losses[0]


def test_nothing_to_round_leaves_the_network() -> None:
    module = network()
    made = recover(
        module, {"0": Format.parse("w8a8")}, teacher=module, example_inputs=EXAMPLE, train=data(), training=Training()
    )
    assert made.bits == {}
    assert torch.equal(made.module[0].weight, module[0].weight)


def test_the_block_that_does_nothing_is_missed_least() -> None:
    class Block(nn.Module):
        def __init__(self, size: float) -> None:
            super().__init__()
            self.a, self.b, self.size = nn.Linear(6, 6), nn.Linear(6, 6), size

        def forward(self, x: Tensor) -> Tensor:
            return x + self.size * self.b(torch.tanh(self.a(x)))

    torch.manual_seed(0)
    module = nn.Sequential(nn.Sequential(Block(3.0), Block(0.0), Block(0.5)), nn.Linear(6, 4))
    calibration = TrainingData(inputs={"x": np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)})
    ranked = rank_blocks(module, torch.zeros(1, 6), calibration)
    assert [b.name for b in ranked] == ["0.1", "0.2", "0.0"]
    assert ranked[0].divergence == pytest.approx(0.0, abs=1e-6)
    assert ranked[0].parameters == 84
    assert ranked[0].macs_share == pytest.approx(72 / 240)
    assert removal_order(module, torch.zeros(1, 6), calibration) == ("0.1", "0.2", "0.0")


def _branching(largest: list[int]) -> nn.Module:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            largest.append(len(x))
            return x + self.b(torch.tanh(self.a(x)))

    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(Block(), Block()), nn.Linear(6, 4))


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_blocks_are_ranked_a_few_rows_at_a_time(task: Task) -> None:
    seen: list[int] = []
    module = _branching(seen)
    x = np.random.default_rng(0).normal(size=(75, 6)).astype(np.float32)
    ranked = rank_blocks(module, torch.zeros(1, 6), TrainingData(inputs={"x": x}), task=task)
    order = removal_order(module, torch.zeros(1, 6), TrainingData(inputs={"x": x}), task=task)
    assert max(seen) == 32
    assert order[0] == ranked[0].name
    with torch.no_grad():
        wanted = module(torch.from_numpy(x))
        for block in ranked:
            kept = module[0][1 if block.name == "0.0" else 0]
            got = module[1](kept(torch.from_numpy(x)))
            logs = got.log_softmax(1), wanted.log_softmax(1)
            expected = (
                (logs[1].exp() * (logs[1] - logs[0])).sum(1).mean()
                if task == "classification"
                else (got - wanted).square().mean() / wanted.square().mean()
            )
            assert block.divergence == pytest.approx(float(expected), rel=1e-4)


def test_nothing_is_run_for_a_network_without_removable_blocks() -> None:
    seen: list[int] = []
    module = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    module[0].register_forward_hook(lambda *a: seen.append(len(a[1][0])))
    calibration = TrainingData(inputs={"x": np.zeros((75, 6), np.float32)})
    assert rank_blocks(module, torch.zeros(1, 6), calibration) == ()
    assert removal_order(module, torch.zeros(1, 6), calibration) == ()
    assert set(seen) <= {1}


def test_looking_at_a_network_leaves_each_part_in_its_mode() -> None:
    module = _branching([])
    module.train()
    module[0][1].eval()
    modes = [m.training for m in module.modules()]
    layer_costs(module, {"x": torch.zeros(1, 6)})
    assert [m.training for m in module.modules()] == modes
    removable_blocks(module, torch.zeros(1, 6))
    assert [m.training for m in module.modules()] == modes


def test_files_hold_the_trained_integers_and_give_the_same_outputs(tmp_path: Path) -> None:
    """Fake quantization in PyTorch against ONNX Runtime on the packed file that is built from it."""
    from modeltailor.compress.formats import Composer
    from modeltailor.targets.device import RuntimeOptions
    from modeltailor.targets.session import open_session, run_batches
    from modeltailor.workloads.export import export_onnx

    teacher, train = network(), data()
    low = {"0": Format.parse("w3"), "3": Format.parse("w2"), "8": Format.parse("w4")}
    training = Training(epochs=4, learning_rate=0.02, batch_size=50)
    made = recover(teacher, low, teacher=teacher, example_inputs=EXAMPLE, train=train, training=training).module
    export_onnx(made, (EXAMPLE,), tmp_path / "model.onnx", input_names=["x"], output_names=["y"])
    names = {f"{n}.weight": n for n in low}
    composer = Composer(tmp_path / "model.onnx", {"x": train.inputs["x"][:64]}, site_names=names)
    x = train.inputs["x"][:100]
    with torch.no_grad():
        wanted = made(torch.from_numpy(x)).numpy()
    for formats, allowed in ((low, 1e-5), ({n: Format.parse(f"{f.name}a8") for n, f in low.items()}, 0.05)):
        composed = composer.compose(formats)
        assert {s.site: s.storage_bits for s in composed.sites} == {"0": 3, "3": 2, "8": 4}
        session = open_session(composed.model_bytes, RuntimeOptions())
        got = run_batches(session, {"x": x}, batch_size=100)["y"]
        assert np.abs(got - wanted).max() <= allowed * np.abs(wanted).max()
