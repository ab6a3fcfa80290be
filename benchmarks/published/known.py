"""Rows about networks that other devices have run: leave out a device (or a chip), measure ``k``, predict the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modeltailor.estimators.predict import KnownItems, Mixture, band_factor, completed, needed_factors, widened
from published import hub, ncnn
from published.score import Effort, Score, flops_line, score

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """A table of settings by items, in groups that are left out together."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    trust: Floats
    log_ms: Floats
    own: hub.Own
    log_size: Floats


def _model(problem: Problem, left_out: set[str], target: int) -> tuple[KnownItems, Indices]:
    rows = np.array([g not in left_out for g in problem.groups])
    table = problem.log_ms[rows]
    items = np.flatnonzero((~np.isnan(table)).any(axis=0))
    own = problem.own(rows, target)[np.ix_(items, items)]
    return KnownItems(log_ms=completed(table[:, items], own), own=own, trust=problem.trust[rows]), items


def _predicted(model: KnownItems, items: Indices, truth: Floats, k: int) -> tuple[Mixture, Indices, Indices]:
    """Return the prediction of what was not measured, the items measured, the items predicted (numbers of the table)."""
    there = np.flatnonzero(~np.isnan(truth[items]))
    measured = np.array(model.choose(k, there, there), dtype=np.intp)
    targets = np.setdiff1d(there, measured)
    return model.posterior(measured, truth[items][measured], targets), items[measured], items[targets]


def run(problem: Problem, effort: Effort, least: int = 5) -> Iterator[Score]:
    """Leave out each group in turn; bands are widened by groups held out of what is then left."""
    groups = sorted(set(problem.groups))
    rng = np.random.default_rng(0)
    for group in groups:
        needed = []
        others = [g for g in groups if g != group]
        held_out = others if len(others) <= effort.inner else rng.choice(others, effort.inner, replace=False)
        for other in held_out:
            members = [r for r, g in enumerate(problem.groups) if g == other]
            model, items = _model(problem, {group, str(other)}, members[0])
            for row in members:
                truth = problem.log_ms[row]
                mixture, _, targets = _predicted(model, items, truth, effort.k)
                if len(targets) >= least:
                    needed.append(needed_factors(mixture, truth[targets]))
        factor = band_factor(needed)
        members = [r for r, g in enumerate(problem.groups) if g == group]
        model, items = _model(problem, {group}, members[0])
        for row in members:
            truth = problem.log_ms[row]
            mixture, measured, targets = _predicted(model, items, truth, effort.k)
            if len(targets) >= least:
                flops = flops_line(problem.log_size, measured, truth[measured], targets)
                yield score(problem.names[row], widened(mixture, factor), truth[targets], flops)


def _of_table(table: hub.Table) -> Problem:
    return Problem(
        names=table.devices,
        groups=table.devices,
        trust=np.ones(len(table.devices)),
        log_ms=table.log_ms,
        own=table.own,
        log_size=table.log_size,
    )


def hub_rows(folder: Path, effort: Effort) -> Iterator[Score]:
    """AI Hub: known models on a left-out device."""
    return run(_of_table(hub.latencies(folder)), effort)


def ratio_rows(folder: Path, effort: Effort) -> Iterator[Score]:
    """AI Hub: 8-bit integers over float on a left-out device, ``k`` pairs measured."""
    return run(_of_table(hub.ratios(folder)), effort)


def ncnn_rows(folder: Path, effort: Effort) -> Iterator[Score]:
    """Known networks on a left-out chip."""
    data = ncnn.load(folder)
    problem = Problem(
        names=data.runs,
        groups=data.chips,
        trust=data.trust,
        log_ms=data.log_ms,
        own=lambda rows, target: data.own,
        log_size=data.log_macs,
    )
    return run(problem, effort)
