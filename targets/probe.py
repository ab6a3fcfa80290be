"""What pays on a device: a short micro-benchmark of number formats and shapes, on models that it builds itself.

Every judgement rests on the device's own times; nothing is known beforehand of any processor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

import numpy as np

from modeltailor.canonical import canonical_json
from modeltailor.durable import write_text
from modeltailor.errors import CandidateError
from modeltailor.targets.device import Device, Evidence, TimingPlan, Timings

if TYPE_CHECKING:
    import onnx

__all__ = ["ProbeEntry", "ProbeKind", "ProbeTable", "probe"]

ProbeKind = Literal[
    "conv", "depthwise", "matmul", "matvec", "channels", "sparsity", "conversion", "bandwidth", "threads"
]

_VERSION = 3
_PLAN = TimingPlan(pairs=1, quads=3, block_inferences=10, block_ms=10.0, warmup_s=0.15, timeout_s=90.0)
_TRIAL_S = 9.0  # a slow board takes seconds to start the process of one trial
_GRACE_S = 60.0  # by which a kind that was begun in time may overrun the probe's limit
_KINDS: tuple[ProbeKind, ...] = (
    *("conv", "matmul", "depthwise", "conversion", "bandwidth", "channels", "sparsity", "matvec"),
)
_COUNTS = (12, 16, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeEntry:
    """One thing that was tried.

    Attributes:
        kind: what was computed.
        format: number format, as recipes name it, or ``bf16``; for ``channels`` ``fp32`` or ``w8a8``, for ``sparsity``
            ``zeros``, empty where none applies.
        detail: the variant (``u8s8 per channel``, ``accuracy level 4``, ``24 channels``, ``2 threads`` ...).
        ms: milliseconds of one inference; ``None`` if it did not run.
        speedup: over the first of its kind in the same processes (fp32; the fewest channels; one thread); ``None`` if
            it did not run.
        low: lowest speedup of a quad.
        high: highest speedup of a quad.
        error: why it did not run.
    """

    kind: ProbeKind
    format: str
    detail: str
    ms: float | None = None
    speedup: float | None = None
    low: float | None = None
    high: float | None = None
    error: str = ""

    @property
    def is_faster(self) -> bool:
        """Whether it was faster in every quad."""
        return self.low is not None and self.low > 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTable:
    """What a probe found out.

    Attributes:
        device: name of the device.
        fingerprint: of device, runtime and options.
        evidence: label of the device's times.
        entries: everything that was tried, in order.
        conversion_us: microseconds of one border between float and integers (a quantize-dequantize pair), for 1,000
            values; ``None`` if not measured.
        bandwidth_gbps: rate at which weights stream from memory, 1e9 bytes a second; ``None`` if not measured.
        left_out: wanted kinds that were not reached in time.
        seconds: that the probe took, all calls that filled the table together.
    """

    device: str
    fingerprint: str
    evidence: Evidence
    entries: tuple[ProbeEntry, ...]
    conversion_us: float | None
    bandwidth_gbps: float | None
    left_out: tuple[ProbeKind, ...]
    seconds: float

    def tried(self, format: str, kind: ProbeKind, detail: str | None = None) -> tuple[ProbeEntry, ...]:
        """Return what was tried of a format, all variants unless ``detail`` names one."""
        return tuple(
            e for e in self.entries if e.kind == kind and e.format == format and (detail is None or e.detail == detail)
        )

    def best(self, format: str, kind: ProbeKind) -> ProbeEntry | None:
        """Return the fastest variant of a format that ran, or ``None``."""
        ran = [e for e in self.tried(format, kind) if e.speedup is not None]
        return max(ran, key=lambda e: e.speedup or 0.0, default=None)

    def pays(self, format: str, kind: ProbeKind, detail: str | None = None) -> bool:
        """Whether a format was measured to be faster than fp32 here, in every quad."""
        return any(e.is_faster for e in self.tried(format, kind, detail))

    def reason(self, format: str, kind: ProbeKind, detail: str | None = None) -> str:
        """Return one sentence that says why a format pays or does not."""
        tried = self.tried(format, kind, detail)
        name = f"{format}{f' ({detail})' if detail else ''} for {kind}"
        if not tried:
            return f"{name} was not measured on {self.device}."
        ran = [e for e in tried if e.speedup is not None]
        if not ran:
            return f"{name} does not run on {self.device}: {tried[0].error}."
        top = max(ran, key=lambda e: e.speedup or 0.0)
        assert top.speedup is not None
        assert top.low is not None
        assert top.high is not None
        spread = f"{top.speedup:.2f} times as fast as fp32 on {self.device} ({top.low:.2f} to {top.high:.2f}"
        how = f"{spread}; {top.detail})"
        if top.is_faster:
            return f"{name} pays: {how}."
        verdict = "no clear gain" if top.high > 1.0 else "slower than fp32"
        return f"{name} is left out, {verdict}: {how}."

    def channel_multiple(self, format: str) -> int | None:
        """Return the channel multiple of 4, 8 or 16 up to which smaller counts cost no less time.

        The count just below a multiple (12, 24 or 48) pays only if it is faster than the next tried count above it.
        ``None`` where the counts that decide were not measured.
        """
        ms = {int(e.detail.split()[0]): e.ms for e in self.tried(format, "channels") if e.ms is not None}
        if not {24, 32, 48, 64} <= set(ms):
            return None

        def saves(smaller: int, larger: int) -> bool:
            return smaller in ms and larger in ms and ms[smaller] < 0.97 * ms[larger]

        if not saves(24, 32) or not saves(48, 64):
            return 16
        return 4 if saves(12, 16) else 8

    def to_json(self) -> str:
        """Return the table as canonical JSON."""
        return canonical_json({"version": _VERSION, **dataclasses.asdict(self)})


def _from_json(text: str) -> ProbeTable | None:
    try:
        data = json.loads(text)
        if data.pop("version") != _VERSION:
            return None
        data["entries"] = tuple(ProbeEntry(**e) for e in data["entries"])
        data["left_out"] = tuple(data["left_out"])
        return ProbeTable(**data)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # a cache that cannot be read is as good as none


@dataclass(frozen=True, slots=True)
class _Trial:
    """A model to try beside the baseline of its kind."""

    format: str
    detail: str
    model: Callable[[], onnx.ModelProto]


@dataclass(slots=True)
class _Probe:
    device: Device
    folder: Path
    entries: list[ProbeEntry]
    deadline: float

    def kind(self, kind: ProbeKind, trials: Sequence[_Trial], shape: tuple[int, ...]) -> bool:
        """Time all trials of a kind against the first; one that fails is noted and left out.

        Returns ``False``, and notes nothing, if time ran out: all trials share it, so that it says nothing of the one
        whose turn it was.
        """
        import onnx

        inputs = {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
        paths: dict[str, _Trial] = {}
        for number, trial in enumerate(trials):
            name = f"{kind}-{number}.onnx"
            onnx.save(trial.model(), self.folder / name)
            paths[name] = trial
        runs, refused = list(paths), dict[str, str]()
        while True:
            try:
                timings = self.device.time([self.folder / name for name in runs], inputs, self._plan(len(runs)))
                break
            except CandidateError as error:
                if error.code == "TIMEOUT":
                    return False
                if error.where not in runs or error.where == f"{kind}-0.onnx":
                    raise
                refused[error.where] = error.what
                runs.remove(error.where)
        for name, trial in paths.items():
            if name in refused:
                why = refused[name]
                self.entries.append(ProbeEntry(kind=kind, format=trial.format, detail=trial.detail, error=why))
            else:
                self.entries.append(_entry(kind, trial, timings, runs.index(name)))
        return True

    def _plan(self, n_trials: int) -> TimingPlan:
        """Give each trial's process its time, but all together no more than is left."""
        left = self.deadline - time.monotonic()
        return dataclasses.replace(_PLAN, timeout_s=max(1.0, min(left, max(_PLAN.timeout_s, _TRIAL_S * n_trials))))

    def ms(self, kind: ProbeKind, detail: str) -> float | None:
        """Milliseconds of one entry."""
        return next((e.ms for e in self.entries if e.kind == kind and e.detail == detail), None)


def _entry(kind: ProbeKind, trial: _Trial, timings: Timings, index: int) -> ProbeEntry:
    ratios: list[float] = []
    for pair in timings.pairs:
        for own, enclosing in zip(pair.blocks_ms[index], pair.baseline_blocks_ms[index], strict=True):
            ratios.append(math.sqrt(enclosing[0] * enclosing[1] / (own[0] * own[1])) if index else 1.0)
    blocks = [b for pair in timings.pairs for quad in pair.blocks_ms[index] for b in quad]
    return ProbeEntry(
        kind=kind,
        format=trial.format,
        detail=trial.detail,
        ms=median(blocks),
        speedup=median(ratios),
        low=min(ratios),
        high=max(ratios),
    )


def _conv_trials(depthwise: bool, width: int, side: int) -> list[_Trial]:
    """What is tried of convolutions; bf16, which most runtimes refuse, early: what it cost to start is lost then."""
    from modeltailor.targets import _probe_models as nets

    def plain(number: str) -> _Trial:
        return _Trial(
            number, number, lambda: nets.conv_net(channels=width, side=side, depthwise=depthwise, number=number)
        )

    def quantized(activation: str, weight: str, per_channel: bool) -> _Trial:
        return _Trial(
            "w8a16" if activation == "u16" else "w8a8",
            f"{activation}{weight} per {'channel' if per_channel else 'tensor'}",
            lambda: nets.quantized_conv_net(
                channels=width,
                side=side,
                activation=activation,
                weight=weight,
                per_channel=per_channel,
                depthwise=depthwise,
            ),
        )

    def dynamic(weight: str) -> _Trial:
        return _Trial(
            "w8a8-dynamic",
            f"{weight} weights per tensor",
            lambda: nets.dynamic_conv_net(channels=width, side=side, weight=weight),
        )

    both = [plain("fp32"), quantized("u8", "s8", True), quantized("s8", "s8", True), plain("fp16")]
    if depthwise:
        return both
    more = [quantized("u8", "s8", False), quantized("u8", "u8", False), quantized("u16", "s8", True)]
    return [both[0], plain("bf16"), *both[1:], *more, dynamic("u8"), dynamic("s8")]


def _matmul_trials(rows: int, width: int) -> list[_Trial]:
    """What is tried of matrix products; with one row, as when text is made word by word, only what keeps floats."""
    from modeltailor.targets import _probe_models as nets

    def plain(number: str) -> _Trial:
        return _Trial(number, number, lambda: nets.matmul_net(rows=rows, width=width, number=number))

    def static(activation: str, weight: str) -> _Trial:
        return _Trial(
            "w8a16" if activation == "u16" else "w8a8",
            f"{activation}{weight} per channel",
            lambda: nets.quantized_matmul_net(
                rows=rows, width=width, activation=activation, weight=weight, per_channel=True
            ),
        )

    def dynamic(kind: str, detail: str) -> _Trial:
        return _Trial("w8a8-dynamic", detail, lambda: nets.matmul_net(rows=rows, width=width, dynamic=kind))

    def block(bits: int, level: int) -> _Trial:
        return _Trial(
            f"w{bits}-block32",
            f"accuracy level {level}",
            lambda: nets.block_net(rows=rows, width=width, bits=bits, accuracy_level=level),
        )

    blocks = [block(bits, level) for bits in (8, 4, 2) for level in (1, 4)]
    if rows == 1:
        return [plain("fp32"), dynamic("s8c", "s8 weights per channel"), *blocks]
    return [
        plain("fp32"),
        plain("bf16"),
        static("u8", "s8"),
        static("s8", "s8"),
        plain("fp16"),
        static("u8", "u8"),
        static("u16", "s8"),
        dynamic("s8c", "s8 weights per channel"),
        dynamic("u8", "u8 weights per tensor"),
        *blocks,
    ]


def _sparsity_trials(width: int, side: int) -> list[_Trial]:
    """The same convolutions with ever more zeros: does the runtime skip any?"""
    from modeltailor.targets import _probe_models as nets

    def thinned(zeros: str, detail: str) -> _Trial:
        return _Trial("zeros", detail, lambda: nets.conv_net(channels=width, side=side, zeros=zeros))

    return [
        _Trial("fp32", "no zeros", lambda: nets.conv_net(channels=width, side=side)),
        thinned("0.5", "50 % zeros anywhere"),
        thinned("0.9", "90 % zeros anywhere"),
        thinned("2:4", "two of every four channels"),
    ]


def _channel_trials() -> list[_Trial]:
    from modeltailor.targets import _probe_models as nets

    def plain(count: int) -> _Trial:
        return _Trial("fp32", f"{count} channels", lambda: nets.conv_net(channels=count, side=16, inputs=3))

    def quantized(count: int) -> _Trial:
        return _Trial(
            "w8a8",
            f"{count} channels",
            lambda: nets.quantized_conv_net(
                channels=count, side=16, inputs=3, activation="u8", weight="s8", per_channel=True
            ),
        )

    return [make(count) for make in (plain, quantized) for count in _COUNTS]


def _plan_of(kind: ProbeKind) -> tuple[Sequence[_Trial], tuple[int, ...]]:
    """Return what is tried for a kind, the baseline first, and the shape of the input."""
    from modeltailor.targets import _probe_models as nets

    match kind:
        case "conv":
            return _conv_trials(False, 32, 16), (1, 32, 16, 16)
        case "depthwise":
            return _conv_trials(True, 64, 16), (1, 64, 16, 16)
        case "matmul":
            return _matmul_trials(64, 256), (1, 64, 256)
        case "matvec":
            return _matmul_trials(1, 512), (1, 1, 512)
        case "sparsity":
            return _sparsity_trials(32, 16), (1, 32, 16, 16)
        case "channels":
            return _channel_trials(), (1, 3, 16, 16)
        case "conversion":
            return [_border(0), _border(4)], (1, 64, 32, 32)
        case "bandwidth":
            stream = _Trial("fp32", "stream", lambda: nets.matmul_net(rows=1, width=3072, layers=1))
            return [stream], (1, 1, 3072)
        case "threads":
            raise ValueError("threads are probed by devices of their own; pass with_threads")


def probe(
    device: Device,
    *,
    kinds: Sequence[ProbeKind] = _KINDS,
    cache: Path | None = None,
    afresh: bool = False,
    limit_s: float = 60.0,
    with_threads: Mapping[int, Device] | None = None,
) -> ProbeTable:
    """Measure what pays on a device; what the cache knows already is not measured again.

    A kind that was measured is kept in the cache at once, so that it is not lost when the device fails later.

    Args:
        device: what is probed.
        kinds: what to try, the most wanted first; a network without matrix products needs no ``matmul``.
        cache: folder that keeps a table a fingerprint; ``None`` measures anew and keeps nothing.
        afresh: measure again what the cache knows; its table is replaced as soon as there is something new.
        limit_s: a kind is left out if it would pass it at the pace so far; none is started after four fifths of it, and
            one that is not done a minute after it is left out.
        with_threads: the same device with other thread counts, to see what more threads give; they are closed by
            whoever made them, and never cached.

    Raises:
        DeviceError: the device failed.
        CandidateError: not even fp32 runs.
    """
    facts = device.describe()
    kept = None if cache is None else cache / f"probe-{facts.fingerprint}.json"
    known = None if kept is None or afresh or not kept.is_file() else _from_json(kept.read_text(encoding="utf-8"))
    before = known.entries if known else ()
    wanted = [k for k in dict.fromkeys(kinds) if not any(e.kind == k for e in before)]
    if known is not None and not wanted and not with_threads:
        return dataclasses.replace(known, left_out=())
    started = time.monotonic()
    left_out: list[ProbeKind] = []
    n_tried = 0
    with tempfile.TemporaryDirectory(prefix="modeltailor-probe-") as name:
        work = _Probe(device, Path(name), list(before), started + limit_s + _GRACE_S)

        def reach(kind: ProbeKind, trials: Sequence[_Trial], shape: tuple[int, ...]) -> bool:
            """Measure a kind, unless time is up, or would be if its trials took as long as those before."""
            nonlocal n_tried
            spent = time.monotonic() - started
            fits = spent <= 0.8 * limit_s and (not n_tried or spent * (1.0 + len(trials) / n_tried) <= limit_s)
            n_tried += len(trials) if fits else 0
            is_measured = fits and work.kind(kind, trials, shape)
            if not is_measured:
                left_out.append(kind)
            return is_measured

        def so_far() -> ProbeTable:
            return ProbeTable(
                device=facts.name,
                fingerprint=facts.fingerprint,
                evidence=facts.evidence,
                entries=tuple(work.entries),
                conversion_us=_conversion_us(work),
                bandwidth_gbps=_bandwidth_gbps(work),
                left_out=tuple(left_out),
                seconds=(known.seconds if known else 0.0) + time.monotonic() - started,
            )

        table = so_far()
        for kind in wanted:
            is_new = reach(kind, *_plan_of(kind))
            table = so_far()
            if is_new and kept is not None:
                _keep(kept, table)
        for threads, other in sorted((with_threads or {}).items()):
            work.device = other
            reach("threads", [_with_threads(threads)], (1, 64, 32, 32))
    return dataclasses.replace(table, entries=_threads_related(work.entries), left_out=tuple(dict.fromkeys(left_out)))


def _keep(path: Path, table: ProbeTable) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a later run a minute, no more
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, table.to_json())


def _with_threads(threads: int) -> _Trial:
    from modeltailor.targets import _probe_models as nets

    return _Trial("fp32", f"{threads} threads", lambda: nets.conv_net(channels=64, side=32))


def _border(pairs: int) -> _Trial:
    from modeltailor.targets import _probe_models as nets

    return _Trial("", f"{pairs} pairs", lambda: nets.conversion_net(channels=64, side=32, pairs=pairs))


def _conversion_us(work: _Probe) -> float | None:
    without, with_four = work.ms("conversion", "0 pairs"), work.ms("conversion", "4 pairs")
    if without is None or with_four is None:
        return None
    return max(0.0, (with_four - without) * 1000.0 / 4 / (64 * 32 * 32 / 1000))


def _bandwidth_gbps(work: _Probe) -> float | None:
    ms = work.ms("bandwidth", "stream")
    return None if ms is None else 4 * 3072 * 3072 / (ms / 1000.0) / 1e9


def _threads_related(entries: Sequence[ProbeEntry]) -> tuple[ProbeEntry, ...]:
    """Relate thread counts to the smallest one; they ran one after another, so their spread is unknown."""
    first = next((e.ms for e in entries if e.kind == "threads"), None)
    if first is None:
        return tuple(entries)
    return tuple(
        dataclasses.replace(e, speedup=first / e.ms, low=first / e.ms, high=first / e.ms)
        if e.kind == "threads" and e.ms
        else e
        for e in entries
    )
