"""Device profiles: a device **and** a runtime as data, each figure with where it comes from."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from modeltailor.errors import ConfigError
from modeltailor.targets.agent.device_side import PRECISION_SWITCHES
from modeltailor.targets.providers import provider_named
from modeltailor.targets.strict_yaml import read_mapping

__all__ = ["FORMATS", "Figure", "Profile", "is_port", "list_profiles", "load_profile"]

NumberFormat = Literal["fp64", "fp32", "tf32", "fp16", "bf16", "int16", "int8", "int4"]
FORMATS: tuple[NumberFormat, ...] = ("fp64", "fp32", "tf32", "fp16", "bf16", "int16", "int8", "int4")
_LARGEST_FILE = 200_000
_LAST_PORT = 65535


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
        runtime_version: version of it: ``>=1.18`` or ``1.32``, which takes ``1.32.1`` too; empty for any. A device that
            is really reached and has another one is refused.
        provider: ONNX Runtime execution provider, by its own name or a short one (``cuda``, ``qnn`` ...).
        precision: lower precisions in which the provider may compute floats on its own; every other switch of the
            provider is turned off. See :data:`~modeltailor.targets.agent.device_side.PRECISION_SWITCHES`.
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
        address: ``user@host[:port]`` for ``ssh``, ``host:port`` for ``tcp``, serial number for ``adb``; a prefix
            ``ssh://`` or ``adb://`` is allowed.
        python: interpreter on a device reached by ``ssh``, with numpy and onnxruntime.
        token_file: file with the token that an agent printed, for ``tcp``; beside the profile. If empty, the token is
            in the environment variable ``MODELTAILOR_AGENT_TOKEN``.
        perf_test: ``onnxruntime_perf_test`` for the phone's processor, for ``adb``; beside the profile.
        libraries: shared libraries that it needs, such as ``libonnxruntime.so``.
        hottest_c: degrees Celsius above which the device is left to cool before it is measured on.
        measured: file of latencies that were measured on the device, beside the profile; predictions start from it.
        notes: what a reader must know of the figures.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    title: str
    kind: Literal["phone", "embedded", "desktop-cpu", "gpu"]
    aliases: tuple[str, ...] = ()
    runtime: str
    runtime_version: Annotated[str, Field(pattern=r"^((>=)?\d+(\.\d+){0,3})?$")] = ""
    provider: str = "CPUExecutionProvider"
    precision: tuple[Literal["tf32", "fp16", "bf16", "int8"], ...] = ()
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    processor: str = ""
    memory_bytes: Figure | None = None
    flash_bytes: Figure | None = None
    peak_gops: Mapping[NumberFormat, Figure] = Field(default_factory=dict)
    effective_gops: Mapping[NumberFormat, Figure] = Field(default_factory=dict)
    bandwidth_gbps: Figure | None = None
    per_operator_overhead_us: Figure | None = None
    instructions: tuple[str, ...] = ()
    reach: Literal["local", "ssh", "tcp", "adb", "none"] = "none"
    address: str = ""
    python: str = "python3"
    token_file: str = ""
    perf_test: str = ""
    libraries: tuple[str, ...] = ()
    hottest_c: Annotated[float, Field(ge=30.0, le=120.0)] = 85.0
    measured: str = ""
    notes: str = ""

    @field_validator("provider")
    @classmethod
    def _known_provider(cls, value: str) -> str:
        try:
            return provider_named(value)
        except ConfigError as error:
            raise ValueError(error.what) from error

    @model_validator(mode="after")
    def _switchable(self) -> Profile:
        switches = PRECISION_SWITCHES.get(self.provider, {})
        for name in self.precision:
            if name not in switches:
                there = f"it has {', '.join(switches)}" if switches else "it has none"
                raise ValueError(f"precision: {self.provider} has no switch for {name}; {there}")
        return self

    @model_validator(mode="after")
    def _reachable(self) -> Profile:
        if self.reach in ("ssh", "tcp", "adb") and not self.address:
            raise ValueError(f"reach {self.reach} needs an address")
        if self.reach == "adb" and not self.perf_test:
            raise ValueError("reach adb needs perf_test, the onnxruntime_perf_test program for the phone's processor")
        return self

    @property
    def is_local(self) -> bool:
        """Whether this machine is the device itself."""
        return self.reach == "local"

    def to_plain(self) -> dict[str, object]:
        """JSON-able data; ``Profile.model_validate`` reads it back."""
        return self.model_dump(mode="json", exclude_defaults=True)


def _parse(text: str, where: str, folder: Path | None = None) -> Profile:
    data = read_mapping(text, where)
    try:
        profile = Profile.model_validate(data)
    except ValidationError as error:
        raise _refusal(error, where) from error
    if folder is None:
        return profile
    return profile.model_copy(
        update={
            "token_file": str(folder / profile.token_file) if profile.token_file else "",
            "perf_test": str(folder / profile.perf_test) if profile.perf_test else "",
            "measured": str(folder / profile.measured) if profile.measured else "",
            "libraries": tuple(str(folder / name) for name in profile.libraries),
        }
    )


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


def _is_profile(path: Path) -> bool:
    """Whether a file that bears a shipped name is a profile, and not a job that is called after its device."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return re.search(r"^kind\s*:", file.read(_LARGEST_FILE), re.MULTILINE) is not None


def is_port(text: str) -> bool:
    """Say whether text is the number of a TCP port."""
    return text.isdigit() and int(text) <= _LAST_PORT


def _addressed(text: str, folder: Path) -> Profile:
    """A profile of a device that is known by its address alone."""
    reach, _, address = text.partition("://")
    host, colon, port = address.rpartition(":")
    if reach == "tcp" and not (colon and host and is_port(port)):
        raise ConfigError("CFG-10", "target", f"must be tcp://host:port; got {text!r}", "name host and port")
    place = host if reach == "tcp" else address.rpartition("@")[2]
    name = re.sub(r"[^a-z0-9._-]+", "-", place.lower()).strip("-._")[:64] or ("agent" if reach == "tcp" else "")
    data: dict[str, object] = {"name": name, "title": text, "kind": "embedded", "reach": reach, "address": address}
    data["runtime"] = "as found there"
    if reach == "adb":
        data |= {"kind": "phone", "perf_test": str(folder / "onnxruntime_perf_test")}
        data["libraries"] = [str(p) for p in sorted(folder.glob("libonnxruntime*.so"))]
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        raise ConfigError("CFG-10", "target", f"{text!r} is no address of a device", "e.g. ssh://pi@board") from error


def load_profile(name_or_path: str | Path, *, folder: Path | None = None) -> Profile:
    """Return a shipped profile by name or alias, or read one from a YAML file.

    Args:
        name_or_path: ``pixel-8``, ``phone``, ``boards/mine.yaml``; or ``mine`` for a file ``mine.yaml`` in ``folder``,
            which goes before a shipped profile of that name; or the address of a device: ``ssh://user@host[:port]``,
            ``tcp://host:port`` (an agent that listens there) or ``adb://SERIAL`` (with ``onnxruntime_perf_test`` and its
            libraries in ``folder``).
        folder: where relative paths start, and where users keep profiles of their own, beside the job file.

    Raises:
        ConfigError: no such profile or file, or the file does not hold a valid profile.
    """
    text = str(name_or_path)
    if text.startswith(("ssh://", "tcp://", "adb://")):
        return _addressed(text, folder or Path())
    if folder is not None and isinstance(name_or_path, str) and "/" not in text:
        beside = folder / f"{text}.yaml"
        if beside.is_file() and (text not in _shipped() or _is_profile(beside)):
            return load_profile(beside)
    if isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        path = (folder or Path()) / name_or_path
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError("CFG-01", path, f"cannot read it ({error.strerror})", "check the path") from error
        if len(content) > _LARGEST_FILE:
            raise ConfigError("CFG-14", path, f"a profile has at most {_LARGEST_FILE:,} bytes", "is it another file?")
        return _parse(content.decode("utf-8", errors="replace"), path.name, path.parent)
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
