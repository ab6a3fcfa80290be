"""What single formats cost the outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from modeltailor.compress.formats import Composer
from modeltailor.estimators import sensitivity


def test_outputs_that_are_no_numbers_cost_more_than_any_others(tmp_path: Path, chain: Callable[..., Path]) -> None:
    path = chain(tmp_path / "a.onnx", [3, 8, 8])
    inputs = {"x": np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)}
    composer = Composer(path, inputs)
    whole = composer.compose({}).model_bytes
    assert sensitivity._model_loss(composer, whole, 4) == pytest.approx(0.0, abs=1e-6)
    broken = onnx.load_from_string(whole)
    weight = next(i for i in broken.graph.initializer if len(i.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(weight.dims), np.nan, np.float32), weight.name))
    assert sensitivity._model_loss(composer, broken.SerializeToString(), 4) == 10.0
