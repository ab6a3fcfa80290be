"""Networks that answer with more than one tensor, or with classes along an inner axis."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeltailor.compress import Format, Structure, Training
from modeltailor.compress.structure import TrainingData, distill, rank_blocks, realize, recover, removal_order
from modeltailor.compress.structure.answers import Answer, others_loss
from modeltailor.compress.structure.losses import answer_loss, labels_teach, task_of
from modeltailor.compress.structure.pupil import Pupil

EXAMPLE = torch.zeros(1, 6)
TRAINING = Training(epochs=20, batch_size=40, learning_rate=0.02)


class Heads(nn.Module):
    """One body, two heads, and what else models hand out: integers, a part that is nested, a mask of infinity."""

    def __init__(self, *, kind: str = "tuple", width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.body, self.inner = nn.Linear(6, width), nn.Linear(width, 16)
        self.logits, self.boxes = nn.Linear(16, 3), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> object:
        x = torch.tanh(self.inner(torch.tanh(self.body(x))))
        logits, boxes = self.logits(x), self.boxes(x)
        if self.kind == "one":
            return logits
        if self.kind == "tuple":
            return logits, boxes
        if self.kind == "mapping":
            return {"boxes": boxes, "logits": logits, "top": logits.argmax(1)}
        return logits, [boxes, (logits,)], torch.full((len(x), 2), -torch.inf)


def data(rows: int = 400, *, labels: bool = False) -> TrainingData:
    rng = np.random.default_rng(0)
    return TrainingData(
        inputs={"x": rng.normal(size=(rows, 6)).astype(np.float32)}, labels=rng.integers(0, 3, rows) if labels else None
    )


def boxes(network: nn.Module) -> Tensor:
    assert isinstance(network, Heads)
    x = torch.from_numpy(data().inputs["x"])
    with torch.no_grad():
        return network.boxes(torch.tanh(network.inner(torch.tanh(network.body(x)))))


def off(network: nn.Module, whole: nn.Module) -> float:
    wanted = boxes(whole)
    return float((boxes(network) - wanted).square().mean() / wanted.square().mean())


@pytest.mark.parametrize("kind", ["tuple", "mapping", "nested"])
@pytest.mark.parametrize("labels", [False, True])
def test_every_head_learns(kind: str, labels: bool) -> None:
    whole = Heads(kind=kind).eval()
    structure = Structure(keep=(("inner", 0.5),), training=TRAINING)
    made = realize(
        structure, whole, example_inputs=EXAMPLE, train=data(labels=labels), multiple=1, task="classification"
    ).module
    cut = realize(
        Structure(keep=(("inner", 0.5),)), whole, example_inputs=EXAMPLE, multiple=1, task="classification"
    ).module
    assert off(made, whole) < 0.3 * off(cut, whole)


def test_every_head_recovers() -> None:
    whole = Heads().eval()
    formats = {n: Format.parse("w2") for n in ("inner", "boxes")}
    made = [
        recover(
            whole, formats, teacher=whole, example_inputs=EXAMPLE, train=data(), task="classification",
            training=Training(epochs=epochs, batch_size=40, learning_rate=0.01),
        ).module
        for epochs in (0.01, 20)
    ]  # fmt: skip
    assert off(made[1], whole) < 0.5 * off(made[0], whole)


def test_hidden_outputs_of_other_shapes_teach_nothing() -> None:
    class Shown(Heads):
        def forward(self, x: Tensor) -> object:
            hidden = torch.tanh(self.body(x))
            x = torch.tanh(self.inner(hidden))
            return self.logits(x), (hidden, self.boxes(x))

    whole, student = Shown().eval(), Shown(width=8)
    distill(student, whole, data(), TRAINING, task="classification")
    assert off(student, whole) < 0.5


def test_one_output_among_others_weighs_what_it_weighs_alone() -> None:
    """The loss of the first output is the same; the others add to it."""
    labelled = data(labels=True)
    losses = []
    for kind in ("one", "tuple"):
        whole = Heads(kind=kind).eval()
        student = copy.deepcopy(whole)
        with torch.no_grad():
            student.logits.weight.mul_(0.5)  # boxes stay right
        pupil = Pupil(student, whole, labelled, TRAINING, "classification")
        pupil.step(0, 0.1)
        losses.append(pupil.loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    with torch.no_grad():
        student = copy.deepcopy(Heads())
        student.boxes.weight.zero_()
        student.boxes.bias.zero_()
    pupil = Pupil(student, Heads().eval(), data(), TRAINING, "classification")
    pupil.step(0, 0.1)
    assert pupil.loss == pytest.approx(1.0, abs=1e-3)  # nothing right of the boxes, nothing wrong of the classes


@pytest.mark.parametrize("holdout", [0.0, 0.2])
def test_an_interrupted_training_of_several_heads_ends_the_same(holdout: float, tmp_path: Path) -> None:
    training = Training(epochs=2, batch_size=40, learning_rate=0.02, holdout=holdout, patience=3 if holdout else 0)
    structure = Structure(keep=(("inner", 0.5),), training=training)

    def made(**more: object) -> nn.Module:
        return realize(
            structure, Heads().eval(), example_inputs=EXAMPLE, train=data(), multiple=1, task="classification", **more
        ).module  # type: ignore[arg-type]

    class Killed(Exception):
        pass

    def kill(position: float) -> None:
        if position > 0.5:
            raise Killed

    whole = made()
    with pytest.raises(Killed):
        made(cache_dir=tmp_path, progress=kill)
    resumed = made(cache_dir=tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        ((4, 3, 10), (4, 10)),  # classes of places along a line
        ((4, 10, 3), (4, 10)),  # of tokens
        ((4, 3, 8, 6), (4, 8, 6)),
        ((4, 3, 5, 8, 6), (4, 5, 8, 6)),
    ],
)
def test_classes_are_found_along_the_axis_that_labels_leave_over(
    outputs: tuple[int, ...], labels: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    target, answer = (torch.from_numpy(rng.normal(size=outputs).astype(np.float32)) for _ in range(2))
    truth = torch.from_numpy(rng.integers(0, 3, labels))
    assert task_of(target, truth) == "classification"
    assert labels_teach(target, truth, "classification", guessed=False)
    axis = -1 if outputs[-1] == 3 else 1
    rows = [t.movedim(axis, -1).reshape(-1, 3) for t in (answer, target)]
    for weight in (0.0, 0.4):
        training = Training(temperature=2.0, hard_label_weight=weight)
        got = answer_loss(answer, target, truth, training, "classification")
        wanted = answer_loss(rows[0], rows[1], truth.flatten(), training, "classification")
        assert float(got) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("mixup", [0.0, 0.3])
def test_the_axis_of_classes_is_known_where_labels_do_not_teach(mixup: float) -> None:
    """[n, 3, 6, 1] in, [n, 2, 6] out: what is softened is two classes a place, also where images are mixed."""
    rng = np.random.default_rng(0)

    class Line(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.scale = nn.Conv2d(3, 2, 1), scale

        def forward(self, x: Tensor) -> Tensor:
            answer = self.conv(x)[..., 0]
            return answer + self.scale * torch.arange(6)  # the same for both classes: no class is more likely by it

    x = rng.normal(size=(32, 3, 6, 1)).astype(np.float32)
    training = Training(epochs=1, batch_size=32, mixup=mixup, hard_label_weight=0.0)
    lined = TrainingData(inputs={"x": x}, labels=rng.integers(0, 2, (32, 6)))
    pupil = Pupil(Line(3.0), Line(0.0).eval(), lined, training, "classification")
    pupil.step(0, 0.1)
    assert pupil.loss == pytest.approx(0.0, abs=1e-5)


class Places(nn.Module):
    """Blocks on [n, 2, L]; ``shift`` adds the same to both classes of a place."""

    class Shift(nn.Module):
        def __init__(self, both: float, one: float) -> None:
            super().__init__()
            self.a, self.b = nn.Conv1d(2, 2, 1), nn.Conv1d(2, 2, 1)
            self.register_buffer("added", torch.tensor([both, both + one]).view(2, 1) * torch.arange(5.0))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.added + 0.01 * self.b(self.a(x))

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(self.Shift(0.0, 1.0), self.Shift(2.0, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def test_blocks_are_ranked_by_the_classes_of_places() -> None:
    rng = np.random.default_rng(0)
    calibration = TrainingData(
        inputs={"x": rng.normal(size=(40, 2, 5)).astype(np.float32)}, labels=rng.integers(0, 2, (40, 5))
    )
    ranked = rank_blocks(Places(), torch.zeros(1, 2, 5), calibration, task="classification")
    assert [b.name for b in ranked] == ["blocks.1", "blocks.0"]
    assert ranked[0].divergence < 0.01 < ranked[1].divergence
    assert removal_order(Places(), torch.zeros(1, 2, 5), calibration, task="classification")[0] == "blocks.1"


def test_an_output_that_is_zero_in_the_teacher_does_not_take_over() -> None:
    """An error relative to nothing is larger than any other: an auxiliary head that is not used would be all that counts."""
    first = torch.zeros(2, 3)
    wanted = Answer(first=first, others={"unused": torch.zeros(2, 4), "boxes": torch.ones(2, 4)})
    given = Answer(first=first, others={"unused": torch.full((2, 4), 1e-3), "boxes": torch.full((2, 4), 1.5)})
    loss = others_loss(given, wanted)
    assert loss is not None
    assert float(loss) == pytest.approx(0.25)
    del given.others["boxes"]  # type: ignore[attr-defined]
    assert others_loss(given, wanted) is None
