"""Models that no file in one piece can hold are refused before anything is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from modeltailor.compress.formats import Composer
from modeltailor.compress.formats.graph import load_model, prepare
from modeltailor.errors import ModelError


def _outside(rows: int, columns: int, *, kind: int = TensorProto.FLOAT) -> ModelProto:
    """A product whose weight lies in a file beside the model."""
    weight = TensorProto(name="w", data_type=kind, dims=[rows, columns], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="weights.bin")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", kind, ["n", rows])],
        [helper.make_tensor_value_info("y", kind, ["n", columns])], [weight],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("kind", "rows"), [(TensorProto.FLOAT, 30_000), (TensorProto.FLOAT16, 60_000)])
def test_more_weights_than_a_file_can_hold_are_refused_with_both_numbers(kind: int, rows: int, tmp_path: Path) -> None:
    onnx.save(_outside(rows, 20_000, kind=kind), tmp_path / "large.onnx")
    for read in (prepare, lambda path: Composer(path, {"x": np.zeros((1, rows), np.float32)})):
        with pytest.raises(ModelError, match=r"large\.onnx: .*2\.40 GB.*2\.1\d GB"):
            read(tmp_path / "large.onnx")


def test_a_large_model_in_memory_is_refused_too() -> None:
    model = _outside(30_000, 20_000)
    with pytest.raises(ModelError, match=r"2\.40 GB"):
        load_model(model)


def test_weights_beside_the_model_are_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    values.tofile(tmp_path / "weights.bin")
    onnx.save(_outside(6, 4), tmp_path / "small.onnx")
    loaded = load_model(tmp_path / "small.onnx")
    assert np.array_equal(numpy_helper.to_array(loaded.graph.initializer[0]), values)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match="MODEL-02"):
        load_model(tmp_path / "small.onnx")
