"""What the search believes before it tries: the space of choices, and what each should cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modeltailor.compress import Format, Site
from modeltailor.search.options import FormatChoice
from modeltailor.search.plan import SamplerName
from modeltailor.search.records import TrialRecord
from modeltailor.search.sampler import (
    CostTable,
    Decision,
    OptionCost,
    SearchSpace,
    SiteCosts,
    StructureCost,
    encoding_for,
)
from modeltailor.search.stages import ORIGINAL, SiteFacts
from modeltailor.search.structures import Arm

__all__ = ["build_costs", "build_space"]

_UNTRIED_LOSS = 0.02
"""Expected loss of a trained smaller structure before one was measured, per halved share of work."""


def _guess(site: Site, form: Format) -> tuple[int, float]:
    """Bytes and relative loss where nothing was measured: quantization noise falls by four a bit."""
    loss = 0.0 if form.weight_bits >= 16 else 4.0 ** (2 - form.weight_bits)
    return site.weight_elements * form.weight_bits // 8, loss


def build_space(choice: FormatChoice, arms: Sequence[Arm], sampler: SamplerName) -> SearchSpace:
    """Return the joint space of formats and structures."""
    decisions = tuple(Decision(name=site, options=options) for site, options in choice.options)
    return SearchSpace(
        decisions=decisions,
        structures=(ORIGINAL, *(a.label for a in arms)),
        encoding=encoding_for(sampler, len(decisions)),
    )


def build_costs(
    space: SearchSpace,
    sites: Sequence[SiteFacts],
    site_costs: Mapping[tuple[str, str], tuple[int, float]],
    fp32: TrialRecord,
    uniform: TrialRecord | None,
    arms: Sequence[Arm],
) -> CostTable:
    """Return the additive prior: bytes by arithmetic, loss by sensitivity, time shared out by work.

    Args:
        space: the decisions.
        sites: what is known of each site.
        site_costs: stored bytes and sensitivity by site and format.
        fp32: the measured original.
        uniform: the measured best uniform baseline, if one pays.
        arms: structures of the space.
    """
    assert fp32.speedup is not None
    by_name = {s.site.name: s.site for s in sites}
    total = max(1, sum(s.site.macs for s in sites))
    fast = 1.0 / uniform.speedup.value if uniform is not None and uniform.speedup is not None else 1.0
    rows = []
    for decision in space.decisions:
        site = by_name[decision.name]
        share = site.macs / total
        options = []
        for name in decision.options:
            form = Format.parse(name)
            in_float = form.scheme in ("float", "weight-only", "codebook")
            stored, loss = site_costs.get((decision.name, name), _guess(site, form))
            options.append(
                OptionCost(
                    loss=loss,
                    latency_ms=share * (1.0 if in_float else fast),
                    size_bytes=float(stored),
                    memory_bytes=float(site.weight_elements * (4 if in_float else 1)),
                    domain="float" if in_float else "int8",
                )
            )
        rows.append(SiteCosts(site=decision.name, options=tuple(options)))
    weights = sum(
        site_costs.get((d.name, "fp32"), (by_name[d.name].weight_elements * 4, 0.0))[0] for d in space.decisions
    )
    return CostTable(
        sites=tuple(rows),
        fixed_size_bytes=float(max(0, fp32.size_bytes - weights)),
        structures=tuple(
            StructureCost(
                structure=arm.label,
                loss=_UNTRIED_LOSS * (1.0 - arm.work) * 2.0,
                loss_std=_UNTRIED_LOSS,
                latency_scale=max(0.1, arm.work),
                size_scale=max(0.1, arm.work),
                train_s=arm.train_s,
            )
            for arm in arms
        ),
    )
