from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeltailor.errors import ConfigError, DataError, ModelTailorError
from modeltailor.workloads import DataSpec, load_splits, open_splits, store_splits


def save(folder: Path, name: str, **arrays: Any) -> str:
    np.savez(folder / name, **arrays)
    return name


def images(n: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(n, 3, 4)).astype(np.float32), "y": rng.integers(0, 5, n)}


def spec(**files: str) -> DataSpec:
    return DataSpec(files=tuple(files.items()))


def test_missing_splits_are_cut_from_train_disjoint_and_said(tmp_path: Path) -> None:
    splits = load_splits(spec(train=save(tmp_path, "a.npz", **images(500))), tmp_path)
    assert splits.train is not None
    assert (len(splits.test), len(splits.search), len(splits.calibration)) == (100, 100, 50)
    rows = [r.tobytes() for s in splits.present() for r in s.inputs["x"]]
    assert len(set(rows)) == len(rows) == 500
    assert sum("cut from train" in n for n in splits.notes) == 3


def test_the_cut_depends_on_the_seed_only(tmp_path: Path) -> None:
    name = save(tmp_path, "a.npz", **images(500))
    first, second = (load_splits(spec(train=name), tmp_path, seed=3) for _ in range(2))
    other = load_splits(spec(train=name), tmp_path, seed=4)
    assert first.search.digest() == second.search.digest() != other.search.digest()


def test_repeated_samples_never_stand_on_both_sides_of_a_cut(tmp_path: Path) -> None:
    base = images(100)
    doubled = {k: np.concatenate([v, v]) for k, v in base.items()}
    splits = load_splits(spec(train=save(tmp_path, "a.npz", **doubled)), tmp_path)
    keys = [{r.tobytes() for r in s.inputs["x"]} for s in splits.present()]
    assert not any(a & b for i, a in enumerate(keys) for b in keys[i + 1 :])


def test_samples_of_two_rows_stay_together(tmp_path: Path) -> None:
    data = images(400)
    data["x"][:, 0, 0] = np.repeat(np.arange(200), 2)
    splits = load_splits(spec(train=save(tmp_path, "a.npz", **data)), tmp_path, rows_per_sample=2)
    for split in splits.present():
        tags = split.inputs["x"][:, 0, 0]
        assert (tags[0::2] == tags[1::2]).all()


def test_several_inputs_have_names(tmp_path: Path) -> None:
    ids = np.arange(400).reshape(100, 4)
    arrays = {"x.ids": ids, "x.mask": np.ones_like(ids), "y": np.arange(100) % 3}
    splits = load_splits(spec(train=save(tmp_path, "a.npz", **arrays)), tmp_path)
    assert set(splits.search.inputs) == {"ids", "mask"}


def test_stored_splits_read_back_equal(tmp_path: Path) -> None:
    splits = load_splits(spec(train=save(tmp_path, "a.npz", **images(200))), tmp_path)
    store_splits(splits, tmp_path / "data")
    back = open_splits(tmp_path / "data")
    assert [s.digest() for s in back.present()] == [s.digest() for s in splits.present()]
    assert back.notes == splits.notes


def broken(tmp_path: Path, kind: str) -> DataSpec:
    good = save(tmp_path, "good.npz", **images(100, seed=1))
    data = images(100)
    match kind:
        case "missing":
            return spec(train="nowhere.npz")
        case "empty file":
            (tmp_path / "e.npz").touch()
            return spec(train="e.npz")
        case "garbage":
            (tmp_path / "g.npz").write_bytes(b"PK\x03\x04 not really")
            return spec(train="g.npz")
        case "pickle":
            return spec(train=save(tmp_path, "p.npz", x=np.array([{"a": 1}], dtype=object)))
        case "no x":
            return spec(train=save(tmp_path, "n.npz", images=data["x"]))
        case "text":
            return spec(train=save(tmp_path, "t.npz", x=np.array(["a", "b"]), y=np.array([0, 1])))
        case "rows":
            return spec(train=save(tmp_path, "r.npz", x=data["x"], y=data["y"][:50]))
        case "nan":
            data["x"][7, 0, 0] = np.nan
            return spec(train=save(tmp_path, "nan.npz", **data))
        case "shape":
            return spec(train=good, test=save(tmp_path, "s.npz", x=data["x"][:, :2], y=data["y"]))
        case "one class":
            return spec(train=good, search=save(tmp_path, "c.npz", x=data["x"], y=np.zeros(100, int)))
        case "no labels":
            return spec(train=good, search=save(tmp_path, "l.npz", x=data["x"]))
        case "overlap":
            return spec(train=good, test=save(tmp_path, "o.npz", **images(100, seed=1)))
        case "too few":
            return spec(train=save(tmp_path, "few.npz", **images(20)))
        case _:
            raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("missing", ConfigError, "no file nowhere.npz"),
        ("empty file", DataError, "0 bytes"),
        ("garbage", DataError, "not a readable .npz"),
        ("pickle", DataError, "plain arrays"),
        ("no x", DataError, "no array x; it has images"),
        ("text", DataError, "must be numbers"),
        ("rows", DataError, "must have 100 rows"),
        ("nan", DataError, "first in sample 7"),
        ("shape", DataError, "must be (3, 4)"),
        ("one class", DataError, "one class only"),
        ("no labels", DataError, "has no y"),
        ("overlap", ConfigError, "data.train: shares 100 of 100 samples"),
        ("too few", DataError, "too few"),
    ],
)
def test_data_that_cannot_be_used_is_refused(
    tmp_path: Path, kind: str, error: type[ModelTailorError], words: str
) -> None:
    with pytest.raises(error) as caught:
        load_splits(broken(tmp_path, kind), tmp_path)
    assert words in caught.value.line()
    assert caught.value.exit_code == error.exit_code


def test_an_allowed_overlap_is_noted(tmp_path: Path) -> None:
    files = broken(tmp_path, "overlap").files
    splits = load_splits(DataSpec(files=files, allow_overlap=True), tmp_path)
    assert any("train and test share 100 of 100" in n for n in splits.notes)


def test_a_function_that_raises_is_named(tmp_path: Path) -> None:
    (tmp_path / "d.py").write_text("def load():\n    raise RuntimeError('no disk')\n")
    with pytest.raises(DataError, match="no disk"):
        load_splits(DataSpec(function="d.py:load"), tmp_path)
    with pytest.raises(ConfigError, match="no function"):
        load_splits(DataSpec(function="d.py:other"), tmp_path)


def test_a_sentence_may_stand_in_several_pairs(tmp_path: Path) -> None:
    """Samples are pairs: a row that two of them share is no overlap of the splits that are cut here."""
    rng = np.random.default_rng(0)
    sentences = rng.normal(size=(20, 6)).astype(np.float32)
    pairs = np.array([(a, b) for a in range(20) for b in range(20) if a != b])
    data = {"x": sentences[pairs].reshape(-1, 6), "y": np.repeat(rng.normal(size=len(pairs)), 2)}
    splits = load_splits(spec(train=save(tmp_path, "a.npz", **data)), tmp_path, rows_per_sample=2)
    assert len(splits.test) > 0


def test_a_single_array_is_no_split(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((30, 3), np.float32))
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        load_splits(spec(train="a.npy"), tmp_path)
