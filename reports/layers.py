"""The layers of one model as reports show them: each beside the same layer of the fp32 original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modeltailor.compress.vocabulary import Recipe
from modeltailor.reports.summary import SiteSummary
from modeltailor.search.records import AuditRecord, SiteRecord

__all__ = ["Profile", "missing_layers", "rank_of", "site_summaries"]


class Profile:
    """Where the time of one model goes.

    Args:
        audit: the runtime's profile of the file, if it was taken.
        latency_ms: measured latency of the whole model, without the profiler.
    """

    def __init__(self, audit: AuditRecord | None, latency_ms: float | None) -> None:
        self._shares = dict(audit.time_shares) if audit else {}
        self._latency_ms = latency_ms

    def share(self, site: str) -> float | None:
        """Share of the time of all nodes, 0..1; ``None`` where it is not known."""
        return self._shares.get(site)

    def ms(self, site: str) -> float | None:
        """That share of the measured latency, since the profiler slows what it measures."""
        share = self._shares.get(site)
        return None if share is None or self._latency_ms is None else share * self._latency_ms


def rank_of(recipe: Recipe, site: str) -> int | None:
    """Rank of a site that is one of the two thin layers that a layer was split into; ``None`` for whole layers."""
    ranks = dict(recipe.structure.ranks)
    return ranks.get(site.rpartition(".")[0])


def missing_layers(sites: Sequence[SiteRecord], original: Sequence[SiteRecord], recipe: Recipe) -> tuple[str, ...]:
    """Layers of the original that a model lost because blocks were taken out; empty for students."""
    if not recipe.structure.removed:
        return ()
    kept = {s.site for s in sites} | {s.site.rpartition(".")[0] for s in sites}
    return tuple(s.site for s in original if s.site not in kept)


def site_summaries(
    sites: Sequence[SiteRecord],
    original: Sequence[SiteRecord],
    recipe: Recipe,
    *,
    profile: Profile,
    original_profile: Profile,
    sensitivities: Mapping[tuple[str, str], float],
) -> tuple[SiteSummary, ...]:
    """Put what is known of each layer together.

    Args:
        sites: of the model, in the order of execution.
        original: of the fp32 original.
        recipe: of the model.
        profile: where the model's time goes.
        original_profile: where the original's time goes.
        sensitivities: measured loss by layer and format.
    """
    before = {s.site: s for s in original}
    found = []
    for site in sites:
        same, ms = before.get(site.site), profile.ms(site.site)
        original_ms = original_profile.ms(site.site) if same is not None else None
        share = profile.share(site.site)
        found.append(
            SiteSummary(
                **dict(site),
                rank=rank_of(recipe, site.site),
                sensitivity=sensitivities.get((site.site, site.format)),
                time_share=share,
                time_ms=ms,
                time_of_fp32=ms / original_ms if ms is not None and original_ms else None,
                bytes_of_fp32=site.stored_bytes / same.stored_bytes if same is not None and same.stored_bytes else None,
            )
        )
    return tuple(found)
