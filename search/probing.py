"""What the capability probe decides for a search: signedness, channel multiples, and what people are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
        conversion_us: microseconds of one border between float and integers for 1,000 values; 0 if not measured.
        saturates: 8-bit weights must keep to 7 bits, so that every machine concerned computes the same.
        per_tensor_pays: one weight scale a tensor is as fast as one a channel, or was not measured.
        blocks_pay: block-wise weights are as fast as the best kernel in integers.
        block_accuracy: ``accuracy_level`` at which they are fastest.
        wide_pays: 16-bit activations are faster than fp32.
    """

    activation_signed: bool = False
    channel_multiple: int = _UNKNOWN_MULTIPLE
    notes: tuple[str, ...] = ()
    conversion_us: float = 0.0
    saturates: bool = False
    per_tensor_pays: bool = True
    blocks_pay: bool = False
    block_accuracy: Literal[1, 4] = 4
    wide_pays: bool = False


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
        for name in ("w8a8", "w8a8-dynamic", "w8-block32", "w4-block32", "w2-block32", "w8a16", "fp16"):
            if table.tried(name, kind) and not table.pays(name, kind):
                notes.append(table.reason(name, kind))
    choose_signed = signed is not None and (unsigned is None or signed > unsigned * _CLEARLY)
    per_tensor = f"{'s' if choose_signed else 'u'}8s8 per tensor"
    for detail, speed, other in (("s8", signed, unsigned), ("u8", unsigned, signed)):
        if speed is not None and other is not None and other > speed * _CLEARLY:
            notes.append(
                f"{detail} activations are left out: {speed:.2f} times fp32 for {main} on {table.device}, "
                f"{'u8' if detail == 's8' else 's8'} {other:.2f} times"
            )
    return Probed(
        activation_signed=choose_signed,
        channel_multiple=table.channel_multiple("w8a8") or _UNKNOWN_MULTIPLE,
        notes=tuple(n.rstrip(".") for n in notes),
        conversion_us=table.conversion_us or 0.0,
        per_tensor_pays=not table.tried("w8a8", main, per_tensor) or _as_fast(table, main, "w8a8", per_tensor),
        blocks_pay=any(_as_fast(table, main, b) for b in ("w8-block32", "w4-block32")),
        block_accuracy=1 if _level(table, main, 1) > _level(table, main, 4) else 4,
        wide_pays=table.pays("w8a16", main),
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


def _as_fast(table: ProbeTable, kind: ProbeKind, name: str, detail: str | None = None) -> bool:
    """Whether a format was measured and is no slower than the best in integers, within the noise of a probe."""

    def top(form: str, variant: str | None = None) -> float:
        return max((e.speedup for e in table.tried(form, kind, variant) if e.speedup is not None), default=0.0)

    own = top(name, detail)
    return own > 0.0 and own * _CLEARLY >= max(top("w8a8"), top("w8a8-dynamic"))


def _level(table: ProbeTable, kind: ProbeKind, level: int) -> float:
    found = [e.speedup for b in (8, 4) for e in table.tried(f"w{b}-block32", kind, f"accuracy level {level}")]
    return max((s for s in found if s is not None), default=0.0)
