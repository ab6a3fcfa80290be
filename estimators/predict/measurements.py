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
from modeltailor.targets.profile import Profile
from modeltailor.targets.strict_yaml import read_mapping

__all__ = ["read_measurements"]

_LARGEST_FILE = 10_000_000
_NOISE = 0.02
_Z95 = 1.96
_ON_DEVICE = "measured-on-device"
_FAMILIES = {  # how the names of a family's instruction sets begin; `bf16` and the like occur in several
    "x86": ("sse", "ssse", "avx", "amx", "fma", "f16c", "vnni"),
    "Arm": ("neon", "asimd", "sve", "sme", "dotprod", "i8mm", "mve", "helium"),
}


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


def read_measurements(
    path: Path, shapes: Mapping[str, Sequence[int]] | None = None, *, profile: Profile | None = None
) -> tuple[Measured, ...]:
    """Read a file of measured latencies; models are looked for beside it.

    Args:
        path: the file.
        shapes: shape by input name of what is to be predicted, where a model leaves more than a leading 1 free.
        profile: the device that is to be predicted; what was measured on another sort of processor is refused, where
            file and profile both name instruction sets. Names of devices are free, so they decide nothing.

    What is read: a table (``.csv``) with the columns ``model``, ``latency_ms`` and perhaps ``noise`` (standard deviation
    of the log); YAML or JSON with the same under ``measurements``; what ``modeltailor bench --json`` printed; a
    certificate of ``modeltailor certify``, where it lies in its run folder.

    Raises:
        ConfigError: it cannot be read, a value is wrong, a model is not there or is not the file that was measured,
            another machine stood in for the device, another sort of processor or other shapes were measured.
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
        found = _read(path, text, shapes or {}, profile)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(p) for p in first["loc"])
        raise ConfigError("CFG-06", path, f"{where}: {first['msg']}; got {first.get('input')!r}", "mend it") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            "CFG-06", path, "holds no measured latencies", "give `measurements:` with `model` and `latency_ms`"
        ) from error
    if not found:
        raise ConfigError("CFG-06", path, "holds no measured latencies", "measure a model on the device first")
    for measured in found:
        if not measured.model.is_file():
            raise ConfigError("CFG-01", path, f"the model {str(measured.model)!r} is not there", "mend its path")
    return found


def _read(path: Path, text: str, shapes: Mapping[str, Sequence[int]], profile: Profile | None) -> tuple[Measured, ...]:
    if path.suffix.lower() == ".csv":
        rows = [{k: v for k, v in row.items() if v not in (None, "")} for row in csv.DictReader(io.StringIO(text))]
        return _entries(path, [_Entry.model_validate(row) for row in rows])
    data: dict[str, Any] = json.loads(text) if path.suffix.lower() == ".json" else read_mapping(text, path.name)
    if not isinstance(data, dict):
        raise TypeError("no mapping")
    if "rounds" in data:
        return _bench(path, data, shapes, profile)
    if "fingerprint" in data:
        return _certificate(path, data, shapes, profile)
    return _entries(path, _File.model_validate(data).measurements)


def _entries(path: Path, entries: tuple[_Entry, ...] | list[_Entry]) -> tuple[Measured, ...]:
    return tuple(Measured(model=path.parent / e.model, latency_ms=e.latency_ms, noise=e.noise) for e in entries)


def _bench(
    path: Path, data: dict[str, Any], shapes: Mapping[str, Sequence[int]], profile: Profile | None
) -> tuple[Measured, ...]:
    """Read what ``modeltailor bench --json`` printed; its paths start where it was called, or beside this file."""
    one = _round(path, data["rounds"], shapes)
    found = tuple(
        _measured(path, _file(path, row["path"]), row["measured"]["latency_ms"], row.get("sha256", ""))
        for row in one["rows"]
    )
    _refuse_other_family(path, (one.get("facts") or {}).get("instructions") or (), profile)
    return found


def _refuse_other_family(path: Path, found: Sequence[str], profile: Profile | None) -> None:
    """Raise if instruction sets say that another sort of processor was measured; silence on either side says nothing."""
    stated = profile.instructions if profile else ()
    there, wanted = _families(found), _families(stated)
    if profile and there and wanted and not there & wanted:
        raise ConfigError(
            "CFG-06", path,
            f"was measured on {' and '.join(sorted(there))} ({', '.join(found)}), and {profile.name} is "
            f"{' and '.join(sorted(wanted))} ({', '.join(stated)})",
            "measure on the device itself",
        )  # fmt: skip


def _families(instructions: Sequence[str]) -> frozenset[str]:
    return frozenset(
        family for family, starts in _FAMILIES.items() if any(i.lower().startswith(starts) for i in instructions)
    )


def _file(path: Path, name: str) -> Path:
    return Path(name) if Path(name).is_file() else path.parent / name


def _round(path: Path, rounds: list[dict[str, Any]], shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the round of ``bench`` that was measured with the shapes that are predicted."""
    tried: dict[str, Any] = {}
    for one in rounds:
        other = _other_shapes(_file(path, one["rows"][0]["path"]), one.get("shapes", ()), shapes)
        if not other:
            return one
        tried |= other
    if not tried:
        raise LookupError("no rounds")
    raise _refused_shape(path, tried, "bench without --batch, or give")


def _other_shapes(model: Path, took: Sequence[Any], shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the shapes that a model was measured with and is not predicted with, by input name."""
    measured = {name: tuple(shape) for name, shape in took}
    if not measured or not model.is_file():  # written by hand, or refused later
        return {}
    wanted = {s.name: tuple(shapes.get(s.name) or _leading(s.shape)) for s in declared_inputs(model)}
    return {name: shape for name, shape in measured.items() if not _fits(shape, wanted.get(name, shape))}


def _refused_shape(path: Path, other: Mapping[str, Any], next_step: str) -> ConfigError:
    name, shape = next(iter(other.items()))
    return ConfigError(
        "CFG-06", path, f"was measured with {name} {list(shape)}, which is not the shape that is predicted",
        f"{next_step} --shape {name}={','.join(map(str, shape))}",
    )  # fmt: skip


def _leading(shape: Sequence[int | str | None]) -> tuple[int | str | None, ...]:
    """A free first dimension is 1, as everywhere in a prediction."""
    return tuple(1 if i == 0 and not isinstance(d, int) else d for i, d in enumerate(shape))


def _fits(shape: Sequence[int], wanted: Sequence[int | str | None]) -> bool:
    return len(shape) == len(wanted) and all(
        w == s or not isinstance(w, int) for s, w in zip(shape, wanted, strict=True)
    )


def _certificate(
    path: Path, data: dict[str, Any], shapes: Mapping[str, Sequence[int]], profile: Profile | None
) -> tuple[Measured, ...]:
    """Read a certificate: ``RUN/certified/NAME.json``, with the original and the models among the run's artifacts.

    Older ones say nothing of the original's file, the shapes and the instruction sets.
    """
    artifacts = path.resolve().parent.parent / "artifacts"
    baseline = data.get("baseline")
    found = []
    for model in (*([baseline] if baseline else []), *data["models"]):
        value, low, high = model["latency_ms"]
        interval = {"value": value, "low": low, "high": high, "evidence": data.get("evidence")}
        found.append(_measured(path, artifacts / f"{model['sha256'][:16]}.onnx", interval, model["sha256"]))
    _refuse_other_family(path, data.get("instructions") or (), profile)
    other = _other_shapes(found[0].model, data.get("shapes") or (), shapes) if found else {}
    if other:
        raise _refused_shape(path, other, "give")
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
