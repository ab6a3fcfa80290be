"""Ratios, intervals and tiers, against devices whose truth is known."""

import math
from pathlib import Path

import numpy as np
import pytest

from modeltailor.estimators.estimate import Estimate
from modeltailor.estimators.latency import absolute, budget_verdict, certify, compare, merge, ratio, screen
from modeltailor.targets import FakeDevice, PairTimings, RunFacts, TimingPlan, Timings
from modeltailor.targets.synthetic import synthetic_device

A, B, C = Path("a.onnx"), Path("b.onnx"), Path("c.onnx")
TRUTH = {"a.onnx": 2.0, "b.onnx": 1.0, "c.onnx": 1.6}
FACTS = RunFacts(load_ms=1.0, first_inference_ms=1.0)


def timings(*pairs):
    """Pairs given as lists of (baseline, own, own, baseline)."""
    return Timings(
        pairs=tuple(
            PairTimings(
                blocks_ms=(tuple((q[0], q[3]) for q in p), tuple((q[1], q[2]) for q in p)),
                baseline_blocks_ms=(tuple((q[0], q[3]) for q in p),) * 2,
                steady=(True, True),
            )
            for p in pairs
        ),
        facts=(FACTS, FACTS),
    )


def test_abba_cancels_a_linear_drift_within_a_quad():
    drifting = [(2.0 * math.exp(0.0), 1.0 * math.exp(0.1), 1.0 * math.exp(0.2), 2.0 * math.exp(0.3))] * 4
    assert ratio(timings(drifting, drifting), 1).value == pytest.approx(2.0)


def test_interval_is_student_s_over_the_pairs():
    pairs = [[(2.0 * math.exp(e), 1.0, 1.0, 2.0 * math.exp(e))] * 5 for e in (-0.01, -0.01, 0.01, 0.01)]
    estimate = ratio(timings(*pairs), 1)
    half = 3.182446 * 0.01 * math.sqrt(4 / 3) / math.sqrt(4)  # t(3) at 97.5 %, sample deviation 0.01 * sqrt(4 / 3)
    assert estimate.value == pytest.approx(2.0)
    assert estimate.high == pytest.approx(2.0 * math.exp(half), rel=1e-6)
    assert estimate.low == pytest.approx(2.0 * math.exp(-half), rel=1e-6)
    assert estimate.half_width == pytest.approx(math.expm1(half), rel=1e-6)
    assert not estimate.screening


def test_from_five_pairs_on_the_lowest_and_highest_fifth_only_widen_the_interval():
    errors = (-0.3, -0.01, -0.01, 0.0, 0.0, 0.0, 0.0, 0.01, 0.01, 0.3)
    pairs = [[(2.0 * math.exp(e), 1.0, 1.0, 2.0 * math.exp(e))] * 5 for e in errors]
    estimate = ratio(timings(*pairs), 1)
    # kept are -0.01 to 0.01, six of ten; winsorized, three are -0.01 and three 0.01; t(6 - 2) at 97.5 %
    half = 2.776445 * math.sqrt(6 * 0.01**2 / 9) / (0.6 * math.sqrt(10))
    assert estimate.value == pytest.approx(2.0)
    assert estimate.high == pytest.approx(2.0 * math.exp(half), rel=1e-6)
    assert estimate.low == pytest.approx(2.0 * math.exp(-half), rel=1e-6)


@pytest.mark.parametrize("disturbed", [0.0, 0.15])
def test_eight_pairs_hold_the_truth_though_a_neighbour_disturbs_some(disturbed):
    rng, held, narrow = np.random.default_rng(3), 0, 0
    for _ in range(400):
        errors = rng.normal(0.0, np.where(rng.random(8) < disturbed, 0.1, 0.008))
        estimate = ratio(timings(*[[(2.0 * math.exp(e), 1.0, 1.0, 2.0 * math.exp(e))] * 5 for e in errors]), 1)
        held += estimate.low <= 2.0 <= estimate.high
        narrow += estimate.half_width <= 0.02
    assert 0.92 <= held / 400 <= 0.99
    assert narrow / 400 >= 0.85


def neighbour(rng, *, n_pairs=16, quads=4, busy=0.6, stays=0.9):
    """Pairs on a machine whose neighbour comes and goes; it slows the baseline by 15 % and the candidate by half."""
    state, pairs = rng.random() < busy, []
    for _ in range(n_pairs):
        blocks = []
        for k in range(4 * quads):
            if rng.random() > stays:
                state = rng.random() < busy
            ours = k % 4 in (1, 2)
            blocks.append(
                (1.0 if ours else 2.0) * math.exp(rng.normal(0, 0.005)) * ((1.5 if ours else 1.15) if state else 1.0)
            )
        pairs.append([tuple(blocks[4 * q : 4 * q + 4]) for q in range(quads)])
    return timings(*pairs)


def test_quads_in_which_a_neighbour_disturbs_the_baseline_do_not_count():
    rng = np.random.default_rng(5)
    values, widths = zip(*((e.value, e.half_width) for e in (ratio(neighbour(rng), 1) for _ in range(60))), strict=True)
    assert np.median(values) == pytest.approx(2.0, rel=0.02)
    assert np.median(widths) < 0.04
    slow = absolute(neighbour(rng, busy=0.5), 1)
    assert slow.value == pytest.approx(1.0, rel=0.03)


def test_noise_by_itself_makes_no_side_faster():
    rng = np.random.default_rng(7)
    logs = []
    for _ in range(150):
        pairs = [[tuple(2.0 * np.exp(rng.normal(0, 0.04, 4))) for _ in range(4)] for _ in range(10)]
        logs.append(math.log(ratio(timings(*pairs), 1).value))
    assert abs(np.mean(logs)) < 3 * np.std(logs) / math.sqrt(len(logs))


def test_pairs_without_a_calm_time_are_not_counted_as_evidence():
    calm = [(2.0, 1.0, 1.0, 2.0)] * 4
    busy = [(2.4, 1.7, 1.6, 2.5)] * 4
    files = (Path("a.onnx"), Path("b.onnx"))

    class Sometimes(FakeDevice):
        def time(self, artifacts, inputs, plan):
            asked.append(plan.quads)
            return timings(calm, busy)

    asked: list[int] = []
    found = compare(Sometimes({f.name: 1.0 for f in files}), files, {}, max_pairs=12)[0]
    assert found.pairs == 6
    assert asked == [4] + 5 * [12]  # once it is known that half is disturbed
    assert found.verdict == "NOISY"  # fewer than eight pairs say anything
    assert dict(found.conditions)["calm_share"] == pytest.approx(0.5)
    assert found.speedup.value == pytest.approx(2.0)


def test_two_pairs_lean_on_what_is_known_of_processes():
    same = [(2.0, 1.0, 1.0, 2.0)] * 8
    narrow = ratio(timings(same, same), 1)
    assert narrow.screening
    assert 0.015 < narrow.half_width < 0.03
    apart = [(2.2, 1.0, 1.0, 2.2)] * 8
    assert ratio(timings(same, apart), 1).half_width > 2 * narrow.half_width


@pytest.mark.parametrize("n_pairs", [1, 2, 3])
def test_few_pairs_still_hold_the_truth(n_pairs):
    held = 0
    for seed in range(150):
        device = synthetic_device(TRUTH, seed)
        estimate = ratio(device.time((A, B), {}, TimingPlan(pairs=n_pairs, quads=8)), 1)
        held += estimate.low <= 2.0 <= estimate.high
    assert held >= 0.92 * 150


def test_one_spoiled_quad_of_ten_does_not_move_a_pair():
    good = [(2.0, 1.0, 1.0, 2.0)] * 9
    assert ratio(timings([*good, (2.0, 9.0, 9.0, 2.0)]), 1).value == pytest.approx(2.0)


def test_one_spoiled_quad_of_four_does_not_move_a_pair():
    good = [(2.0, 1.0, 1.0, 2.0)] * 3
    assert ratio(timings([*good, (2.0, 9.0, 9.0, 2.0)]), 1).value == pytest.approx(2.0)


def test_single_pair_is_widened_by_what_processes_differ():
    estimate = ratio(timings([(2.0, 1.0, 1.0, 2.0)] * 8), 1)
    assert estimate.screening
    assert estimate.half_width == pytest.approx(math.expm1(1.96 * math.sqrt(2) * 0.01), rel=1e-6)
    single = ratio(timings([(2.0, 1.0, 1.0, 2.0)]), 1)
    assert single.half_width > 0.09


def test_absolute_is_in_milliseconds_and_the_baseline_is_its_own_measure():
    both = timings([(2.0, 1.0, 1.0, 2.0)] * 4, [(2.0, 1.0, 1.0, 2.0)] * 4)
    assert absolute(both, 0).value == pytest.approx(2.0)
    assert absolute(both, 1, evidence="measured-on-device").value == pytest.approx(1.0)
    assert absolute(both, 1, evidence="measured-on-device").evidence == "measured-on-device"
    one = ratio(both, 0)
    assert (one.low, one.value, one.high) == (1.0, 1.0, 1.0)


def test_budget_is_met_only_by_the_whole_interval():
    estimate = Estimate(value=1.0, low=0.9, high=1.1, evidence="measured-here")
    assert budget_verdict(estimate, 1.2) == "met"
    assert budget_verdict(estimate, 1.05) == "undecided"
    assert budget_verdict(estimate, 0.95) == "undecided"
    assert budget_verdict(estimate, 0.8) == "missed"


@pytest.mark.parametrize(
    ("low", "value", "high"), [(1.0, 0.9, 1.1), (0.0, 1.0, 1.1), (0.9, 1.0, math.inf), (math.nan, 1.0, 1.1)]
)
def test_impossible_estimate_cannot_exist(low, value, high):
    with pytest.raises(ValueError, match="low <= value <= high"):
        Estimate(value=value, low=low, high=high, evidence="measured-here")


def test_screen_uses_one_pair_and_makes_no_claim():
    device = FakeDevice(TRUTH, noise=0.02, process_effect=0.01, peak_bytes=lambda _: 77, evidence="measured-on-device")
    measured = screen(device, (A, B), {}, memory=True)
    assert (measured.path, measured.pairs, measured.peak_memory_bytes) == (B, 1, 77)
    assert measured.speedup.low < 2.0 < measured.speedup.high
    assert measured.speedup.screening
    assert measured.latency_ms.evidence == "measured-on-device"
    assert screen(device, (A, B), {}).peak_memory_bytes is None


def test_compare_stops_at_the_asked_width_and_keeps_the_least_pairs():
    calm = FakeDevice(TRUTH, noise=0.02, process_effect=0.002)
    measured = compare(calm, (A, B, C), {})
    assert [m.path for m in measured] == [B, C]
    assert all(m.verdict == "certified" and m.pairs == 8 and m.speedup.half_width <= 0.02 for m in measured)
    assert measured[0].speedup.low < 2.0 < measured[0].speedup.high
    assert measured[1].speedup.low < 1.25 < measured[1].speedup.high
    rough = FakeDevice(TRUTH, process_effect=0.02, seed=3)
    more = compare(rough, (A, B), {}, max_pairs=40)[0]
    assert more.pairs > 8
    assert more.speedup.half_width <= 0.02


def test_too_much_noise_is_called_noisy():
    measured = compare(FakeDevice(TRUTH, process_effect=0.2), (A, B), {}, max_pairs=10)[0]
    assert (measured.verdict, measured.pairs) == ("NOISY", 10)


def test_limit_inside_the_interval_is_undecided_until_pairs_run_out():
    device = FakeDevice(TRUTH, process_effect=0.005)
    measured = compare(device, (A, B), {}, limit_ms=1.0, max_pairs=12)[0]
    if budget_verdict(measured.latency_ms, 1.0) == "undecided":
        assert (measured.verdict, measured.pairs) == ("UNDECIDED", 12)
    clear = compare(FakeDevice(TRUTH, process_effect=0.005), (A, B), {}, limit_ms=1.2, max_pairs=12)[0]
    assert (clear.verdict, clear.pairs) == ("certified", 8)


def test_certify_asks_for_ten_pairs_and_memory():
    measured = certify(FakeDevice(TRUTH, process_effect=0.002), (A, B), {})[0]
    assert (measured.verdict, measured.pairs) == ("certified", 10)
    assert measured.speedup.half_width <= 0.01
    assert measured.peak_memory_bytes == 1_000_000


def test_short_of_time_the_verdict_says_so():
    measured = certify(FakeDevice(TRUTH), (A, B), {}, seconds=0.0)[0]
    assert (measured.verdict, measured.pairs) == ("NOISY", 2)


def test_memory_is_measured_once():
    class Counting(FakeDevice):
        asked = 0

        def time(self, artifacts, inputs, plan):
            self.asked += plan.memory
            return super().time(artifacts, inputs, plan)

    device = Counting(TRUTH)
    certify(device, (A, B), {})
    assert device.asked == 1


def test_merge_joins_pairs_and_keeps_the_largest_memory():
    device = FakeDevice(TRUTH)
    first = device.time((A, B), {}, TimingPlan(pairs=2, memory=True))
    second = device.time((A, B), {}, TimingPlan(pairs=1))
    whole = merge(first, second)
    assert whole.pairs == first.pairs + second.pairs
    assert whole.facts[1].peak_run_bytes == 1_000_000
    with pytest.raises(ValueError, match=r"shorter|longer"):
        merge(first, device.time((A,), {}, TimingPlan(pairs=1)))


def test_a_candidate_is_needed():
    with pytest.raises(ValueError, match="at least one candidate"):
        compare(FakeDevice(TRUTH), (A,), {})
