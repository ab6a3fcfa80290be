"""Certifying the latency of finalists on one device: what fails or is too slow does not cost the others their figures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modeltailor.errors import CandidateError
from modeltailor.estimators.latency import Measurement, certify
from modeltailor.search.records import Certificate
from modeltailor.targets import Device, Inputs
from modeltailor.targets.agent.device_side import DROPPED, SHORTEST_BLOCK

__all__ = ["Contender", "certified_verdict", "certify_latency", "fitting", "least_seconds", "longest_pair_s"]

_CERTIFYING_PAIRS = 10
_FEWEST = 3
"""The original, the recommended model and the best uniform one are measured whatever it takes."""

_SLACK = 1.5
_PROCESS_S = 3.2
"""Of a finalist beside its blocks, in two pairs: processes, loading, warm-up, memory; small models on two cores took that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A finalist on the device that shall certify it.

    Attributes:
        key: of its recipe.
        path: the built file.
        latency_ms: of one inference there, as it was screened; None where it was not.
    """

    key: str
    path: Path
    latency_ms: float | None


def certify_latency(
    device: Device,
    baseline: Path,
    contenders: Sequence[Contender],
    inputs: Inputs,
    *,
    seconds: float,
    longest_s: float = math.inf,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Measurement]:
    """Measure the latency of finalists beside each other.

    Where models are so slow, or so many, that the time does not do for all, the first ones are measured.

    Args:
        device: where.
        baseline: the built original.
        contenders: the original first, then by importance.
        inputs: arrays by input name.
        seconds: wall clock for it; further pairs are measured as long as they fit.
        longest_s: seconds that its least, two process pairs of all, may take: what is left of the run.
        say: told how many are measured.

    Returns:
        what was measured, by key; empty if even the original fails.

    Raises:
        DeviceError: the device is gone, and stays so.
    """
    started = time.monotonic()
    kept = fitting(contenders, seconds)
    while kept:
        left_s = longest_s - (time.monotonic() - started)  # less than before where one hung
        while len(kept) > _FEWEST and longest_pair_s(kept) > left_s:
            kept.pop()
        say(f"certifying the latency of {len(kept)} finalists")
        try:
            # The original is measured beside itself like any other: its interval shows what the machine's noise is.
            found = certify(
                device,
                (baseline, *(c.path for c in kept)),
                inputs,
                seconds=started + seconds - time.monotonic(),
                least_pair_s=longest_pair_s(kept),
                memory=True,
            )
        except CandidateError as error:
            if error.code == "TIMEOUT":  # whoever was measured when the time was over is named: it may be any of them
                others = [c for c in kept[1:] if c.path.name not in error.where]
                rest = [kept[0], *others][: max(2, len(kept) // 2)]
            elif baseline.name in error.where:
                break
            else:
                rest = [c for c in kept if c.path.name not in error.where]
            if len(rest) == len(kept):
                break
            kept = rest
            continue
        return {c.key: m for c, m in zip(kept, found, strict=True)}
    return {}


def certified_verdict(measured: Measurement) -> Certificate:
    """Return a measurement's verdict, or ``compared`` where the time did not do for as many pairs as a certificate takes."""
    return measured.verdict if measured.pairs >= _CERTIFYING_PAIRS else "compared"


def longest_pair_s(contenders: Sequence[Contender]) -> float:
    """Seconds that a process pair of all contenders may take before it counts as hanging, one-off costs included.

    Args:
        contenders: the original first.
    """
    return least_seconds(contenders) + _PROCESS_S * (len(contenders) + 1)


def least_seconds(contenders: Sequence[Contender]) -> float:
    """Seconds of inference in the shortest certification: two process pairs, in each two quads of the shortest blocks.

    Args:
        contenders: the original first; those that were not screened count as nothing.
    """
    inferences = 2 * 2 * 4 * (DROPPED + SHORTEST_BLOCK)
    times = [c.latency_ms / 1e3 for c in contenders if c.latency_ms is not None]
    return sum(_SLACK * inferences * (s + times[0]) / 2 for s in times)


def fitting(contenders: Sequence[Contender], seconds: float) -> list[Contender]:
    """Return the first finalists whose shortest certification fits the time, but at least three of them."""
    kept = list(contenders)
    while len(kept) > _FEWEST and least_seconds(kept) > seconds:
        kept.pop()
    return kept
