"""What has to lie on a device so that it can measure: files by content hash, sent in pieces that suit the line."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from modeltailor.durable import sha256_bytes, sha256_file
from modeltailor.errors import CandidateError, DeviceError, ModelTailorError
from modeltailor.targets.isolation import Child

if TYPE_CHECKING:
    import onnx

__all__ = ["Pace", "Parcel", "pack", "rewritten", "send"]

_MARK = b"location"  # the key of a tensor's external data; a file without it has none
_READ_S = 60.0
_SLOW_S, _QUICK_S = 8.0, 1.5
_MOST_STUCK = 3

Source = Path | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A model as it travels.

    Attributes:
        model: name (content hash) of the ONNX file.
        files: every file by name, that of the model among them.
    """

    model: str
    files: Mapping[str, Source]

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the files beside the model."""
        return tuple(name for name in self.files if name != self.model)


def rewritten(path: Path) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """Rename the external data of a model to its content hash; runs in a process of its own.

    Returns:
        the ONNX file with the new names, and (name, path) of each data file.

    Raises:
        CandidateError: external data is missing, or lies outside the model's folder.
    """
    from onnx import load  # late: most models have no external data
    from onnx.external_data_helper import uses_external_data

    model = load(path, load_external_data=False)
    found: dict[str, str] = {}
    tensors = [t for g in _graphs(model.graph) for t in _tensors(g)]
    for tensor in tensors:
        if not uses_external_data(tensor):
            continue
        for entry in tensor.external_data:
            if entry.key == "location":
                place = _inside(path, entry.value)
                if str(place) not in found:
                    found[str(place)] = sha256_file(place)
                entry.value = found[str(place)]
    return model.SerializeToString(), tuple((name, place) for place, name in found.items())


def _graphs(graph: onnx.GraphProto) -> Sequence[onnx.GraphProto]:
    every = [graph]
    for current in every:
        for node in current.node:
            for attribute in node.attribute:
                every += [attribute.g] if attribute.HasField("g") else []
                every += attribute.graphs
    return every


def _tensors(graph: onnx.GraphProto) -> Sequence[onnx.TensorProto]:
    own = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            own += [attribute.t] if attribute.HasField("t") else []
            own += attribute.tensors
    return own


def _inside(model: Path, location: str) -> Path:
    """The data file; it must be a plain file below the model's folder, reached through no link."""
    place = model.parent / location
    kind = None
    if not os.path.isabs(location) and ".." not in Path(location).parts:  # noqa: PTH117 - text from outside
        try:
            kind = place.lstat().st_mode if place.resolve() == (model.parent.resolve() / location) else None
        except OSError as error:
            raise CandidateError(
                "UNSUPPORTED", model.name, f"external data {location!r} is missing ({error.strerror})"
            ) from error
    if kind is None or not stat.S_ISREG(kind):
        raise CandidateError("UNSUPPORTED", model.name, f"external data {location!r} points outside the model's folder")
    return place


def pack(path: Path) -> Parcel:
    """Return a model and its external data as files named by their content.

    Raises:
        CandidateError: the file cannot be read, or its external data is missing or lies elsewhere.
    """
    if not _holds(path, _MARK):
        name = sha256_file(path)
        return Parcel(model=name, files={name: path})
    try:
        with Child(name="pack") as child:
            answer = child.call("modeltailor.targets.agent.upload:rewritten", timeout_s=_READ_S, path=path)
    except CandidateError as error:
        if error.code == "EVAL":  # not readable as ONNX: the device's runtime will say so
            name = sha256_file(path)
            return Parcel(model=name, files={name: path})
        raise CandidateError(error.code, path.name, error.what) from error
    except ModelTailorError as error:
        raise CandidateError("UNSUPPORTED", path.name, error.what) from error
    data, beside = cast("tuple[bytes, tuple[tuple[str, str], ...]]", answer)
    if not beside:
        name = sha256_file(path)
        return Parcel(model=name, files={name: path})
    name = sha256_bytes(data)
    return Parcel(model=name, files={name: data, **{n: Path(p) for n, p in beside}})


def _holds(path: Path, mark: bytes) -> bool:
    tail = b""
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            if mark in tail + piece:
                return True
            tail = piece[-len(mark) :]
    return False


class Pace:
    """How much is sent at a time: twice as much after a quick piece, half after a slow one.

    Args:
        least: bytes of the smallest piece.
        most: bytes of the largest one.
    """

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most
        self.size = min(most, max(least, 1 << 18))

    def learn(self, seconds: float) -> None:
        """Take note of how long the last piece took."""
        if seconds > _SLOW_S:
            self.size = max(self.least, self.size // 2)
        elif seconds < _QUICK_S:
            self.size = min(self.most, self.size * 2)


def send(
    name: str,
    files: Mapping[str, Source],
    there: Sequence[int],
    put: Callable[[str, int, int, bytes], int],
    pace: Pace,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Send files; what is there already is not sent again, a broken upload goes on where it stopped.

    Args:
        name: of the device.
        files: by content hash.
        there: bytes of each file that are there; -1 for a whole one.
        put: sends a piece (file, offset, size of the whole file, content) and returns the bytes that are there then.
        pace: how much at a time.
        clock: seconds.

    Raises:
        DeviceError: a file does not get further.
    """
    for (sha, source), start in zip(files.items(), there, strict=True):
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        done, stuck = start, 0
        while done != -1:
            piece = _piece(source, done, pace.size)
            began = clock()
            reached = put(sha, done, size, piece)
            pace.learn(clock() - began)
            stuck = stuck + 1 if -1 < reached <= done else 0
            done = reached
            if stuck > _MOST_STUCK:
                raise DeviceError(
                    "DEV-08", name, f"a file does not get further than {done} of {size} bytes", "look at its disk"
                )


def _piece(source: Source, start: int, n: int) -> bytes:
    if isinstance(source, bytes):
        return source[start : start + n]
    with source.open("rb") as file:
        file.seek(start)
        return file.read(n)
