"""How students learn: features, assistants, early stopping, schedules that cannot be."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeltailor.compress import Format, Recipe, Settings, Structure, Training, recipe_from_plain
from modeltailor.compress.structure import TrainingData, assistant_structures, distill, n_assistants, realize
from modeltailor.compress.structure.computing import autocast, training_device
from modeltailor.compress.structure.learning import learn_once
from modeltailor.compress.structure.losses import answer_loss
from modeltailor.compress.structure.pupil import Pupil
from modeltailor.compress.structure.realization import Realized
from modeltailor.compress.structure.watching import held_out_rows
from modeltailor.errors import ConfigError
from modeltailor.workloads.model import not_finite


class Net(nn.Module):
    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second, self.head = nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return TrainingData(inputs={"x": np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)})


def inner_error(student: Net, teacher: Net, data: TrainingData) -> float:
    """How badly the best linear map from the student's first layer gives the teacher's."""
    x = torch.from_numpy(data.inputs["x"])
    with torch.no_grad():
        mine, theirs = student.first(x), teacher.first(x)
        mine = torch.cat([mine, torch.ones(len(x), 1)], 1)
        fitted = mine @ torch.linalg.lstsq(mine, theirs).solution
        return float((fitted - theirs).square().mean() / theirs.var())


def test_hints_reach_inside_through_a_projection(data: TrainingData) -> None:
    teacher = Net(24).eval()
    found = []
    for features in ((), ("first",)):
        student = Net(4, seed=1)
        training = Training(epochs=30, batch_size=50, learning_rate=0.02, features=features, feature_weight=3.0)
        distill(student, teacher, data, training, task="regression")
        assert not student.first._forward_hooks
        assert not teacher.first._forward_hooks
        found.append(inner_error(student, teacher, data))
    assert found[1] < 0.9 * found[0]


def test_attention_maps_of_images_are_matched() -> None:
    rng = np.random.default_rng(0)
    images = TrainingData(inputs={"x": rng.normal(size=(128, 3, 8, 8)).astype(np.float32)})
    torch.manual_seed(0)

    def net(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2, padding=1), nn.Flatten(),
            nn.Linear(width * 16, 4),
        )  # fmt: skip

    teacher, x = net(16).eval(), torch.from_numpy(images.inputs["x"])

    def apart(student: nn.Module) -> float:
        maps = []
        for network in (student, teacher):
            with torch.no_grad():
                maps.append(nn.functional.normalize(network[2](network[1](network[0](x))).square().mean(1).flatten(1)))
        return float((maps[0] - maps[1]).square().sum(1).mean())

    found = []
    for features in ((), ("2",)):
        torch.manual_seed(3)
        student = net(4)
        training = Training(
            epochs=20, batch_size=32, learning_rate=0.01, features=features, feature_loss="attention", feature_weight=20
        )
        distill(student, teacher, images, training, task="regression")
        found.append(apart(student))
    assert found[1] < 0.7 * found[0]


@pytest.mark.parametrize("features", [("nothing",), ("first=nothing",), ("head=",)])
def test_layers_that_are_not_there_are_named(features: tuple[str, ...], data: TrainingData) -> None:
    with pytest.raises(ConfigError, match=r"nothing|head="):
        distill(Net(4), Net(8), data, Training(epochs=0.1, features=features), task="regression")


def test_held_out_rows_are_never_learned_from(data: TrainingData) -> None:
    learned, watched = held_out_rows(400, 0.1, seed=3)
    assert len(watched) == 40
    assert sorted([*learned, *watched]) == list(range(400))
    asked: list[Tensor] = []

    class Teacher(Net):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(x)
            return super().forward(x)

    training = Training(epochs=2, batch_size=50, holdout=0.1, seed=3)
    distill(Net(4), Teacher(8), data, training, task="regression")
    seen = {tuple(row) for x in asked for row in x.tolist()}
    held = {tuple(row) for row in data.inputs["x"][watched].tolist()}
    assert not seen & held


def test_patience_ends_a_training_that_gets_worse_and_hands_back_the_best(data: TrainingData) -> None:
    teacher = Net(8).eval()
    student = Net(8)  # it knows everything already: training can only spoil it
    rng = np.random.default_rng(0)
    noisy = TrainingData(inputs=data.inputs, labels=rng.normal(size=(400, 3)).astype(np.float32))
    training = Training(
        epochs=60, batch_size=50, learning_rate=0.05, optimizer="adamw", holdout=0.2, patience=3, ema=0.0,
        hard_label_weight=1.0,
    )  # fmt: skip
    done = distill(student, teacher, noisy, training)
    assert done.stopped_early
    assert done.full
    assert done.steps < 0.5 * 60 * 320 / 50
    longer = Net(8)
    spoiled = distill(longer, teacher, noisy, Training(**{**_plain(training), "patience": 0}))
    assert not spoiled.stopped_early
    _, watched = held_out_rows(400, 0.2, training.seed)
    x, y = torch.from_numpy(noisy.inputs["x"][watched]), torch.from_numpy(noisy.labels[watched])  # type: ignore[index]
    with torch.no_grad():
        losses = [float(answer_loss(n(x), teacher(x), y, training)) for n in (student, longer)]
    assert losses[0] < losses[1]


def _plain(training: Training) -> dict[str, object]:
    return {name: getattr(training, name) for name in Training.__slots__}


def test_patience_needs_something_to_watch() -> None:
    with pytest.raises(ConfigError, match="held-out"):
        Training(patience=2)


def test_assistants_stand_between() -> None:
    assert [n_assistants(800, s, "auto") for s in (800, 101, 100, 12, 1)] == [0, 0, 1, 2, 3]
    assert n_assistants(800, 800, 2) == 2
    structure = Structure(keep=(("a", 0.25),), removed=("x", "y", "z", "w"), ranks=(("b", 3),))
    (middle,) = assistant_structures(structure, 1)
    assert middle.keep == (("a", 0.5),)
    assert set(middle.removed) < set(structure.removed)
    assert len(middle.removed) == 2
    assert middle.ranks == ()
    first, second = assistant_structures(Structure(width=0.125), 2)
    assert first.width == pytest.approx(0.5)
    assert second.width == pytest.approx(0.25)


def test_the_student_learns_from_its_assistant(data: TrainingData, tmp_path: Path) -> None:
    whole = Net(24).eval()
    training = Training(epochs=3, batch_size=50, assistants=2)
    seen: list[float] = []
    made = realize(
        Structure(width=0.25, training=training), whole, example_inputs=torch.zeros(1, 6), train=data,
        student=lambda width, _: Net(round(24 * width), seed=2), task="regression", cache_dir=tmp_path,
        progress=seen.append,
    )  # fmt: skip
    assert made.assistants == 2
    assert len(list(tmp_path.glob("*.weights"))) == 3
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    alone = realize(
        Structure(width=0.25, training=Training(epochs=3, batch_size=50, assistants=0)), whole, example_inputs=torch.zeros(1, 6),
        train=data, student=lambda width, _: Net(round(24 * width), seed=2), task="regression",
    )  # fmt: skip
    assert alone.assistants == 0
    assert alone.key != made.key


@pytest.fixture
def made(data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Realized]:
    """A student of one assistant; a deadline cuts the assistant short where it is slow, the student has time enough."""
    clock = [0.0]
    monkeypatch.setattr("modeltailor.compress.structure.distillation.time.monotonic", lambda: clock[0])
    structure = Structure(width=0.25, training=Training(epochs=2, batch_size=50, assistants=1))

    def make(cache_dir: Path | None, slow: bool, **more: object) -> Realized:
        steps = [0]

        def tick(_: float) -> None:
            steps[0] += 1
            clock[0] += 20.0 if slow and steps[0] < 4 else 0.0  # the assistant's first steps take long

        return realize(
            structure, Net(24).eval(), example_inputs=torch.zeros(1, 6), train=data, task="regression",
            student=lambda width, _: Net(round(24 * width), seed=2), cache_dir=cache_dir, progress=tick, **more,
        )  # type: ignore[arg-type]  # fmt: skip

    return make


def test_whoever_went_on_with_a_hurried_network_finds_the_same_again(
    made: Callable[..., Realized], tmp_path: Path
) -> None:
    """A run that is resumed has measured it: another one of the same name would stand beside it."""
    cache, run, other = (tmp_path / n for n in ("cache", "run", "other"))
    hurried = made(cache, slow=True, deadline_s=100.0, cut_short_dir=run)
    assert not hurried.from_cache
    for again in (made(cache, slow=False, cut_short_dir=run), made(None, slow=False, cut_short_dir=run)):
        assert again.from_cache
        assert all(torch.equal(v, again.module.state_dict()[k]) for k, v in hurried.module.state_dict().items())
    whole = made(cache, slow=False, cut_short_dir=other)
    assert not whole.from_cache
    assert not other.exists()
    assert any(not torch.equal(v, whole.module.state_dict()[k]) for k, v in hurried.module.state_dict().items())
    still = made(cache, slow=False, cut_short_dir=run)  # though there are better weights now
    assert all(torch.equal(v, still.module.state_dict()[k]) for k, v in hurried.module.state_dict().items())


def test_what_a_hurried_assistant_taught_is_not_kept(made: Callable[..., Realized], tmp_path: Path) -> None:
    hurried = made(tmp_path, slow=True, deadline_s=100.0)
    assert hurried.trained
    assert list(tmp_path.iterdir()) == []
    full = made(tmp_path, slow=False)
    assert (full.key, full.from_cache) == (hurried.key, False)
    assert len(list(tmp_path.glob("*.weights"))) == 2
    again = made(tmp_path, slow=False)
    assert again.from_cache
    whole = made(None, slow=False).module.state_dict()
    assert all(torch.equal(v, whole[k]) for k, v in again.module.state_dict().items())
    from_full = made(tmp_path, slow=True, deadline_s=100.0)  # a full training is used, also by those in a hurry
    assert from_full.from_cache


def test_low_precision_is_for_images_and_tokens_alone() -> None:
    device = training_device(Training(device="cpu"))
    assert device.type == "cpu"
    with autocast(Training(), device, suits=False):
        assert not torch.is_autocast_enabled("cpu")
    with autocast(Training(precision="float32"), device, suits=True):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.gpu
def test_a_gpu_trains_where_there_is_one(data: TrainingData) -> None:
    teacher, student = Net(24).eval(), Net(8, seed=1)
    seen: list[str] = []
    student.first.register_forward_hook(lambda _, __, out: seen.append(out.device.type))
    distill(student, teacher, data, Training(epochs=1, batch_size=50), task="regression")
    assert set(seen) == {"cuda"}
    assert next(student.parameters()).device.type == "cpu"
    assert next(teacher.parameters()).device.type == "cpu"


def test_the_same_schedule_has_the_same_key() -> None:
    same = [Structure(removed=("a",), training=Training(epochs=e)) for e in (8, 8.0)]
    assert same[0].key == same[1].key
    assert Structure(removed=("a",), training=Training(epochs=8, patience=2, holdout=0.1)).key != same[0].key


def test_recipes_are_read_back_as_they_were_written() -> None:
    structure = Structure(
        keep=(("a", 0.5),), ranks=(("b", 3),), sparsity=(("c", 0.5),), pattern="2:4", sparsity_score="obs",
        resolution=0.75, score="fisher", training=Training(features=("a", "b=c"), holdout=0.1, patience=2, assistants=1),
    )  # fmt: skip
    recipe = Recipe(structure=structure)
    assert recipe_from_plain(json.loads(json.dumps(recipe.to_plain()))) == recipe
    old = recipe.to_plain()
    assert isinstance(old["structure"], dict)
    for name in ("ranks", "sparsity", "pattern", "sparsity_score", "resolution"):
        del old["structure"][name]
    assert recipe_from_plain(old).structure.keep == structure.keep  # records of earlier runs


def test_settings_say_nothing_where_no_site_is_quantized() -> None:
    asked = Settings(range_method="minmax", reduce_range=False)
    assert Recipe(settings=asked).key == Recipe().key
    assert Recipe(formats=(("a", Format.parse("fp32")),), settings=asked) == Recipe()
    assert Recipe(formats=(("a", Format.parse("w8a8")),), settings=asked).settings == asked


def taught(
    network: nn.Module, inputs: np.ndarray, labels: np.ndarray, task: str | None = None, **kwargs: object
) -> Pupil:
    data = TrainingData(inputs={"x": inputs}, labels=labels)
    training = Training(**{"epochs": 1, "batch_size": 8, **kwargs})  # type: ignore[arg-type]
    pupil = Pupil(network, copy.deepcopy(network), data, training, task)  # type: ignore[arg-type]
    for step in range(3):
        pupil.step(step, 0.1)
    return pupil


ROWS = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
PIXELS = np.random.default_rng(0).normal(size=(16, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize(
    ("outputs", "labels", "task", "settled", "teach"),
    [
        (3, np.arange(32) % 3, None, "classification", True),
        (3, np.arange(32)[:, None] % 3, None, "classification", True),
        (3, np.arange(32) % 3 - 1, "classification", "classification", True),  # one class is void
        (3, np.full(32, 255), "classification", "classification", True),  # all of them are
        (1, np.arange(32), "regression", "regression", True),  # ages
        (1, np.arange(32) % 2, None, "regression", False),  # perhaps the logit of a yes
        (2, ROWS[:, :2], None, "regression", True),
        (3, np.arange(96).reshape(32, 3) % 2, None, "regression", False),  # several labels a sample
        (8, ROWS[:, 0], None, "embedding", False),
        (8, ROWS[:, 0], "embedding", "embedding", False),
        (3, np.arange(32).reshape(32, 1) * np.ones((1, 2), int), "classification", "classification", False),
    ],
)
def test_labels_teach_only_what_they_fit(
    outputs: int, labels: np.ndarray, task: str | None, settled: str, teach: bool
) -> None:
    pupil = taught(nn.Linear(6, outputs), ROWS, labels, task)
    assert (pupil.task, pupil.labels_teach) == (settled, teach)
    assert np.isfinite(pupil.loss)


def test_places_in_an_image_are_not_learned_from_where_the_image_is_moved() -> None:
    points = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    classes, pixels = nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), nn.Conv2d(3, 2, 1)
    where, mask = np.random.default_rng(1).normal(size=(16, 4)).astype(np.float32), (PIXELS[:, 0] > 0).astype(np.int64)
    assert not taught(points, PIXELS, where).labels_teach
    assert taught(points, PIXELS, where, augment=False).labels_teach
    assert not taught(pixels, PIXELS, mask).labels_teach
    assert taught(pixels, PIXELS, mask, augment=False).labels_teach
    assert taught(classes, PIXELS, np.arange(16) % 4).labels_teach
    mixed = taught(points, PIXELS, where, mixup=0.5)  # values stay values though their labels are left out
    assert (mixed.task, mixed.labels_teach) == ("regression", False)


def test_images_of_bytes_are_learned_from_as_they_are() -> None:
    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 16)

        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == torch.uint8
            return self.conv(x.float() / 255).flatten(1)

    pupil = taught(Bytes(), (PIXELS * 50 + 128).clip(0, 255).astype(np.uint8), np.arange(16) % 4)
    assert np.isfinite(pupil.loss)
    with pytest.raises(ConfigError, match="floats"):
        taught(Bytes(), np.zeros((16, 3, 16, 16), np.uint8), np.arange(16) % 4, mixup=0.5)


@pytest.mark.parametrize("kept_as", ["buffer", "frozen parameter"])
def test_a_mask_of_infinity_is_no_fault_of_a_training(kept_as: str) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = nn.Linear(6, 4)
            mask = torch.full((4, 4), -torch.inf).triu(1)
            if kept_as == "buffer":
                self.register_buffer("mask", mask)
            else:
                self.mask = nn.Parameter(mask, requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(self.read(x)[:, None, :] + self.mask, -1).sum(1)

    assert not_finite(Masked()) == []
    broken = Masked()
    broken.read.weight.data[0, 0] = torch.inf
    assert not_finite(broken) == ["read.weight"]
    student = Masked()
    learn_once(
        student, Masked(), TrainingData(inputs={"x": ROWS}), Training(epochs=1, batch_size=8), key="k", cache_dir=None
    )
