"""Which recipe learns again next: few bits ruin a network as it is, and cost little once it has learned with them.

Formats are searched without training, in seconds a trial; training one assignment takes minutes. So the search first
finds out what structures and formats are worth as they are, and then lets the few recipes learn that would move the
front most if training gave back what it usually gives back (quantization-aware training: Jacob et al. 2018; the share
that comes back is learned from the recoveries of this run).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from modeltailor.compress import Format, Recipe, Training
from modeltailor.compress.vocabulary import Settings, recipe_from_plain
from modeltailor.search.hypervolume import cut_boxes
from modeltailor.search.points import by_structure, latency_of, loss_of, own_of, placed, point_of
from modeltailor.search.records import TrialRecord
from modeltailor.search.scale import DEFAULT_LOSS, usual_worthless_loss

__all__ = ["Recovery", "propose_recovery"]

_KEPT_LOSS = 0.3
"""Share of a measured loss that usually stays after training."""

_LOSS_AT_FOUR_BITS = 0.001
_LOSS_PER_BIT = 6.0
"""What usually stays after training by mean bits of a weight, and how it grows with each bit less (ResNet20, CIFAR-10).

Like all losses here it is that of a score between 0 and 1; of other metrics it is as large a share of what makes a model
worthless.
"""

_PRIOR_LOSS = 0.006
"""Expected loss of that much must have been seen before what this run learned counts half."""

_LEAST_GAIN = 1e-3
"""Of the box between the original and nothing: less is not worth minutes."""

_NOISE = 0.002
"""A smaller loss is not worth learning again for."""

_WIDE_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """A recipe to train.

    Attributes:
        label: for people.
        recipe: with its schedule.
        gain: expected gain of hypervolume, as a share of the box up to the reference.
    """

    label: str
    recipe: Recipe
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Guess:
    label: str
    recipe: Recipe
    own_loss: float
    extra_loss: float
    latency: float
    size_bytes: float


def propose_recovery(
    records: Sequence[TrialRecord],
    *,
    options: Mapping[str, Sequence[str]],
    training: Training,
    reference: tuple[float, float, float],
    minimize: bool = False,
) -> Recovery | None:
    """Return the recipe whose training should move the front most, or ``None`` if none is expected to.

    Args:
        records: everything measured so far.
        options: format names that pay, by site.
        training: the schedule of a recovery.
        reference: loss, latency over the original's and bytes over the original's from which on a model is worth nothing.
        minimize: whether a smaller metric is better.
    """
    measured = placed(records)
    original = next((r for r in measured if r.role == "fp32"), None)
    if original is None:
        return None
    tried = {r.key for r in records}
    structures = by_structure(measured)
    assert original.accuracy is not None
    unit = usual_worthless_loss(original.accuracy.value, minimize=minimize) / DEFAULT_LOSS
    factor = _learned_factor(structures, minimize, unit)
    guesses = [
        guess
        for same in structures.values()
        if (own := own_of(same, minimize=minimize)) is not None
        for guess in (
            *_of_measured(same, own, training, minimize, unit),
            *_of_fewer_bits(own, options, training, minimize, unit),
        )
        if guess.recipe.key not in tried
    ]
    if not guesses:
        return None
    points = np.array([point_of(r, original, minimize=minimize) for r in measured])
    expected = np.array(
        [[g.own_loss + factor * g.extra_loss, g.latency, g.size_bytes / original.size_bytes] for g in guesses]
    )
    gains = cut_boxes(points, reference).gains(expected) / float(np.prod(reference))
    best = int(np.argmax(np.round(gains, 9)))
    if not gains[best] >= _LEAST_GAIN:
        return None
    return Recovery(label=guesses[best].label, recipe=guesses[best].recipe, gain=float(gains[best]))


def _unsure(record: TrialRecord) -> float:
    """Half of the interval's half-width: a smaller loss than that is luck."""
    assert record.accuracy is not None
    return 0.25 * (record.accuracy.difference_high - record.accuracy.difference_low)


def _mean_bits(formats: Mapping[str, Format], record: TrialRecord) -> float:
    """Bits of a mean weight over the record's sites, 8 at most: more costs nothing."""
    elements = {s.site: s.weight_elements for s in record.sites}
    total = max(1, sum(elements.values()))
    bits = {site: min(8, formats[site].weight_bits) if site in formats else 8 for site in elements}
    return sum(bits[site] * n for site, n in elements.items()) / total


def _usual_loss(mean_bits: float, unit: float) -> float:
    """In the metric's unit, of which ``unit`` is worth as much as 1 of a score between 0 and 1."""
    return float(unit * _LOSS_AT_FOUR_BITS * _LOSS_PER_BIT ** (4.0 - mean_bits))


def _as_learned(settings: Settings) -> Settings:
    """Weights learn on a grid of their own for each output channel: what moves them off it would round them again."""
    return replace(settings, per_channel=True, equalize=False, smoothing="none")


def _of_measured(
    same: Sequence[TrialRecord], own: TrialRecord, training: Training, minimize: bool, unit: float
) -> Iterator[_Guess]:
    """Recipes that were measured as they are, and lost something by their formats."""
    for record in same:
        recipe = recipe_from_plain(record.recipe)
        extra = loss_of(record, minimize=minimize) - loss_of(own, minimize=minimize)
        if (
            recipe.recovery is None
            and extra >= max(unit * _NOISE, _unsure(record))
            and any(f.weight_bits < 8 for _, f in recipe.formats)
        ):
            yield _Guess(
                label=f"trial {record.number} learned again",
                recipe=replace(recipe, recovery=training, settings=_as_learned(recipe.settings)),
                own_loss=loss_of(own, minimize=minimize),
                extra_loss=min(_KEPT_LOSS * extra, _usual_loss(_mean_bits(recipe.format_of, record), unit)),
                latency=latency_of(record),
                size_bytes=float(record.size_bytes),
            )


def _of_fewer_bits(
    own: TrialRecord, options: Mapping[str, Sequence[str]], training: Training, minimize: bool, unit: float
) -> Iterator[_Guess]:
    """The structure's own formats with fewer bits, though nobody would use them untrained."""
    recipe = recipe_from_plain(own.recipe)
    sites = [s for s in own.sites if s.site in recipe.format_of]
    inner = sites[1:-1]  # the first and the last layer are small, and hurt most
    wide: set[str] = set()
    reach = _WIDE_SHARE * sum(s.weight_elements for s in inner)
    for site in sorted(inner, key=lambda s: (-s.weight_elements, s.site)):
        if sum(s.weight_elements for s in inner if s.site in wide) < reach:
            wide.add(site.site)
    for label, bits in (("4 bits", (4, 4)), ("3 bits", (3, 3)), ("2 and 3 bits", (3, 2)), ("2 bits", (2, 2))):
        chosen = dict(recipe.formats)
        size = float(own.size_bytes)
        for site in inner:
            lower = _with_bits(chosen[site.site], bits[site.site in wide], options.get(site.site, ()))
            if lower is not None:
                size -= site.weight_elements * max(0, site.storage_bits - lower.weight_bits) / 8.0
                chosen[site.site] = lower
        if size < own.size_bytes:
            yield _Guess(
                label=f"{own.label or 'structure'} in {label} learned again",
                recipe=replace(
                    recipe, formats=tuple(chosen.items()), recovery=training, settings=_as_learned(recipe.settings)
                ),
                own_loss=loss_of(own, minimize=minimize),
                extra_loss=_usual_loss(_mean_bits(chosen, own), unit),
                latency=latency_of(own),
                size_bytes=size,
            )


def _with_bits(form: Format, bits: int, names: Sequence[str]) -> Format | None:
    """The format of the same kernel with fewer stored bits, if the site offers it."""
    for name in names:
        other = Format.parse(name)
        if (other.scheme, other.activation_bits, other.weight_bits) == (form.scheme, form.activation_bits, bits):
            return other
    return None


def _learned_factor(structures: Mapping[str, Sequence[TrialRecord]], minimize: bool, unit: float) -> float:
    """By how much more (or less) than usual recoveries of this run lost."""
    seen = usual = unit * _PRIOR_LOSS
    for same in structures.values():
        own = own_of(same, minimize=minimize)
        for record in same:
            recipe = recipe_from_plain(record.recipe)
            if recipe.recovery is not None and own is not None:
                seen += max(0.0, loss_of(record, minimize=minimize) - loss_of(own, minimize=minimize))
                usual += _usual_loss(_mean_bits(recipe.format_of, record), unit)
    return seen / usual
