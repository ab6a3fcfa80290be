"""The promises of the measuring, on the synthetic device."""

from pathlib import Path

import pytest

from modeltailor.estimators.selftest import check_real, check_synthetic
from modeltailor.targets import FakeDevice


def test_comparisons_keep_their_promises_on_the_synthetic_device():
    found = check_synthetic(comparisons=200, seed=0)
    assert found.false_alarms <= 18
    assert found.power >= 0.90
    assert 0.92 <= found.coverage <= 0.98
    assert found.mean_half_width <= 0.02
    assert found.passed


def test_a_model_beside_itself_raises_no_alarm_on_a_calm_device():
    found = check_real(FakeDevice(lambda _: 1.0), Path("a.onnx"), {}, comparisons=3)
    assert (found.comparisons, found.false_alarms) == (3, 0)
    assert found.speedups == ((1.0, 1.0, 1.0),) * 3
    assert found.verdicts == ("certified",) * 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_promises_hold_for_other_seeds(seed):
    assert check_synthetic(comparisons=200, seed=seed).passed
