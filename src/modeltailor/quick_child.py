"""The part of :mod:`modeltailor.quick` that reads and builds models; runs in a child process."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from modeltailor.compress.formats import Composer
from modeltailor.compress.vocabulary import Format
from modeltailor.errors import CandidateError, ConfigError, ModelError, ModelTailorError
from modeltailor.workloads import ModelSpec, check_onnx_file, load_module, model_kind

__all__ = ["BuiltUniforms", "build"]

_CALIBRATION = 8
_BITS = (4, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltUniforms:
    """The uniform settings of a model as files.

    Attributes:
        kind: of the source.
        original: the fp32 file.
        files: name and file of each setting.
        failed: name of each setting that could not be built, and why.
        predicted_sizes: bits, and bytes of the file with all weights in so many bits; by arithmetic.
    """

    kind: Literal["torch", "onnx", "hf"]
    original: Path
    files: tuple[tuple[str, Path], ...]
    failed: tuple[tuple[str, str], ...]
    predicted_sizes: tuple[tuple[int, int], ...]


def build(
    model: ModelSpec, root: Path, scratch: Path, shapes: Mapping[str, tuple[int, ...]], batch: int
) -> BuiltUniforms:
    """Write the original and its uniform settings into ``scratch``.

    Raises:
        ModelError: the model cannot be read.
        ConfigError: the shape of an input is not known.
    """
    kind = model_kind(model, root)
    original = _adopt(root / model.source, scratch) if kind == "onnx" else _export(model, root, scratch, shapes)
    composer = Composer(original, _calibration(original, shapes, batch))
    files: list[tuple[str, Path]] = []
    failed: list[tuple[str, str]] = []
    for name, (formats, settings) in composer.baselines().items():
        try:
            data = composer.compose(formats, settings).model_bytes
        except ModelTailorError as error:
            failed.append((name, error.what))
            continue
        path = scratch / f"{name.replace(' ', '-')}.onnx"
        path.write_bytes(data)
        files.append((name, path))
    return BuiltUniforms(
        kind=kind,
        original=original,
        files=tuple(files),
        failed=tuple(failed),
        predicted_sizes=_sizes(composer, original.stat().st_size),
    )


def _adopt(source: Path, scratch: Path) -> Path:
    import onnx

    check_onnx_file(source)
    try:
        proto = onnx.load(source)
        onnx.checker.check_model(proto)
    except Exception as error:  # protobuf and onnx raise many kinds here
        raise ModelError("MODEL-02", source.name, f"not a readable ONNX file ({error})", "export it again") from error
    target = scratch / "fp32.onnx"
    onnx.save(proto, target)
    return target


def _export(model: ModelSpec, root: Path, scratch: Path, shapes: Mapping[str, Sequence[int]]) -> Path:
    import torch

    from modeltailor.workloads.export import export_onnx

    module = load_module(model, root)
    accepted = [n for n in inspect.signature(module.forward).parameters if n not in ("args", "kwargs")]
    unknown = sorted(set(shapes) - set(accepted or ("x",)))
    if unknown or not shapes:
        what = (
            f"forward takes {', '.join(accepted)}; got {unknown[0]}" if unknown else "a PyTorch model does not say them"
        )
        raise ConfigError("CFG-15", "--shape", what, f"give --shape {(accepted or ['x'])[0]}=1,3,224,224, or --data")
    generator = torch.Generator().manual_seed(0)
    example = {name: torch.randn(tuple(shapes[name]), generator=generator) for name in accepted if name in shapes}
    target = scratch / "fp32.onnx"
    try:
        export_onnx(module, example, target, input_names=tuple(example))
    except CandidateError as error:
        raise ModelError("MODEL-10", model.source, f"{error.code}: {error.what}", "mend the model") from error
    return target


def _calibration(
    original: Path, shapes: Mapping[str, Sequence[int]], batch: int
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    from modeltailor.estimators.bench import example_inputs
    from modeltailor.targets.session import input_specs

    free = {s.name for s in input_specs(original) if s.shape and not isinstance(s.shape[0], int)}
    wanted = {n: ((_CALIBRATION, *s[1:]) if n in free else tuple(s)) for n, s in shapes.items()}
    rows = _CALIBRATION if batch == 1 else batch
    return example_inputs(original, shapes=wanted, batch=rows)


def _sizes(composer: Composer, original_bytes: int) -> tuple[tuple[int, int], ...]:
    """Bytes of the file with every weight in so many bits, where that can be built."""
    elements = sum(s.weight_elements for s in composer.sites)
    around = max(0, original_bytes - 4 * elements)
    found = []
    for bits in _BITS:
        total = around
        for site in composer.sites:
            names = {f.name for f in composer.formats(site)}
            chosen = next((n for n in (f"w{bits}a8", f"w{bits}") if n in names), None)
            total += 4 * site.weight_elements if chosen is None else composer.stored_bytes(site, Format.parse(chosen))
        found.append((bits, total))
    return tuple(found)
