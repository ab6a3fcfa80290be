"""The stages that build: structures that learn, and the files of their formats."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modeltailor.compress import Format, Settings, Structure, Training
from modeltailor.errors import CandidateError
from modeltailor.estimators.accuracy import run_split
from modeltailor.search.stages.facts import ORIGINAL, BuiltModel, RealizedFacts, SiteFacts
from modeltailor.search.stages.scoring import BATCH
from modeltailor.search.stages.workshop import Workshop, open_workshop
from modeltailor.targets import RuntimeOptions
from modeltailor.workloads import WorkloadSpec, resolve_metric

if TYPE_CHECKING:
    import torch

__all__ = [
    "baselines",
    "compose",
    "realize_structure",
    "recipe_cost",
    "recover_formats",
    "site_costs",
    "site_drops",
    "sites",
]

_SENSITIVITY_SAMPLES = 128
_LABELLED_SAMPLES = 512
_BELOW_MEASURED = 16.0
"""What few bits ruin grows faster than rounding noise: not to be tried on a guess."""


def realize_structure(
    spec: WorkloadSpec,
    work: Path,
    cache: Path | None,
    structure: Structure,
    seed: int,
    deadline_s: float | None,
    channel_multiple: int,
) -> RealizedFacts:
    """Build a structure, teach it, and write it as fp32 ONNX into the work folder.

    Raises:
        CandidateError: it cannot be built or exported, or its training did not end in time.
    """
    from modeltailor.compress import structure as room

    started = time.monotonic()
    workshop = open_workshop(spec, work, cache)
    if workshop.module is None:
        return _reshape_file(workshop, structure, channel_multiple)
    realized = room.realize(
        structure,
        workshop.module,
        example_inputs=workshop.example(),
        train=workshop.training_data(),
        calibration=room.TrainingData(inputs=workshop.calibration()),
        task=workshop.task,
        cache_dir=cache / "structures" if cache else None,
        cut_short_dir=work.parent
        / "structures",  # of this run: its trials go on with the very network that was measured
        seed=seed,
        multiple=channel_multiple,
        student=workshop.student(),
        progress=_progress(work),
        deadline_s=deadline_s,
    )
    _drop_progress(work)
    workshop.realized = (structure.key, realized.module)
    if not (work / f"{structure.key}.onnx").exists():
        workshop.export(realized.module, structure.key)
    return RealizedFacts(
        key=structure.key,
        parameters=realized.parameters,
        macs=realized.macs,
        seconds=time.monotonic() - started,
        from_cache=realized.from_cache,
        trained=realized.trained,
    )


def _reshape_file(workshop: Workshop, structure: Structure, channel_multiple: int) -> RealizedFacts:
    """Change an ONNX network without PyTorch: channels and ranks, corrected from calibration data, untrained."""
    import onnx

    from modeltailor.compress.structure import realize_onnx

    started = time.monotonic()
    source = workshop.work / f"{ORIGINAL}.onnx"
    model = realize_onnx(structure, source, calibration=workshop.calibration(), multiple=channel_multiple)
    onnx.save(model, workshop.work / f"{structure.key}.onnx")
    return RealizedFacts(
        key=structure.key,
        parameters=sum(int(np.prod(t.dims)) for t in model.graph.initializer),
        macs=0,
        seconds=time.monotonic() - started,
        from_cache=False,
        trained=False,
    )


def recover_formats(
    spec: WorkloadSpec,
    work: Path,
    cache: Path | None,
    structure: Structure,
    formats: Mapping[str, str],
    training: Training,
    seed: int,
    deadline_s: float | None,
    channel_multiple: int,
) -> RealizedFacts:
    """Let a structure learn again with its formats' rounding in the forward pass, and write it into the work folder.

    Raises:
        CandidateError: it cannot be built or exported, or its training diverged.
    """
    from modeltailor.compress import structure as room

    started = time.monotonic()
    workshop = open_workshop(spec, work, cache)
    original = _module(workshop, structure.key)
    if structure.is_original:
        start = original
    else:
        if workshop.realized is None or workshop.realized[0] != structure.key:
            realize_structure(spec, work, cache, structure, seed, deadline_s, channel_multiple)
        assert workshop.realized is not None
        start = workshop.realized[1]
    train = workshop.training_data()
    if train is None:
        raise CandidateError("UNSUPPORTED", "recovery", "needs a train split", "")
    recovered = room.recover(
        start,
        {site: Format.parse(name) for site, name in formats.items()},
        teacher=original,
        example_inputs=workshop.example(),
        train=train,
        training=training,
        task=workshop.task,
        cache_dir=cache / "structures" if cache else None,
        seed=seed,
        progress=_progress(work),
        deadline_s=deadline_s,
    )
    _drop_progress(work)
    key = f"recovered-{recovered.key[:16]}"
    if not (work / f"{key}.onnx").exists():
        workshop.export(recovered.module, key)
    return RealizedFacts(
        key=key,
        parameters=sum(p.numel() for p in recovered.module.parameters()),
        macs=0,
        seconds=time.monotonic() - started,
        from_cache=recovered.from_cache,
        trained=bool(recovered.bits),
    )


def _module(workshop: Workshop, where: str) -> torch.nn.Module:
    if workshop.module is None:
        raise CandidateError("UNSUPPORTED", where, "changing or training the network needs a PyTorch model", "")
    return workshop.module


def _progress(work: Path) -> Callable[[float], None]:
    return lambda share: _write(work / "progress", f"{share:.4f}")


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _drop_progress(work: Path) -> None:
    (work / "progress").unlink(missing_ok=True)


def sites(spec: WorkloadSpec, work: Path, cache: Path | None, network: str, seed: int) -> tuple[SiteFacts, ...]:
    """List the sites of a network and what can be built at each."""
    composer = open_workshop(spec, work, cache).composer(network, seed)
    return tuple(SiteFacts(site=s, formats=tuple(f.name for f in composer.formats(s))) for s in composer.sites)


def baselines(
    spec: WorkloadSpec,
    work: Path,
    cache: Path | None,
    network: str,
    seed: int,
    blocks: bool = False,
    wide: bool = False,
) -> tuple[tuple[str, tuple[tuple[str, str], ...], Settings], ...]:
    """List the uniform baselines of a network: label, format name by site, settings.

    Args:
        blocks: block-wise weights, too.
        wide: 16-bit activations, too.
    """
    composer = open_workshop(spec, work, cache).composer(network, seed)
    return tuple(
        (label, tuple(sorted((s, f.name) for s, f in formats.items())), settings)
        for label, (formats, settings) in composer.baselines(blocks=blocks, wide=wide).items()
    )


def site_costs(
    spec: WorkloadSpec,
    work: Path,
    cache: Path | None,
    network: str,
    seed: int,
    settings: Settings,
    formats: tuple[str, ...],
    limit_s: float,
) -> tuple[tuple[str, str, int, float, bool], ...]:
    """Return site, format, stored bytes, accuracy sensitivity (KL or squared error) and whether that was measured.

    The formats that tell most come first; those that ``limit_s`` does not reach are filled in from the others.

    Args:
        formats: names; ``fp32`` costs nothing.
        limit_s: seconds after which no further format is measured.
    """
    from modeltailor.estimators.sensitivity import sensitivities

    started = time.monotonic()
    composer = open_workshop(spec, work, cache).composer(network, seed)
    measured: dict[tuple[str, str], float] = {}
    longest = 0.0
    for name in sorted(formats, key=lambda f: (f.startswith("codebook"), _telling(Format.parse(f)), f)):
        before = time.monotonic()
        if before - started + longest > limit_s:
            break
        measured |= sensitivities(composer, settings=settings, formats=(name,), samples=_SENSITIVITY_SAMPLES)
        longest = max(longest, time.monotonic() - before)
    rows = []
    for site in composer.sites:
        known = {Format.parse(f): v for (s, f), v in measured.items() if s == site.name}
        for fmt in composer.formats(site):
            if fmt.name in formats:
                alike = {f.weight_bits: v for f, v in known.items() if f.scheme == fmt.scheme}
                near = alike or {f.weight_bits: v for f, v in known.items()}
                loss = measured.get((site.name, fmt.name), _between(near, fmt.weight_bits))
                stored, is_measured = composer.stored_bytes(site, fmt, settings), (site.name, fmt.name) in measured
                rows.append((site.name, fmt.name, stored, float(loss), is_measured))
    return tuple(rows)


def site_drops(
    spec: WorkloadSpec,
    work: Path,
    cache: Path | None,
    network: str,
    seed: int,
    settings: Settings,
    formats: tuple[str, ...],
    limit_s: float,
    fixed_batch: int | None,
) -> tuple[tuple[str, str, float], ...]:
    """Return site, format and what the metric loses with that site alone changed, on a part of the search split.

    Only formats of which it tells something, and only if ``limit_s`` is likely to be enough for all sites.

    Args:
        formats: names of those that are searched.
        limit_s: seconds.
        fixed_batch: rows of one inference if the model fixes them.

    Raises:
        CandidateError: outputs are not finite or constant.
        DataError: the metric failed.
    """
    from modeltailor.estimators.sensitivity import metric_drops

    workshop = open_workshop(spec, work, cache)
    metric = resolve_metric(spec.metric, spec.root)
    split = workshop.splits.search
    rows, n = metric.rows_per_sample, len(split) // metric.rows_per_sample
    drawn = np.sort(np.random.default_rng(0).permutation(n)[:_LABELLED_SAMPLES])
    part = split.take((drawn[:, None] * rows + np.arange(rows)).ravel())
    sign = 1.0 if metric.minimize else -1.0

    def judge(model: bytes) -> float:
        outputs = run_split(model, part, RuntimeOptions(), batch_size=fixed_batch or BATCH)
        return sign * metric.evaluate(outputs, np.asarray(part.targets))

    composer = workshop.composer(network, seed)
    found = metric_drops(composer, judge, settings=settings, formats=formats, limit_s=limit_s)
    return tuple((site, name, drop) for (site, name), drop in found.items())


def recipe_cost(
    spec: WorkloadSpec,
    work: Path,
    cache: Path | None,
    network: str,
    seed: int,
    formats: Mapping[str, str],
    settings: Settings,
) -> tuple[float, int]:
    """Return how far a recipe moves the outputs on calibration data, and the bytes of its file.

    Raises:
        CandidateError: it cannot be built.
    """
    from modeltailor.estimators.sensitivity import recipe_loss

    composer = open_workshop(spec, work, cache).composer(network, seed)
    chosen = {s: Format.parse(f) for s, f in formats.items()}
    return recipe_loss(composer, chosen, settings, samples=_SENSITIVITY_SAMPLES)


def _telling(fmt: Format) -> int:
    """Rank of a format by how much its sensitivity tells: where rounding begins to hurt, and where it ruins."""
    order = (32, 16, 4, 2, 3, 6, 8, 5, 7)
    return order.index(fmt.weight_bits) if fmt.weight_bits in order else len(order)


def _between(known: Mapping[int, float], bits: int) -> float:
    """Loss at ``bits`` from the nearest measured number of bits: rounding noise falls by four with each bit."""
    lossy = {b: v for b, v in known.items() if b < 16}
    if not lossy:
        return 4.0 ** (2 - bits) if bits < 16 else 0.0
    nearest = min(lossy, key=lambda b: abs(b - bits))
    growth = _BELOW_MEASURED if bits < min(lossy) else 4.0
    return lossy[nearest] * growth ** (nearest - bits)


def compose(
    spec: WorkloadSpec,
    work: Path,
    cache: Path | None,
    network: str,
    seed: int,
    formats: Mapping[str, str],
    settings: Settings,
) -> BuiltModel:
    """Put a candidate together.

    Raises:
        CandidateError: it cannot be built.
    """
    started = time.monotonic()
    composer = open_workshop(spec, work, cache).composer(network, seed)
    made = composer.compose({s: Format.parse(f) for s, f in formats.items()}, settings)
    return BuiltModel(data=made.model_bytes, sites=made.sites, seconds=time.monotonic() - started)
