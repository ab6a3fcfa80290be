"""What depth, low bits and distillation give on ResNet20 and ResNet56 (CIFAR-10 from JPEG).

    python benchmarks/structure.py [--quick] [--json FILE] [--only NAME ...]

Training runs on all cores, timing on one thread, interleaved with the fp32 original in the same process. ``--quick`` trains
a sixteenth as long: it shows that everything runs, its figures prove nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from modeltailor.compress import Format, Structure, Training
from modeltailor.compress.formats import Composer
from modeltailor.compress.structure import TrainingData, count_parameters, realize, recover
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session, run_batches
from modeltailor.workloads.export import export_onnx

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MODELTAILOR_DATA", ROOT.parent / "shared" / "data"))
sys.path.insert(0, str(ROOT / "examples" / "resnet20_cifar"))
import data as cifar  # noqa: E402
import model as resnets  # noqa: E402

EXAMPLE = torch.zeros(1, 3, 32, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured file."""

    name: str
    accuracy: float
    drop_points: float
    speedup: float
    bytes: int
    parameters: int
    training_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure that was promised."""

    name: str
    goal: str
    value: str
    met: bool


class Bench:
    """The data, the originals, and how a network becomes a measured row."""

    def __init__(self, quick: bool) -> None:
        self.share = 1 / 16 if quick else 1.0
        splits = cifar.load()
        self.train = TrainingData(inputs={"x": splits["train"]["x"]}, labels=splits["train"]["y"])
        self.calibration = {"x": splits["calibration"]["x"][:512].astype(np.float32)}
        self.test = splits["test"]
        self.folder = Path(tempfile.mkdtemp(prefix="modeltailor-bench-"))
        self.rows: list[Row] = []
        self.training_s = 0.0

    def original(self, name: str) -> nn.Module:
        """A network with its published weights."""
        made = resnets.build() if name == "resnet20" else resnets.build_resnet56()
        made.load_state_dict(load_file(DATA / "cifar10_jpeg" / f"{name}.safetensors"), strict=False)
        return made.eval()

    def composer(self, module: nn.Module, name: str) -> Composer:
        """The float file of a network, ready for formats."""
        path = self.folder / f"{name.replace(' ', '-')}.onnx"
        export_onnx(module, (EXAMPLE,), path, input_names=["x"], output_names=["y"])
        return Composer(path, self.calibration)

    def row(self, name: str, composer: Composer, formats: Mapping[str, Format], baseline: bytes, module: nn.Module,
            original: Row | None) -> Row:  # fmt: skip
        """Build, score and time one file."""
        built = composer.compose(formats).model_bytes
        accuracy = self.accuracy(built)
        made = Row(
            name=name,
            accuracy=accuracy,
            drop_points=100 * ((original.accuracy if original else accuracy) - accuracy),
            speedup=speedup(baseline, built, self.test["x"][:1].astype(np.float32)),
            bytes=len(built),
            parameters=count_parameters(module),
            training_s=self.training_s,
        )
        self.rows.append(made)
        print(
            f"{name:44s} {made.accuracy:.4f} {made.drop_points:+6.2f} pt {made.speedup:5.2f}x {made.bytes:9,d} B"
            f" {made.parameters:8,d} parameters, {made.training_s:6.0f} s of training",
            flush=True,
        )
        return made

    def accuracy(self, model: bytes) -> float:
        """Share of the test images that the file classifies rightly."""
        session = open_session(model, RuntimeOptions())
        logits = run_batches(session, {"x": self.test["x"].astype(np.float32)}, batch_size=100)["y"]
        return float((logits.argmax(1) == self.test["y"]).mean())

    def cut(self, original: nn.Module, removed: tuple[str, ...], epochs: float) -> nn.Module:
        """Take blocks out and train."""
        structure = Structure(removed=removed, training=Training(epochs=epochs * self.share))
        made = realize(structure, original, example_inputs=EXAMPLE, train=self.train)
        self.training_s += made.seconds
        return made.module

    def rounded(
        self, module: nn.Module, teacher: nn.Module, formats: Mapping[str, Format], epochs: float, rate: float
    ) -> nn.Module:
        """Train with rounded weights."""
        training = Training(epochs=epochs * self.share, learning_rate=rate)
        made = recover(
            module, formats, teacher=teacher, example_inputs=EXAMPLE, train=self.train, training=training
        )  # fmt: skip
        self.training_s += made.seconds
        return made.module


def speedup(a: bytes, b: bytes, x: NDArray[np.float32], rounds: int = 15, runs: int = 20) -> float:
    """How many times faster ``b`` is: median over rounds, in which both run one after the other in both orders."""
    sessions = [open_session(m, RuntimeOptions()) for m in (a, b)]
    names = [s.get_inputs()[0].name for s in sessions]

    def block(k: int) -> float:
        times = []
        for _ in range(runs):
            started = time.perf_counter_ns()
            sessions[k].run(None, {names[k]: x})
            times.append(time.perf_counter_ns() - started)
        return float(np.median(times))

    for k in (0, 1):
        block(k)
    ratios = []
    for _ in range(rounds):
        first, second, third, fourth = block(0), block(1), block(1), block(0)
        ratios.append((first * fourth / (second * third)) ** 0.5)
    return float(np.median(ratios))


def uniform(composer: Composer, name: str, special: Mapping[str, str] | None = None) -> dict[str, Format]:
    """The same format everywhere, but for ``special`` sites."""
    return {s.name: Format.parse((special or {}).get(s.name, name)) for s in composer.sites}


def smaller_resnet20(bench: Bench) -> list[Goal]:
    """A faster one and a smaller one within 15 minutes of training."""
    original = bench.original("resnet20")
    composer = bench.composer(original, "resnet20")
    baseline = composer.float_model()
    fp32 = bench.row("resnet20 fp32", composer, {}, baseline, original, None)
    bench.row("resnet20 int8", composer, uniform(composer, "w8a8"), baseline, original, fp32)
    bench.training_s = 0.0
    shallow = bench.cut(original, ("layer1.0", "layer2.2"), 8)
    composer = bench.composer(shallow, "resnet20 2-2-3")
    fast = bench.row("resnet20 2-2-3 int8", composer, uniform(composer, "w8a8"), baseline, shallow, fp32)
    wide = {f"layer3.{i}.conv{j}": "w2a8" for i in (1, 2) for j in (1, 2)}  # where most of the weights are
    low = uniform(composer, "w3a8", {"conv1": "w8a8", "linear": "w8a8", **wide})
    trained = bench.rounded(shallow, original, low, 6, 0.01)
    composer = bench.composer(trained, "resnet20 2-2-3 low")
    small = bench.row("resnet20 2-2-3, 2 and 3 bits", composer, low, baseline, trained, fp32)
    minutes = bench.training_s / 60
    return [
        Goal(name="fast: at most 1.0 point lost", goal=">= 2.7x", value=f"{fast.speedup:.2f}x, {fast.drop_points:+.2f} pt",
             met=fast.speedup >= 2.7 and fast.drop_points <= 1.0),
        Goal(name="small: at most 1.0 point lost, 2.0x", goal="<= 90 KB",
             value=f"{small.bytes:,d} B, {small.drop_points:+.2f} pt, {small.speedup:.2f}x",
             met=small.bytes <= 90_000 and small.drop_points <= 1.0 and small.speedup >= 2.0),
        Goal(name="training of both", goal="<= 15 min", value=f"{minutes:.1f} min", met=minutes <= 15),
    ]  # fmt: skip


def low_bits(bench: Bench) -> list[Goal]:
    """All layers of ResNet20 at 2 and at 3 bits."""
    original = bench.original("resnet20")
    composer = bench.composer(original, "resnet20")
    baseline = composer.float_model()
    fp32 = bench.row("resnet20 fp32", composer, {}, baseline, original, None)
    goals = []
    for name, epochs, rate, limit in (("w3a8", 4, 0.01, 0.3), ("w2a8", 8, 0.02, 2.5)):
        bench.training_s = 0.0
        formats = uniform(composer, name)
        trained = bench.rounded(original, original, formats, epochs, rate)
        row = bench.row(f"resnet20 all {name}", bench.composer(trained, name), formats, baseline, trained, fp32)
        goals.append(
            Goal(name=f"all layers {name}", goal=f"<= {limit} points lost", value=f"{row.drop_points:+.2f} pt",
                 met=row.drop_points <= limit and bench.training_s <= 900)
        )  # fmt: skip
    return goals


def student_of_resnet56(bench: Bench) -> list[Goal]:
    """ResNet56 with three blocks a stage: the shape of ResNet20, the weights of ResNet56."""
    original = bench.original("resnet56")
    composer = bench.composer(original, "resnet56")
    baseline = composer.float_model()
    fp32 = bench.row("resnet56 fp32", composer, {}, baseline, original, None)
    bench.training_s = 0.0
    taken = tuple(f"layer{s}.{b}" for s in (1, 2, 3) for b in (range(1, 7) if s == 1 else range(2, 8)))
    student = bench.cut(original, taken, 8)
    composer = bench.composer(student, "resnet56 short")
    row = bench.row("resnet56 3-3-3 int8", composer, uniform(composer, "w8a8"), baseline, student, fp32)
    return [
        Goal(name="student of resnet56, at most 1.0 point lost", goal=">= 5x",
             value=f"{row.speedup:.2f}x, {row.drop_points:+.2f} pt", met=row.speedup >= 5 and row.drop_points <= 1.0)
    ]  # fmt: skip


PARTS: dict[str, Callable[[Bench], list[Goal]]] = {
    "smaller": smaller_resnet20,
    "low-bits": low_bits,
    "resnet56": student_of_resnet56,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    bench = Bench(options.quick)
    goals = [goal for name in options.only for goal in PARTS[name](bench)]
    for goal in goals:
        print(f"{'met ' if goal.met else 'MISS'}  {goal.name:44s} {goal.goal:24s} {goal.value}")
    if options.json:
        environment = {
            "processor": platform.processor() or platform.machine(),
            "cores": str(os.cpu_count()),
            "threads": str(torch.get_num_threads()),
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "quick": str(options.quick),
        }
        found = {
            "environment": environment,
            "results": [asdict(r) for r in bench.rows],
            "goals": [asdict(g) for g in goals],
        }
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
