"""A first look at a model without data: which uniform settings pay on this device, and what a search could win.

Inputs are made up, so nothing is said about accuracy. Latency and size are real: they hardly depend on the values.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from modeltailor.errors import CandidateError, ConfigError, ModelError
from modeltailor.targets import Child, Device
from modeltailor.workloads import ModelSpec, model_kind

if TYPE_CHECKING:
    from modeltailor.estimators.audit import Audit
    from modeltailor.estimators.bench import Bench
    from modeltailor.quick_child import BuiltUniforms
    from modeltailor.targets.probe import ProbeTable

__all__ = ["QuickLook", "QuickRow", "look_quickly"]

_PROBE_SHARE = 0.2
_BENCH_SHARE = 0.55
_BUILD_S = 600.0
_LEAST_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickRow:
    """One uniform setting.

    Attributes:
        name: ``fp32``, ``int8 static`` ...
        latency_ms: of one inference.
        speedup: over fp32; value, lower and upper end (95 %).
        size_bytes: of the file.
        evidence: of the latency.
    """

    name: str
    latency_ms: float
    speedup: tuple[float, float, float]
    size_bytes: int
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickLook:
    """What a first look found.

    Attributes:
        rows: fp32 first, then the uniform settings that could be built.
        failed: settings that could not be built or run, and why.
        shapes: shape by input.
        audits: what executes, one sentence each, by name of the row.
        probed: what the device's probe says of formats, one sentence each.
        prospects: what a search could win, one sentence each; arithmetic says so.
        device: name, runtime and processor.
        seconds: that it took.
    """

    rows: tuple[QuickRow, ...]
    failed: tuple[tuple[str, str], ...]
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    audits: tuple[tuple[str, str], ...]
    probed: tuple[str, ...]
    prospects: tuple[str, ...]
    device: str
    seconds: float

    @property
    def best(self) -> QuickRow:
        """The fastest setting that is faster beyond its interval; else fp32."""
        sure = [r for r in self.rows[1:] if r.speedup[1] > 1.0]
        return max(sure, key=lambda r: r.speedup[0], default=self.rows[0])


def look_quickly(
    model: ModelSpec,
    root: Path,
    device: Device,
    *,
    shapes: Mapping[str, Sequence[int]],
    batch: int = 1,
    seconds: float = 120.0,
    cache: Path | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> QuickLook:
    """Build the uniform settings of a model on made-up inputs and measure them beside each other.

    Args:
        model: an ONNX file, or a PyTorch source whose input shapes are given.
        root: folder that its paths start from.
        device: where it is measured.
        shapes: shape by input, where the file leaves more than the batch size free; needed for PyTorch.
        batch: batch size, where the file leaves it free.
        seconds: wall clock, about.
        cache: where probes are kept.
        notify: told what is being done.

    Raises:
        ModelError: the model cannot be used.
        ConfigError: the shape of an input is not known.
        DeviceError: the device failed.
    """
    from modeltailor.estimators.audit import audit
    from modeltailor.estimators.bench import compare_files, example_inputs
    from modeltailor.targets.local import options_here

    if seconds < _LEAST_S:
        raise ConfigError("CFG-15", "--time", f"must be at least {_LEAST_S:g} s; got {seconds:g} s", "give more time")
    model_kind(model, root)  # what is not there is said before anything is announced
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="modeltailor-quick-") as scratch:
        notify("building the uniform settings")
        built = _build(model, root, Path(scratch), shapes, batch)
        notify("probing what pays on this device")
        table = _probed(device, cache, _PROBE_SHARE * seconds)
        inputs = example_inputs(built.original, shapes=shapes, batch=batch)
        files = {"fp32": built.original, **dict(built.files)}
        notify(f"timing {len(files)} models beside each other")
        bench = compare_files(device, tuple(files.values()), inputs=inputs, seconds=_BENCH_SHARE * seconds)
        rows = _rows(bench, tuple(files))
        fastest = max(rows[1:], key=lambda r: r.speedup[0], default=rows[0]).name
        notify("reading what executes")
        options = options_here(device)
        audits = {name: audit(files[name], inputs, options) for name in dict.fromkeys(("fp32", fastest))}
    facts = bench.facts
    return QuickLook(
        rows=rows,
        failed=built.failed,
        shapes=bench.shapes,
        audits=tuple((name, a.sentence) for name, a in audits.items()),
        probed=_probe_sentences(table),
        prospects=_prospects(rows, built, audits),
        device=f"{facts.name}: {facts.runtime}, {facts.processor}",
        seconds=time.monotonic() - started,
    )


def _build(
    model: ModelSpec, root: Path, scratch: Path, shapes: Mapping[str, Sequence[int]], batch: int
) -> BuiltUniforms:
    with Child(name="quick") as child:
        try:
            return cast(
                "BuiltUniforms",
                child.call(
                    "modeltailor.quick_child:build",
                    timeout_s=_BUILD_S,
                    model=model,
                    root=root,
                    scratch=scratch,
                    shapes={k: tuple(v) for k, v in shapes.items()},
                    batch=batch,
                ),
            )
        except CandidateError as error:
            made = ModelError("MODEL-10", model.source, f"{error.what} ({error.code})", "check that it runs by itself")
            made.detail = error.detail
            raise made from error


def _probed(device: Device, cache: Path | None, seconds: float) -> ProbeTable | None:
    from modeltailor.targets.probe import probe

    try:
        return probe(device, cache=cache / "probes" if cache is not None else None, limit_s=seconds)
    except CandidateError:  # its own small models do not run there; the model at hand is measured all the same
        return None


def _probe_sentences(table: ProbeTable | None) -> tuple[str, ...]:
    if table is None:
        return ("The probe's own models do not run on this device.",)
    found = []
    for kind in ("conv", "depthwise", "matmul"):
        tried = [e for e in table.tried("w8a8", kind) if e.speedup is not None]
        best = max(tried, key=lambda e: e.speedup or 0.0, default=None)
        if best is not None:
            found.append(f"{kind}: int8 is {best.speedup:.2f} times fp32 at best ({best.detail})")
    return tuple(found)


def _rows(bench: Bench, names: Sequence[str]) -> tuple[QuickRow, ...]:
    return tuple(
        QuickRow(
            name=name,
            latency_ms=row.measured.latency_ms.value,
            speedup=(row.measured.speedup.value, row.measured.speedup.low, row.measured.speedup.high),
            size_bytes=row.size_bytes,
            evidence=row.measured.latency_ms.evidence,
        )
        for name, row in zip(names, bench.rows, strict=True)
    )


def _prospects(rows: Sequence[QuickRow], built: BuiltUniforms, audits: Mapping[str, Audit]) -> tuple[str, ...]:
    said = []
    smallest = min(rows, key=lambda r: r.size_bytes)
    for bits, size in built.predicted_sizes:
        if size < smallest.size_bytes:
            said.append(
                f"All weights in {bits} bits would make about {size:,} bytes "
                f"({size / rows[0].size_bytes:.0%} of fp32; by arithmetic, accuracy unknown)."
            )
    fastest = list(audits)[-1]
    floating = sum(share for precision, share in audits[fastest].compute_share if precision.startswith("float"))
    if fastest != "fp32" and floating > 0.1:
        said.append(f"{floating:.0%} of the time of {fastest} is still computed in float.")
    if audits[fastest].conversion_share > 0.1:
        said.append(f"{audits[fastest].conversion_share:.0%} of it goes into converting between number formats.")
    if built.kind == "onnx":
        said.append(
            "On an ONNX file a search also tries mild cuts of channels and ranks, untrained; removed blocks and students "
            "need the PyTorch source."
        )
    else:
        said.append(
            "Removing channels or blocks, and students, come on top; with data, a search trains and measures them."
        )
    said.append("Give --data to see accuracy: without it nobody knows what these settings lose.")
    return tuple(said)
