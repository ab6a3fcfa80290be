"""Files of latencies that were measured on a device: written by hand, by ``modeltailor bench --json``, or by ``certify``."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modeltailor.errors import ConfigError
from modeltailor.estimators.predict.predict import Measured
from modeltailor.targets.strict_yaml import read_mapping

__all__ = ["read_measurements"]

_LARGEST_FILE = 10_000_000
_NOISE = 0.02
_Z95 = 1.96


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1)]
    latency_ms: Annotated[float, Field(gt=0)]
    noise: Annotated[float, Field(ge=0, le=1)] = _NOISE


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    measurements: tuple[_Entry, ...]


class _Interval(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    value: Annotated[float, Field(gt=0)]
    low: Annotated[float, Field(gt=0)]
    high: Annotated[float, Field(gt=0)]


def read_measurements(path: Path) -> tuple[Measured, ...]:
    """Read a file of measured latencies; models are looked for beside it.

    What is read: a table (``.csv``) with the columns ``model``, ``latency_ms`` and perhaps ``noise`` (standard deviation
    of the log); YAML or JSON with the same under ``measurements``; what ``modeltailor bench --json`` printed; a
    certificate of ``modeltailor certify``, where it lies in its run folder.

    Raises:
        ConfigError: it cannot be read, a value is wrong, or a model is not there.
    """
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8") if size <= _LARGEST_FILE else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError("CFG-01", path, f"cannot read it ({reason})", "check the path") from error
    if size > _LARGEST_FILE:
        raise ConfigError("CFG-14", path, f"is larger than {_LARGEST_FILE:,} bytes", "is it another file?")
    try:
        found = _read(path, text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(p) for p in first["loc"])
        raise ConfigError("CFG-06", path, f"{where}: {first['msg']}; got {first.get('input')!r}", "mend it") from error
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            "CFG-06", path, "holds no measured latencies", "give `measurements:` with `model` and `latency_ms`"
        ) from error
    if not found:
        raise ConfigError("CFG-06", path, "holds no measured latencies", "measure a model on the device first")
    for measured in found:
        if not measured.model.is_file():
            raise ConfigError("CFG-01", path, f"the model {str(measured.model)!r} is not there", "mend its path")
    return found


def _read(path: Path, text: str) -> tuple[Measured, ...]:
    if path.suffix.lower() == ".csv":
        rows = [{k: v for k, v in row.items() if v not in (None, "")} for row in csv.DictReader(io.StringIO(text))]
        return _entries(path, [_Entry.model_validate(row) for row in rows])
    data: dict[str, Any] = json.loads(text) if path.suffix.lower() == ".json" else read_mapping(text, path.name)
    if not isinstance(data, dict):
        raise TypeError("no mapping")
    readers: dict[str, Callable[[Path, dict[str, Any]], tuple[Measured, ...]]] = {
        "rounds": _bench,
        "fingerprint": _certificate,
    }
    reader = next((r for key, r in readers.items() if key in data), None)
    if reader is not None:
        return reader(path, data)
    return _entries(path, _File.model_validate(data).measurements)


def _entries(path: Path, entries: tuple[_Entry, ...] | list[_Entry]) -> tuple[Measured, ...]:
    return tuple(Measured(model=path.parent / e.model, latency_ms=e.latency_ms, noise=e.noise) for e in entries)


def _bench(path: Path, data: dict[str, Any]) -> tuple[Measured, ...]:
    """Read what ``modeltailor bench --json`` printed; its paths start where it was called, or beside this file."""
    found = []
    for row in data["rounds"][0]["rows"]:
        model = Path(row["path"])
        found.append(_measured(model if model.is_file() else path.parent / model, row["measured"]["latency_ms"]))
    return tuple(found)


def _certificate(path: Path, data: dict[str, Any]) -> tuple[Measured, ...]:
    """Read a certificate: ``RUN/certified/NAME.json``, with the models among the run's artifacts."""
    artifacts = path.resolve().parent.parent / "artifacts"
    found = []
    for model in data["models"]:
        value, low, high = model["latency_ms"]
        interval = {"value": value, "low": low, "high": high}
        found.append(_measured(artifacts / f"{model['sha256'][:16]}.onnx", interval))
    return tuple(found)


def _measured(model: Path, interval: dict[str, Any]) -> Measured:
    latency = _Interval.model_validate(interval)
    noise = math.log(max(latency.high / latency.low, 1.0)) / (2 * _Z95)
    return Measured(model=model, latency_ms=latency.value, noise=min(noise, 1.0))
