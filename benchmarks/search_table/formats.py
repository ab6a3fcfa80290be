"""Formats of a real network: our sampler's first evaluations against twenty times as many of the others."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from modeltailor.search.plan import SamplerName
from modeltailor.search.sampler import Goal
from search_table.network import Network
from search_table.studies import Row, Values, curve, fresh_curve, run_study

__all__ = ["compare_samplers"]

_OURS = 60
_FEW = 20
_REFERENCE = (0.1, 1.0, 1.0)
"""A loss of ten points, and what fp32 costs."""

_COUNTED = ("fresh", "capped", "seen")
"""How losses are counted: on samples that the search did not see; on the seen ones, a gain over fp32 as none; as they are.

The same weights in fewer bits score above fp32 by luck, mostly, and the more evaluations, the more luck.
"""


def compare_samplers(
    network: Network, *, seeds: int, rivals: int, first_seed: int, results: list[Row], goals: list[Row]
) -> None:
    """Run all studies; rows and goals are added to the lists.

    Args:
        network: what is searched.
        seeds: of every sampler.
        rivals: evaluations of the others.
        first_seed: where the seeds begin, so that parts may be run beside each other.
        results: the hypervolumes.
        goals: ours after 20 over theirs at the end.
    """
    told = network.told()
    space = network.space()
    goal = Goal(
        reference=(("accuracy", _REFERENCE[0]), ("latency", 1.0), ("size", 1.0)), loss_ceiling=network.seen_score - 0.1
    )
    reached: dict[tuple[str, str], list[dict[int, float]]] = {}
    marks = sorted({12, _FEW, 40, 60, 100, 130, 200, 300, 400, rivals})
    for seed in range(first_seed, first_seed + seeds):
        studies: tuple[tuple[SamplerName, int], ...] = (("tailor", _OURS), ("tpe", rivals), ("nsga2", rivals))
        for name, n in studies:
            values, assignments, _ = run_study(
                name, space, told, goal, network.evaluate, network.formats, max(n, _FEW), seed
            )
            every, few = [k for k in marks if k <= n], sorted({_FEW, n})
            own = {"seen": every, "capped": every, "fresh": few}
            capped = _capped(values)
            found = {
                "seen": curve(values, _REFERENCE, every),
                "capped": curve(capped, _REFERENCE, every),
                "fresh": fresh_curve(values, assignments, network.fresh, _REFERENCE, few),
            }
            for losses, row in found.items():
                reached.setdefault((name, losses), []).append(dict(zip(own[losses], row, strict=True)))
                shown = "  ".join(f"@{k} {v:.5f}" for k, v in zip(own[losses], row, strict=True))
                print(f"{network.name} seed {seed} {name:7s} {losses:6s}  {shown}", flush=True)
    for (name, losses), rows in reached.items():
        at = {str(k): [r[k] for r in rows] for k in rows[0]}
        results.append({
            "part": network.name, "sampler": name, "losses": losses, "hypervolume": at, "told_s": network.told_s,
            "median": {k: statistics.median(v) for k, v in at.items()},
            "spread": {k: [min(v), max(v)] for k, v in at.items()},
        })  # fmt: skip
    every_recipe = network.measured()
    best = curve(_capped(every_recipe), _REFERENCE, [len(every_recipe)])[0]
    print(f"{network.name}: all {len(every_recipe)} measured recipes together, capped {best:.5f}")
    results.append({"part": network.name, "name": "all measured recipes", "recipes": len(every_recipe), "capped": best})
    for losses in _COUNTED:
        ours = statistics.median(r[_FEW] for r in reached["tailor", losses])
        for rival in ("tpe", "nsga2"):
            theirs = statistics.median(r[rivals] for r in reached[rival, losses])
            goals.append({
                "name": f"{network.name}, losses {losses}: hypervolume after {_FEW} over that of {rival} after "
                f"{rivals} ({seeds} seeds)",
                "goal": 1.0, "value": ours / theirs, "met": ours >= theirs,
            })  # fmt: skip


def _capped(values: Sequence[Values]) -> list[Values]:
    return [(max(0.0, loss), latency, size) for loss, latency, size in values]
