"""Timing of the kept files by the project's own protocol: fresh process pairs, interleaved with fp32, one thread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from format_table.rows import Speed, Table
from modeltailor.compress.pack import unpack_model
from modeltailor.estimators.latency import compare
from modeltailor.targets import LocalDevice, TimingPlan, load_profile

__all__ = ["time_table"]


def time_table(
    table: Table, folder: Path, inputs: Mapping[str, NDArray[np.generic]], *, seconds: float, slow: bool
) -> None:
    """Time all rows that ask for it against the float model, and the loading of their unpacked form.

    Args:
        table: rows that were scored; changed and written.
        folder: where the files lie.
        inputs: one sample.
        seconds: wall clock of all pairs.
        slow: an inference takes long: fewer of them a block.
    """
    rows = [r for r in table.rows if r.timed and r.label != "fp32"]
    base = table.rows[0]
    unpacked: dict[str, Path] = {}
    for row in rows:
        model = onnx.load(folder / row.file)
        if model.functions:
            unpacked[row.label] = folder / f"plain-{row.file}"
            onnx.save(unpack_model(model), unpacked[row.label])
    plan = TimingPlan(quads=6, block_inferences=6 if slow else 20, block_ms=40.0, warmup_s=1.0, timeout_s=240.0)
    device = LocalDevice(load_profile("desktop-cpu"))
    try:
        files = [folder / base.file, *(folder / r.file for r in rows)]
        found = compare(device, files, dict(inputs), half_width=0.01, max_pairs=12, seconds=0.85 * seconds, plan=plan)
        loads: dict[str, float] = {}
        if unpacked:
            brief = TimingPlan(quads=1, block_inferences=2, block_ms=1.0, warmup_s=0.1, pairs=2, timeout_s=240.0)
            plain = device.time([folder / base.file, *unpacked.values()], dict(inputs), brief)
            facts = plain.facts[1:]
            loads = {label: f.load_ms for label, f in zip(unpacked, facts, strict=True)}
    finally:
        device.close()
    for row, measured in zip(rows, found, strict=True):
        table.timed(
            row.label,
            Speed(
                value=measured.speedup.value, low=measured.speedup.low, high=measured.speedup.high, pairs=measured.pairs,
                verdict=measured.verdict, latency_ms=measured.latency_ms.value, load_ms=measured.load_ms,
                load_unpacked_ms=loads.get(row.label),
            ),
        )  # fmt: skip
        print(
            f"{row.network:10s} {row.label:34s} {measured.speedup.value:.2f}x"
            f" ({measured.speedup.low:.2f}..{measured.speedup.high:.2f}), load {measured.load_ms:.0f} ms",
            flush=True,
        )
    table.write(folder)
