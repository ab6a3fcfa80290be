"""What the search believes before it tries: the space of choices, and what each should cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from modeltailor.compress import Format, Site
from modeltailor.search.options import FormatChoice
from modeltailor.search.plan import SamplerName
from modeltailor.search.records import TrialRecord
from modeltailor.search.sampler import (
    Conversion,
    CostTable,
    Decision,
    OptionCost,
    SearchSpace,
    SiteCosts,
    StructureCost,
    encoding_for,
)
from modeltailor.search.sampler.goal import DEFAULT_LOSS
from modeltailor.search.stages import ORIGINAL, SiteFacts
from modeltailor.search.structures import Arm

__all__ = ["build_costs", "build_space", "expected_loss"]

_UNTRIED_LOSS = 0.2
"""Expected loss of a trained smaller structure before one was measured, per halved share of work, as a share of the loss
that is worth nothing."""


def _guess(site: Site, form: Format) -> tuple[int, float]:
    """Bytes and relative loss where nothing was measured: quantization noise falls by four a bit."""
    loss = 0.0 if form.weight_bits >= 16 else 4.0 ** (2 - form.weight_bits)
    return site.weight_elements * form.weight_bits // 8, loss


def expected_loss(work: float, worthless_loss: float) -> float:
    """Loss to expect of a trained structure of which nothing was measured.

    Args:
        work: its share of the original's multiply-accumulates.
        worthless_loss: loss of the metric from which on a model is worth nothing.
    """
    return _UNTRIED_LOSS * worthless_loss * (1.0 - work) * 2.0


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
    *,
    effects: Mapping[tuple[str, str], float] | None = None,
    shares: Mapping[str, Mapping[str, float]] | None = None,
    conversion_us: float = 0.0,
    worthless_loss: float = DEFAULT_LOSS,
) -> CostTable:
    """Return the additive prior: bytes by arithmetic, loss by sensitivity, time by profile, in times of the original.

    Args:
        space: the decisions.
        sites: what is known of each site.
        site_costs: stored bytes and sensitivity by site and format.
        fp32: the measured original.
        uniform: the measured best uniform baseline, if one pays.
        arms: structures of the space.
        effects: what the metric loses beside the sensitivity, negative where it gains, by site and format.
        shares: share of the time by site, by recipe key, of those two; without it time is shared out by work.
        conversion_us: microseconds of a border between float and integers for 1,000 values.
        worthless_loss: loss of the metric from which on a model is worth nothing.
    """
    assert fp32.speedup is not None
    assert fp32.latency_ms is not None
    by_name = {s.site.name: s.site for s in sites}
    untried = _UNTRIED_LOSS * worthless_loss
    in_float = _site_times(fp32, by_name, shares or {})
    in_int8 = _site_times(uniform, by_name, shares or {}) if uniform is not None else in_float
    rows = []
    for decision in space.decisions:
        site = by_name[decision.name]
        options = []
        for name in decision.options:
            form = Format.parse(name)
            is_float = form.scheme in ("float", "weight-only", "codebook") and form.activation_bits != 8
            stored, loss = site_costs.get((decision.name, name), _guess(site, form))
            options.append(
                OptionCost(
                    loss=loss,
                    drop=(effects or {}).get((decision.name, name), 0.0),
                    latency_ms=(in_float if is_float else in_int8)[decision.name],
                    size_bytes=float(stored),
                    memory_bytes=float(site.weight_elements * (4 if is_float else 1)),
                    domain="float" if is_float else "int8",
                )
            )
        rows.append(SiteCosts(site=decision.name, options=tuple(options)))
    weights = sum(
        site_costs.get((d.name, "fp32"), (by_name[d.name].weight_elements * 4, 0.0))[0] for d in space.decisions
    )
    return CostTable(
        sites=tuple(rows),
        fixed_latency_ms=max(0.0, 1.0 - sum(in_float.values())),
        fixed_size_bytes=float(max(0, fp32.size_bytes - weights)),
        conversions=_conversions(space, by_name, conversion_us / (1e3 * fp32.latency_ms.value)),
        structures=tuple(
            StructureCost(
                structure=arm.label,
                loss=expected_loss(arm.work, worthless_loss),
                loss_std=untried,
                latency_scale=max(0.1, arm.work),
                size_scale=max(0.1, arm.work),
                train_s=arm.train_s,
            )
            for arm in arms
        ),
    )


def _site_times(
    trial: TrialRecord, by_name: Mapping[str, Site], shares: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Time of each site in a measured model, in times of the original.

    What a profile shows between the sites is taken for part of the sites: it grows and shrinks with their formats.
    """
    assert trial.speedup is not None
    profile = shares.get(trial.key, {})
    weights = {n: profile.get(n, 0.0) for n in by_name}
    if sum(weights.values()) <= 0.0:
        weights = {n: float(max(1, s.macs)) for n, s in by_name.items()}
    total = sum(weights.values())
    return {n: w / total / trial.speedup.value for n, w in weights.items()}


def _conversions(space: SearchSpace, by_name: Mapping[str, Site], per_thousand: float) -> tuple[Conversion, ...]:
    """A border between each two sites that follow each other, by the values that pass it."""
    if per_thousand <= 0.0:
        return ()
    order = sorted((d.name for d in space.decisions), key=lambda n: by_name[n].position)
    return tuple(
        Conversion(first=a, second=b, latency_ms=per_thousand * _values_out(by_name[a]) / 1e3)
        for a, b in pairwise(order)
    )


def _values_out(site: Site) -> float:
    """Output values of one inference: every one of them takes as many multiplications as an output channel has weights."""
    weights_a_channel = site.weight_elements / max(1, site.channels or site.weight_shape[0])
    return site.macs / max(1.0, weights_a_channel)
