"""What single formats cost the outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from modeltailor.compress import Format
from modeltailor.compress.formats import Composer
from modeltailor.errors import CandidateError
from modeltailor.estimators import sensitivity
from modeltailor.estimators.effects import signed_effects
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session


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


def test_drops_are_measured_for_coarse_formats_and_a_mild_one(tmp_path: Path, chain: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    path = chain(tmp_path / "a.onnx", [3, 8, 8])
    inputs = {"x": rng.standard_normal((8, 3, 16, 16)).astype(np.float32)}
    composer = Composer(path, inputs)
    wanted = rng.standard_normal(next(iter(composer.calibration.outputs().values())).shape)

    def judge(model: bytes) -> float:
        session = open_session(model, RuntimeOptions())
        return float(np.mean((session.run(None, inputs)[0] - wanted) ** 2))

    formats = ("fp32", "w8a8", "w6a8", "w5a8", "w4a8", "w3a8", "w2a8")
    found = sensitivity.metric_drops(composer, judge, formats=formats)
    assert {name for _, name in found} == {"w2a8", "w3a8", "w6a8"}
    assert {site for site, _ in found} == {s.name for s in composer.sites}
    base = {s.name: Format.parse("w8a8") for s in composer.sites}
    site = composer.sites[0].name
    changed = composer.compose({**base, site: Format.parse("w2a8")}).model_bytes
    assert found[site, "w2a8"] == judge(changed) - judge(composer.compose(base).model_bytes)
    calls = iter(range(1000))

    def picky(model: bytes) -> float:
        if next(calls) == 2:
            raise CandidateError("NONFINITE", "y", "this output holds NaN or infinity", "")
        return judge(model)

    assert len(sensitivity.metric_drops(composer, picky, formats=formats)) == len(found) - 1  # one cannot be judged
    # nothing to tell chance by, or no time: nothing is measured
    assert sensitivity.metric_drops(composer, judge, formats=("fp32", "w8a8", "w2a8")) == {}
    assert sensitivity.metric_drops(composer, judge, formats=formats, limit_s=0.0) == {}


def test_of_drops_only_what_exceeds_chance_is_believed() -> None:
    rng = np.random.default_rng(0)
    sites = [f"dense{i}" for i in range(60)]
    losses = {(s, f): v * rng.lognormal(0, 0.3) for s in sites for f, v in (("w2", 0.03), ("w3", 0.006), ("w6", 1e-4))}
    true = {(s, f): rng.normal(0.0, sd) for s in sites for f, sd in (("w2", 0.003), ("w3", 0.001), ("w6", 0.0))}
    drops = {k: 0.1 * losses[k] + true[k] + rng.normal(0.0, 0.0015) for k in true}
    found = signed_effects(drops, losses)

    def error(guess: dict[tuple[str, str], float], name: str) -> float:
        return float(np.mean([(guess[s, name] - true[s, name]) ** 2 for s in sites]))

    for name in ("w2", "w3", "w6"):
        assert error(found, name) < 0.9 * error({k: d - 0.1 * losses[k] for k, d in drops.items()}, name)
        assert error(found, name) <= 1.0001 * error(dict.fromkeys(true, 0.0), name)
    assert np.corrcoef([found[s, "w2"] for s in sites], [true[s, "w2"] for s in sites])[0, 1] > 0.8
    assert signed_effects({}, losses) == {}
    # a format that stands at one site only, and does nothing there, is no measure of chance
    lonely = {**drops, ("embedding", "w4"): 0.0}
    assert signed_effects(lonely, {**losses, ("embedding", "w4"): 1e-9})[sites[0], "w2"] == pytest.approx(
        found[sites[0], "w2"]
    )
