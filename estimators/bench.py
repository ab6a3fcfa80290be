"""Any ONNX files beside each other, by the protocol of ``docs/measuring.md``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from modeltailor.durable import sha256_file
from modeltailor.errors import CandidateError, ConfigError, ModelError
from modeltailor.estimators.latency import Measurement, compare_all
from modeltailor.targets import Child, Device, DeviceFacts, Inputs, TimingPlan

if TYPE_CHECKING:
    from modeltailor.targets.session import TensorSpec

__all__ = ["Bench", "BenchRow", "common_inputs", "compare_files", "declared_inputs", "example_inputs"]

_CHECK_S = 60.0
_MOST_FILES = 64  # each has a process of its own while they are measured
_PATIENCE_S = 60.0  # for each file of a process pair, until it counts as hanging
_PATIENCE = 0.5  # the same as a share of the time given
_EXPORT_FREE = "export it with a free batch, or leave --batch out"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """One file of a comparison.

    Attributes:
        path: the file.
        sha256: of its content.
        size_bytes: of the file, without external data.
        measured: latency, ratio to the first file, load time, memory.
        per_second: samples a second, one inference after another.
    """

    path: Path
    sha256: str
    size_bytes: int
    measured: Measurement
    per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Files measured beside each other; the first is the baseline.

    Attributes:
        facts: device and runtime.
        shapes: shape by input name.
        rows: one a file, in the order given; the first has a speedup of exactly 1.
        conditions: what the machine showed meanwhile.
    """

    facts: DeviceFacts
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    rows: tuple[BenchRow, ...]
    conditions: tuple[tuple[str, float], ...]


def declared_inputs(path: Path) -> tuple[TensorSpec, ...]:
    """Return the inputs that a file declares, read in a process of its own.

    Raises:
        ModelError: it is missing, or the runtime refuses it.
    """
    if not path.is_file():
        raise ModelError.missing(path)
    with Child(name="check") as child:
        try:
            found = child.call("modeltailor.targets.session:input_specs", timeout_s=_CHECK_S, model=path)
        except CandidateError as error:  # it came from outside, so this is no candidate of ours
            raise ModelError("MODEL-11", path.name, f"{error.what} ({error.code})", "it is unsafe to use") from error
    return cast("tuple[TensorSpec, ...]", found)


def _shape(spec: TensorSpec, given: Mapping[str, Sequence[int]], batch: int) -> tuple[int, ...]:
    if spec.name in given:
        shape = tuple(int(d) for d in given[spec.name])
        fits = len(shape) == len(spec.shape) and all(
            s == d or not isinstance(d, int) for s, d in zip(shape, spec.shape, strict=True)
        )
        if not fits or any(d < 1 for d in shape):
            raise ConfigError(
                "CFG-15", f"shapes.{spec.name}", f"must fit {list(spec.shape)}; got {list(shape)}", "mend it"
            )
        return shape
    free = [d for d in spec.shape[1:] if not isinstance(d, int) or d < 1]
    if free:
        raise ConfigError(
            "CFG-15", f"input {spec.name!r}", f"has free dims {list(spec.shape)}", f"set shapes.{spec.name}"
        )
    first = spec.shape[:1]
    return (*(d if isinstance(d, int) and d > 0 else batch for d in first), *(cast("tuple[int, ...]", spec.shape[1:])))


def _values(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.generic]:
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError as error:
        raise ModelError("MODEL-12", f"input {spec.name!r}", f"holds {spec.dtype}, which is no array", "") from error
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    # Zeros and ones are valid as indices, masks, and flags of any model.
    return np.ones(shape, dtype) if "mask" in spec.name else rng.integers(0, 2, shape).astype(dtype)


def example_inputs(
    model: Path, *, shapes: Mapping[str, Sequence[int]] | None = None, batch: int = 1, seed: int = 0
) -> dict[str, NDArray[np.generic]]:
    """Make inputs for a model: normal numbers for floats, zeros and ones for integers.

    Args:
        model: any ONNX file.
        shapes: shape by input name, where the file leaves more than the batch size free.
        batch: first dimension, where the file leaves it free.
        seed: of the values.

    Raises:
        ModelError: the file is missing, or the runtime refuses it.
        ConfigError: a dimension is free and not given, or a given shape does not fit.
    """
    return _made(declared_inputs(model), shapes or {}, batch, seed)


def _made(
    specs: Sequence[TensorSpec], given: Mapping[str, Sequence[int]], batch: int, seed: int = 0
) -> dict[str, NDArray[np.generic]]:
    unknown = sorted(set(given) - {s.name for s in specs})
    if unknown:
        known = ", ".join(s.name for s in specs)
        raise ConfigError("CFG-15", f"shapes.{unknown[0]}", f"the model has no such input; it has {known}", "rename it")
    rng = np.random.default_rng(seed)
    return {s.name: _values(s, _shape(s, given, batch), rng) for s in specs}


def common_inputs(
    files: Sequence[Path], *, shapes: Mapping[str, Sequence[int]] | None = None, batches: Sequence[int] = ()
) -> tuple[dict[str, NDArray[np.generic]], ...]:
    """Make inputs for files that are compared: those of the first one, with a batch size that no file fixes otherwise.

    Args:
        files: ONNX files.
        shapes: shape by input name, where the first file leaves more than the batch size free.
        batches: sizes that are asked for; if empty, the one that a file fixes and another leaves free, or else 1.

    Returns:
        arrays by input name, one set a batch size.

    Raises:
        ModelError: a file is missing or refused.
        ConfigError: fewer than two files or more than 64, a dimension is free and not given, a given shape does not fit,
            or the files do not all take one batch, or none that was asked for.
    """
    _refuse_number(files)
    return _common(files, [declared_inputs(f) for f in files], shapes or {}, batches)


def _common(
    files: Sequence[Path],
    declared: Sequence[Sequence[TensorSpec]],
    given: Mapping[str, Sequence[int]],
    batches: Sequence[int],
) -> tuple[dict[str, NDArray[np.generic]], ...]:
    specs = [s for several in declared for s in several if s.shape and s.name not in given]
    free = {s.name for s in specs if _fixed_batch(s) is None}
    told = next((size for s in specs if s.name in free and (size := _fixed_batch(s)) is not None), 1)
    sets = []
    for batch in batches or (told,):
        sets.append(_made(declared[0], given, batch))
        sizes = {name: int(value.shape[0]) for name, value in sets[-1].items() if value.ndim}
        if batches and batch not in sizes.values():
            raise _without_batch(files[0], sizes, given, batch)
        for file, several in zip(files, declared, strict=True):
            for spec in several:
                size = _fixed_batch(spec)
                if size is not None and sizes.get(spec.name, size) != size:
                    what = f"has a fixed batch of {size}; got {sizes[spec.name]}"
                    mend = _EXPORT_FREE if batches else "compare files that take the same inputs"
                    raise ConfigError("CFG-15", f"{file.name}, input {spec.name!r}", what, mend)
    return tuple(sets)


def _fixed_batch(spec: TensorSpec) -> int | None:
    """The first dimension of an input; ``None`` where it is free, or there is none."""
    size = spec.shape[0] if spec.shape else None
    return size if isinstance(size, int) and size > 0 else None


def _without_batch(file: Path, sizes: Mapping[str, int], given: Mapping[str, Sequence[int]], batch: int) -> ConfigError:
    """Say why no input of a file has the batch that is asked for: timed under it would be another one."""
    if not sizes:
        return ConfigError("CFG-15", file.name, f"has no input with a batch; got {batch}", "leave --batch out")
    name = next((n for n in sizes if n not in given), next(iter(sizes)))
    if name in given:
        what = f"has a batch of {sizes[name]} by its shape; got {batch}"
        return ConfigError("CFG-15", f"shapes.{name}", what, "leave --batch out")
    what = f"has a fixed batch of {sizes[name]}; got {batch}"
    return ConfigError("CFG-15", f"{file.name}, input {name!r}", what, _EXPORT_FREE)


def _refuse_number(files: Sequence[Path]) -> None:
    if len(files) < 2:
        raise ConfigError(
            "CFG-08", "files", f"at least two are needed; got {len(files)}", "name a baseline and another"
        )
    if len(files) > _MOST_FILES:
        raise ConfigError("CFG-08", "files", f"at most {_MOST_FILES} at a time; got {len(files)}", "name fewer")


def compare_files(
    device: Device,
    files: Sequence[Path],
    *,
    inputs: Inputs | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    half_width: float = 0.02,
    max_pairs: int = 24,
    seconds: float = math.inf,
    memory: bool = True,
    plan: TimingPlan | None = None,
) -> Bench:
    """Measure ONNX files beside each other.

    Args:
        device: where.
        files: the baseline first; all take the same inputs.
        inputs: arrays by input name; made up if ``None``.
        shapes: shapes of made-up inputs; see :func:`common_inputs`.
        batch: batch size of made-up inputs; see there.
        half_width: half of the interval of each ratio that is asked for, as a share.
        max_pairs: most process pairs.
        seconds: wall clock; the verdict says if it was too short.
        memory: also measure the peak memory.
        plan: blocks and quads of a pair.

    Raises:
        ModelError: a file is missing or refused, or takes other inputs.
        ConfigError: fewer than two files or more than 64, or shapes or a batch that do not fit.
        CandidateError: a file crashes, hangs or runs out of memory while it is measured.
        DeviceError: the device failed.
    """
    _refuse_number(files)
    declared = [declared_inputs(f) for f in files]
    asked = () if batch is None else (batch,)
    given = dict(inputs) if inputs is not None else _common(files, declared, shapes or {}, asked)[0]
    for file, specs in zip(files, declared, strict=True):
        missing = sorted({s.name for s in specs} - set(given))
        if missing:
            raise ModelError(
                "MODEL-11",
                file.name,
                f"takes input {missing[0]!r}; there is {', '.join(given)}",
                "use files with equal inputs",
            )
    patience = max(_PATIENCE_S * len(files), _PATIENCE * seconds if math.isfinite(seconds) else 0.0)
    try:
        measured = compare_all(
            device, files, given, half_width=half_width, max_pairs=max_pairs, memory=memory, seconds=seconds,
            least_pair_s=patience, plan=plan,
        )  # fmt: skip
    except CandidateError as error:
        if error.code != "TIMEOUT" or not math.isfinite(seconds):
            raise
        made = CandidateError(
            "TIMEOUT", error.where, error.what, "give more time (--time) if it is slow and does not hang"
        )
        made.detail = error.detail
        raise made from error
    n_samples = max((v.shape[0] for v in given.values() if v.ndim), default=1)
    rows = tuple(
        BenchRow(
            path=path,
            sha256=sha256_file(path),
            size_bytes=path.stat().st_size,
            measured=m,
            per_second=1000.0 * n_samples / m.latency_ms.value,
        )
        for path, m in zip(files, measured, strict=True)
    )
    return Bench(
        facts=device.describe(),
        shapes=tuple((k, tuple(v.shape)) for k, v in given.items()),
        rows=rows,
        conditions=measured[-1].conditions,
    )
