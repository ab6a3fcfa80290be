"""Percentiles are claimed only where the sample allows, and their intervals hold."""

import numpy as np
import pytest

from modeltailor.estimators.percentiles import percentiles


@pytest.mark.parametrize(
    ("n", "claimed"), [(19, set()), (20, {0.5}), (1023, {0.5}), (1024, {0.5, 0.9}), (19_999, {0.5, 0.9})]
)
def test_small_samples_claim_less(n, claimed):
    assert set(percentiles(np.linspace(1, 2, n).tolist())) == claimed


def test_large_samples_claim_all():
    found = percentiles(np.linspace(0, 1, 20_001).tolist())
    assert {s: round(p.ms, 3) for s, p in found.items()} == {0.5: 0.5, 0.9: 0.9, 0.99: 0.99}
    assert all(p.low < p.ms < p.high and p.samples == 20_001 for p in found.values())


def test_intervals_hold_the_truth():
    rng = np.random.default_rng(0)
    truth = {0.5: np.log(2), 0.9: np.log(10)}
    held = dict.fromkeys(truth, 0)
    for _ in range(300):
        found = percentiles(rng.exponential(size=1024).tolist())
        for share, value in truth.items():
            held[share] += found[share].low <= value <= found[share].high
    assert all(0.92 <= n / 300 <= 0.99 for n in held.values())
