"""Which options of the search mattered: one-way shares of explained variance, adjusted for the number of values.

Epsilon squared (Kelley 1935) of a grouping: 0 for an option that tells nothing, 1 for one that tells all. Options are
looked at one by one, so shared effects are counted under each of them; the report says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import log

from modeltailor.compress.vocabulary import Recipe
from modeltailor.reports.summary import OptionImportance
from modeltailor.search.front import Figures

__all__ = ["epsilon_squared", "option_importance"]

_LEAST_TRIALS = 8
_SHOWN = 15


def epsilon_squared(groups: Sequence[Sequence[float]]) -> float:
    """The adjusted share of variance that lies between groups, cut off at 0."""
    values = [v for g in groups for v in g]
    n, k = len(values), len(groups)
    if k < 2 or n <= k:
        return 0.0
    mean = sum(values) / n
    total = sum((v - mean) ** 2 for v in values)
    if total <= 1e-18:
        return 0.0
    within = sum(sum((v - sum(g) / len(g)) ** 2 for v in g) for g in groups)
    return max(0.0, 1.0 - (within / (n - k)) / (total / (n - 1)))


def option_importance(results: Sequence[tuple[Recipe, Figures]]) -> tuple[OptionImportance, ...]:
    """Rank the options by what they tell of accuracy or latency; empty for fewer than eight measured trials."""
    if len(results) < _LEAST_TRIALS:
        return ()
    sites = sorted({s for recipe, _ in results for s, _ in recipe.formats})
    options: dict[str, list[str]] = {
        "structure": [r.structure.key for r, _ in results],
        "rounding": [r.settings.rounding for r, _ in results],
        "activation sign": [str(r.settings.activation_signed) for r, _ in results],
        "weight scales": [str(r.settings.per_channel) for r, _ in results],
        "activation ranges": [r.settings.range_method for r, _ in results],
    }
    formats = [r.format_of for r, _ in results]
    for site in sites:
        options[f"format of {site}"] = [f[site].name if site in f else "fp32" for f in formats]
    accuracy = [f.accuracy.value for _, f in results]
    latency = [log(f.speedup.value) for _, f in results]
    found = []
    for option, values in options.items():
        if len(set(values)) > 1:
            found.append(
                OptionImportance(
                    option=option,
                    accuracy=epsilon_squared(_grouped(values, accuracy)),
                    latency=epsilon_squared(_grouped(values, latency)),
                    n_values=len(set(values)),
                )
            )
    found.sort(key=lambda o: (-max(o.accuracy, o.latency), o.option))
    return tuple(o for o in found[:_SHOWN] if max(o.accuracy, o.latency) > 0.005)


def _grouped(labels: Sequence[str], values: Sequence[float]) -> list[list[float]]:
    groups: dict[str, list[float]] = defaultdict(list)
    for label, value in zip(labels, values, strict=True):
        groups[label].append(value)
    return list(groups.values())
