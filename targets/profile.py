"""Device profiles: a device **and** a runtime as data, each figure with where it comes from."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modeltailor.errors import ConfigError
from modeltailor.targets.strict_yaml import read_mapping

__all__ = ["FORMATS", "Figure", "Profile", "list_profiles", "load_profile"]

NumberFormat = Literal["fp64", "fp32", "tf32", "fp16", "bf16", "int16", "int8", "int4"]
FORMATS: tuple[NumberFormat, ...] = ("fp64", "fp32", "tf32", "fp16", "bf16", "int16", "int8", "int4")
_LARGEST_FILE = 200_000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Figure(_Strict):
    """One figure of a device; its unit is in the name of the field that holds it.

    Attributes:
        value: the figure.
        origin: ``spec`` (stated by a maker or publication), ``measured``, or ``inferred`` (worked out from others).
        source: where it was read, or how it was worked out.
    """

    value: Annotated[float, Field(gt=0)]
    origin: Literal["spec", "measured", "inferred"]
    source: Annotated[str, Field(min_length=3)]


class Profile(_Strict):
    """A device with the runtime that it is used through.

    Attributes:
        name: short name, as in a job file.
        title: name for people.
        kind: sort of device.
        aliases: other names it answers to.
        runtime: runtime and backend that the figures hold for.
        provider: ONNX Runtime execution provider.
        threads: threads inside one operator.
        processor: cores and clocks, in words.
        memory_bytes: memory of the device.
        flash_bytes: flash that holds the model, on microcontrollers.
        peak_gops: peak rate by number format, in 1e9 operations a second (a multiply-accumulate is two).
        effective_gops: rate by number format that a published run of a whole network reached, in the same unit.
        bandwidth_gbps: memory bandwidth, 1e9 bytes a second.
        per_operator_overhead_us: time that an operator costs beside its work, microseconds.
        instructions: instruction sets that matter to number formats.
        reach: how it is reached: ``local`` is this machine, ``none`` means that another machine stands in.
        address: host or serial number, where ``reach`` needs one.
        notes: what a reader must know of the figures.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    title: str
    kind: Literal["phone", "embedded", "desktop-cpu", "gpu"]
    aliases: tuple[str, ...] = ()
    runtime: str
    provider: str = "CPUExecutionProvider"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    processor: str = ""
    memory_bytes: Figure | None = None
    flash_bytes: Figure | None = None
    peak_gops: Mapping[NumberFormat, Figure] = Field(default_factory=dict)
    effective_gops: Mapping[NumberFormat, Figure] = Field(default_factory=dict)
    bandwidth_gbps: Figure | None = None
    per_operator_overhead_us: Figure | None = None
    instructions: tuple[str, ...] = ()
    reach: Literal["local", "ssh", "adb", "none"] = "none"
    address: str = ""
    notes: str = ""

    @model_validator(mode="after")
    def _reachable(self) -> Profile:
        if self.reach in ("ssh", "adb") and not self.address:
            raise ValueError(f"reach {self.reach} needs an address")
        return self

    @property
    def is_local(self) -> bool:
        """Whether this machine is the device itself."""
        return self.reach == "local"

    def to_plain(self) -> dict[str, object]:
        """JSON-able data; ``Profile.model_validate`` reads it back."""
        return self.model_dump(mode="json", exclude_defaults=True)


def _parse(text: str, where: str) -> Profile:
    data = read_mapping(text, where)
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        raise _refusal(error, where) from error


def _refusal(error: ValidationError, where: str) -> ConfigError:
    every = error.errors(include_url=False)
    first = next((e for e in every if e["type"] == "extra_forbidden"), every[0])  # a misspelt key explains the rest
    path = ".".join(str(part) for part in first["loc"]) or "profile"
    if first["type"] == "extra_forbidden":
        wrong = str(first["loc"][-1])
        known = list(Figure.model_fields if len(first["loc"]) > 1 else Profile.model_fields)
        close = difflib.get_close_matches(wrong, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return ConfigError("CFG-04", where, f"unknown key {path!r}; {hint}", "remove or rename it")
    return ConfigError("CFG-06", where, f"{path}: {first['msg']}; got {first.get('input')!r}", "mend the value")


@functools.cache
def _shipped() -> dict[str, Profile]:
    folder = files("modeltailor.targets.profiles")
    found: dict[str, Profile] = {}
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            profile = _parse(entry.read_text(encoding="utf-8"), entry.name)
            found[profile.name] = profile
    return found


def list_profiles() -> tuple[Profile, ...]:
    """Return the profiles that ship with the package, by kind and name."""
    return tuple(sorted(_shipped().values(), key=lambda p: (p.kind, p.name)))


def load_profile(name_or_path: str | Path, *, folder: Path | None = None) -> Profile:
    """Return a shipped profile by name or alias, or read one from a YAML file.

    Args:
        name_or_path: ``pixel-8``, ``phone``, ``boards/mine.yaml``; or ``mine`` for a file ``mine.yaml`` in ``folder``.
        folder: where relative paths start, and where users keep profiles of their own, beside the job file.

    Raises:
        ConfigError: no such profile or file, or the file does not hold a valid profile.
    """
    text = str(name_or_path)
    if folder is not None and isinstance(name_or_path, str) and "/" not in text and text not in _shipped():
        beside = folder / f"{text}.yaml"
        if beside.is_file():
            return load_profile(beside)
    if isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        path = (folder or Path()) / name_or_path
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError("CFG-01", path, f"cannot read it ({error.strerror})", "check the path") from error
        if len(content) > _LARGEST_FILE:
            raise ConfigError("CFG-14", path, f"a profile has at most {_LARGEST_FILE:,} bytes", "is it another file?")
        return _parse(content.decode("utf-8", errors="replace"), path.name)
    shipped = _shipped()
    if text in shipped:
        return shipped[text]
    for profile in shipped.values():
        if text in profile.aliases:
            return profile
    names = [*shipped, *(alias for p in shipped.values() for alias in p.aliases)]
    close = difflib.get_close_matches(text, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(names))}"
    raise ConfigError("CFG-10", "target", f"unknown device {text!r}; {hint}", "run modeltailor targets list")
