"""Data splits: loading, cutting what is missing, and the proof that they do not overlap.

``calibration`` and ``search`` drive decisions, ``train`` teaches, ``test`` is touched once, for the final front.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeltailor.errors import ConfigError, DataError
from modeltailor.workloads.code import load_callable
from modeltailor.workloads.spec import SPLITS, DataSpec

__all__ = ["Split", "Splits", "load_splits", "open_split", "open_splits", "store_splits"]

Array = NDArray[Any]

_CUT = {"calibration": (0.10, 1024), "search": (0.20, 4096), "test": (0.20, 10_000)}
_LEAST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One part of the data.

    Attributes:
        name: ``train``, ``calibration``, ``search`` or ``test``.
        inputs: arrays by input name, rows first; the name is ``x`` if only one array was given.
        targets: rows first, or ``None`` without labels.
    """

    name: str
    inputs: Mapping[str, Array]
    targets: Array | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, rows: Array | slice) -> Split:
        """Return the rows as a split of the same name."""
        return Split(
            name=self.name,
            inputs={k: v[rows] for k, v in self.inputs.items()},
            targets=None if self.targets is None else self.targets[rows],
        )

    def digest(self) -> str:
        """Return a content key of 16 hex digits over all arrays."""
        h = hashlib.sha256()
        for key, array in sorted(self.inputs.items()):
            h.update(f"{key}{array.shape}{array.dtype}".encode())
            h.update(np.ascontiguousarray(array).data)
        if self.targets is not None:
            h.update(np.ascontiguousarray(self.targets).data)
        return h.hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """All parts of the data, disjoint by content.

    Attributes:
        train: for training students and recovery; ``None`` if the user gave none.
        calibration: for ranges and error compensation; labels are not used.
        search: scores every candidate.
        test: scores finalists, once.
        notes: what was cut from where, and overlaps that the user allowed; for the report.
    """

    train: Split | None
    calibration: Split
    search: Split
    test: Split
    notes: tuple[str, ...] = ()

    def present(self) -> tuple[Split, ...]:
        """The splits that are there, in the order of :data:`SPLITS`."""
        return tuple(s for s in (self.train, self.calibration, self.search, self.test) if s is not None)


def load_splits(spec: DataSpec, root: Path, *, rows_per_sample: int = 1, seed: int = 0) -> Splits:
    """Load, check and complete the splits.

    Args:
        spec: where they come from.
        root: folder that relative paths start from.
        rows_per_sample: consecutive rows that belong together; cuts do not part them.
        seed: of the cut of missing splits.

    Raises:
        ConfigError: a file is missing, or two splits share samples (exit 2).
        DataError: the arrays cannot be used (exit 3).
    """
    given = _from_function(spec, root) if spec.function else _from_files(spec, root)
    unknown = set(given) - set(SPLITS)
    if unknown:
        raise ConfigError(
            "CFG-04", "data", f"unknown split '{sorted(unknown)[0]}'", f"splits are named {', '.join(SPLITS)}"
        )
    if not given:
        raise ConfigError("CFG-01", "data", "no split is given", "give at least data.train or data.search")
    found = {name: _checked(name, raw, rows_per_sample) for name, raw in given.items()}
    _agree(found)
    # before anything is cut, so that the user's own files are named
    overlaps = _disjoint(found, rows_per_sample, spec.allow_overlap)
    found, notes = _complete(found, rows_per_sample, seed)
    notes += overlaps + [n for n in _disjoint(found, rows_per_sample, spec.allow_overlap) if n not in overlaps]
    for name in ("search", "test"):
        if found[name].targets is None:
            raise DataError("DATA-01", f"data.{name}", "has no y, and cannot score a model", "add an array y")
    return Splits(
        train=found.get("train"),
        calibration=found["calibration"],
        search=found["search"],
        test=found["test"],
        notes=tuple(notes),
    )


def _from_function(spec: DataSpec, root: Path) -> dict[str, Mapping[str, Any]]:
    try:
        made = load_callable(spec.function, root, "data")()
    except (ConfigError, DataError):
        raise
    except Exception as error:
        raise DataError(
            "DATA-01", spec.function, f"raised {type(error).__name__}: {error}", "mend that function"
        ) from error
    if not isinstance(made, Mapping) or not all(isinstance(v, Mapping) for v in made.values()):
        raise DataError(
            "DATA-03",
            spec.function,
            "must return {split: {'x': array, 'y': array}}",
            f"it returned {type(made).__name__}",
        )
    return {str(k): v for k, v in made.items()}


def _from_files(spec: DataSpec, root: Path) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for split, name in spec.files:
        path = root / name
        where = f"data.{split}"
        if not path.is_file():
            raise ConfigError("CFG-01", where, f"no file {name} in {root}", "check the path")
        if path.stat().st_size == 0:
            raise DataError("DATA-01", where, f"{name} is empty (0 bytes)", "make the file again")
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:  # object arrays are programs
                arrays = {k: archive[k] for k in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
            raise DataError(
                "DATA-01", where, f"{name} is not a readable .npz of plain arrays ({error})", "save it with numpy.savez"
            ) from error
        inputs = {k[2:]: v for k, v in arrays.items() if k.startswith("x.")} or arrays.get("x")
        if inputs is None:
            raise DataError(
                "DATA-03",
                where,
                f"{name} has no array x; it has {', '.join(arrays) or 'none'}",
                "name inputs x or x.NAME",
            )
        found[split] = {"x": inputs, "y": arrays.get("y")}
    return found


def _checked(name: str, raw: Mapping[str, Any], rows_per_sample: int) -> Split:
    where = f"data.{name}"
    x = raw.get("x")
    if x is None:
        raise DataError("DATA-03", where, "has no inputs x", "give an array x, or a mapping of input name to array")
    try:
        inputs = {str(k): np.asarray(v) for k, v in (x.items() if isinstance(x, Mapping) else [("x", x)])}
        targets = None if raw.get("y") is None else np.asarray(raw["y"])
    except ValueError as error:
        raise DataError("DATA-03", where, f"is not rectangular ({error})", "all samples need one shape") from error
    arrays = {**{f"x.{k}": v for k, v in inputs.items()}, **({} if targets is None else {"y": targets})}
    n = len(next(iter(inputs.values()))) if inputs and next(iter(inputs.values())).ndim else 0
    if n == 0:
        raise DataError("DATA-01", where, "is empty", "give at least one sample")
    for key, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise DataError("DATA-03", f"{where} {key}", f"must be numbers; got dtype {array.dtype}", "convert it")
        if array.ndim == 0 or len(array) != n:
            got = len(array) if array.ndim else "a scalar"
            raise DataError(
                "DATA-03", f"{where} {key}", f"must have {n} rows like the inputs; got {got}", "align the arrays"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            first = int(np.argwhere(~np.isfinite(array.reshape(n, -1)).all(axis=1))[0, 0])
            raise DataError(
                "DATA-04", f"{where} {key}", f"holds NaN or infinity, first in sample {first}", "clean the data"
            )
    if n % rows_per_sample:
        raise DataError(
            "DATA-03", where, f"{n} rows do not make samples of {rows_per_sample} rows", "cut the data in pairs"
        )
    inputs = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in inputs.items()}
    return Split(name=name, inputs=inputs, targets=targets)


def _agree(found: Mapping[str, Split]) -> None:
    first = next(iter(found.values()))
    for split in found.values():
        if set(split.inputs) != set(first.inputs):
            raise DataError(
                "DATA-03", f"data.{split.name}", f"has inputs {sorted(split.inputs)}; {first.name} has {sorted(first.inputs)}",
                "give all splits the same inputs",
            )  # fmt: skip
        for key, array in split.inputs.items():
            if array.shape[1:] != first.inputs[key].shape[1:] or array.dtype != first.inputs[key].dtype:
                raise DataError(
                    "DATA-03", f"data.{split.name} x.{key}",
                    f"must be {first.inputs[key].shape[1:]} {first.inputs[key].dtype} like {first.name}; "
                    f"got {array.shape[1:]} {array.dtype}", "give all splits one shape",
                )  # fmt: skip
    for name in ("search", "test"):
        y = found[name].targets if name in found else None
        if y is not None and y.dtype.kind in "iub" and y.ndim == 1 and len(y) > 1 and len(np.unique(y)) == 1:
            raise DataError(
                "DATA-04", f"data.{name} y", f"holds one class only ({y[0]})", "every model would score the same"
            )


def _complete(found: Mapping[str, Split], rows_per_sample: int, seed: int) -> tuple[dict[str, Split], list[str]]:
    made = dict(found)
    notes: list[str] = []
    missing = [name for name in ("test", "search", "calibration") if name not in made]
    if not missing:
        return made, notes
    source = "train" if "train" in made else "search" if "search" in made else next(iter(made))
    pool = made[source]
    # Identical samples must not fall on both sides of a cut, so only the first of each is kept.
    keys = _row_keys(pool, rows_per_sample)
    _, first = np.unique(keys, return_index=True)
    order = np.random.default_rng(seed).permutation(np.sort(first))
    dropped = len(keys) - len(order)
    for name in missing:
        share, most = _CUT[name]
        n = min(most, int(len(first) * share))
        if n < _LEAST:
            raise DataError(
                "DATA-01", f"data.{source}", f"{len(first)} samples are too few to cut a {name} split from",
                f"give data.{name}",
            )  # fmt: skip
        taken, order = order[:n], order[n:]
        made[name] = _rows(pool, np.sort(taken), rows_per_sample, name)
        notes.append(f"{name}: {n} samples cut from {source} (seed {seed})")
    made[source] = _rows(pool, np.sort(order), rows_per_sample, source)
    if dropped:
        notes.append(f"{source}: {dropped} repeated samples left out before cutting")
    return made, notes


def _rows(pool: Split, samples: Array, rows_per_sample: int, name: str) -> Split:
    rows = (samples[:, None] * rows_per_sample + np.arange(rows_per_sample)).ravel()
    taken = pool.take(rows)
    return Split(name=name, inputs=taken.inputs, targets=taken.targets)


def _row_keys(split: Split, rows_per_sample: int = 1) -> Array:
    n = len(split) // rows_per_sample
    parts = [np.ascontiguousarray(a).reshape(n, -1) for _, a in sorted(split.inputs.items())]
    keys = [hashlib.blake2b(b"".join(p[i].tobytes() for p in parts), digest_size=12).digest() for i in range(n)]
    return np.array(keys, dtype="S12")


def _disjoint(found: Mapping[str, Split], rows_per_sample: int, allowed: bool) -> list[str]:
    keys = {name: set(_row_keys(split, rows_per_sample).tolist()) for name, split in found.items()}
    notes = []
    for a, b in (
        ("calibration", "test"),
        ("search", "test"),
        ("train", "test"),
        ("calibration", "search"),
        ("train", "search"),
    ):
        if a not in keys or b not in keys:
            continue
        both = len(keys[a] & keys[b])
        if not both:
            continue
        # A handful of accidental repeats lies in nearly every public data set; it cannot carry a decision.
        if both <= max(1, len(keys[b]) // 200) or allowed:
            notes.append(f"{a} and {b} share {both} of {len(keys[b])} samples")
            continue
        raise ConfigError(
            "CFG-12", f"data.{a}", f"shares {both} of {len(keys[b])} samples with data.{b}",
            "keep the splits apart, or set data.allow_overlap: true",
        )  # fmt: skip
    return notes


def store_splits(splits: Splits, folder: Path) -> dict[str, str]:
    """Write all splits as ``.npy`` files that children map into memory. Returns the digest by split.

    Raises:
        OSError: the folder cannot be written.
    """
    digests = {}
    for split in splits.present():
        place = folder / split.name
        place.mkdir(parents=True, exist_ok=True)
        for key, array in split.inputs.items():
            np.save(place / f"x.{key}.npy", array)
        if split.targets is not None:
            np.save(place / "y.npy", split.targets)
        digests[split.name] = split.digest()
    (folder / "splits.json").write_text(json.dumps({"digests": digests, "notes": splits.notes}))
    return digests


def open_split(folder: Path, name: str) -> Split | None:
    """Map a stored split into memory, or return ``None`` if it is not there."""
    place = folder / name
    if not place.is_dir():
        return None
    inputs = {p.name[2:-4]: np.load(p, mmap_mode="r") for p in sorted(place.glob("x.*.npy"))}
    y = place / "y.npy"
    return Split(name=name, inputs=inputs, targets=np.load(y, mmap_mode="r") if y.exists() else None)


def open_splits(folder: Path) -> Splits:
    """Map all stored splits into memory.

    Raises:
        FileNotFoundError: the folder does not hold stored splits.
    """
    notes = tuple(json.loads((folder / "splits.json").read_text())["notes"])
    found = {name: open_split(folder, name) for name in SPLITS}
    calibration, search, test = found["calibration"], found["search"], found["test"]
    if calibration is None or search is None or test is None:
        raise FileNotFoundError(folder)
    return Splits(train=found["train"], calibration=calibration, search=search, test=test, notes=notes)
