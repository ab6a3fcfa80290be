"""The models of a run measured again, on any device: what a run predicted or measured elsewhere, put to the test."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from modeltailor.durable import write_text
from modeltailor.errors import ConfigError
from modeltailor.estimators.bench import example_inputs
from modeltailor.estimators.latency import Measurement, budget_verdict, certify
from modeltailor.exporting import artifact_of, find_model
from modeltailor.search.certifying import Contender, longest_pair_s
from modeltailor.search.devices import device_names, history_on
from modeltailor.targets import Device

if TYPE_CHECKING:
    from modeltailor.api import Run
    from modeltailor.reports import ModelSummary

__all__ = ["Agreement", "Certificate", "CertifiedBaseline", "CertifiedModel", "agreement", "certify_run", "seen_by"]

Agreement = Literal["inside", "overlaps", "differs"]
Interval = tuple[float, float, float]


def agreement(stated: Interval, found: Interval) -> Agreement:
    """Hold a new measurement against what was stated before.

    Two 95 % intervals of equal width around one truth overlap in 994 of 1,000 cases; the new value lies inside the old
    interval in 83 of 100, because it errs too.

    Args:
        stated: value, lower and upper end, as they were stated.
        found: the same of the new measurement.

    Returns:
        ``inside`` if the new value lies in the stated interval, ``overlaps`` if the intervals share a value, else
        ``differs``.
    """
    value, low, high = found
    if stated[1] <= value <= stated[2]:
        return "inside"
    return "overlaps" if low <= stated[2] and stated[1] <= high else "differs"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedModel:
    """One model on the device.

    Attributes:
        key: of the model.
        name: for people.
        sha256: of its file.
        latency_ms: value, lower and upper end of the 95 % interval.
        speedup: over the fp32 original on this device; value, lower and upper end.
        expected_speedup: the run's own figure; value, lower and upper end.
        expected_latency_ms: likewise; milliseconds hold for the session that they were measured in.
        expected_evidence: how the run came by them.
        agrees: how the speedup found here stands to the run's; see :func:`agreement`.
        verdict: ``certified``, ``NOISY`` or ``UNDECIDED``.
        pairs: process pairs it rests on.
        limit: whether the run's latency limit is ``met``, ``missed`` or ``undecided`` here; empty without a limit.
    """

    key: str
    name: str
    sha256: str
    latency_ms: Interval
    speedup: Interval
    expected_speedup: Interval
    expected_latency_ms: Interval
    expected_evidence: str
    agrees: Agreement
    verdict: str
    pairs: int
    limit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedBaseline:
    """The fp32 original on the device.

    Attributes:
        sha256: of its file.
        latency_ms: value, lower and upper end of the 95 % interval.
    """

    sha256: str
    latency_ms: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Models of a run on one device.

    Attributes:
        run: the run folder.
        device: name of the device.
        runtime: name and version of its runtime.
        processor: as the device names it.
        fingerprint: of device, runtime and options.
        evidence: label of all latencies here.
        baseline_ms: latency of the fp32 original.
        limit_ms: the run's latency limit, if it has one.
        models: in the order of the run's front.
        conditions: what the machine showed meanwhile.
        seconds: that it took.
        made_at: seconds since 1970.
        baseline: the fp32 original, as one more measurement; ``None`` in older ones.
        shapes: of the inputs, by name; empty in older ones.
        instructions: instruction sets of the processor, as far as the device names them; empty in older ones.
    """

    run: str
    device: str
    runtime: str
    processor: str
    fingerprint: str
    evidence: str
    baseline_ms: float
    limit_ms: float | None
    models: tuple[CertifiedModel, ...]
    conditions: tuple[tuple[str, float], ...]
    seconds: float
    made_at: float
    baseline: CertifiedBaseline | None = None
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    instructions: tuple[str, ...] = ()

    @property
    def keeping(self) -> tuple[CertifiedModel, ...]:
        """Models that keep the latency limit here with certainty; all without a limit."""
        return tuple(m for m in self.models if m.limit in ("", "met"))

    @property
    def agreeing(self) -> tuple[CertifiedModel, ...]:
        """Models whose speedup here and in the run have intervals that share a value."""
        return tuple(m for m in self.models if m.agrees != "differs")

    @property
    def inside(self) -> tuple[CertifiedModel, ...]:
        """Models whose speedup here lies in the interval that the run stated."""
        return tuple(m for m in self.models if m.agrees == "inside")


def certify_run(
    run: Run,
    device: Device,
    *,
    keys: Sequence[str] = (),
    seconds: float = math.inf,
    half_width: float = 0.01,
    max_pairs: int = 30,
) -> Certificate:
    """Measure the front of a run beside its original, and keep the certificate in ``certified/`` of the run folder.

    The run's own records are not changed. Inputs are made up in the shapes that the run measured with; latency hardly depends on
    their values.

    On a further device of the run's own study, limit, front and expected speeds are those of that device.

    Args:
        run: the run.
        device: where to measure.
        keys: models to measure; the front if empty.
        seconds: wall clock; the verdict says if it was too short.
        half_width: half of the interval of each speedup, as a share, that is asked for.
        max_pairs: most process pairs.

    Raises:
        ConfigError: there is nothing to measure, or the run has no such model on that device.
        StudyConflict: a file is gone or was changed.
        CandidateError: a model crashes or hangs on the device.
        DeviceError: the device failed.
    """
    started = time.monotonic()
    facts = device.describe()
    run = seen_by(run, facts.name)
    baseline = run.summary.model_of(run.summary.baseline)
    wanted = [find_model(run.summary, k) for k in (keys or run.summary.front)]
    models = [m for m in wanted if baseline is not None and m.key != baseline.key]
    if baseline is None or not models:
        raise ConfigError("CFG-08", run.folder, "has no models to measure beside the original", "search longer")
    files = [artifact_of(run.folder, m) for m in (baseline, *models)]
    limit = run.summary.budget.get("latency_ms")
    expected = [
        Contender(key=m.key, path=file, latency_ms=m.latency_ms.value)
        for m, file in zip((baseline, *models), files, strict=True)
    ]
    inputs = example_inputs(
        files[0], shapes=cast("Mapping[str, Sequence[int]]", run.history.run.model.get("input_shapes", {}))
    )
    measured = certify(
        device,
        files,
        inputs,
        half_width=half_width,
        max_pairs=max_pairs,
        limit_ms=limit,
        memory=False,
        seconds=seconds,
        least_pair_s=max(longest_pair_s(expected), 0.5 * seconds if math.isfinite(seconds) else 0.0),
    )
    original = measured[0].baseline_ms
    made = Certificate(
        run=str(run.folder),
        device=facts.name,
        runtime=facts.runtime,
        processor=facts.processor,
        fingerprint=facts.fingerprint,
        evidence=facts.evidence,
        baseline_ms=original.value,
        limit_ms=limit,
        models=tuple(_certified(m, found, limit) for m, found in zip(models, measured, strict=True)),
        conditions=measured[0].conditions,
        seconds=time.monotonic() - started,
        made_at=time.time(),
        baseline=CertifiedBaseline(sha256=baseline.sha256, latency_ms=(original.value, original.low, original.high)),
        shapes=tuple((name, tuple(value.shape)) for name, value in inputs.items()),
        instructions=facts.instructions,
    )
    _keep(run.folder, made)
    return made


def seen_by(run: Run, device: str) -> Run:
    """Return the run as a further device of its study sees it, by name; the run itself for any other device."""
    if device not in device_names(run.history)[1:]:
        return run
    return type(run)(run.folder, history_on(run.history, device))


def _certified(model: ModelSummary, found: Measurement, limit: float | None) -> CertifiedModel:
    speedup = (found.speedup.value, found.speedup.low, found.speedup.high)
    expected = (model.speedup.value, model.speedup.low, model.speedup.high)
    return CertifiedModel(
        key=model.key,
        name=model.name,
        sha256=model.sha256,
        latency_ms=(found.latency_ms.value, found.latency_ms.low, found.latency_ms.high),
        speedup=speedup,
        expected_speedup=expected,
        expected_latency_ms=(model.latency_ms.value, model.latency_ms.low, model.latency_ms.high),
        expected_evidence=model.speedup.evidence,
        agrees=agreement(expected, speedup),
        verdict=found.verdict,
        pairs=found.pairs,
        limit="" if limit is None else budget_verdict(found.latency_ms, limit),
    )


def _keep(folder: Path, made: Certificate) -> None:
    import json
    from dataclasses import asdict

    from modeltailor.search.run_folder import disk_faults

    place = folder / "certified"
    with disk_faults(place):
        place.mkdir(exist_ok=True)
        write_text(place / f"{made.device}-{made.fingerprint[:8]}.json", json.dumps(asdict(made), indent=1) + "\n")
