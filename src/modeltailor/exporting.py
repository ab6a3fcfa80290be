"""Taking a model out of a run: the file, its card, a program that runs it, and checksums, in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from modeltailor.durable import sha256_bytes, sha256_file, write_bytes, write_text
from modeltailor.errors import CandidateError, ConfigError, EnvironmentFault, ModelError, StudyConflict
from modeltailor.reports import ModelSummary, RunSummary, render_model_card
from modeltailor.reports.naming import audit_sentence
from modeltailor.reports.snippets import runtime_of, snippets_for

if TYPE_CHECKING:
    from modeltailor.api import Run

__all__ = ["ExportedModel", "artifact_of", "export_model", "find_model"]

_FILE = "model.onnx"
_CHECK_S = 300.0
_SAMPLES = 8
_LEAST_PREFIX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedModel:
    """What was written.

    Attributes:
        folder: that holds it.
        files: their names.
        size_bytes: of the model file.
        sha256: of the model file.
        unpacked: whether it is the unpacked form.
        checked_inputs: inputs on which the unpacked form gave the same outputs, bit for bit.
    """

    folder: Path
    files: tuple[str, ...]
    size_bytes: int
    sha256: str
    unpacked: bool
    checked_inputs: int


def find_model(summary: RunSummary, key: str) -> ModelSummary:
    """Return the model that ``key`` names: ``best``, a key, the start of one, or the name of a file in ``front/``.

    Raises:
        ConfigError: it names none, or several.
    """
    text = key.removesuffix(".onnx").rpartition("-")[2] if key.endswith(".onnx") else key
    if text == "best" and summary.best:
        text = summary.best
    found = [m for m in summary.models if m.key.startswith(text)] if len(text) >= _LEAST_PREFIX else []
    if len(found) == 1:
        return found[0]
    known = ", ".join(m.key[:8] for m in summary.models if m.on_front or m.key == summary.baseline)
    what = f"'{key}' is the start of {len(found)} keys" if found else f"no model of this run has the key '{key}'"
    raise ConfigError("CFG-10", "--pick", what, f"models are {known or 'none yet'}")


def export_model(
    run: Run, model: ModelSummary, to: Path, *, unpack: bool = False, replace: bool = False
) -> ExportedModel:
    """Write a model of a run into a folder: ``model.onnx``, card, program, facts, job, checksums.

    Args:
        run: the run.
        model: one of ``run.summary.models``.
        to: the folder; made if it is not there.
        unpack: store weights as plain int8 (or float) in place of packed bits, for runtimes that do not fold local
            functions; the outputs were compared bit for bit before anything is written.
        replace: allow a folder that holds something.

    Raises:
        ConfigError: the folder holds something, or is the run's own.
        StudyConflict: the model's file is gone or was changed.
        ModelError: the unpacked form gives other outputs.
        EnvironmentFault: the disk does not allow it.
    """
    source = artifact_of(run.folder, model)
    if to.resolve() == run.folder.resolve() or run.folder.resolve() in to.resolve().parents:
        raise ConfigError("CFG-13", "--to", f"{to} lies in the run folder", "choose another folder")
    if to.exists() and (not to.is_dir() or any(to.iterdir())) and not replace:
        raise ConfigError("CFG-13", "--to", f"{to} is there already and not empty", "choose another, or pass --force")
    data = _unpacked(source) if unpack else source.read_bytes()
    summary = run.summary.model_copy(update={"best": model.key, "file": _FILE})
    card = _unpacked_card(summary, model, data) if unpack else render_model_card(summary)
    card = card.replace("best.onnx", _FILE)
    snippet = snippets_for(_FILE, runtime_of(summary))[0].code
    facts = {**model.model_dump(mode="json"), "file": _FILE, "unpacked": unpack, "exported_sha256": sha256_bytes(data)}
    files: list[tuple[str, bytes]] = [
        (_FILE, data),
        ("MODEL_CARD.md", card.encode()),
        ("run_model.py", snippet.encode()),
        ("model.json", (json.dumps(facts, indent=1) + "\n").encode()),
    ]
    if (run.folder / "job.yaml").is_file():
        files.append(("job.yaml", (run.folder / "job.yaml").read_bytes()))
    _write(to, files)
    return ExportedModel(
        folder=to,
        files=(*(name for name, _ in files), "SHA256SUMS"),
        size_bytes=len(data),
        sha256=sha256_bytes(data),
        unpacked=unpack,
        checked_inputs=_SAMPLES if unpack else 0,
    )


def artifact_of(folder: Path, model: ModelSummary) -> Path:
    """Return the file of a model of a run.

    Raises:
        StudyConflict: it is gone or was changed.
    """
    from modeltailor.search.run_folder import RunFolder

    path = RunFolder(folder).artifact(model.sha256)
    if not path.is_file() or sha256_file(path) != model.sha256:
        state = "was changed" if path.is_file() else "is gone"
        raise StudyConflict(
            "RUN-09", path, f"the file of model {model.key[:8]} {state}", "pick another model, or search again"
        )
    return path


def _write(to: Path, files: Sequence[tuple[str, bytes]]) -> None:
    try:
        to.mkdir(parents=True, exist_ok=True)
        for name, content in files:
            write_bytes(to / name, content)
        write_text(to / "SHA256SUMS", "".join(f"{sha256_bytes(content)}  {name}\n" for name, content in files))
    except OSError as error:
        raise EnvironmentFault(
            "DISK-01", to, f"cannot write ({error.strerror or error})", "free some space or choose another folder"
        ) from error


def _unpacked(source: Path) -> bytes:
    """The unpacked form of a file, after its outputs were found equal in a process of its own."""
    import tempfile

    from modeltailor.targets import Child

    with tempfile.TemporaryDirectory(prefix="modeltailor-") as scratch, Child(name="unpack") as child:
        target = Path(scratch) / _FILE
        try:
            differing = child.call(
                "modeltailor.unpacking:unpack_and_compare",
                timeout_s=_CHECK_S,
                source=source,
                target=target,
                samples=_SAMPLES,
            )
        except CandidateError as error:
            raise ModelError(
                "MODEL-13", source.name, f"cannot be unpacked: {error.what} ({error.code})", "export it as it is"
            ) from error
        names = cast("tuple[str, ...]", differing)
        if names:
            raise ModelError(
                "MODEL-13", source.name, f"the unpacked form gives another '{names[0]}'",
                "export it as it is, without --unpack",
            )  # fmt: skip
        return target.read_bytes()


def _unpacked_card(summary: RunSummary, model: ModelSummary, data: bytes) -> str:
    """The card of the unpacked form: its own bytes and checksum, beside those of the packed file that was measured."""
    sites = [s.model_copy(update={"storage_bits": max(8, s.storage_bits)}) for s in model.recipe.sites]
    plain = model.model_copy(
        update={
            "size_bytes": len(data),
            "size_ratio": model.size_ratio * len(data) / model.size_bytes,
            "sha256": sha256_bytes(data),
            "audit": audit_sentence(sites),
            "loading": "All weights are stored as plain integers or floats; how long loading takes was measured for the "
            "packed file only.",
        }
    )
    models = tuple(plain if m.key == model.key else m for m in summary.models)
    card = render_model_card(summary.model_copy(update={"models": models}), measured=model)
    return (
        f"{card}\n## This is the unpacked form\n\n"
        "Its weights are stored as plain integers or floats. Latency, accuracy and memory were measured on the packed file, "
        f"and so were the limits checked. On {_SAMPLES} made-up inputs both files gave the same outputs, bit for bit.\n"
    )
