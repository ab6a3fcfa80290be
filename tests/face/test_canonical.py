from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltailor.canonical import canonical_json, content_key
from modeltailor.compress import Format, Recipe, Settings, Structure, Training, recipe_from_plain
from modeltailor.durable import sha256_file, write_bytes
from modeltailor.errors import ConfigError, DataError, ModelTailorError, shown

NAMES = [
    "fp32",
    "fp16",
    "w8a8",
    "w4a8",
    "w2a8",
    "w8a16",
    "w8a8-dynamic",
    "w8",
    "w3",
    "w4-block32",
    "codebook4",
    "codebook4a8",
]


def test_keys_do_not_depend_on_order() -> None:
    assert content_key({"a": 1, "b": (2, 3)}) == content_key({"b": [2, 3], "a": 1})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float64(1.0), {1, 2}, b"x"])
def test_what_has_no_canonical_form_is_refused(bad: object) -> None:
    with pytest.raises(TypeError):
        canonical_json({"a": bad})


@pytest.mark.parametrize("name", NAMES)
def test_formats_read_back_by_name(name: str) -> None:
    made = Format.parse(name)
    assert made.name == name
    assert Format(
        scheme=made.scheme, weight_bits=made.weight_bits, activation_bits=made.activation_bits, block=made.block
    ) == made  # fmt: skip


@pytest.mark.parametrize("name", ["w9a8", "w4a4", "int8", "", "w0", "codebook1", "w8a8-static", "fp64"])
def test_unknown_formats_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no format is named"):
        Format.parse(name)


def test_an_impossible_format_cannot_be_made() -> None:
    with pytest.raises(ConfigError):
        Format(scheme="static", weight_bits=9, activation_bits=8)


recipes = st.builds(
    Recipe,
    structure=st.builds(
        Structure,
        keep=st.dictionaries(st.text(min_size=1), st.floats(0.1, 1.0)).map(lambda d: tuple(d.items())),
        removed=st.lists(st.text(min_size=1), unique=True).map(tuple),
        training=st.none() | st.builds(Training, epochs=st.floats(0.5, 9)),
    ),
    formats=st.dictionaries(st.text(min_size=1), st.sampled_from(NAMES).map(Format.parse)).map(
        lambda d: tuple(d.items())
    ),
    settings=st.builds(Settings, per_channel=st.booleans()),
)


@given(recipes)
def test_recipes_survive_json_and_keep_their_key(recipe: Recipe) -> None:
    assert recipe_from_plain(recipe.to_plain()) == recipe
    assert recipe_from_plain(recipe.to_plain()).key == recipe.key


@given(recipes)
def test_the_order_of_sites_and_fp32_sites_do_not_matter(recipe: Recipe) -> None:
    again = Recipe(
        structure=recipe.structure,
        formats=(*reversed(recipe.formats), ("another", Format()))
        if "another" not in recipe.format_of
        else recipe.formats,
        settings=recipe.settings,
    )
    assert again == recipe


def test_a_site_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        Recipe(formats=(("a", Format.parse("w8")), ("a", Format.parse("w4"))))


def test_files_are_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    write_bytes(target, b"old")
    write_bytes(target, b"new")
    assert target.read_bytes() == b"new"
    assert sha256_file(target).startswith("11507a0e")
    with pytest.raises(OSError, match="No such file"):
        write_bytes(tmp_path / "none" / "a.bin", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_errors_are_one_line_and_survive_a_process_border() -> None:
    import pickle

    error = DataError("DATA-04", "x\n\u202e\x1b[31m", "holds NaN", "clean it")
    assert error.line() == "error[DATA-04] x\\n\\u202e\\x1b[31m: holds NaN. Clean it."
    back = pickle.loads(pickle.dumps(error))
    assert isinstance(back, DataError)
    assert back.line() == error.line()
    assert len(shown("a" * 10_000)) == 200


def test_every_error_has_an_exit_code_of_the_contract() -> None:
    codes = {c.__name__: c.exit_code for c in ModelTailorError.__subclasses__()}
    assert codes == {
        "ConfigError": 2, "ModelError": 3, "DataError": 3, "NoFeasibleModel": 4, "EnvironmentFault": 5, "DeviceError": 6,
        "StudyConflict": 7, "CandidateError": 6,
    }  # fmt: skip
