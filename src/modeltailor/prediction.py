"""Latency of models on a device that is not attached, for people: what is known, how sure, and what to measure next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Literal

from modeltailor.errors import ConfigError, DeviceError, ModelError, NoFeasibleModel
from modeltailor.estimators.predict import (
    Forecast,
    NoEstimate,
    Suggestion,
    forecast,
    read_measurements,
    read_trace,
    suggest_measurements,
)
from modeltailor.places import profile_of
from modeltailor.targets import Evidence, Profile

__all__ = ["PredictedModel", "Prediction", "SuggestedModel", "predict_models", "refuse"]

_HALF_BAND = 1.2816  # standard deviations of a normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedModel:
    """One model.

    Attributes:
        model: its file.
        latency_ms: value, lower and upper end of the 80 % band; ``None`` if there is no number.
        evidence: ``predicted``, or ``measured-on-device`` for a file that was measured; empty if there is no number.
        over_first: its latency over that of the first model, with the 80 % band.
        chance_of_slower: that it takes longer than the first, 0..1.
        reason: why there is no number.
        kind: of the reason: ``unknown``, ``placement`` or ``memory``.
    """

    model: str
    latency_ms: tuple[float, float, float] | None
    evidence: Evidence | Literal[""]
    over_first: tuple[float, float, float] | None
    chance_of_slower: float | None
    reason: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestedModel:
    """A model to measure next.

    Attributes:
        model: its file.
        why: what its measurement would tell.
    """

    model: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Models on a device that is not attached.

    Attributes:
        device: name of the profile.
        basis: what the numbers rest on, one sentence.
        measurements: of how many files the latency was measured on the device.
        widened_by: factor by which bands grew, because measurements predicted from each other asked for it.
        models: in the order given.
        suggested: what to measure next, first things first; empty if not asked for, or if nothing is left to measure.
    """

    device: str
    basis: str
    measurements: int
    widened_by: float
    models: tuple[PredictedModel, ...]
    suggested: tuple[SuggestedModel, ...] = ()


def predict_models(
    models: Sequence[Path],
    target: str,
    *,
    folder: Path,
    measured: Sequence[Path] = (),
    profiles: Sequence[str] = (),
    suggest: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Prediction:
    """Predict the latency of ONNX files on a device.

    Args:
        models: the files; the first is what the others are compared with.
        target: the device's profile, a name or a file.
        folder: where relative paths start.
        measured: files of latencies measured on the device.
        profiles: ``MODEL=TRACE``: profiles that ONNX Runtime wrote of a model's run on the device.
        suggest: how many models to name that would tell most if measured next.
        shapes: shape by input name, where a file leaves dimensions free.

    Raises:
        ConfigError: there is no such device, or a file of measurements is wrong.
        ModelError: a model cannot be read.
    """
    profile = profile_of(target, folder)
    for path in models:
        if not path.is_file():
            raise ModelError.missing(path)
    own = (Path(profile.measured),) if profile.measured else ()
    known = tuple(m for path in (*own, *measured) for m in read_measurements(path, shapes, profile=profile))
    traces = [read_trace(*_model_and_trace(text)) for text in profiles]
    found = forecast(models, profile, known, shapes, traces)
    suggested = suggest_measurements(models, profile, suggest, known, shapes) if suggest else ()
    return Prediction(
        device=profile.name,
        basis=_basis(profile, len(traces), found),
        measurements=found.measurements,
        widened_by=found.widened_by,
        models=tuple(_predicted(path, found, i) for i, path in enumerate(models)),
        suggested=tuple(SuggestedModel(model=str(models[s.model]), why=_why(s)) for s in suggested),
    )


def refuse(found: Prediction) -> None:
    """Raise if no model has a number.

    Raises:
        NoFeasibleModel: none fits the device.
        DeviceError: nothing can be said of any.
    """
    if any(m.latency_ms is not None for m in found.models):
        return
    first = next((m for m in found.models if m.kind != "memory"), None)
    if first is None:
        raise NoFeasibleModel("GOAL-03", found.device, f"no model fits: {found.models[0].reason}", "make it smaller")
    raise DeviceError("DEV-20", found.device, f"no latency can be predicted: {first.reason}", "measure a model there")


def _model_and_trace(text: str) -> tuple[Path, Path]:
    model, equals, trace = text.rpartition("=")
    if not equals or not model or not trace:
        raise ConfigError("CFG-15", "--profile", f"must be MODEL.onnx=TRACE.json; got '{text}'", "name both files")
    return Path(model), Path(trace)


def _predicted(path: Path, found: Forecast, i: int) -> PredictedModel:
    estimate, over = found.estimates[i], found.over[i]
    if isinstance(estimate, NoEstimate):
        return PredictedModel(
            model=str(path), latency_ms=None, evidence="", over_first=None, chance_of_slower=None,
            reason=estimate.reason, kind=estimate.kind,
        )  # fmt: skip
    return PredictedModel(
        model=str(path),
        latency_ms=(estimate.value, estimate.low, estimate.high),
        evidence=estimate.evidence,
        over_first=(over.ratio.value, over.ratio.low, over.ratio.high) if over else None,
        chance_of_slower=over.chance_of_slower if over else None,
    )


def _basis(profile: Profile, n_traces: int, found: Forecast) -> str:
    figures = {f.origin for f in (*profile.peak_gops.values(), *profile.effective_gops.values())}
    parts = [f"rates from the profile ({', '.join(sorted(figures))})" if figures else "no rates in the profile"]
    n = found.measurements
    parts.append(f"{n} measured on the device" if n else "nothing measured on the device")
    if n_traces:
        parts.append(f"{n_traces} profiles of runs")
    if found.widened_by > 1.0:
        parts.append(f"bands {found.widened_by:.2f} times as wide, as the measurements ask for")
    return "; ".join(parts)


def _why(suggestion: Suggestion) -> str:
    if suggestion.spread_before <= suggestion.spread_after:
        return "no figure of the device to reckon with"
    return f"bands of all would shrink from +-{_width(suggestion.spread_before)} to +-{_width(suggestion.spread_after)}"


def _width(spread: float) -> str:
    """Half of the 80 % band of a median model, as a share."""
    return f"{exp(_HALF_BAND * spread) - 1.0:.1%}"
