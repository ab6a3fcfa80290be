"""Content keys: the same value has the same key, on every machine and in every process."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Mapping, Sequence

__all__ = ["canonical_json", "content_key", "plain"]


def plain(value: object) -> object:
    """Return ``value`` as JSON-able data: dataclasses as objects with their non-default-hiding full fields.

    Raises:
        TypeError: the value has a part that has no canonical form (a NumPy scalar, a set, NaN).
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, float):
        if type(value) is not float or not math.isfinite(value):
            raise TypeError(f"only finite Python floats have a canonical form; got {value!r}")
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [plain(v) for v in value]
    raise TypeError(f"no canonical form for {type(value).__name__}")


def canonical_json(value: object) -> str:
    """Return the canonical JSON of ``value``: sorted keys, no white space, ASCII."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_key(value: object, length: int = 16) -> str:
    """Return the first ``length`` hex digits of the SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]
