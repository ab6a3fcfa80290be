"""What is on this machine, what is missing, and the exact line that installs it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

__all__ = ["EXTRAS", "Diagnosis", "Finding", "diagnose"]

Level = Literal["ok", "note", "missing"]

EXTRAS: tuple[tuple[str, str, str], ...] = (
    ("hf", "transformers", "models from Hugging Face folders"),
    ("images", "pillow", "JPEG decoding in examples/resnet20_cifar"),
    ("plots", "matplotlib", "the front as front.png (report --png)"),
    ("parquet", "pyarrow", "all trials as outcomes.parquet (report --parquet)"),
    ("dashboard", "optuna-dashboard", "a run's study.db in a browser"),
    ("docs", "mkdocs-material", "building the documentation"),
)
"""Extra, the package that shows whether it is there, and what it is for."""

_NAME = re.compile(r"^([A-Za-z0-9._-]+)\s*([^;]*)(;.*)?$")
_LEAST_DISK = 1_000_000_000
_LEAST_MEMORY = 2_000_000_000
_BUSY = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact.

    Attributes:
        topic: ``python``, ``package``, ``extra``, ``runtime``, ``machine``, ``disk`` or ``environment``.
        name: of the thing.
        level: ``ok``; ``note`` if it limits what can be done; ``missing`` if nothing works without it.
        says: what was found.
        install: the line that mends it; empty if there is none.
    """

    topic: str
    name: str
    level: Level
    says: str
    install: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All findings."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing that is needed is missing."""
        return not any(f.level == "missing" for f in self.findings)


def diagnose(folder: Path, cache: Path) -> Diagnosis:
    """Look at this machine.

    Args:
        folder: where runs are going to be written.
        cache: where trained structures are kept.
    """
    parts = (_python(), *_packages(), *_extras(), *_runtime(), *_machine(), *_disk(folder, cache), *_environment())
    return Diagnosis(findings=parts)


def _python() -> Finding:
    enough = sys.version_info >= (3, 11)
    return Finding(
        topic="python", name="python", level="ok" if enough else "missing",
        says=f"{platform.python_version()} at {sys.executable}" + ("" if enough else "; 3.11 or newer is needed"),
    )  # fmt: skip


def _packages() -> Iterator[Finding]:
    try:
        needed = requires("modeltailor") or []
    except PackageNotFoundError:
        yield Finding(topic="package", name="modeltailor", level="missing", says="is not installed",
                      install=f"{sys.executable} -m pip install modeltailor")  # fmt: skip
        return
    for line in needed:
        match = _NAME.match(line)
        if match is None or "extra ==" in (match[3] or ""):
            continue
        yield _package(match[1], match[2].strip())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _package(name: str, specifier: str) -> Finding:
    from modeltailor.targets.machine import RUNTIMES

    install = f"{sys.executable} -m pip install '{name}{specifier}'"
    found = next(filter(None, map(_version, RUNTIMES if name == "onnxruntime" else (name,))), None)
    if found is None:
        return Finding(topic="package", name=name, level="missing", says=f"missing; needs {specifier}", install=install)
    if not _fits(found, specifier):
        return Finding(
            topic="package",
            name=name,
            level="missing",
            says=f"{found} is installed; needs {specifier}",
            install=install,
        )
    return Finding(topic="package", name=name, level="ok", says=found)


def _fits(found: str, specifier: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # comes with nearly everything; without it versions are shown, not judged
        return True
    return SpecifierSet(specifier).contains(found, prereleases=True)


def _extras() -> Iterator[Finding]:
    for extra, package, purpose in EXTRAS:
        try:
            yield Finding(topic="extra", name=extra, level="ok", says=f"{package} {version(package)}: {purpose}")
        except PackageNotFoundError:
            yield Finding(
                topic="extra", name=extra, level="note", says=f"not installed; only needed for {purpose}",
                install=f"{sys.executable} -m pip install 'modeltailor[{extra}]'",
            )  # fmt: skip


def _runtime() -> Iterator[Finding]:
    from modeltailor.targets.machine import runtime

    try:
        import onnxruntime
    except Exception as error:  # a broken installation fails in many ways
        yield Finding(
            topic="runtime", name="onnxruntime", level="missing", says=f"cannot be imported ({error})",
            install=f"{sys.executable} -m pip install --force-reinstall onnxruntime",
        )  # fmt: skip
        return
    providers = onnxruntime.get_available_providers()
    yield Finding(topic="runtime", name=runtime(), level="ok", says=f"providers: {', '.join(providers)}")


def _machine() -> Iterator[Finding]:
    import psutil

    from modeltailor.targets.machine import instructions, processor

    cores, allowed = os.cpu_count() or 1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    usable = f", {allowed} of them usable" if allowed and allowed != cores else ""
    yield Finding(topic="machine", name="processor", level="ok", says=f"{processor()}, {cores} cores{usable}")
    yield Finding(topic="machine", name="instructions", level="ok", says=", ".join(instructions()) or "none of note")
    memory = psutil.virtual_memory()
    yield Finding(
        topic="machine", name="memory", level="ok" if memory.available >= _LEAST_MEMORY else "note",
        says=f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free",
    )  # fmt: skip
    load = os.getloadavg()[0]
    busy = load > _BUSY * cores
    says = f"load {load:.1f} on {cores} cores" + ("; measuring will be noisy until it falls" if busy else "")
    yield Finding(topic="machine", name="load", level="note" if busy else "ok", says=says)
    for tool, purpose in (("ssh", "devices over SSH"), ("adb", "phones over adb")):
        found = shutil.which(tool)
        says = found or f"not found; only needed for {purpose}"
        yield Finding(topic="machine", name=tool, level="ok" if found else "note", says=says)


def _disk(folder: Path, cache: Path) -> Iterator[Finding]:
    for name, place in (("runs", folder), ("cache", cache)):
        there = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        free = shutil.disk_usage(there).free
        if not os.access(there, os.W_OK):
            yield Finding(topic="disk", name=name, level="missing", says=f"{place} cannot be written")
        else:
            level: Level = "ok" if free >= _LEAST_DISK else "note"
            yield Finding(topic="disk", name=name, level=level, says=f"{free / 1e9:.1f} GB free at {place}")


def _environment() -> Iterator[Finding]:
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        yield Finding(
            topic="environment", name="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", level="note",
            says="is set: torch would execute pickles in weight files", install="unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
        )  # fmt: skip
    for name in ("OMP_NUM_THREADS", "MODELTAILOR_CACHE"):
        if name in os.environ:
            yield Finding(topic="environment", name=name, level="ok", says=f"= {os.environ[name]}")
