"""Bands of predictions that rest on profiles of runs: networks may take more or less than their kernels say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from modeltailor.estimators.predict import (
    DeviceModel,
    GraphWork,
    KernelWork,
    constants_of,
    points_of,
    read_trace,
    widened,
)
from modeltailor.estimators.predict.traces import Trace, TracedKernel
from modeltailor.targets import list_profiles

MS = {"Conv": 0.3, "MatMul": 0.05, "Add": 0.02, "Cast": 0.01}
"""Of a call."""


def network(counts: NDArray[np.int64]) -> GraphWork:
    kinds = (("Conv", "conv", 5_000_000), ("MatMul", "matmul", 800_000), ("Add", "move", 0), ("Cast", "convert", 0))
    return GraphWork(
        kernels=tuple(
            KernelWork(
                name=f"{operator}{i}", operator=operator, operator_class=kind, number_format="fp32", macs=macs,  # type: ignore[arg-type]
                padded_macs=macs, read_bytes=20_000, written_bytes=20_000,
            )
            for (operator, kind, macs), n in zip(kinds, counts, strict=True)
            for i in range(n)
        )
    )  # fmt: skip


def traced(work: GraphWork, latency_ms: float) -> tuple[Trace, GraphWork]:
    """The profile of a run, as it is without the profiler: kernels that add up to the latency."""
    slower = latency_ms / sum(MS[k.operator] for k in work.kernels)
    kernels = tuple(
        TracedKernel(name=k.name, operator=k.operator, provider="x", ms=slower * MS[k.operator]) for k in work.kernels
    )
    return Trace(model=Path("m.onnx"), kernels=kernels, adds_up=True), work


@pytest.mark.parametrize("deviation", [0.02, 0.08])
def test_bands_know_from_five_networks_how_far_others_lie_off_the_sum_of_their_kernels(deviation: float) -> None:
    constants = constants_of(list_profiles()[0])
    assert constants is not None
    held = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        works = [network(rng.integers(2, 30, 4)) for _ in range(17)]
        sums = np.array([sum(MS[k.operator] for k in w.kernels) for w in works])
        log_ms = np.log(sums) + deviation * rng.standard_normal(len(works))
        points = points_of([traced(w, float(ms)) for w, ms in zip(works[:5], np.exp(log_ms[:5]), strict=True)])
        found = DeviceModel(constants=constants).posterior(works[:5], log_ms[:5], np.full(5, 0.005), works[5:], points)
        held.append(widened(found.each(), 1.0).holds(log_ms[5:]).mean())
    assert 0.6 < np.mean(held) < 0.92


def test_a_profile_tells_parts_of_a_microsecond(tmp_path: Path) -> None:
    """It counts whole ones; a kernel of 2.25 takes two of them in three calls of four. What is far off is left out."""
    events = [
        {"cat": "Node", "name": "a_kernel_time", "dur": duration, "args": {"op_name": "Conv", "provider": "x"}}
        for duration in [2] * 30 + [3] * 10 + [1] * 10 + [500] * 2 + [3] * 8
    ]
    (tmp_path / "trace.json").write_text(json.dumps(events), encoding="utf-8")
    (kernel,) = read_trace(tmp_path / "m.onnx", tmp_path / "trace.json").kernels
    assert 2.0 < kernel.ms * 1e3 < 2.5


def test_a_trace_adds_up_where_the_machine_was_a_little_faster_but_not_where_most_of_the_time_is_no_kernel() -> None:
    trace, _ = traced(network(np.array([5, 5, 5, 5])), 2.0)
    raw = Trace(model=trace.model, kernels=trace.kernels)
    calm = raw.without_profiler(2.1)
    assert calm.adds_up
    assert sum(k.ms for k in calm.kernels) == pytest.approx(2.1)
    assert raw.without_profiler(4.0) is raw
