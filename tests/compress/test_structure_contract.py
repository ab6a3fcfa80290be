"""Every technique passes the one suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeltailor.compress import Format, Structure, Training
from modeltailor.compress.structure import TrainingData, kept_weights, realize, recover
from modeltailor.compress.structure.contract import TechniqueCase, TechniqueContract

EXAMPLE = {"x": torch.zeros(2, 3, 16, 16)}
SHORT = Training(epochs=1.0, batch_size=16, learning_rate=0.01, ema=0.9)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.norm(self.conv1(x))))


class Net(nn.Module):
    def __init__(self, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


def data(rows: int = 96) -> TrainingData:
    rng = np.random.default_rng(0)
    return TrainingData(
        inputs={"x": rng.normal(size=(rows, 3, 16, 16)).astype(np.float32)}, labels=rng.integers(0, 5, rows)
    )


@dataclass(frozen=True)
class Realizing:
    structure: Structure

    def __call__(
        self, subject: nn.Module, *, seed: int, cache_dir: Path | None, progress: Callable[[float], None] | None
    ) -> nn.Module:
        return realize(
            self.structure, subject, example_inputs=EXAMPLE, train=data(), calibration=data(), cache_dir=cache_dir,
            seed=seed, progress=progress, student=student,
        ).module  # fmt: skip


def student(width: float, depth: float) -> nn.Module:
    state = torch.random.get_rng_state()
    made = Net(round(16 * width), round(2 * depth))
    torch.random.set_rng_state(state)
    return made


def recovered(
    subject: nn.Module, *, seed: int, cache_dir: Path | None, progress: Callable[[float], None] | None
) -> nn.Module:
    formats = {"stem": Format.parse("w3a8"), "blocks.0.conv1": Format.parse("w2"), "head": Format.parse("w4")}
    return recover(
        subject, formats, teacher=subject, example_inputs=EXAMPLE, train=data(), training=SHORT, cache_dir=cache_dir,
        seed=seed, progress=progress,
    ).module  # fmt: skip


def size(width: int, inner: int | None = None, blocks: int = 2) -> int:
    inner = width if inner is None else inner
    block = 9 * width * inner + 2 * inner + 9 * inner * width + width
    return 27 * width + width + blocks * block + 5 * width + 5


WHOLE = size(16)
INNER = (("blocks.0.conv1", 0.5), ("blocks.1.conv1", 0.5))
CONVS = ("blocks.0.conv1", "blocks.1.conv2")
SPARSE = tuple((n, 0.75) for n in CONVS)
BIASES_OF_BATCHNORMS = 2 * 16  # start at zero


def low_rank(rank: int) -> int:
    return WHOLE - 2 * 9 * 16 * 16 + 2 * rank * (9 * 16 + 16)


def sparse(share: float, pattern: str = "unstructured") -> int:
    return WHOLE - BIASES_OF_BATCHNORMS - 2 * (16 * 144 - kept_weights((16, 144), share, pattern))


CASES: dict[str, tuple[Structure, int]] = {
    **{
        f"channels by {score}": (Structure(keep=INNER, score=score), size(16, 8))  # type: ignore[arg-type]
        for score in ("magnitude", "bn-scale", "taylor", "fisher", "activation")
    },
    "coupled channels": (Structure(keep=(("stem", 0.5),)), size(8, 16)),
    "blocks": (Structure(removed=("blocks.1",)), size(16, blocks=1)),
    "student": (Structure(width=0.5, depth=0.5), size(8, blocks=1)),
    "low rank": (Structure(ranks=tuple((n, 4) for n in CONVS)), low_rank(4)),
    "resolution": (Structure(resolution=0.99), WHOLE),
    "trained": (Structure(keep=INNER, training=SHORT), size(16, 8)),
    "trained low rank": (Structure(ranks=tuple((n, 4) for n in CONVS), training=SHORT), low_rank(4)),
    "assistants": (
        Structure(keep=INNER, training=Training(epochs=2, batch_size=16, learning_rate=0.01, assistants=1)),
        size(16, 8),
    ),
    "hints": (
        Structure(
            width=0.5,
            training=Training(epochs=1, batch_size=16, learning_rate=0.01, features=("stem", "blocks.0=blocks.1")),
        ),
        size(8),
    ),
    "attention transfer": (
        Structure(
            keep=INNER,
            training=Training(epochs=1, batch_size=16, learning_rate=0.01, features=("blocks",), feature_loss="attention"),
        ),
        size(16, 8),
    ),
    "early stopping": (
        Structure(
            keep=INNER, training=Training(epochs=3, batch_size=16, learning_rate=0.01, holdout=0.2, patience=3, ema=0.9)
        ),
        size(16, 8),
    ),
}  # fmt: skip

ZEROS: dict[str, tuple[Structure, int]] = {
    **{
        f"{pattern} zeros by {score}": (
            Structure(
                sparsity=tuple((n, share) for n in CONVS), pattern=pattern, sparsity_score=score  # type: ignore[arg-type]
            ),
            sparse(share, pattern),
        )
        for score in ("magnitude", "wanda", "obs")
        for pattern, share in (("unstructured", 0.7), ("2:4", 0.5), ("3:16", 1 - 3 / 16))
    },
}  # fmt: skip


class TestTechniques(TechniqueContract):
    @pytest.fixture(params=sorted(CASES))
    def case(self, request: pytest.FixtureRequest) -> TechniqueCase[nn.Module]:
        structure, parameters = CASES[request.param]
        return TechniqueCase(
            subject=Net().eval(), apply=Realizing(structure), example_inputs=EXAMPLE, parameters=parameters,
            trains=structure.training is not None,
        )  # fmt: skip


class TestZeros(TechniqueContract):
    @pytest.fixture(params=sorted(ZEROS))
    def case(self, request: pytest.FixtureRequest) -> TechniqueCase[nn.Module]:
        structure, parameters = ZEROS[request.param]
        return TechniqueCase(
            subject=Net().eval(), apply=Realizing(structure), example_inputs=EXAMPLE, parameters=parameters,
            counts="non-zero",
        )  # fmt: skip


class TestRecovery(TechniqueContract):
    @pytest.fixture
    def case(self) -> TechniqueCase[nn.Module]:
        return TechniqueCase(
            subject=Net().eval(), apply=recovered, example_inputs=EXAMPLE, parameters=WHOLE, trains=True
        )
