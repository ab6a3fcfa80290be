"""The latency of an ONNX file on a device that is not attached, with a band, or the reason why there is no number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeltailor.estimators.estimate import Estimate
from modeltailor.estimators.predict.bands import BAND_SHARE, needed_factors, widened
from modeltailor.estimators.predict.device_model import DeviceModel, constants_of
from modeltailor.estimators.predict.work import GraphWork, graph_work
from modeltailor.targets.profile import Profile

__all__ = ["Measured", "NoEstimate", "choose_measurements", "could_be_best", "predict", "predict_all"]

_CPU = "CPUExecutionProvider"
_LANES = {"avx512": 16, "avx2": 8, "avx": 8}
_LEAST_TO_CHECK = 4


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
    """

    reason: str


def predict(
    model: Path, profile: Profile, measurements: Sequence[Measured] = (), dimensions: Mapping[str, int] | None = None
) -> Estimate | NoEstimate:
    """Predict the latency of one ONNX file; see :func:`predict_all`."""
    return predict_all([model], profile, measurements, dimensions)[0]


def predict_all(
    models: Sequence[Path],
    profile: Profile,
    measurements: Sequence[Measured] = (),
    dimensions: Mapping[str, int] | None = None,
) -> list[Estimate | NoEstimate]:
    """Predict latencies in milliseconds; ``low`` and ``high`` hold 80 % of the probability.

    Args:
        models: ONNX files, best as the runtime optimized them.
        profile: the device; its figures are the prior.
        measurements: what was measured on the device, none to some tens.
        dimensions: sizes of symbolic dimensions by name.

    Raises:
        ModelError: a file cannot be read, or a shape stays unknown.
    """
    constants = constants_of(profile)
    if constants is None:
        reason = f"profile {profile.name!r} states neither a rate nor a bandwidth"
        return [NoEstimate(reason=reason) for _ in models]
    known = [graph_work(m.model, dimensions, _lanes(profile)) for m in measurements]
    works = [graph_work(m, dimensions, _lanes(profile)) for m in models]
    device = DeviceModel(constants=constants)
    log_ms = np.array([math.log(m.latency_ms) for m in measurements])
    noise = np.array([m.noise for m in measurements])
    band = widened(device.posterior(known, log_ms, noise, works), _checked_factor(device, known, log_ms, noise))
    placed = frozenset[str]().union(*(w.operators for w in known))
    found: list[Estimate | NoEstimate] = []
    for work, low, middle, high in zip(works, band.low, band.middle, band.high, strict=True):
        reason = _unplaced(profile, work, placed)
        found.append(
            NoEstimate(reason=reason)
            if reason
            else Estimate(value=math.exp(middle), low=math.exp(low), high=math.exp(high), evidence="predicted")
        )
    return found


def choose_measurements(
    models: Sequence[Path],
    profile: Profile,
    k: int,
    given: Sequence[int] = (0,),
    dimensions: Mapping[str, int] | None = None,
) -> list[int]:
    """Return which ``k`` of the models to measure first, so that the rest is predicted best.

    Args:
        models: the candidates.
        profile: the device.
        k: how many.
        given: candidates measured in any case; by default the first, the user's own model.
        dimensions: sizes of symbolic dimensions by name.
    """
    constants = constants_of(profile)
    if constants is None:
        return [*dict.fromkeys([*given, *range(len(models))])][:k]
    works = [graph_work(m, dimensions, _lanes(profile)) for m in models]
    return DeviceModel(constants=constants).choose(k, works, given)


def could_be_best(estimates: Sequence[Estimate | NoEstimate]) -> list[int]:
    """Return which candidates may be the fastest: their band reaches below every other's upper end.

    Bands that overlap are ties. A candidate without a number may be the best too.
    """
    highs = [e.high for e in estimates if isinstance(e, Estimate)]
    limit = min(highs, default=math.inf)
    return [i for i, e in enumerate(estimates) if isinstance(e, NoEstimate) or e.low <= limit]


def _lanes(profile: Profile) -> int:
    return max(
        (lanes for name, lanes in _LANES.items() if any(i.startswith(name) for i in profile.instructions)), default=4
    )


def _unplaced(profile: Profile, work: GraphWork, placed: frozenset[str]) -> str:
    """Return why the placement on an accelerator is not known; empty if it is, or on a CPU."""
    if profile.provider == _CPU:
        return ""
    unseen = sorted(work.operators - placed)
    if not unseen:
        return ""
    names = ", ".join(unseen[:4]) + (" ..." if len(unseen) > 4 else "")
    return f"whether {profile.provider} runs {names} or hands it to the CPU is not known; measure a model that has it"


def _checked_factor(device: DeviceModel, known: Sequence[GraphWork], log_ms: np.ndarray, noise: np.ndarray) -> float:
    """Widen bands if measurements, each predicted from the others, fall outside more often than promised."""
    k = len(known)
    if k < _LEAST_TO_CHECK:
        return 1.0
    needed = []
    for i in range(k):
        rest = [j for j in range(k) if j != i]
        mixture = device.posterior([known[j] for j in rest], log_ms[rest], noise[rest], [known[i]])
        needed.append(float(needed_factors(mixture, log_ms[i : i + 1])[0]))
    rank = min(math.ceil(BAND_SHARE * (k + 1)), k) - 1
    return max(1.0, sorted(needed)[rank])
