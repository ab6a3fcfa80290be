"""Toy landscapes with a known front: which share of the true hypervolume each sampler reaches."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from modeltailor.search.landscapes import OPTIONS, Interval, Told, make_landscape, true_hypervolume
from modeltailor.search.plan import SamplerName
from modeltailor.search.sampler import Goal
from search_table.studies import Row, curve, run_study

__all__ = ["toys"]

BUDGET = {20: 36, 100: 60, 1000: 96}  # three, five and eight dozen evaluations
LONG = {20: 400, 100: 200, 1000: 96}  # what the others get


def toy_case(
    n: int, interactions: bool, told: Told, name: SamplerName, evaluations: int, truth: Sequence[Interval]
) -> Row:
    """One row: shares of the true hypervolume by number of evaluations, one a seed."""
    marks = [k for k in (12, 24, 36, 60, 96, 200, 400) if k <= evaluations]
    shares, proposal = [], []
    for seed, whole in enumerate(truth):
        landscape = make_landscape(n, interactions=interactions, seed=seed, told=told)
        goal = Goal(reference=(("accuracy", 0.1), ("latency", 1.0), ("size", 1.0)), loss_ceiling=0.8)
        values, _, seconds = run_study(
            name, landscape.space, landscape.told, goal, landscape.evaluate, OPTIONS, evaluations, seed
        )
        shares.append([v / whole.high for v in curve(values, landscape.reference, marks)])
        proposal.append(seconds)
    at = {str(k): [s[i] for s in shares] for i, k in enumerate(marks)}
    median = {k: statistics.median(v) for k, v in at.items()}
    kind = "pairs" if interactions else "additive"
    shown = "  ".join(f"@{k} {m:.4f}" for k, m in median.items())
    print(f"{n:5d} sites  {kind:8s}  told {told:5s}  {name:7s} {shown}  worst {min(s[-1] for s in shares):.4f}  "
          f"{statistics.median(proposal):.3f} s  {len(truth)} seeds", flush=True)  # fmt: skip
    return {
        "part": "toys", "sites": n, "interactions": interactions, "told": told, "sampler": name,
        "share_of_true_hypervolume": at, "median": median, "worst": {k: min(v) for k, v in at.items()},
        "proposal_s": statistics.median(proposal), "slowest_proposal_s": max(proposal),
        "truth_known_to": max((t.high - t.low) / t.high for t in truth),
    }  # fmt: skip


def toys(quick: bool, rival_seeds: int, results: list[Row], goals: list[Row]) -> None:
    """All landscapes with our sampler, then with the others. Rows and goals are added to the lists."""
    sizes = [n for n in BUDGET if not (quick and n == 1000)]
    truth = {
        (n, i): [
            true_hypervolume(make_landscape(n, interactions=i, seed=s, told="exact")) for s in range(2 if quick else 5)
        ]
        for n in sizes
        for i in (False, True)
    }
    for (n, interactions), whole in truth.items():
        for told in ("scan", "guess", "sizes") if n < 1000 and not quick else ("scan",):
            row = toy_case(n, interactions, told, "tailor", BUDGET[n], whole)  # type: ignore[arg-type]
            results.append(row)
            if told == "scan":
                goals.extend(toy_goals(n, interactions, row))
    for (n, interactions), whole in truth.items():
        for name in ("random", "nsga2", "tpe"):
            if name == "tpe" and n == 1000:
                print(" 1000 sites: TPE is left out, it takes seconds a proposal")
                continue
            evaluations = BUDGET[n] if quick else LONG[n]
            results.append(toy_case(n, interactions, "scan", name, evaluations, whole[:rival_seeds]))  # type: ignore[arg-type]


def toy_goals(n: int, interactions: bool, row: Row) -> list[Row]:
    kind, few = "pairs" if interactions else "additive", str(BUDGET[n])
    shares, slowest = row["share_of_true_hypervolume"], row["slowest_proposal_s"]
    assert isinstance(shares, dict)
    assert isinstance(slowest, float)
    last = shares[few]
    found: list[Row] = [{
        "name": f"{n} sites, {kind}: share of the true hypervolume after {few}", "goal": 0.99,
        "value": statistics.median(last), "spread": [min(last), max(last)], "met": statistics.median(last) >= 0.99,
    }]  # fmt: skip
    if n == 1000:
        found.append({
            "name": f"seconds of one proposal at {n} sites, {kind}, slowest of the seeds' medians", "goal": 0.5,
            "value": slowest, "met": slowest <= 0.5,
        })  # fmt: skip
    return found
