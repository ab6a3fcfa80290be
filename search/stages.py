"""The stages of a trial, each run in a child process: what they crash, hang or eat is lost there and nowhere else.

Functions here are called by name through :class:`modeltailor.targets.Child`; arguments and results travel pickled
between our own processes. What is dear to make (the loaded network, calibration, cached parts) stays in the child
between calls, keyed by the run's work folder.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeltailor.canonical import content_key
from modeltailor.compress import Format, Settings, Site, SiteReport, Structure
from modeltailor.errors import CandidateError, ConfigError, DataError, ModelError
from modeltailor.estimators.accuracy import Accuracy, judge, run_split
from modeltailor.targets import RuntimeOptions
from modeltailor.workloads import (
    MetricSpec,
    Splits,
    WorkloadSpec,
    bind_inputs,
    check_onnx_file,
    load_callable,
    load_module,
    load_splits,
    model_kind,
    open_split,
    open_splits,
    resolve_metric,
    store_splits,
)

if TYPE_CHECKING:
    import torch
    from onnx import ModelProto, TensorProto

    from modeltailor.compress.formats import Composer

__all__ = [
    "BuiltModel",
    "GroupFacts",
    "PreparedFacts",
    "RealizedFacts",
    "ScoredModel",
    "SiteFacts",
    "compose",
    "graph_key",
    "prepare",
    "realize_structure",
    "score",
    "site_costs",
    "sites",
]

ORIGINAL = "original"
_BATCH = 64
_SENSITIVITY_SAMPLES = 128
_SHAPE_LIKE = 64
_BELOW_MEASURED = 16.0  # what few bits ruin grows faster than rounding noise: not to be tried on a guess


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """A channel group as the search sees it.

    Attributes:
        name: of the group.
        channels: how many there are.
        coupled: whether residual additions tie several layers together.
        macs_share: share of the network's work in its layers.
    """

    name: str
    channels: int
    coupled: bool
    macs_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedFacts:
    """What loading the workload found out.

    Attributes:
        kind: ``torch``, ``hf`` or ``onnx``.
        digest: content key of the model's weights.
        parameters: how many there are.
        input_names: of the model.
        fixed_batch: rows of one inference if the model fixes them.
        split_sizes: samples by split.
        split_digests: content key by split.
        notes: what was cut, allowed or left out; for the report.
        groups: channel groups that can be pruned; empty without a PyTorch model.
        blocks: blocks that can be taken out, the cheapest to lose first.
        has_student: whether the user gave a factory for students.
        macs: multiply-accumulate operations of one inference; 0 where unknown.
    """

    kind: str
    digest: str
    parameters: int
    input_names: tuple[str, ...]
    fixed_batch: int | None
    split_sizes: tuple[tuple[str, int], ...]
    split_digests: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()
    groups: tuple[GroupFacts, ...] = ()
    blocks: tuple[str, ...] = ()
    has_student: bool = False
    macs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFacts:
    """A site and the formats that can be built there."""

    site: Site
    formats: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RealizedFacts:
    """A structure that was built and, if asked, trained."""

    key: str
    parameters: int
    macs: int
    seconds: float
    from_cache: bool
    trained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltModel:
    """A built file before it gets its name."""

    data: bytes
    sites: tuple[SiteReport, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredModel:
    """What running a built file over a split showed; ``graph`` is the key of the executed graph, see :func:`graph_key`."""

    accuracy: Accuracy
    kernels: tuple[tuple[str, str], ...]
    graph: str
    seconds: float


@dataclass
class _Context:
    """What one child keeps of one run."""

    spec: WorkloadSpec
    work: Path
    cache: Path | None
    splits: Splits
    module: torch.nn.Module | None
    input_names: tuple[str, ...]
    composers: dict[str, Composer] = field(default_factory=dict)


_contexts: dict[Path, _Context] = {}


# -- the build child ----------------------------------------------------------------------------------------------


def prepare(spec: WorkloadSpec, work: Path, cache: Path | None, seed: int, structures: bool) -> PreparedFacts:
    """Load model and data, check them against each other, and write the fp32 network as ONNX into the work folder.

    Args:
        spec: the workload as data.
        work: the run's work folder.
        cache: where trained structures are kept between runs.
        seed: of the cut of missing splits.
        structures: whether channel groups and removable blocks are wanted.
    """
    kind = model_kind(spec.model, spec.root)
    if kind == "onnx":
        check_onnx_file(spec.root / spec.model.source)
    metric = resolve_metric(spec.metric, spec.root)
    splits = load_splits(spec.data, spec.root, rows_per_sample=metric.rows_per_sample, seed=seed)
    digests = store_splits(splits, work / "data")
    context = _open(spec, work, cache, splits)
    target = work / f"{ORIGINAL}.onnx"
    notes = list(splits.notes)
    if context.module is None:
        fixed, parameters, macs = _adopt_onnx(spec.root / spec.model.source, target, splits)
        groups: tuple[GroupFacts, ...] = ()
        blocks: tuple[str, ...] = ()
    else:
        fixed = None
        _try_out(context)
        notes += _export(context, context.module, target)
        groups, blocks, macs, more = _structure_facts(context) if structures else ((), (), 0, ())
        notes += more
        parameters = sum(p.numel() for p in context.module.parameters())
    return PreparedFacts(
        kind=kind,
        digest=_weights_digest(target),
        parameters=parameters,
        input_names=context.input_names,
        fixed_batch=fixed,
        split_sizes=tuple((s.name, len(s) // metric.rows_per_sample) for s in splits.present()),
        split_digests=tuple(digests.items()),
        notes=tuple(notes),
        groups=groups,
        blocks=blocks,
        has_student=bool(spec.model.student),
        macs=macs,
    )


def _open(spec: WorkloadSpec, work: Path, cache: Path | None, splits: Splits | None = None) -> _Context:
    found = _contexts.get(work)
    if found is not None and splits is None:
        return found
    splits = splits or open_splits(work / "data")
    if model_kind(spec.model, spec.root) == "onnx":
        module, names = None, _onnx_inputs(spec.root / spec.model.source)
    else:
        module = load_module(spec.model, spec.root)
        names = _module_inputs(module, splits)
    made = _Context(spec=spec, work=work, cache=cache, splits=splits, module=module, input_names=names)
    _contexts[work] = made
    return made


def _module_inputs(module: torch.nn.Module, splits: Splits) -> tuple[str, ...]:
    import inspect

    given = list(splits.search.inputs)
    accepted = list(inspect.signature(module.forward).parameters)
    if len(given) == 1 and given[0] not in accepted:
        return (accepted[0] if accepted and accepted[0] not in ("args", "kwargs") else "x",)
    missing = [n for n in given if n not in accepted]
    if missing:
        raise ConfigError(
            "CFG-15", "data", f"the model's forward takes {', '.join(accepted)}; the data has '{missing[0]}'",
            "name the arrays x.NAME after the arguments of forward",
        )  # fmt: skip
    return tuple(n for n in accepted if n in given)


def _onnx_inputs(path: Path) -> tuple[str, ...]:
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:
        raise ModelError(
            "MODEL-02",
            path.name,
            f"not a readable ONNX file ({path.stat().st_size:,} bytes)",
            "export or download it again",
        ) from error
    held = {i.name for i in graph.initializer}
    names = tuple(i.name for i in graph.input if i.name not in held)
    if not names or not graph.output or not graph.node:
        raise ModelError("MODEL-17", path.name, "has no inputs, no outputs or no nodes", "export it again")
    return names


def _adopt_onnx(source: Path, target: Path, splits: Splits) -> tuple[int | None, int, int]:
    """Copy the user's file into the work folder after checking it. Returns fixed batch, parameters and MACs (0)."""
    import onnx

    try:
        model = onnx.load(source)
        onnx.checker.check_model(model)
    except Exception as error:
        raise ModelError("MODEL-02", source.name, f"the ONNX checker refuses it: {error}", "export it again") from error
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelError("MODEL-16", tensor.name, "NaN or infinity in the weights", "check the training")
    held = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in held]
    shapes = {
        i.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in i.type.tensor_type.shape.dim)
        for i in inputs
    }
    bind_inputs(splits.search.take(slice(0, 1)).inputs, tuple(shapes), shapes)
    first = next(iter(shapes.values()))
    parameters = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    onnx.save(model, target)
    return (first[0] if first else None), parameters, 0


def _example(context: _Context, rows: int = 2) -> dict[str, torch.Tensor]:
    import torch

    few = context.splits.calibration.take(slice(0, rows)).inputs
    bound = bind_inputs({k: np.array(v) for k, v in few.items()}, context.input_names)
    return {k: torch.from_numpy(v) for k, v in bound.items()}


def _try_out(context: _Context) -> None:
    """Run the module once on real samples, so that a mismatch is told in the words of the data."""
    import torch

    assert context.module is not None
    example = _example(context)
    try:
        with torch.no_grad():
            context.module(**example)
    except Exception as error:
        shapes = ", ".join(f"{k} {tuple(v.shape)} {str(v.dtype).removeprefix('torch.')}" for k, v in example.items())
        raise DataError(
            "DATA-03", "data", f"the model raised {type(error).__name__} on two samples of {shapes}: {error}",
            "give samples of the shape and type that it takes",
        ) from error  # fmt: skip


def _export(context: _Context, module: torch.nn.Module, target: Path) -> list[str]:
    from modeltailor.workloads.export import export_onnx

    made = export_onnx(module, _example(context), target, input_names=context.input_names)
    return [made.note] if made.note else []


def _weights_digest(path: Path) -> str:
    from modeltailor.durable import sha256_file

    return sha256_file(path)[:16]


def _structure_facts(
    context: _Context,
) -> tuple[tuple[GroupFacts, ...], tuple[str, ...], int, tuple[str, ...]]:
    from modeltailor.compress.structure import TrainingData, channel_groups, removal_order
    from modeltailor.compress.structure.cost import layer_costs

    assert context.module is not None
    example = _example(context)
    macs = sum(c.macs for c in layer_costs(context.module, example))
    try:
        found = channel_groups(context.module, example)
        blocks = removal_order(context.module, example, TrainingData(inputs=_calibration(context)))
    except CandidateError as error:
        return (), (), macs, (f"structures cannot be changed: {error.what}",)
    groups = tuple(
        GroupFacts(name=g.name, channels=g.channels, coupled=g.coupled, macs_share=g.macs_share) for g in found
    )
    return groups, blocks, macs, ()


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
    context = _open(spec, work, cache)
    if context.module is None:
        raise CandidateError("UNSUPPORTED", structure.key, "changing the structure needs a PyTorch model", "")
    target = work / f"{structure.key}.onnx"
    progress = work / "progress"

    def report(share: float) -> None:
        progress.write_text(f"{share:.4f}")

    realized = room.realize(
        structure,
        context.module,
        example_inputs=_example(context),
        train=_training_data(context),
        calibration=room.TrainingData(inputs=_calibration(context)),
        cache_dir=cache / "structures" if cache else None,
        seed=seed,
        multiple=channel_multiple,
        student=_student(spec),
        progress=report,
        deadline_s=deadline_s,
    )
    progress.unlink(missing_ok=True)
    if not target.exists():
        _export(context, realized.module, target)
    return RealizedFacts(
        key=structure.key,
        parameters=realized.parameters,
        macs=realized.macs,
        seconds=time.monotonic() - started,
        from_cache=realized.from_cache,
        trained=realized.trained,
    )


def _student(spec: WorkloadSpec) -> Any:
    return load_callable(spec.model.student, spec.root, "model.student") if spec.model.student else None


def _training_data(context: _Context) -> Any:
    from modeltailor.compress.structure import TrainingData

    split = context.splits.train
    if split is None:
        return None
    return TrainingData(inputs=bind_inputs(split.inputs, context.input_names), labels=split.targets)


def _calibration(context: _Context) -> dict[str, Any]:
    return bind_inputs({k: np.array(v) for k, v in context.splits.calibration.inputs.items()}, context.input_names)


def _composer(spec: WorkloadSpec, work: Path, cache: Path | None, structure_key: str, seed: int) -> Composer:
    from modeltailor.compress.formats import Composer

    context = _open(spec, work, cache)
    found = context.composers.get(structure_key)
    if found is None:
        source = work / f"{structure_key}.onnx"
        if not source.exists():
            raise CandidateError("EXPORT", structure_key, "its exported network is gone", "")
        names = {} if context.module is None else {f"{n}.weight": n for n, _ in context.module.named_modules() if n}
        found = Composer(source, _calibration(context), cache_dir=work / "parts", seed=seed, site_names=names)
        context.composers[structure_key] = found
    return found


def sites(spec: WorkloadSpec, work: Path, cache: Path | None, structure_key: str, seed: int) -> tuple[SiteFacts, ...]:
    """List the sites of a structure and what can be built at each."""
    composer = _composer(spec, work, cache, structure_key, seed)
    return tuple(SiteFacts(site=s, formats=tuple(f.name for f in composer.formats(s))) for s in composer.sites)


def baselines(
    spec: WorkloadSpec, work: Path, cache: Path | None, structure_key: str, seed: int
) -> tuple[tuple[str, tuple[tuple[str, str], ...], Settings], ...]:
    """List the uniform baselines of a structure: label, format name by site, settings."""
    composer = _composer(spec, work, cache, structure_key, seed)
    return tuple(
        (label, tuple(sorted((s, f.name) for s, f in formats.items())), settings)
        for label, (formats, settings) in composer.baselines().items()
    )


def site_costs(
    spec: WorkloadSpec,
    work: Path,
    cache: Path | None,
    structure_key: str,
    seed: int,
    settings: Settings,
    formats: tuple[str, ...],
    limit_s: float,
) -> tuple[tuple[str, str, int, float], ...]:
    """Return site, format, stored bytes and accuracy sensitivity (KL or squared error) of those formats.

    The formats that tell most come first; those that ``limit_s`` does not reach are filled in from the others.

    Args:
        formats: names; ``fp32`` costs nothing.
        limit_s: seconds after which no further format is measured.
    """
    from modeltailor.estimators.sensitivity import sensitivities

    started = time.monotonic()
    composer = _composer(spec, work, cache, structure_key, seed)
    measured: dict[tuple[str, str], float] = {}
    longest = 0.0
    for name in sorted(formats, key=lambda f: (_telling(Format.parse(f)), f)):
        before = time.monotonic()
        if before - started + longest > limit_s:
            break
        measured |= sensitivities(composer, settings=settings, formats=(name,), samples=_SENSITIVITY_SAMPLES)
        longest = max(longest, time.monotonic() - before)
    rows = []
    for site in composer.sites:
        known = {Format.parse(f).weight_bits: v for (s, f), v in measured.items() if s == site.name}
        for fmt in composer.formats(site):
            if fmt.name in formats:
                loss = measured.get((site.name, fmt.name), _between(known, fmt.weight_bits))
                rows.append((site.name, fmt.name, composer.stored_bytes(site, fmt, settings), float(loss)))
    return tuple(rows)


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


def _site(composer: Composer, name: str) -> Site:
    return next(s for s in composer.sites if s.name == name)


def compose(
    spec: WorkloadSpec,
    work: Path,
    cache: Path | None,
    structure_key: str,
    seed: int,
    formats: Mapping[str, str],
    settings: Settings,
) -> BuiltModel:
    """Put a candidate together.

    Raises:
        CandidateError: it cannot be built.
    """
    started = time.monotonic()
    composer = _composer(spec, work, cache, structure_key, seed)
    made = composer.compose({s: Format.parse(f) for s, f in formats.items()}, settings)
    return BuiltModel(data=made.model_bytes, sites=made.sites, seconds=time.monotonic() - started)


# -- the score child ----------------------------------------------------------------------------------------------


def score(
    work: Path,
    model: Path,
    split_name: str,
    metric_spec: MetricSpec,
    root: Path,
    input_names: tuple[str, ...],
    options: RuntimeOptions,
    fixed_batch: int | None,
    known_sites: tuple[Site, ...],
    is_reference: bool,
) -> ScoredModel:
    """Run a built file over a split and score it, paired with the original's outputs on the same samples.

    Args:
        is_reference: this is the fp32 original: keep its outputs for the comparisons that follow.

    Raises:
        CandidateError: outputs are not finite or constant, or the metric failed.
        DataError: the metric failed.
    """
    started = time.monotonic()
    split = open_split(work / "data", split_name)
    if split is None or split.targets is None:
        raise CandidateError("EVAL", split_name, "the stored split is gone", "")
    metric = resolve_metric(metric_spec, root)
    outputs = run_split(model, split, options, batch_size=fixed_batch or _BATCH)
    kept = work / f"outputs-{split_name}.npz"
    reference = None
    if is_reference:
        np.savez(kept, **outputs)  # type: ignore[arg-type]
    elif kept.exists():
        with np.load(kept) as archive:
            reference = {k: archive[k] for k in archive.files}
        outputs = dict(zip(reference, outputs.values(), strict=True))
    accuracy = judge(metric, outputs, np.asarray(split.targets), reference)
    kernels, graph = _executed(model, options, known_sites)
    return ScoredModel(accuracy=accuracy, kernels=kernels, graph=graph, seconds=time.monotonic() - started)


def _executed(
    model: Path, options: RuntimeOptions, known_sites: tuple[Site, ...]
) -> tuple[tuple[tuple[str, str], ...], str]:
    from modeltailor.compress.formats import executed_kernels
    from modeltailor.targets.session import optimized_model

    if not known_sites:
        return (), ""
    optimized = optimized_model(model, options)
    return tuple(sorted(executed_kernels(optimized, known_sites).items())), graph_key(optimized)


def graph_key(optimized: ModelProto) -> str:
    """Return a key of what an optimized graph executes: operators, attributes, wiring, types and shapes of its constants.

    The values of the weights do not enter: integer and float kernels take the same time whatever they multiply.

    Args:
        optimized: as the runtime wrote it after its optimizations.
    """
    numbers: dict[str, int] = {"": -1}

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers))

    rows: list[object] = [[number(i.name), i.type.SerializeToString().hex()] for i in optimized.graph.input]
    constants = {t.name: _constant_key(t) for t in optimized.graph.initializer}
    for node in optimized.graph.node:
        inputs = [constants.get(name) or number(name) for name in node.input]
        attributes = sorted(a.SerializeToString(deterministic=True).hex() for a in node.attribute)
        rows.append([node.domain, node.op_type, inputs, [number(name) for name in node.output], attributes])
    return content_key(rows)


def _constant_key(tensor: TensorProto) -> list[object]:
    """Type and shape; with the values where a constant is itself a shape, an axis or an index."""
    from onnx import TensorProto as Types
    from onnx import numpy_helper

    few = int(np.prod(tensor.dims)) <= _SHAPE_LIKE and tensor.data_type in (Types.INT64, Types.BOOL)
    return [tensor.data_type, list(tensor.dims), numpy_helper.to_array(tensor).ravel().tolist() if few else None]
