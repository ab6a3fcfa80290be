"""Shapes that are asked for: kept where they fit, refused with the reason where they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from modeltailor.errors import ConfigError
from modeltailor.estimators.predict import executed_files
from modeltailor.estimators.predict.executed import ExecutedFile, Shapes
from modeltailor.targets import load_profile


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, chain: Callable[..., Path]) -> list[Path]:
    """A network of images, and one of words with another input."""
    folder = tmp_path_factory.mktemp("files")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", "length"]) for n in ("words", "y")]
    graph = helper.make_graph([helper.make_node("Sigmoid", ["words"], ["y"], name="s")], "g", ends[:1], ends[1:])
    words = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(words, folder / "words.onnx")
    return [chain(folder / "image.onnx", [3, 8]), folder / "words.onnx"]


def read(files: Sequence[Path], shapes: Shapes) -> list[ExecutedFile]:
    return executed_files(files, load_profile("raspberry-pi-5"), shapes)


def test_each_file_takes_the_shapes_of_its_own_inputs(files: list[Path]) -> None:
    image, words = read(files, {"x": (4, 3, 16, 16), "words": (2, 7)})
    assert image.graph.inputs[0].shape == (4, 3, 16, 16)
    assert words.graph.inputs[0].shape == (2, 7)
    assert image.work.macs == 4 * read(files[:1], {})[0].work.macs


@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        ({"images": (1, 3, 16, 16)}, r"shapes\.images: no model has such an input; they have x, words"),
        ({"x": (3, 16, 16)}, r"shapes\.x: must fit \['batch', 3, 16, 16\] of image\.onnx; got \[3, 16, 16\]"),
        ({"x": (1, 3, 32, 32)}, r"must fit .* got \[1, 3, 32, 32\]"),
        ({"x": (0, 3, 16, 16)}, r"must fit .* got \[0, 3, 16, 16\]"),
        ({"words": (1, -7)}, r"must fit \['batch', 'length'\] of words\.onnx"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(files: list[Path], shapes: Shapes, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as refused:
        read(files, {"words": (1, 7), **shapes})
    assert refused.value.code == "CFG-15"
    assert refused.value.next_step


def test_weights_that_old_files_list_as_inputs_are_none(tmp_path: Path, chain: Callable[..., Path]) -> None:
    made = onnx.load(chain(tmp_path / "m.onnx", [3, 8]))
    made.ir_version = 3
    made.opset_import[0].version = 8
    made.graph.input.append(helper.make_tensor_value_info("w0", TensorProto.FLOAT, [8, 3, 3, 3]))
    onnx.save(made, tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="no model has such an input; they have x"):
        read([tmp_path / "m.onnx"], {"w0": (8, 3, 3, 3)})
