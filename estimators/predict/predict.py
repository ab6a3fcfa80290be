"""The latency of an ONNX file on a device that is not attached, with a band, or the reason why there is no number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modeltailor.durable import sha256_file
from modeltailor.errors import ModelError
from modeltailor.estimators.estimate import Estimate
from modeltailor.estimators.predict.bands import Band, checked_factor, widened
from modeltailor.estimators.predict.device_model import DeviceModel, Joint, constants_of
from modeltailor.estimators.predict.executed import ExecutedFile, Shapes, executed_files
from modeltailor.estimators.predict.microcontroller import fit, plan_memory
from modeltailor.estimators.predict.traces import Trace, placed_operators, points_of
from modeltailor.targets.profile import Profile

__all__ = [
    "Forecast",
    "Measured",
    "NoEstimate",
    "Over",
    "Suggestion",
    "could_be_best",
    "forecast",
    "predict",
    "predict_all",
    "suggest_measurements",
]

Floats = NDArray[np.float64]

_CPU = "CPUExecutionProvider"
_MEASURED_Z = 1.2816  # half of the central 80 % of a normal distribution, in standard deviations
_LEAST_NOISE = 0.005  # of one entry's log where several are averaged: none may count infinitely often


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A latency that was measured on the device.

    Attributes:
        model: the ONNX file.
        latency_ms: milliseconds of one inference.
        noise: standard deviation of its log.
    """

    model: Path
    latency_ms: float
    noise: float = 0.02

    def __post_init__(self) -> None:
        if not (math.isfinite(self.latency_ms) and self.latency_ms > 0 and self.noise >= 0):
            raise ValueError(f"a latency is finite and positive, its noise not negative; got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoEstimate:
    """There is no number, and why.

    Attributes:
        reason: one sentence.
        kind: ``unknown`` (nothing to predict from), ``placement`` (an accelerator may hand nodes to the CPU), or ``memory``
            (it does not fit the device).
    """

    reason: str
    kind: Literal["unknown", "placement", "memory"] = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """A model's latency over that of the first one: what moves both alike does not widen it.

    Attributes:
        ratio: below 1 is faster; the band holds 80 % of the probability.
        chance_of_slower: that it takes longer than the first, 0..1.
    """

    ratio: Estimate
    chance_of_slower: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is known of models on a device.

    Attributes:
        estimates: one a model: milliseconds, or why there is no number. A model that was measured on the device keeps
            that figure and its label, whatever the profile says against it.
        over: one a model, against the first; ``None`` for the first and where one of the two has no number.
        widened_by: factor that the bands grew by, because measurements predicted from each other asked for it.
        measurements: how many files were measured, each counted once.
    """

    estimates: tuple[Estimate | NoEstimate, ...]
    over: tuple[Over | None, ...]
    widened_by: float
    measurements: int


def predict(
    model: Path, profile: Profile, measurements: Sequence[Measured] = (), shapes: Shapes | None = None
) -> Estimate | NoEstimate:
    """Predict the latency of one ONNX file; see :func:`forecast`."""
    return predict_all([model], profile, measurements, shapes)[0]


def predict_all(
    models: Sequence[Path], profile: Profile, measurements: Sequence[Measured] = (), shapes: Shapes | None = None
) -> list[Estimate | NoEstimate]:
    """Predict latencies in milliseconds; see :func:`forecast`."""
    return list(forecast(models, profile, measurements, shapes).estimates)


def forecast(
    models: Sequence[Path],
    profile: Profile,
    measurements: Sequence[Measured] = (),
    shapes: Shapes | None = None,
    traces: Sequence[Trace] = (),
) -> Forecast:
    """Predict latencies in milliseconds, and each model's against the first; bands hold 80 % of the probability.

    Args:
        models: ONNX files.
        profile: the device; its figures are the prior. If it states none, they are guessed once anything was measured.
        measurements: what was measured on the device, none to some tens. What was measured of one file is averaged.
        shapes: shape by input name; a leading dimension that is free otherwise is 1.
        traces: profiles that ONNX Runtime wrote of runs on the device; they also tell what an accelerator runs itself.
            Of models that were measured as well, the profiler's own time is taken out.

    Raises:
        ModelError: a file cannot be read, or a shape stays unknown.
    """
    measured = _by_content(measurements)
    n, k = len(models), len(measured)
    measured_files = [m.model for m in measured.values()]
    files = executed_files([*models, *measured_files, *(t.model for t in traces)], profile, shapes)
    wanted, known, traced = files[:n], files[n : n + k], files[n + k :]
    placed = frozenset[str]().union(
        *(placed_operators(t, f.work, profile.provider) for t, f in zip(traces, traced, strict=True))
    )
    refusals = _refusals(wanted, placed.union(*(f.work.operators for f in known)), profile)
    own = _own_traces(measured, traces)
    calm = list(traces)
    for measurement, number in zip(measured.values(), own, strict=True):
        if number is not None:
            calm[number] = traces[number].without_profiler(measurement.latency_ms)
    points = points_of([(t, f.work) for t, f in zip(calm, traced, strict=True)]) if traces else None
    constants = constants_of(profile, bare=bool(measured or (points and points.kernels)))
    if constants is None:
        reason = f"profile {profile.name!r} states neither a rate nor a bandwidth"
        none = tuple(r or NoEstimate(reason=reason) for r in refusals)
        return Forecast(estimates=none, over=(None,) * len(models), widened_by=1.0, measurements=0)
    device = DeviceModel(constants=constants)
    taught = [(m, f.work) for m, f in zip(measured.values(), known, strict=True) if not f.work.uncounted]
    log_ms = np.array([math.log(m.latency_ms) for m, _ in taught])
    noise = np.array([m.noise for m, _ in taught])
    works = [work for _, work in taught]
    joint = device.posterior(works, log_ms, noise, [f.work for f in wanted], points)
    held_out = device.held_out(works, log_ms, noise, points)
    each = joint.each()
    factor = checked_factor(held_out, log_ms, each.spread())
    band = widened(each, factor)
    there = _measured_files(models, measured)
    estimates = tuple(there.get(i) or refusal or _estimate(band, i) for i, refusal in enumerate(refusals))
    return Forecast(
        estimates=estimates,
        over=_over(joint, factor, estimates),
        widened_by=factor,
        measurements=k,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A model whose measurement would tell most.

    Attributes:
        model: which of the models.
        spread_before: median standard deviation of the log latency of all models, before it is measured.
        spread_after: the same after it.
    """

    model: int
    spread_before: float
    spread_after: float


def suggest_measurements(
    models: Sequence[Path],
    profile: Profile,
    k: int,
    measurements: Sequence[Measured] = (),
    shapes: Shapes | None = None,
) -> tuple[Suggestion, ...]:
    """Return which ``k`` of the models to measure next, so that all are predicted best.

    What is measured is left out, and so is what does not fit the device: nobody can measure it there, or asks how fast it is.

    Args:
        models: the candidates; the first, the user's own model, comes first if it is left.
        profile: the device.
        k: how many.
        measurements: what was measured on the device already.
        shapes: shape by input name.

    Returns:
        fewer than ``k`` where fewer are left, perhaps none.

    Raises:
        ModelError: as for :func:`forecast`.
    """
    measured = _by_content(measurements)
    n = len(models)
    files = executed_files([*models, *(m.model for m in measured.values())], profile, shapes)
    done = [i for i, m in enumerate(models) if measured and sha256_file(m) in measured]
    able = [i for i, f in enumerate(files[:n]) if i in done or _has_a_number(f, profile)]
    rest = [i for i in able if i not in done]
    constants = constants_of(profile, bare=bool(measured))
    if constants is None or not rest:
        return tuple(Suggestion(model=i, spread_before=0.0, spread_after=0.0) for i in rest[:k])
    works = [f.work for f in (*(files[i] for i in able), *files[n:])]
    elsewhere = list(range(len(able), len(works)))  # what was measured, whether it is among the models or not
    first = [able.index(0)] if 0 in rest else []
    barred = [able.index(i) for i in done]
    device = DeviceModel(constants=constants)
    chosen, spreads = device.choose(len(elsewhere) + k, works, [*elsewhere, *first], barred, len(able))
    start = len(elsewhere)
    return tuple(
        Suggestion(model=able[m], spread_before=spreads[start + i], spread_after=spreads[start + i + 1])
        for i, m in enumerate(chosen[start:])
    )


def could_be_best(estimates: Sequence[Estimate | NoEstimate]) -> list[int]:
    """Return which candidates may be the fastest: their band reaches below every other's upper end.

    Bands that overlap are ties. A candidate without a number may be the best too, unless it does not fit the device.
    """
    highs = [e.high for e in estimates if isinstance(e, Estimate)]
    limit = min(highs, default=math.inf)
    return [
        i
        for i, e in enumerate(estimates)
        if (isinstance(e, NoEstimate) and e.kind != "memory") or (isinstance(e, Estimate) and e.low <= limit)
    ]


def _estimate(band: Band, i: int) -> Estimate:
    low, middle, high = (math.exp(v[i]) for v in (band.low, band.middle, band.high))
    return Estimate(value=middle, low=min(low, middle), high=max(high, middle), evidence="predicted")


def _by_content(measurements: Sequence[Measured]) -> dict[str, Measured]:
    """Return one measurement a file, by its SHA-256: a file that was measured again is no second witness of the others."""
    entries: dict[str, list[Measured]] = {}
    for measurement in measurements:
        if not measurement.model.is_file():
            raise ModelError.missing(measurement.model)
        entries.setdefault(sha256_file(measurement.model), []).append(measurement)
    return {sha256: _averaged(of_one) for sha256, of_one in entries.items()}


def _averaged(entries: Sequence[Measured]) -> Measured:
    """Return the mean of the logs by precision; its noise is no less than what the entries differ by.

    An entry that comes twice, from a file of measurements that was given twice, counts once.
    """
    first, *others = {(m.latency_ms, m.noise): m for m in entries}.values()
    if not others:
        return first
    logs = np.log([m.latency_ms for m in (first, *others)])
    precision = np.array([max(m.noise, _LEAST_NOISE) ** -2 for m in (first, *others)])
    mean = float(precision @ logs / precision.sum())
    apart = float(precision @ (logs - mean) ** 2 / precision.sum()) * len(logs) / len(others)
    noise = math.sqrt(max(1.0 / float(precision.sum()), apart))
    return Measured(model=first.model, latency_ms=math.exp(mean), noise=noise)


def _measured_files(models: Sequence[Path], measured: Mapping[str, Measured]) -> dict[int, Estimate]:
    """Return the figures of models that were measured on the device, the very same file: nothing is predicted there."""
    found: dict[int, Estimate] = {}
    for i, model in enumerate(models):
        m = measured.get(sha256_file(model)) if measured else None
        if m is not None:
            half = math.exp(_MEASURED_Z * m.noise)
            found[i] = Estimate(
                value=m.latency_ms,
                low=m.latency_ms / half,
                high=m.latency_ms * half,
                evidence="measured-on-device",
            )
    return found


def _own_traces(measured: Mapping[str, Measured], traces: Sequence[Trace]) -> list[int | None]:
    """Return which trace is of the same file, by measurement."""
    numbers = {sha256_file(t.model): i for i, t in enumerate(traces)}
    return [numbers.get(sha256) for sha256 in measured]


def _over(joint: Joint, factor: float, estimates: Sequence[Estimate | NoEstimate]) -> tuple[Over | None, ...]:
    """Compare every model with the first."""
    if not estimates or isinstance(estimates[0], NoEstimate):
        return (None,) * len(estimates)
    band, slower = widened(joint.over(0), factor), joint.chance_of_slower(0)
    found: list[Over | None] = []
    for i, estimate in enumerate(estimates):
        if i == 0 or isinstance(estimate, NoEstimate):
            found.append(None)
        elif estimates[0].evidence == estimate.evidence == "measured-on-device":
            found.append(_measured_ratio(estimate, estimates[0]))
        else:
            found.append(Over(ratio=_estimate(band, i), chance_of_slower=float(slower[i])))
    return tuple(found)


def _measured_ratio(estimate: Estimate, first: Estimate) -> Over:
    value = estimate.value / first.value
    sigma = math.hypot(*(math.log(e.high / e.low) / (2 * _MEASURED_Z) for e in (estimate, first)))
    half = math.exp(_MEASURED_Z * sigma)
    ratio = Estimate(value=value, low=value / half, high=value * half, evidence="measured-on-device")
    certain = float(value > 1.0) if sigma == 0.0 else 0.5 * (1.0 + math.erf(math.log(value) / (sigma * math.sqrt(2.0))))
    return Over(ratio=ratio, chance_of_slower=certain)


def _has_a_number(file: ExecutedFile, profile: Profile) -> bool:
    return not file.work.uncounted and fit(plan_memory(file.graph), profile).fits


def _refusals(wanted: Sequence[ExecutedFile], placed: frozenset[str], profile: Profile) -> list[NoEstimate | None]:
    """Return why a model can have no number, by model; ``placed`` is what is known to run on the accelerator."""
    found: list[NoEstimate | None] = []
    for file in wanted:
        unfit = fit(plan_memory(file.graph), profile)
        unplaced = _unplaced(profile, file.work.operators - placed)
        if not unfit.fits:
            found.append(NoEstimate(reason=unfit.reason, kind="memory"))
        elif file.work.uncounted:
            found.append(NoEstimate(reason=f"the work of {', '.join(sorted(file.work.uncounted))} is not known"))
        else:
            found.append(NoEstimate(reason=unplaced, kind="placement") if unplaced else None)
    return found


def _unplaced(profile: Profile, unseen: frozenset[str]) -> str:
    """Return why the placement on an accelerator is not known; empty if it is, or on a CPU."""
    if profile.provider == _CPU or not unseen:
        return ""
    names = ", ".join(sorted(unseen)[:4]) + (" ..." if len(unseen) > 4 else "")
    return f"whether {profile.provider} runs {names} or hands it to the CPU is not known; measure a model that has it"
