"""Does the measuring keep its promises on this machine? Real A/A comparisons, a true 5 % difference, the probe, `bench`.

Usage::

    python benchmarks/measuring.py [--part aa,five,probe,bench,synthetic] [--count N] [--json FILE] [--quick]

Each part may be run in pieces: with ``--json`` what the file holds already is kept and added to. Nothing else should run
on the machine meanwhile. The networks of ``aa`` and ``five`` are chains of one convolution, 40 long and 42 long, so the
true difference is 5 % by construction; ``bench`` takes ResNet20 (random weights, folded batch norms) in fp32 and in
int8 by ONNX Runtime's own quantizer.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modeltailor.estimators.bench import compare_files
from modeltailor.estimators.latency import Measurement, compare
from modeltailor.estimators.selftest import check_synthetic
from modeltailor.targets import LocalDevice, load_profile
from modeltailor.targets.machine import processor, runtime
from modeltailor.targets.probe import probe

Row = dict[str, object]
PARTS = ("synthetic", "aa", "five", "probe", "bench")
COUNTS = {"synthetic": 1, "aa": 20, "five": 20, "probe": 1, "bench": 10}


def chain(length: int) -> onnx.ModelProto:
    """``length`` equal convolutions (32 channels, 16x16) one after another."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array((rng.normal(size=(32, 32, 3, 3)) / 17.0).astype(np.float32), "w")
    nodes, value = [], "x"
    for k in range(length):
        nodes.append(helper.make_node("Conv", [value, "w"], [f"v{k}"], pads=[1, 1, 1, 1]))
        value = f"v{k}"
    nodes.append(helper.make_node("Identity", [value], ["y"]))
    shape = [1, 32, 16, 16]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class _Layers:
    """Nodes and weights of a network as they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def add(self, op: str, inputs: list[str], **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}{len(self.nodes)}", **attributes))
        return name

    def conv(self, value: str, reads: int, writes: int, kernel: int, stride: int) -> str:
        weight = self.rng.normal(size=(writes, reads, kernel, kernel)) * np.sqrt(2.0 / (reads * kernel * kernel))
        names = [f"w{len(self.weights)}", f"b{len(self.weights)}"]
        self.weights.append(numpy_helper.from_array(weight.astype(np.float32), names[0]))
        self.weights.append(numpy_helper.from_array(np.zeros(writes, np.float32), names[1]))
        pad = kernel // 2
        return self.add("Conv", [value, *names], strides=[stride, stride], pads=[pad] * 4)


def resnet20() -> onnx.ModelProto:
    """ResNet20 for 32x32 images (He et al. 2016) with 1x1 shortcuts and batch norms folded away."""
    net = _Layers()
    value = net.add("Relu", [net.conv("x", 3, 16, 3, 1)])
    width = 16
    for planes in (16, 32, 64):
        for block in range(3):
            stride = 2 if planes != width and block == 0 else 1
            inner = net.add("Relu", [net.conv(value, width, planes, 3, stride)])
            inner = net.conv(inner, planes, planes, 3, 1)
            skip = value if planes == width else net.conv(value, width, planes, 1, stride)
            value = net.add("Relu", [net.add("Add", [inner, skip])])
            width = planes
    value = net.add("Flatten", [net.add("GlobalAveragePool", [value])])
    net.weights.append(numpy_helper.from_array(net.rng.normal(size=(64, 10)).astype(np.float32), "head"))
    net.nodes.append(helper.make_node("MatMul", [value, "head"], ["y"], name="head"))
    graph = helper.make_graph(
        net.nodes,
        "resnet20",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        net.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def int8_of(path: Path) -> Path:
    """Quantize by ONNX Runtime's own static quantizer: activations uint8, weights int8 per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    rng = np.random.default_rng(1)
    batches = [{"x": rng.normal(size=(1, 3, 32, 32)).astype(np.float32)} for _ in range(16)]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands out the batches."""

        def __init__(self) -> None:
            self.rest = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The next batch, or ``None`` at the end."""
            return next(self.rest, None)

    out = path.with_name("int8.onnx")
    quantize_static(
        path, out, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return out


def row(measured: Measurement, seconds: float) -> Row:
    s = measured.speedup
    return {
        "speedup": round(s.value, 5), "low": round(s.low, 5), "high": round(s.high, 5),
        "half_width": round(s.half_width, 5), "pairs": measured.pairs, "verdict": measured.verdict,
        "seconds": round(seconds, 1),
    }  # fmt: skip


def compare_chains(lengths: tuple[int, int], folder: Path) -> Row:
    paths = tuple(folder / f"chain-{k}-{n}.onnx" for k, n in enumerate(lengths))
    for path, n in zip(paths, lengths, strict=True):
        onnx.save(chain(n), path)
    device = LocalDevice(load_profile("desktop-cpu"))
    started = time.monotonic()
    found = compare(device, paths, {"x": np.random.default_rng(0).normal(size=(1, 32, 16, 16)).astype(np.float32)})
    return row(found[0], time.monotonic() - started)


def bench_resnet20(folder: Path) -> Row:
    fp32 = folder / "resnet20.onnx"
    onnx.save(resnet20(), fp32)
    files = (fp32, int8_of(fp32))
    started = time.monotonic()
    found = compare_files(LocalDevice(load_profile("desktop-cpu")), files, seconds=60.0)
    return row(found.rows[1].measured, time.monotonic() - started)


def probe_here(_: Path) -> Row:
    started = time.monotonic()
    table = probe(LocalDevice(load_profile("desktop-cpu")))
    pays = {
        "u8s8": table.pays("w8a8", "conv", "u8s8 per channel"),
        "s8s8": table.pays("w8a8", "conv", "s8s8 per channel"),
        "2-bit MatMulNBits": table.pays("w2-block32", "matmul"),
    }
    return {"seconds": round(time.monotonic() - started, 1), "pays": pays, "left_out": list(table.left_out)}


def synthetic(_: Path) -> Row:
    started = time.monotonic()
    found = check_synthetic()
    return {
        "comparisons": found.comparisons, "false_alarms": found.false_alarms, "power_3_percent": found.power,
        "coverage": found.coverage, "passed": found.passed, "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip


MEASURE: Mapping[str, Callable[[Path], Row]] = {
    "synthetic": synthetic,
    "aa": lambda folder: compare_chains((40, 40), folder),
    "five": lambda folder: compare_chains((42, 40), folder),
    "probe": probe_here,
    "bench": bench_resnet20,
}


def goals(results: Mapping[str, list[Row]]) -> list[Row]:
    """Hold what was found against what was asked for."""

    def at(row: Row, name: str) -> float:
        return float(cast("float", row[name]))

    found: list[Row] = []

    def goal(name: str, asked: str, value: object, met: bool) -> None:
        found.append({"name": name, "goal": asked, "value": value, "met": met})

    if rows := results.get("synthetic"):
        goal("synthetic device", "passed", rows[-1]["passed"], bool(rows[-1]["passed"]))
    if rows := results.get("aa"):
        alarms = sum(not at(r, "low") <= 1.0 <= at(r, "high") for r in rows)
        goal(f"false alarms of {len(rows)} A/A comparisons", "<= 2 of 20", alarms, alarms <= 0.1 * len(rows))
    if rows := results.get("five"):
        seen = sum(at(r, "low") > 1.0 for r in rows)
        goal(f"true 5 % difference seen, of {len(rows)}", ">= 18 of 20", seen, seen >= 0.9 * len(rows))
        held = sum(at(r, "low") <= 1.05 <= at(r, "high") for r in rows)
        goal(f"intervals that hold 1.05, of {len(rows)}", "(shown)", held, True)
    if rows := results.get("probe"):
        slowest = max(at(r, "seconds") for r in rows)
        goal("seconds of the probe", "<= 60", slowest, slowest <= 60.0)
        pays = cast("Mapping[str, bool]", rows[-1]["pays"])
        kept_out = [k for k in ("s8s8", "2-bit MatMulNBits") if not pays[k]]
        goal("left out by measurement", "s8s8, 2-bit MatMulNBits", ", ".join(kept_out), len(kept_out) == 2)
    if rows := results.get("bench"):
        good = sum(at(r, "half_width") <= 0.02 and at(r, "seconds") <= 66.0 for r in rows)
        goal(f"bench: half-width <= 2 % within 60 s, of {len(rows)}", ">= 9 of 10", good, good >= 0.9 * len(rows))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default=",".join(PARTS))
    parser.add_argument("--count", type=int, help="repetitions of each part now; as many as its goal needs by default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two repetitions of each part")
    chosen = parser.parse_args()
    results: dict[str, list[Row]] = {}
    if chosen.json is not None and chosen.json.is_file():
        results = json.loads(chosen.json.read_text())["results"]
    for part in chosen.part.split(","):
        rows = results.setdefault(part, [])
        n = chosen.count or (min(2, COUNTS[part]) if chosen.quick else COUNTS[part] - len(rows))
        for _ in range(n):
            with tempfile.TemporaryDirectory(prefix="modeltailor-measuring-") as scratch:
                rows.append(MEASURE[part](Path(scratch)))
            print(f"{part:<10} {len(rows):>3}  " + "  ".join(f"{k} {v}" for k, v in rows[-1].items()), flush=True)
            if chosen.json is not None:
                environment = {"processor": processor(), "runtime": runtime(), "cores": os.cpu_count()}
                data = {"environment": environment, "results": results, "goals": goals(results)}
                chosen.json.write_text(json.dumps(data, indent=1))
    reached = goals(results)
    for g in reached:
        print(f"{'met   ' if g['met'] else 'missed'} {g['name']}: {g['value']} (goal {g['goal']})")
    return 0 if all(g["met"] for g in reached) else 1


if __name__ == "__main__":
    raise SystemExit(main())
