"""A made-up run for tests and for trying report designs: the records' form, no measurement behind any number.

Its notes say so, and so does every report that is made of it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from modeltailor.compress.vocabulary import Format, Recipe, Settings, Structure, Training
from modeltailor.search.records import (
    AccuracyRecord,
    AuditRecord,
    DeviceRecord,
    FallBackRecord,
    FinalPlaceRecord,
    FinalRecord,
    IntervalRecord,
    PlaceRecord,
    Role,
    RunHistory,
    RunRecord,
    SiteRecord,
    TrialRecord,
)

__all__ = ["synthetic_history"]

_FORMATS = ("fp32", "w8a8", "w4a8", "w2a8", "w8a8-dynamic", "w4")
_WIDTH_BITS = {"fp32": 32, "w8a8": 8, "w4a8": 4, "w2a8": 2, "w8a8-dynamic": 8, "w4": 4}
_COST = {"fp32": 1.0, "w8a8": 0.42, "w4a8": 0.42, "w2a8": 0.425, "w8a8-dynamic": 0.7, "w4": 1.0}
_HARM = {"fp32": 0.0, "w8a8": 0.0004, "w4a8": 0.006, "w2a8": 0.09, "w8a8-dynamic": 0.0006, "w4": 0.005}
_ZEROS = {"fp32": 0.0, "w8a8": 0.02, "w4a8": 0.13, "w2a8": 0.55, "w8a8-dynamic": 0.02, "w4": 0.13}
_KERNEL = {"fp32": "Conv", "w4": "Conv", "w8a8-dynamic": "ConvInteger"}
_FAILURES = (
    ("TIMEOUT", "train", "the student was not trained within 300 s"),
    ("PARITY", "accuracy", "every sample gives the same output, so a score would be luck"),
    ("NONFINITE", "accuracy", "output 'logits' holds NaN or infinity"),
    ("CRASH:SIGSEGV", "latency", "the process that timed the file ended with SIGSEGV"),
    ("OOM", "build", "more than 2 GiB were needed"),
)


@dataclass(frozen=True, slots=True)
class _Net:
    """Sites of the made-up network and the noise of its measurements."""

    elements: tuple[int, ...]
    names: tuple[str, ...]
    harm: tuple[float, ...]
    rng: random.Random


def _net(n_sites: int, seed: int, name: str) -> _Net:
    rng = random.Random(seed)
    elements = tuple(int(400 * 1.8 ** (5 * i / n_sites) * rng.choice((1, 2, 4))) for i in range(n_sites))
    names = tuple(name.format(stage=1 + 4 * i // n_sites, block=i // 2, i=i) for i in range(n_sites))
    harm = tuple(rng.lognormvariate(0.0, 0.8) for _ in range(n_sites))
    return _Net(elements, names, harm, rng)


def _interval(value: float, half: float) -> IntervalRecord:
    return IntervalRecord(
        value=value, low=value * math.exp(-half), high=value * math.exp(half), evidence="measured-here"
    )


def _accuracy(value: float, base: float, n: int, rng: random.Random) -> AccuracyRecord:
    half = 1.96 * math.sqrt(value * (1 - value) / n)
    difference = value - base
    paired = 0.0 if difference == 0 else 1.96 * math.sqrt((0.01 + abs(difference)) / n) * rng.uniform(0.9, 1.1)
    return AccuracyRecord(
        value=value,
        low=max(0.0, value - half),
        high=min(1.0, value + half),
        difference=difference,
        difference_low=difference - paired,
        difference_high=difference + paired,
        n_samples=n,
    )


def _recipe(net: _Net, number: int) -> tuple[Recipe, Role, str]:
    uniform = {1: ("w8a8", "int8 static"), 2: ("w8a8-dynamic", "int8 dynamic"), 3: ("w4", "4-bit weights only")}
    if number == 0:
        return Recipe(), "fp32", "fp32 original"
    if number in uniform:
        fmt, label = uniform[number]
        return Recipe(formats=tuple((n, Format.parse(fmt)) for n in net.names)), "baseline", label
    if number == 4:
        return Recipe(structure=Structure(width=0.75, training=Training())), "baseline", "0.75× width, fp32"
    rng = net.rng
    boldness = rng.random()
    structure = Structure()
    draw = rng.random()
    if draw < 0.2:
        keep = tuple((f"group{g}", rng.choice((0.5, 0.625, 0.75, 0.875))) for g in range(rng.randint(1, 4)))
        structure = Structure(keep=keep, training=Training())
    elif draw < 0.4:
        removed = tuple(sorted({f"block{rng.randint(1, 8)}" for _ in range(rng.randint(1, 3))}))
        structure = Structure(removed=removed, training=Training(epochs=4.0))
    formats = []
    for name, harm in zip(net.names, net.harm, strict=True):
        score = boldness * 3.2 / harm * rng.lognormvariate(0, 0.5)
        fmt = "w8a8" if score < 1.2 else "w4a8" if score < 7 else "w2a8"
        if rng.random() < 0.04:
            fmt = rng.choice(_FORMATS)
        formats.append((name, Format.parse(fmt)))
    return Recipe(structure=structure, formats=tuple(formats), settings=Settings()), "search", ""


def _trial(net: _Net, number: int, base_ms: float, shift: float, seconds: float) -> TrialRecord:
    recipe, role, label = _recipe(net, number)
    rng = net.rng
    structure = recipe.structure
    width = structure.width * math.prod(s**0.25 for _, s in structure.keep)
    depth = 1.0 - 0.11 * len(structure.removed)
    formats, sites, weights, harm = recipe.format_of, [], 0, 0.0
    time_share = 0.0
    for i, (name, elements) in enumerate(zip(net.names, net.elements, strict=True)):
        fmt = formats[name].name if name in formats else "fp32"
        count = max(1, int(elements * width * width * depth))
        stored = count * _WIDTH_BITS[fmt] // 8 + (0 if fmt == "fp32" else 64)
        weights += stored
        harm += _HARM[fmt] * net.harm[i] / len(net.names) * (3.0 if fmt == "w2a8" else 1.0)
        time_share += _COST[fmt] / len(net.names)
        note = "the kernel for this shape does not pay here" if rng.random() < 0.01 else ""
        sites.append(
            SiteRecord(
                site=name,
                kind="conv",
                format=fmt,
                storage_bits=_WIDTH_BITS[fmt],
                stored_bytes=stored,
                weight_elements=count,
                macs=count * 64,
                executed_kernel=_KERNEL.get(fmt, "QLinearConv"),
                note=note,
                channels=max(1, round(64 * width)),
                channels_kept=round(width, 4),
                sparsity=round(_ZEROS[fmt] * (0.8 + 0.04 * (37 * i % 11)), 4),
            )
        )
    latency = base_ms * (0.08 + 0.92 * time_share) * (0.3 + 0.7 * width) * depth
    loss = harm + 0.06 * (1 - width) + 0.05 * (1 - depth)
    exact = role == "fp32"
    accuracy = 0.8798 if exact else min(0.885, max(0.1, 0.8798 - loss + shift * rng.gauss(0, 1)))
    accuracy = round(accuracy * 5000) / 5000
    half = 0.0 if exact else rng.uniform(0.01, 0.03)
    common = {
        "number": number, "key": recipe.key, "role": role, "label": label, "recipe": recipe.to_plain(),
        "finished_at_s": seconds,
        "seconds": {"build": 1.2, "train": 20.0 if structure.training else 0.0, "accuracy": 3.1, "latency": 1.4},
    }  # fmt: skip
    if role == "search" and rng.random() < 0.07:
        outcome, stage, error = rng.choice(_FAILURES)
        return TrialRecord.model_validate({**common, "outcome": outcome, "stage": stage, "error": error})
    return TrialRecord.model_validate(
        {
            **common,
            "sha256": recipe.key * 4,
            "size_bytes": weights + 9_000 + 500 * len(net.names),
            "latency_ms": _interval(latency, 0.02 if exact else half),
            "speedup": _interval(base_ms / latency if not exact else 1.0, half),
            "accuracy": _accuracy(accuracy, 0.8798, 5000, rng),
            "load_ms": 12.0 + 0.02 * weights / 1000,
            "peak_memory_bytes": 9_000_000 + int(2.4 * weights),
            "sites": tuple(sites),
        }
    )


def _audit(trial: TrialRecord) -> AuditRecord:
    """A made-up profile: time as the format costs, a tenth of it between the layers."""
    assert trial.latency_ms is not None
    rng = random.Random(trial.key)
    weights = [_COST[s.format] * rng.uniform(0.5, 1.5) for s in trial.sites]
    whole = sum(weights) / 0.9
    shares = tuple((s.site, round(w / whole, 5)) for s, w in zip(trial.sites, weights, strict=True))
    floats = [(s.site, v) for s, (_, v) in zip(trial.sites, shares, strict=True) if s.format in ("fp32", "w4")]
    integer = sum(v for _, v in shares) - sum(v for _, v in floats)
    asked = [(s, v) for s, v in floats if trial.role != "fp32"][:2]
    return AuditRecord(
        sentence="A made-up profile says nothing about why a model is not faster.",
        evidence="measured-here",
        node_ms=1.2 * trial.latency_ms.value,
        compute_share=tuple(p for p in (("int8", integer), ("float32", sum(v for _, v in floats))) if p[1] > 0),
        conversions=len(floats),
        conversion_share=0.02,
        layout_share=0.01,
        time_shares=shares,
        fall_backs=tuple(
            FallBackRecord(
                node=s, asked="w4", executed="Conv in float32", reason="only its weights are stored small", share=v
            )
            for s, v in asked
        ),
        n_fall_backs=len(asked),
    )


def _finals(net: _Net, trials: list[TrialRecord], n_front: int) -> list[FinalRecord]:
    measured: dict[str, TrialRecord] = {}
    for trial in trials:
        if trial.is_measured:
            measured.setdefault(trial.key, trial)
    chosen = [t for t in measured.values() if t.role in ("fp32", "baseline")]

    def score(t: TrialRecord) -> float:
        assert t.accuracy is not None
        assert t.speedup is not None
        return -(t.accuracy.value * 8 + math.log(t.speedup.value) - 0.4 * math.log(t.size_bytes))

    chosen += sorted((t for t in measured.values() if t.role == "search"), key=score)[:n_front]
    finals = []
    for t in chosen:
        assert t.accuracy is not None
        assert t.latency_ms is not None
        assert t.speedup is not None
        exact = t.role == "fp32"
        drift = 1.0 if exact else math.exp(net.rng.gauss(0, 0.006))
        test = round((t.accuracy.value - (0 if exact else abs(net.rng.gauss(0, 0.0015)))) * 5000) / 5000
        finals.append(
            FinalRecord(
                key=t.key,
                latency_ms=_interval(t.latency_ms.value / drift, 0.012 if exact else 0.008),
                speedup=_interval(t.speedup.value * drift, 0.0 if exact else 0.006),
                test_accuracy=_accuracy(test, 0.8798, 5000, net.rng),
                peak_memory_bytes=t.peak_memory_bytes,
                load_ms=t.load_ms,
                verdict="UNDECIDED" if not exact and net.rng.random() < 0.05 else "certified",
                audit=_audit(t),
            )
        )
    return finals


def _on_another_device(
    name: str, trials: list[TrialRecord], finals: list[FinalRecord]
) -> tuple[list[TrialRecord], list[FinalRecord]]:
    """Give every measured trial and finalist figures on one more device: slower, and fond of other models."""
    rng = random.Random(name)
    taste: dict[str, float] = {}
    slower = rng.uniform(2.0, 6.0)
    found, places = [], {}
    for t in trials:
        if not t.is_measured:
            found.append(t)
            continue
        assert t.latency_ms is not None
        assert t.speedup is not None
        exact = t.role == "fp32"
        factor = taste.setdefault(t.key, 1.0 if exact else math.exp(rng.gauss(0, 0.12)))
        if not exact and rng.random() < 0.03:
            place = PlaceRecord(outcome="OOM", error="more memory was needed than the device has")
        else:
            place = PlaceRecord(
                latency_ms=_interval(slower * t.latency_ms.value / factor, 0.02),
                speedup=_interval(t.speedup.value * factor, 0.0 if exact else 0.02),
                peak_memory_bytes=t.peak_memory_bytes,
            )
        places[t.key] = place
        found.append(t.model_copy(update={"elsewhere": {**t.elsewhere, name: place}}))
    again = []
    for f in finals:
        place = places[f.key]
        if place.latency_ms is None or place.speedup is None:
            again.append(f)
            continue
        there = FinalPlaceRecord(latency_ms=place.latency_ms, speedup=place.speedup, verdict="compared")
        again.append(f.model_copy(update={"elsewhere": {**f.elsewhere, name: there}}))
    return found, again


def _device(name: str, limits: dict[str, float | int | None]) -> DeviceRecord:
    return DeviceRecord(
        name=name,
        device={"name": name, "evidence": "measured-here", "runtime": "onnxruntime 1.32.0",
                "processor": "another made-up processor"},
        profile={"name": name, "kind": "phone", "threads": 2},
        budget={**limits, "latency_ms": None},
    )  # fmt: skip


def synthetic_history(
    n_trials: int = 60,
    n_sites: int = 20,
    n_front: int = 12,
    seed: int = 0,
    *,
    site_name: str = "layer{stage}.{block}.conv{i}",
    budget: dict[str, float | int | None] | None = None,
    title: str = "resnet20 (made up)",
    finished: bool = True,
    elsewhere: Sequence[str] = (),
) -> RunHistory:
    """Make up a run.

    Args:
        n_trials: trials, five baselines included.
        n_sites: layers of the network.
        n_front: search results among the finalists.
        seed: of everything drawn.
        site_name: pattern of the layers' names; hostile ones are welcome.
        budget: limits by name; by default 1 point of accuracy, 0.5 ms, 200 KB times ``n_sites`` / 20.
        title: of the model.
        finished: whether finalists were measured again.
        elsewhere: names of further devices of the study; each likes other models, and some trials fail there.
    """
    net = _net(n_sites, seed, site_name)
    base_ms = 0.039 * n_sites
    trials = [_trial(net, i, base_ms, 0.0012, 30.0 + 14.5 * i) for i in range(n_trials)]
    finals = _finals(net, trials, n_front) if finished else []
    for name in elsewhere:
        trials, finals = _on_another_device(name, trials, finals)
    reached = [1.0 - 0.55 * math.exp(-i / (0.18 * n_trials)) for i in range(n_trials)]
    hypervolume = tuple((30.0 + 14.5 * i, round(v - v % 0.02, 4)) for i, v in enumerate(reached))
    limits = {"max_drop": 1.0, "latency_ms": 0.5 * base_ms, "size_bytes": None, "memory_bytes": None,
              "min_accuracy": None}  # fmt: skip
    run = RunRecord(
        job={
            "version": 1,
            "model": {"source": "model.py:build", "weights": "weights.safetensors"},
            "budget": {"max_drop": 1.0},
            "target": "desktop-cpu",
        },
        budget=budget if budget is not None else limits,
        profile={"name": "desktop-cpu", "kind": "desktop-cpu", "threads": 1},
        device={
            "name": "desktop-cpu",
            "evidence": "measured-here",
            "runtime": "onnxruntime 1.32.0",
            "processor": "a made-up processor",
            "fingerprint": "0" * 16,
            "options": {"provider": "CPUExecutionProvider", "intra_op_threads": 1, "spinning": False},
        },
        metric={"name": "accuracy", "minimize": False, "unit": ""},
        model={"name": title, "source": "model.py:build", "sites": n_sites},
        splits={
            "train": {"samples": 45000},
            "calibration": {"samples": 512, "note": "cut from train"},
            "search": {"samples": 5000},
            "test": {"samples": 5000},
        },
        axes=("formats", "sparsity", "student"),
        notes=("This run is made up: no number in it was measured.",),
        environment={"modeltailor": "0.1.0", "onnxruntime": "1.32.0", "torch": "2.13.0", "python": "3.11"},
        seed=seed,
        started_at="2026-01-01T00:00:00Z",
        elsewhere=tuple(_device(name, limits) for name in elsewhere),
    )
    return RunHistory(
        run=run,
        trials=tuple(trials),
        finals=tuple(finals),
        stopped=f"All {n_trials} trials were spent." if finished else "",
        hypervolume=hypervolume,
        seconds=(
            ("accuracy", 3.1 * n_trials),
            ("training", 20.0 * n_trials * 0.4),
            ("latency", 1.4 * n_trials),
            ("build", 1.2 * n_trials),
            ("final measurement", 60.0),
        ),
        sensitivities=tuple(
            (name, fmt, round(_HARM[fmt] * harm, 6))
            for name, harm in zip(net.names, net.harm, strict=True)
            for fmt in ("w8a8", "w4a8", "w2a8")
        ),
    )
