"""What this machine is, and what it suffers while something is measured."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

__all__ = ["Counters", "instructions", "processor", "runtime"]

_TELLING = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "sme",
)
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")


def _cpuinfo(*keys: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""


def processor() -> str:
    """Name of this machine's processor."""
    return _cpuinfo("model name", "Model") or platform.processor() or platform.machine()


def instructions() -> tuple[str, ...]:
    """Instruction sets of this machine that matter to number formats."""
    flags = set(_cpuinfo("flags", "Features").split())
    return tuple(name for name in _TELLING if name in flags)


def runtime() -> str:
    """Name and version of the installed ONNX Runtime, without importing it."""
    for name in RUNTIMES:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "onnxruntime (version unknown)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Counters of the machine at one moment.

    Attributes:
        steal_ticks: time that the hypervisor gave to others.
        busy_ticks: time that any process of this machine ran.
        total_ticks: all time, over all cores.
    """

    steal_ticks: int = 0
    busy_ticks: int = 0
    total_ticks: int = 0

    @classmethod
    def now(cls) -> Self:
        """Read them; all zero where the system does not tell."""
        try:
            fields = [int(f) for f in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
        except (OSError, ValueError):
            return cls()
        user, nice, system, idle, waiting, irq, softirq, steal = fields
        busy = user + nice + system + irq + softirq
        return cls(steal_ticks=steal, busy_ticks=busy, total_ticks=busy + idle + waiting + steal)

    def conditions_since(self, earlier: Self) -> tuple[tuple[str, float], ...]:
        """Shares of all processor time since ``earlier``, and the load average."""
        total = max(1, self.total_ticks - earlier.total_ticks)
        return (
            ("steal_share", (self.steal_ticks - earlier.steal_ticks) / total),
            ("busy_share", (self.busy_ticks - earlier.busy_ticks) / total),
            ("load_average_1m", os.getloadavg()[0]),
        )
