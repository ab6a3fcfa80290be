"""Which formats are worth searching at each site, judged by the uniform baselines that were measured on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modeltailor.compress import Format, Settings
from modeltailor.search.records import TrialRecord
from modeltailor.search.stages import SiteFacts

__all__ = ["FormatChoice", "choose_formats"]

_SHARED_BITS = 4
"""Up to so many bits shared values are offered: above, an even grid loses next to nothing and codes shorter."""

_PAYS = 1.05
"""A format family is faster only if its uniform baseline beats fp32 by more than the noise of one screening."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatChoice:
    """What the search may choose from.

    Attributes:
        options: format names by site, most bits first; the first is ``fp32``.
        settings: those of the best uniform baseline.
        uniform: label of that baseline; empty if nothing beats fp32.
        notes: what was left out, and why; for people.
    """

    options: tuple[tuple[str, tuple[str, ...]], ...]
    settings: Settings
    uniform: str
    notes: tuple[str, ...]


def choose_formats(
    sites: Sequence[SiteFacts],
    baselines: Sequence[TrialRecord],
    settings: Mapping[str, Settings],
    *,
    search_formats: bool = True,
) -> FormatChoice:
    """Cut the formats down to those that pay on this device.

    Rule: the family (static, dynamic, weight-only or block) of the fastest uniform baseline stays everywhere it can be
    built; other families stay where that one cannot. Of families that compute in float only the smallest pays at all.
    Shared values run on the kernel of their family and stay with it where few bits make an even grid coarse. Tables of
    embeddings are only gathered from, so they may have one scale a row or a block. 16-bit activations stay where their
    baseline was measured and beats fp32.

    Args:
        sites: what could be built.
        baselines: measured uniform baselines.
        settings: of each baseline, by label.
        search_formats: whether the user opened this axis; if not, the best uniform format is the only one.
    """
    measured = [t for t in baselines if t.is_measured and t.speedup is not None and t.label in settings]
    order = sorted(measured, key=lambda t: (-(t.speedup.value if t.speedup else 0.0), t.size_bytes, t.label))
    notes: list[str] = []
    families: list[str] = []
    wide = False
    for trial in order:
        assert trial.speedup is not None
        wide = wide or (trial.speedup.low > 1.0 and _is_wide(trial))
        for family in sorted({Format.parse(f).scheme for f in _formats(trial).values()}):
            if family not in families:
                families.append(family)
        if trial.speedup.high < 1.0:
            notes.append(f"{trial.label} is slower than fp32 here ({trial.speedup.value:.2f}x)")
    best = next((t for t in order if t.speedup and t.speedup.value > _PAYS), None)
    options: list[tuple[str, tuple[str, ...]]] = []
    for site in sites:
        at = _at(site, families, wide=wide)
        options.append((site.site.name, at if search_formats else at[1:2] if best and len(at) > 1 else at[:1]))
    chosen = settings[best.label] if best else next(iter(settings.values()), Settings())
    if best is None:
        notes.append("no uniform setting is faster than fp32 here: formats can save size only")
    return FormatChoice(options=tuple(options), settings=chosen, uniform=best.label if best else "", notes=tuple(notes))


def _formats(trial: TrialRecord) -> Mapping[str, str]:
    found = trial.recipe["formats"]
    assert isinstance(found, dict)
    return found


def _belongs(form: Format, family: str) -> bool:
    """Whether a format runs on the kernel of a family."""
    if form.scheme != "codebook":
        return form.scheme == family
    return form.weight_bits <= _SHARED_BITS and form.activation_bits == {"static": 8, "weight-only": 32}.get(family)


def _is_wide(trial: TrialRecord) -> bool:
    formats = [Format.parse(f) for f in _formats(trial).values()]
    return any(f.scheme == "static" and f.activation_bits == 16 for f in formats)


def _at(site: SiteFacts, families: Sequence[str], *, wide: bool) -> tuple[str, ...]:
    changed = (Format.parse(name) for name in site.formats if name != "fp32")
    parsed = [f for f in changed if wide or f.activation_bits != 16 or f.scheme == "float"]
    if site.site.kind == "embedding":
        taken = [f for f in parsed if f.scheme in ("weight-only", "block") and "weight-only" in families]
    else:
        taken = next((same for family in families if (same := [f for f in parsed if _belongs(f, family)])), [])
    taken.sort(key=lambda f: (-f.weight_bits, -f.activation_bits, f.scheme != "codebook", f.block or 1 << 30))
    return ("fp32", *(f.name for f in taken))
