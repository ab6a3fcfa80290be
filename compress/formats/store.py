"""Figures and parts that are kept between runs: arrays in files named by the hash of what they were made from."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modeltailor.canonical import content_key
from modeltailor.durable import write_bytes

__all__ = ["Store"]


class Store:
    """A folder of arrays, or nothing at all where no folder is given.

    Args:
        folder: where files go; ``None`` keeps nothing.
        base: hash of the model, the data and the seed that everything is made from.
    """

    def __init__(self, folder: Path | None, base: str) -> None:
        self._folder = folder
        self._base = base
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def _path(self, kind: str, name: object) -> Path | None:
        return None if self._folder is None else self._folder / f"{kind}-{content_key([self._base, kind, name])}.npz"

    def arrays(self, kind: str, name: object) -> dict[str, NDArray[np.generic]] | None:
        """Return what was kept under that name, or ``None``. A file that cannot be read counts as absent."""
        path = self._path(kind, name)
        if path is None or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as data:
                return {key: data[key] for key in data.files}
        except (OSError, ValueError, EOFError, KeyError):
            return None

    def keep(self, kind: str, name: object, **arrays: NDArray[np.generic]) -> None:
        """Keep arrays under that name."""
        path = self._path(kind, name)
        if path is not None:
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)  # type: ignore[arg-type]
            write_bytes(path, buffer.getvalue())
