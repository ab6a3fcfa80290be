"""Trained weights by content key: whole or absent, verified by hash before use, bounded in size."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from modeltailor.durable import sha256_bytes, write_bytes
from modeltailor.errors import EnvironmentFault

__all__ = ["WeightCache"]

_HASH_LENGTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightCache:
    """A folder of weights.

    A file is its SHA-256 (64 hex digits), a line feed, then a safetensors body. A file whose hash does not agree is
    removed and counts as absent.

    Attributes:
        folder: made when missing.
        limit_bytes: the least recently used files go when the folder grows beyond it.
    """

    folder: Path
    limit_bytes: int = 2 << 30

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """Return tensors and facts stored under ``name``, or ``None``."""
        path = self.folder / name
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        body = data[_HASH_LENGTH + 1 :]
        if sha256_bytes(body).encode() != data[:_HASH_LENGTH]:
            self.remove(name)
            return None
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        with contextlib.suppress(OSError):
            path.touch()
        return safetensors.torch.load(body), dict(header.get("__metadata__", {}))

    def store(self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Store tensors and facts under ``name``.

        Raises:
            EnvironmentFault: the folder cannot be written.
        """
        body = safetensors.torch.save(_apart(tensors), dict(facts))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(self.folder / name, sha256_bytes(body).encode() + b"\n" + body)
            self._shrink(keep=name)
        except OSError as error:
            raise EnvironmentFault("ENV-20", self.folder, f"cannot store weights ({error})", "free space") from error

    def remove(self, name: str) -> None:
        """Remove what is stored under ``name``, if anything."""
        with contextlib.suppress(OSError):
            (self.folder / name).unlink()

    def _shrink(self, keep: str) -> None:
        files = sorted(
            ((p.stat().st_mtime, p.stat().st_size, p) for p in self.folder.iterdir() if p.is_file()), key=lambda f: f[0]
        )
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self.limit_bytes:
                return
            if path.name != keep:
                path.unlink(missing_ok=True)
                total -= size


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, contiguous and without memory in common (tied weights): the format holds each name by itself."""
    made: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().contiguous()
        place = value.untyped_storage().data_ptr()
        made[name] = value.clone() if place in seen else value
        seen.add(place)
    return made
