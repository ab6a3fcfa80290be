from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from modeltailor.compress import Structure, Training
from modeltailor.compress.structure import Realized, TrainingData, distill, kept_channels, realize
from modeltailor.errors import CandidateError, ConfigError, DataError

EXAMPLE = torch.zeros(1, 1, 8, 8)


def network(width: int = 24, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> tuple[TrainingData, torch.Tensor, torch.Tensor]:
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32)
    train = TrainingData(inputs={"x": images[:1200]}, labels=labels[:1200])
    return train, torch.from_numpy(images[1200:]), torch.from_numpy(labels[1200:])


@pytest.fixture(scope="module")
def teacher(digits: tuple[TrainingData, torch.Tensor, torch.Tensor]) -> nn.Module:
    made = network()
    optimizer = torch.optim.Adam(made.parameters(), 5e-3)
    train = digits[0]
    assert train.labels is not None
    x, y = torch.from_numpy(train.inputs["x"]), torch.from_numpy(train.labels)
    for _ in range(12):
        for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(1)).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(made(x[rows]), y[rows]).backward()
            optimizer.step()
    return made.eval()


def accuracy(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.inference_mode():
        return float((module(x).argmax(1) == y).float().mean())


def digest(module: nn.Module) -> str:
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in module.state_dict().values())).hexdigest()


def halved(training: Training | None = None) -> Structure:
    return Structure(keep=(("0", 0.35), ("4", 0.35)), training=training)


SHORT = Training(epochs=0.5, learning_rate=0.01, batch_size=50, ema=0.9)


def test_training_brings_the_accuracy_back(digits, teacher) -> None:  # type: ignore[no-untyped-def]
    train, x, y = digits
    cut = realize(halved(), teacher, example_inputs=EXAMPLE, train=train)
    made = realize(
        halved(Training(epochs=25, learning_rate=0.05, batch_size=50)), teacher, example_inputs=EXAMPLE, train=train
    )
    assert not cut.trained
    assert made.trained
    before, after, goal = (accuracy(m, x, y) for m in (cut.module, made.module, teacher))
    assert goal > 0.9
    assert before < goal - 0.2
    assert after > goal - 0.04


def test_without_labels_the_teacher_alone_teaches(digits, teacher) -> None:  # type: ignore[no-untyped-def]
    train, x, y = digits
    unlabeled = TrainingData(inputs=train.inputs)
    training = Training(epochs=10, learning_rate=0.05, batch_size=50, hard_label_weight=0.5)
    made = realize(halved(training), teacher, example_inputs=EXAMPLE, train=unlabeled)
    assert accuracy(made.module, x, y) > accuracy(teacher, x, y) - 0.06


def test_parameters_and_macs_are_as_promised(teacher: nn.Module) -> None:
    made = realize(halved(), teacher, example_inputs=EXAMPLE)
    kept = kept_channels(24, 0.35, 8)
    assert kept == 8
    weights = (9 + 1) * kept + 2 * kept + (9 * kept + 1) * kept + 2 * kept + (kept + 1) * 10
    assert made.parameters == weights
    assert made.macs == 9 * kept * 64 + 9 * kept * kept * 16 + kept * 10


def test_input_is_unchanged_and_results_are_the_same(digits, teacher) -> None:  # type: ignore[no-untyped-def]
    before = digest(teacher)
    first = realize(halved(SHORT), teacher, example_inputs=EXAMPLE, train=digits[0], seed=3)
    again = realize(halved(SHORT), teacher, example_inputs=EXAMPLE, train=digits[0], seed=3)
    other = realize(halved(SHORT), teacher, example_inputs=EXAMPLE, train=digits[0], seed=4)
    assert digest(teacher) == before
    assert digest(first.module) == digest(again.module)
    assert first.key == again.key != other.key
    assert digest(first.module) != digest(other.module)


def test_trained_once_used_often(digits, teacher, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def made(module: nn.Module) -> Realized:
        return realize(halved(SHORT), module, example_inputs=EXAMPLE, train=digits[0], cache_dir=tmp_path)

    first, second = made(teacher), made(teacher)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert digest(first.module) == digest(second.module)
    assert {p.suffix for p in tmp_path.iterdir()} == {".weights"}

    stranger = made(network(seed=1))
    assert stranger.key != first.key
    assert not stranger.from_cache

    entry = tmp_path / f"{first.key}.weights"
    data = bytearray(entry.read_bytes())
    data[-5] ^= 1
    entry.write_bytes(bytes(data))
    third = made(teacher)
    assert not third.from_cache  # a damaged entry is never used
    assert digest(third.module) == digest(first.module)


def test_cache_stays_within_its_size(tmp_path: Path) -> None:
    from modeltailor.compress.structure import WeightCache

    cache = WeightCache(folder=tmp_path / "cache", limit_bytes=10_000)
    for index in range(8):
        cache.store(f"{index}.weights", {"w": torch.zeros(600)}, {})
    assert sum(p.stat().st_size for p in cache.folder.iterdir()) <= 10_000
    assert cache.load("7.weights") is not None
    assert cache.load("0.weights") is None


def test_interrupted_training_ends_at_the_same_weights(digits, teacher, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from modeltailor.compress.structure.distillation import Checkpoint
    from modeltailor.compress.structure.weight_cache import WeightCache

    training = Training(epochs=0.5, batch_size=50, ema=0.9, mixup=0.3)
    whole = network(seed=2)
    distill(whole, teacher, digits[0], training)

    class Killed(Exception):
        pass

    def kill(position: float) -> None:
        if position > 0.5:
            raise Killed

    checkpoint = Checkpoint(cache=WeightCache(folder=tmp_path), name="x.checkpoint", every_s=0.0)
    with pytest.raises(Killed):
        distill(network(seed=2), teacher, digits[0], training, checkpoint=checkpoint, progress=kill)
    resumed = network(seed=5)
    done = distill(resumed, teacher, digits[0], training, checkpoint=checkpoint)
    assert done.steps == 12
    assert digest(resumed) == digest(whole)


def test_deadline_shortens_the_schedule_and_is_not_cached(digits, teacher, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    long = halved(Training(epochs=10_000, batch_size=50))
    made = realize(long, teacher, example_inputs=EXAMPLE, train=digits[0], cache_dir=tmp_path, deadline_s=0.5)
    assert made.trained
    assert made.seconds < 10
    assert list(tmp_path.iterdir()) == []


def test_student_factory(digits, teacher) -> None:  # type: ignore[no-untyped-def]
    train, x, y = digits
    training = Training(epochs=12, learning_rate=0.1, batch_size=50)
    made = realize(
        Structure(width=0.5, training=training), teacher, example_inputs=EXAMPLE, train=train,
        student=lambda width, depth: network(round(24 * width)),
    )  # fmt: skip
    assert made.module[0].out_channels == 12
    assert accuracy(made.module, x, y) > accuracy(teacher, x, y) - 0.1
    with pytest.raises(ConfigError, match="student"):
        realize(Structure(width=0.5), teacher, example_inputs=EXAMPLE)


def test_regression_and_embeddings_are_learned() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3)).eval()
    for task in ("regression", "embedding"):
        torch.manual_seed(1)
        student = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
        data = TrainingData(inputs={"x": x})
        training = Training(epochs=60, learning_rate=0.02, batch_size=50, optimizer="adamw")
        distill(student, teacher, data, training, task=task)  # type: ignore[arg-type]
        with torch.no_grad():
            wanted, got = teacher(torch.from_numpy(x)), student(torch.from_numpy(x))
        assert float((wanted - got).square().mean() / wanted.square().mean()) < 0.05


@pytest.mark.parametrize(
    ("channels", "share", "multiple", "divisor", "kept"),
    [
        (64, 0.5, 8, 1, 32), (64, 0.01, 8, 1, 8), (24, 0.35, 16, 1, 16),
        (24, 0.99, 16, 1, 24), (6, 0.5, 8, 1, 3), (32, 0.4, 8, 4, 16),
    ],
)  # fmt: skip
def test_kept_channels(channels: int, share: float, multiple: int, divisor: int, kept: int) -> None:
    assert kept_channels(channels, share, multiple, divisor) == kept


def test_diverging_training_is_an_error(digits, teacher) -> None:  # type: ignore[no-untyped-def]
    training = Training(epochs=1, learning_rate=1e3, batch_size=50, optimizer="sgd", temperature=1000, weight_decay=1.0)
    with pytest.raises(CandidateError, match="NONFINITE"):
        realize(halved(training), teacher, example_inputs=EXAMPLE, train=digits[0])


def test_training_data_is_checked() -> None:
    with pytest.raises(DataError, match="one length"):
        TrainingData(inputs={"x": np.zeros((3, 1))}, labels=np.zeros(4))
    with pytest.raises(DataError, match="NaN"):
        TrainingData(inputs={"x": np.full((3, 1), np.nan)})


def test_images_are_varied_the_same_way_for_the_same_draw() -> None:
    from modeltailor.compress.structure.augment import vary

    images = torch.arange(4 * 3 * 16 * 16, dtype=torch.float32).view(4, 3, 16, 16)

    def draw(seed: int, mirror: bool) -> torch.Tensor:
        return vary(images, torch.Generator().manual_seed(seed), mirror=mirror)

    assert torch.equal(draw(0, True), draw(0, True))
    assert not torch.equal(draw(0, True), draw(1, True))
    shifted = draw(3, False)
    assert shifted.shape == images.shape
    inner = shifted[:, :, 4:12, 4:12]
    assert torch.all(inner.diff(dim=3) == 1)  # shifted, neither mirrored nor mixed
    steps = {int(d) for d in draw(3, True)[:, 0, 8, 4:12].diff(dim=1)[:, 3]}
    assert steps == {1, -1}


def test_padded_positions_teach_nothing() -> None:
    class Embedder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.dense = nn.Embedding(20, 8), nn.Linear(8, 8)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.dense(self.table(input_ids)) * torch.where(attention_mask > 0, 1.0, 1e3).unsqueeze(-1)

    rng = np.random.default_rng(0)
    ids, mask = rng.integers(1, 20, (200, 6)), np.ones((200, 6), np.int64)
    mask[:, 4:] = 0
    torch.manual_seed(0)
    teacher, student = Embedder().eval(), Embedder()
    data = TrainingData(inputs={"input_ids": ids, "attention_mask": mask})
    distill(student, teacher, data, Training(epochs=150, learning_rate=0.02, batch_size=50, optimizer="adamw"))
    with torch.no_grad():
        wanted, got = (m(torch.from_numpy(ids), torch.ones(200, 6)) for m in (teacher, student))
    assert float((wanted - got).square().mean() / wanted.square().mean()) < 0.02


def test_a_folded_teacher_answers_the_same(teacher: nn.Module, digits) -> None:  # type: ignore[no-untyped-def]
    from modeltailor.compress.structure.learning import _ready_to_teach

    before = digest(teacher)
    folded = _ready_to_teach(teacher, digits[0])
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    with torch.no_grad():
        assert torch.allclose(folded(digits[1]), teacher(digits[1]), atol=1e-3)
    assert digest(teacher) == before
