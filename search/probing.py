"""What the capability probe decides for a search: signedness, channel multiples, and what people are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modeltailor.compress import Site
from modeltailor.targets import Device
from modeltailor.targets.probe import ProbeKind, ProbeTable, probe

__all__ = ["Probed", "probe_device", "read_table"]

_CLEARLY = 1.05
_MOST_SHARE = 0.08
_MOST_S = 60.0
_UNKNOWN_MULTIPLE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What a search takes from the probe.

    Attributes:
        activation_signed: int8 activations are faster than uint8 on this device.
        channel_multiple: kept channels are rounded to it; fewer channels in between cost no less time.
        notes: one sentence each, with the measured figures.
    """

    activation_signed: bool = False
    channel_multiple: int = _UNKNOWN_MULTIPLE
    notes: tuple[str, ...] = ()


def probe_device(device: Device, sites: Sequence[Site], *, cache: Path | None, time_s: float) -> ProbeTable:
    """Probe what concerns those sites, within a small share of the run's time; what the cache knows is read from it.

    Raises:
        DeviceError: the device failed.
        CandidateError: not even fp32 runs there.
    """
    kinds = list(dict.fromkeys(k for s in sites if (k := _probe_kind(s)) is not None))
    if "conv" in kinds:
        kinds.append("channels")
    folder = cache / "probes" if cache else None
    return probe(device, kinds=kinds, cache=folder, limit_s=min(_MOST_S, _MOST_SHARE * time_s))


def read_table(table: ProbeTable, sites: Sequence[Site]) -> Probed:
    """Decide what the measured table decides, for the kinds of sites that the network has.

    Args:
        table: what was measured.
        sites: of the original network.
    """
    candidates: tuple[ProbeKind, ...] = ("conv", "depthwise", "matmul")
    kinds = [k for k in candidates if any(_probe_kind(s) == k for s in sites)]
    work = {k: sum(s.macs for s in sites if _probe_kind(s) == k) for k in kinds}
    main: ProbeKind = max(kinds, key=lambda k: (work[k], k == "conv")) if kinds else "conv"
    unsigned, signed = (_speed(table, main, f"{a}s8 per channel") for a in ("u8", "s8"))
    notes = []
    for kind in kinds:
        for name in ("w8a8", "w8a8-dynamic", "w4-block32", "w2-block32", "fp16"):
            if table.tried(name, kind) and not table.pays(name, kind):
                notes.append(table.reason(name, kind))
    choose_signed = signed is not None and (unsigned is None or signed > unsigned * _CLEARLY)
    for detail, speed, other in (("s8", signed, unsigned), ("u8", unsigned, signed)):
        if speed is not None and other is not None and other > speed * _CLEARLY:
            notes.append(
                f"{detail} activations are left out: {speed:.2f} times fp32 for {main} on {table.device}, "
                f"{'u8' if detail == 's8' else 's8'} {other:.2f} times"
            )
    known = any(e.kind == "channels" and e.format == "w8a8" and e.speedup is not None for e in table.entries)
    return Probed(
        activation_signed=choose_signed,
        channel_multiple=table.channel_multiple("w8a8") if known else _UNKNOWN_MULTIPLE,
        notes=tuple(n.rstrip(".") for n in notes),
    )


def _probe_kind(site: Site) -> ProbeKind | None:
    match site.kind:
        case "conv" | "conv-transpose":
            return "conv"
        case "depthwise":
            return "depthwise"
        case "matmul" | "gemm":
            return "matmul"
        case _:
            return None


def _speed(table: ProbeTable, kind: ProbeKind, detail: str) -> float | None:
    found = [e.speedup for e in table.tried("w8a8", kind, detail) if e.speedup is not None]
    return max(found, default=None)
