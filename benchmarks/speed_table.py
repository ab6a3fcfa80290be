"""The tables of speeds in the documentation, written from the figures of the benchmarks of formats and of structure.

    python benchmarks/speed_table.py [--check]

reads ``formats.json`` and ``structure.json`` in ``benchmarks/results``, which ``python benchmarks/formats.py --json FILE``
and ``python benchmarks/structure.py --json FILE`` write, and puts each table between its two marks, in ``README.md`` and in
``docs/structure.md``. ``--check`` changes nothing and fails if they differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
START, END = "<!-- table of speeds: benchmarks/speed_table.py writes it -->", "<!-- end of the table of speeds -->"

_NETWORKS = {
    "resnet20": "ResNet20, CIFAR-10", "resnet56": "ResNet56, CIFAR-10", "depthwise": "MobileNetV2-like, CIFAR-10",
    "minilm": "MiniLM-L6, 128 tokens",
}  # fmt: skip
_PARTS = ("smaller", "low-bits", "sparse", "resnet56", "minilm")
"""Of the benchmark of structure, in the order of the table: what is about one network stands together."""


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1_000_000 else f"{count / 1000:.0f} KB"


def _load(speed: dict[str, Any]) -> str:
    plain = speed["load_unpacked_ms"]
    return f"{speed['load_ms']:.0f} ms" + ("" if plain is None else f" (unpacked {plain:.0f} ms)")


def formats_table(data: dict[str, Any]) -> str:
    """Return the table in Markdown: every row that was timed, with its network's fp32 row in front."""
    rows = data["rows"]
    lines = [
        "| network | formats | speed over fp32 (95 % interval; process pairs) | points lost | file | loads in |",
        "|---|---|---|---|---|---|",
    ]
    for network, title in _NETWORKS.items():
        timed = [r for r in rows if r["network"] == network and r["speed"] is not None]
        base = next((r for r in rows if r["network"] == network and r["label"] == "fp32"), None)
        if not timed or base is None:
            continue
        lines.append(f"| {title} | fp32 | 1 | 0 (score {base['score']:.4f}) | {_size(base['bytes'])} | |")
        for row in timed:
            speed = row["speed"]
            ratio = f"{speed['value']:.2f}x ({speed['low']:.2f} to {speed['high']:.2f}; {speed['pairs']} pairs)"
            lines.append(
                f"| | {row['label']} | {ratio} | {row['lost_points']:.2f} | {_size(row['bytes'])} | {_load(speed)} |"
            )
    where = data["environment"]
    machine = f"{where['machine']} with {where['instructions']}"
    lines += [
        "",
        f"`python benchmarks/formats.py`, ONNX Runtime {where['onnxruntime']}, {machine}, one thread, batch 1; fresh",
        "process pairs, interleaved with fp32 (`benchmarks/results/formats.json` has every row, those that lose much, too).",
    ]
    return "\n".join(lines)


def structure_table(data: dict[str, Any]) -> str:
    """Return the table in Markdown: every timed row of every part, with its network's fp32 row in front."""
    lines = [
        "| network | speed over fp32 (95 % interval; process pairs) | points lost | file | training that led to it |",
        "|---|---|---|---|---|",
    ]
    seen: set[str] = set()
    for part in sorted(data, key=_PARTS.index):
        for row in data[part]["results"]:
            if row["name"] in seen:
                continue
            seen.add(row["name"])
            if row["speedup"] is None:
                lines.append(f"| **{row['name']}** | 1 | 0 (score {row['score']:.4f}) | {_size(row['bytes'])} | |")
                continue
            value, low, high, pairs = row["speedup"]
            ratio = f"{value:.2f}x ({low:.2f} to {high:.2f}; {pairs} pairs)"
            trained = f"{row['training_s'] / 60:.1f} min" if row["training_s"] else "none"
            lines.append(f"| {row['name']} | {ratio} | {row['drop_points']:.2f} | {_size(row['bytes'])} | {trained} |")
    where = next(iter(data.values()))["environment"]
    machine = f"{where['processor']} with {where['instructions']}"
    lines += [
        "",
        f"`python benchmarks/structure.py`, ONNX Runtime {where['onnxruntime']}, {machine};",
        f"training on {where['threads']} threads, timing on one in fresh process pairs, interleaved with fp32.",
    ]
    return "\n".join(lines)


TABLES: dict[str, tuple[Path, Callable[[dict[str, Any]], str]]] = {
    "formats.json": (ROOT / "README.md", formats_table),
    "structure.json": (ROOT / "docs" / "structure.md", structure_table),
}
"""Where the table of each file of results goes, and what writes it."""


def main() -> int:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    differ = 0
    for name, (page, table) in TABLES.items():
        text = page.read_text()
        before, found, rest = text.partition(START)
        _, ended, after = rest.partition(END)
        if not found or not ended:
            print(f"{page.name} lacks the marks '{START}' and '{END}'", file=sys.stderr)
            return 2
        made = f"{before}{START}\n{table(json.loads((RESULTS / name).read_text()))}\n{END}{after}"
        if made == text:
            continue
        if options.check:
            print(f"{page.name} differs from benchmarks/results/{name}: run benchmarks/speed_table.py", file=sys.stderr)
            differ = 1
        else:
            page.write_text(made)
    return differ


if __name__ == "__main__":
    sys.exit(main())
