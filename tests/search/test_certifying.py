"""Slow models still get a certificate, and one that hangs or crashes does not cost the others theirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from modeltailor.errors import CandidateError
from modeltailor.search import certifying
from modeltailor.search.certifying import Contender, certify_latency, fitting, least_seconds
from modeltailor.targets import FakeDevice


class Slow(FakeDevice):
    """Is through with so many artifacts in the time of a call and no more; ``broken`` ends every call with it."""

    most = 99
    broken = ""

    def time(self, artifacts, inputs, plan):
        self.asked = getattr(self, "asked", [])
        self.asked.append((len(artifacts), plan.timeout_s))
        if any(self.broken and p.name.startswith(self.broken) for p in artifacts):
            raise CandidateError("CRASH", f"{self.broken}.onnx", "died", "")
        if len(artifacts) > self.most:
            raise CandidateError("TIMEOUT", artifacts[self.most].name, "took longer than 240 s", "")
        return super().time(artifacts, inputs, plan)


def contender(number: int, ms: float) -> Contender:
    return Contender(key=f"{number:02d}", path=Path(f"{number:02d}.onnx"), latency_ms=ms)


def measured(device: FakeDevice, folder: Path, contenders: Sequence[Contender], seconds: float) -> set[str]:
    for c in contenders:
        (folder / c.path).write_bytes(b"x" * 100)
    there = [Contender(key=c.key, path=folder / c.path, latency_ms=c.latency_ms) for c in contenders]
    return set(certify_latency(device, there[0].path, there, {}, seconds=seconds))


def test_a_pair_of_slow_models_may_take_as_long_as_it_must(tmp_path: Path) -> None:
    finalists = [contender(0, 2000.0), contender(1, 1000.0), contender(2, 900.0)]
    device = Slow(latency=lambda _: 1.0)
    found = measured(device, tmp_path, finalists, seconds=1.0)
    assert found == {t.key for t in finalists}
    assert device.asked[0][1] >= 2 * least_seconds(finalists) > 240.0


def test_of_many_slow_models_the_first_are_certified() -> None:
    finalists = [contender(0, 400.0), *(contender(i, 300.0) for i in range(1, 14))]
    few = fitting(finalists, 300.0)
    assert 3 <= len(few) < 14
    assert few == finalists[: len(few)]
    assert least_seconds(few) <= 300.0 < least_seconds(finalists)
    assert fitting(finalists, 1e6) == finalists
    assert fitting(finalists, 0.0) == finalists[:3]


def test_so_many_are_certified_as_the_rest_of_the_run_has_time_for(tmp_path: Path) -> None:
    finalists = [contender(0, 0.2), *(contender(i, 0.1) for i in range(1, 14))]  # quick, but each starts processes
    for c in finalists:
        (tmp_path / c.path).write_bytes(b"x" * 100)
    there = [Contender(key=c.key, path=tmp_path / c.path, latency_ms=c.latency_ms) for c in finalists]

    def certified(longest_s: float) -> list[str]:
        return sorted(
            certify_latency(
                FakeDevice(latency=lambda _: 1.0), there[0].path, there, {}, seconds=1.0, longest_s=longest_s
            )
        )

    keys = [c.key for c in finalists]
    assert certified(60.0) == keys
    few = certified(25.0)
    assert few == keys[: len(few)]
    assert 3 < len(few) < 9
    assert certified(0.0) == keys[:3]


def test_after_one_hung_so_many_are_measured_as_there_is_time_left_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finalists = [contender(0, 0.2), *(contender(i, 0.1) for i in range(1, 14))]
    for c in finalists:
        (tmp_path / c.path).write_bytes(b"x" * 100)
    there = [Contender(key=c.key, path=tmp_path / c.path, latency_ms=c.latency_ms) for c in finalists]
    clock = [0.0]

    class Hanging(Slow):
        def time(self, artifacts, inputs, plan):
            clock[0] += 45.0 if len(artifacts) > self.most else 0.0
            return super().time(artifacts, inputs, plan)

    device = Hanging(latency=lambda _: 1.0)
    device.most = 14  # the last one hangs
    monkeypatch.setattr(certifying, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    found = certify_latency(device, there[0].path, there, {}, seconds=1.0, longest_s=60.0)
    assert sorted(found) == [c.key for c in finalists[:3]]


@pytest.mark.parametrize("most", [3, 5, 9])
def test_when_the_time_of_a_call_is_over_fewer_are_measured_not_none(tmp_path: Path, most: int) -> None:
    finalists = [contender(0, 1.0), *(contender(i, 0.5) for i in range(1, 12))]
    device = Slow(latency=lambda _: 1.0)
    device.most = most
    found = measured(device, tmp_path, finalists, seconds=1e3)
    assert finalists[0].key in found
    assert 2 <= len(found) < most


def test_when_the_time_is_over_one_of_the_others_stays_beside_the_original(tmp_path: Path) -> None:
    finalists = [contender(0, 1.0), contender(1, 0.5), contender(2, 0.4)]
    device = Slow(latency=lambda _: 1.0)
    device.most = 3
    assert measured(device, tmp_path, finalists, seconds=1e3) == {"00", "01"}


def test_one_that_crashes_costs_the_others_nothing(tmp_path: Path) -> None:
    finalists = [contender(0, 1.0), *(contender(i, 0.5) for i in range(1, 5))]
    device = Slow(latency=lambda _: 1.0)
    device.broken = "03"
    assert measured(device, tmp_path, finalists, seconds=1e3) == {t.key for t in finalists if t.key != "03"}


def test_only_the_original_costs_all_of_them_their_figures(tmp_path: Path) -> None:
    original, *others = [contender(i, 1.0) for i in range(4)]
    for c in (original, *others):
        (tmp_path / c.path).write_bytes(b"x" * 100)
    there = [Contender(key=c.key, path=tmp_path / c.path, latency_ms=1.0) for c in others]
    device = Slow(latency=lambda _: 1.0)
    device.broken = "01"  # the first to be certified, where the original could not be scored
    assert set(certify_latency(device, tmp_path / original.path, there, {}, seconds=1e3)) == {"02", "03"}
    device.broken = "00"
    assert certify_latency(device, tmp_path / original.path, there, {}, seconds=1e3) == {}
