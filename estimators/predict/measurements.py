"""Files of latencies that were measured on a device: written by hand, by ``modeltailor bench --json``, or by ``certify``."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modeltailor.durable import sha256_file
from modeltailor.errors import ConfigError
from modeltailor.estimators.bench import declared_inputs
from modeltailor.estimators.predict.predict import Measured
from modeltailor.targets.strict_yaml import read_mapping

__all__ = ["read_measurements"]

_LARGEST_FILE = 10_000_000
_NOISE = 0.02
_Z95 = 1.96
_ON_DEVICE = "measured-on-device"


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


def read_measurements(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> tuple[Measured, ...]:
    """Read a file of measured latencies; models are looked for beside it.

    Args:
        path: the file.
        shapes: shape by input name of what is to be predicted, where a model leaves more than a leading 1 free.

    What is read: a table (``.csv``) with the columns ``model``, ``latency_ms`` and perhaps ``noise`` (standard deviation
    of the log); YAML or JSON with the same under ``measurements``; what ``modeltailor bench --json`` printed; a
    certificate of ``modeltailor certify``, where it lies in its run folder.

    Raises:
        ConfigError: it cannot be read, a value is wrong, a model is not there or is not the file that was measured,
            another machine stood in for the device, or other shapes were measured.
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
        found = _read(path, text, shapes or {})
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


def _read(path: Path, text: str, shapes: Mapping[str, Sequence[int]]) -> tuple[Measured, ...]:
    if path.suffix.lower() == ".csv":
        rows = [{k: v for k, v in row.items() if v not in (None, "")} for row in csv.DictReader(io.StringIO(text))]
        return _entries(path, [_Entry.model_validate(row) for row in rows])
    data: dict[str, Any] = json.loads(text) if path.suffix.lower() == ".json" else read_mapping(text, path.name)
    if not isinstance(data, dict):
        raise TypeError("no mapping")
    if "rounds" in data:
        return _bench(path, data, shapes)
    if "fingerprint" in data:
        return _certificate(path, data)
    return _entries(path, _File.model_validate(data).measurements)


def _entries(path: Path, entries: tuple[_Entry, ...] | list[_Entry]) -> tuple[Measured, ...]:
    return tuple(Measured(model=path.parent / e.model, latency_ms=e.latency_ms, noise=e.noise) for e in entries)


def _bench(path: Path, data: dict[str, Any], shapes: Mapping[str, Sequence[int]]) -> tuple[Measured, ...]:
    """Read what ``modeltailor bench --json`` printed; its paths start where it was called, or beside this file."""
    rows = _round(path, data["rounds"], shapes)["rows"]
    return tuple(
        _measured(path, _file(path, row["path"]), row["measured"]["latency_ms"], row.get("sha256", "")) for row in rows
    )


def _file(path: Path, name: str) -> Path:
    return Path(name) if Path(name).is_file() else path.parent / name


def _round(path: Path, rounds: list[dict[str, Any]], shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the round of ``bench`` that was measured with the shapes that are predicted."""
    tried: dict[str, Any] = {}
    for one in rounds:
        model = _file(path, one["rows"][0]["path"])
        took = {name: tuple(shape) for name, shape in one.get("shapes", ())}
        if not took or not model.is_file():  # written by hand, or refused later
            return one
        wanted = {s.name: tuple(shapes.get(s.name) or (_leading(s.shape))) for s in declared_inputs(model)}
        if all(_fits(shape, wanted.get(name, shape)) for name, shape in took.items()):
            return one
        tried |= {name: shape for name, shape in took.items() if not _fits(shape, wanted.get(name, shape))}
    if not tried:
        raise LookupError("no rounds")
    name, shape = next(iter(tried.items()))
    raise ConfigError(
        "CFG-06", path, f"was measured with {name} {list(shape)}, which is not the shape that is predicted",
        f"bench without --batch, or give --shape {name}={','.join(map(str, shape))}",
    )  # fmt: skip


def _leading(shape: Sequence[int | str | None]) -> tuple[int | str | None, ...]:
    """A free first dimension is 1, as everywhere in a prediction."""
    return tuple(1 if i == 0 and not isinstance(d, int) else d for i, d in enumerate(shape))


def _fits(shape: Sequence[int], wanted: Sequence[int | str | None]) -> bool:
    return len(shape) == len(wanted) and all(
        w == s or not isinstance(w, int) for s, w in zip(shape, wanted, strict=True)
    )


def _certificate(path: Path, data: dict[str, Any]) -> tuple[Measured, ...]:
    """Read a certificate: ``RUN/certified/NAME.json``, with the models among the run's artifacts."""
    artifacts = path.resolve().parent.parent / "artifacts"
    found = []
    for model in data["models"]:
        value, low, high = model["latency_ms"]
        interval = {"value": value, "low": low, "high": high, "evidence": data.get("evidence")}
        found.append(_measured(path, artifacts / f"{model['sha256'][:16]}.onnx", interval))
    return tuple(found)


def _measured(path: Path, model: Path, interval: dict[str, Any], sha256: str = "") -> Measured:
    latency = _Interval.model_validate(interval)
    evidence = interval.get("evidence") or _ON_DEVICE
    if evidence != _ON_DEVICE:
        raise ConfigError(
            "CFG-06", path, f"holds latencies that are {evidence}: another machine stood in for the device",
            "measure on the device itself",
        )  # fmt: skip
    if sha256 and model.is_file() and sha256_file(model) != sha256:
        raise ConfigError(
            "CFG-06", path, f"{model.name} is not the file that was measured any more", "measure it again"
        )
    noise = math.log(max(latency.high / latency.low, 1.0)) / (2 * _Z95)
    return Measured(model=model, latency_ms=latency.value, noise=min(noise, 1.0))
