"""What is known of the costs before anything is tried: per site and option, per structure, and between neighbours.

The prior is additive: a model's size is what is fixed plus what each site's option costs; so is its latency, plus the
conversions between neighbours that compute in different domains; so, to a good approximation, is the loss of accuracy
(ResNet20: Spearman 0.99 between summed and real output KL).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeltailor.errors import ConfigError
from modeltailor.search.front import Objective
from modeltailor.search.sampler.space import SearchSpace

__all__ = [
    "OBJECTIVES",
    "Conversion",
    "CostArrays",
    "CostTable",
    "Objective",
    "OptionCost",
    "SiteCosts",
    "StructureCost",
    "row_of",
]

Floats = NDArray[np.float64]

OBJECTIVES: tuple[Objective, ...] = ("accuracy", "latency", "size", "memory")
"""In the order of the arrays' axes. All are minimised: ``accuracy`` stands for the loss of it."""


def row_of(objective: Objective) -> int:
    """The row of the arrays that holds the prior of an objective: other devices are expected to be like the first."""
    return OBJECTIVES.index("latency" if objective == "elsewhere" else objective)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionCost:
    """What one option at one site costs in the original network.

    Attributes:
        loss: loss of accuracy (0..1) or any figure proportional to it, as the output's KL divergence: the scale is
            learned.
        drop: what the metric itself loses beside that, in its own unit; negative where it gains. Options that change the
            outputs by much move the metric to either side, and that adds up where ``loss`` only says how far.
        latency_ms: time of the site; the unit may be any, as long as it is the study's (ms, or a ratio to fp32).
        size_bytes: stored bytes.
        memory_bytes: share of the peak memory.
        domain: where the option computes (``float``, ``int8``); neighbours in different domains pay a conversion.
    """

    loss: float = 0.0
    drop: float = 0.0
    latency_ms: float = 0.0
    size_bytes: float = 0.0
    memory_bytes: float = 0.0
    domain: str = "float"

    def __post_init__(self) -> None:
        for name in ("loss", "drop", "latency_ms", "size_bytes", "memory_bytes"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError("CFG-08", f"cost.{name}", f"must be finite; got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteCosts:
    """The costs of a site's options, in the order of the space's options."""

    site: str
    options: tuple[OptionCost, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What two neighbours in the graph pay if they compute in different domains.

    Attributes:
        first: site that produces.
        second: site that consumes.
        latency_ms: extra time.
        size_bytes: extra bytes.
    """

    first: str
    second: str
    latency_ms: float = 0.0
    size_bytes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureCost:
    """What is expected of a structure; the figures of the table hold for the original.

    Attributes:
        structure: its name.
        loss: expected loss of accuracy before any format is changed, after recovery training.
        loss_std: how unsure that is; the first measured trial of the structure settles it.
        fixed_latency_ms: time outside the sites; ``None`` as in the original.
        fixed_size_bytes: bytes outside the sites; ``None`` as in the original.
        fixed_memory_bytes: memory outside the sites; ``None`` as in the original.
        latency_scale: factor on every site's time.
        size_scale: factor on every site's bytes.
        loss_scale: factor on every site's loss.
        site_scale: factors of single sites that differ: site, latency factor, size factor.
        train_s: seconds until it can be tried; 0 where nothing has to be trained.
    """

    structure: str
    loss: float = 0.0
    loss_std: float = 0.0
    fixed_latency_ms: float | None = None
    fixed_size_bytes: float | None = None
    fixed_memory_bytes: float | None = None
    latency_scale: float = 1.0
    size_scale: float = 1.0
    loss_scale: float = 1.0
    site_scale: tuple[tuple[str, float, float], ...] = ()
    train_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTable:
    """The additive prior of a search.

    A table in which no option loses anything stands for losses that nobody knows: they are guessed from the sizes.

    Attributes:
        sites: costs by site; every site of the space is there.
        fixed_latency_ms: time outside the sites.
        fixed_size_bytes: bytes outside the sites.
        fixed_memory_bytes: memory outside the sites.
        conversions: between neighbours.
        structures: what differs in structures other than the first; one that is not named costs what the original does.
    """

    sites: tuple[SiteCosts, ...]
    fixed_latency_ms: float = 0.0
    fixed_size_bytes: float = 0.0
    fixed_memory_bytes: float = 0.0
    conversions: tuple[Conversion, ...] = ()
    structures: tuple[StructureCost, ...] = ()

    def arrays(self, space: SearchSpace) -> CostArrays:
        """Return the table as arrays in the order of ``space``.

        Raises:
            ConfigError: a site is missing, or its options are not as many as in the space.
        """
        by_site = {c.site: c.options for c in self.sites}
        n, k = space.n_sites, max(space.n_options, default=1)
        base, drop = np.zeros((len(OBJECTIVES), n, k)), np.zeros((n, k))
        domain = np.zeros((n, k), dtype=np.int64)
        names = sorted({o.domain for c in self.sites for o in c.options})
        for i, d in enumerate(space.decisions):
            options = by_site.get(d.name)
            if options is None or len(options) != len(d.options):
                raise ConfigError("CFG-08", d.name, f"the cost table must price {len(d.options)} options here")
            for j, o in enumerate(options):
                base[:, i, j] = (o.loss, o.latency_ms, o.size_bytes, o.memory_bytes)
                drop[i, j] = o.drop
                domain[i, j] = names.index(o.domain)
        if not base[0].any():
            base[0] = _guessed_losses(base[2])
        column = {d.name: i for i, d in enumerate(space.decisions)}
        edges = [c for c in self.conversions if c.first in column and c.second in column]
        t = len(space.structures)
        by_structure = {s.structure: s for s in self.structures}
        fixed, scale = np.zeros((t, len(OBJECTIVES))), np.ones((t, len(OBJECTIVES), n))
        loss_std, train_s = np.zeros(t), np.zeros(t)
        present = space.present()
        for index, name in enumerate(space.structures):
            s = by_structure.get(name, StructureCost(structure=name))
            fixed[index] = (
                s.loss,
                self.fixed_latency_ms if s.fixed_latency_ms is None else s.fixed_latency_ms,
                self.fixed_size_bytes if s.fixed_size_bytes is None else s.fixed_size_bytes,
                self.fixed_memory_bytes if s.fixed_memory_bytes is None else s.fixed_memory_bytes,
            )
            scale[index] = np.array([s.loss_scale, s.latency_scale, s.size_scale, s.size_scale])[:, None]
            for site, latency, size in s.site_scale:
                if site in column:
                    scale[index, 1:, column[site]] = (latency, size, size)
            scale[index, :, ~present[index]] = 0.0
            loss_std[index], train_s[index] = s.loss_std, s.train_s
        return CostArrays(
            base=base,
            drop=drop,
            allowed=np.arange(k)[None, :] < np.array(space.n_options)[:, None],
            scale=scale,
            fixed=fixed,
            domain=domain,
            edges=np.array([(column[e.first], column[e.second]) for e in edges], dtype=np.int64).reshape(-1, 2),
            edge_cost=np.array([(0.0, e.latency_ms, e.size_bytes, 0.0) for e in edges]).reshape(-1, 4).T,
            loss_std=loss_std,
            train_s=train_s,
            present=present,
        )


def _guessed_losses(sizes: Floats) -> Floats:
    """Losses that stored sizes ``(S, K)`` suggest: 0.001 at a quarter of the bytes, twenty times it at an eighth.

    The order of magnitude is that of rounding ResNet20 to the nearest; the scale is learned from the first trials.
    """
    shrunk = sizes.max(axis=1, keepdims=True) / np.maximum(sizes, 1e-300)
    loss = np.where(shrunk > 1.5, 0.001 * (shrunk / 4.0) ** 4.3, 0.0)
    out: Floats = np.minimum(loss, 0.6) / len(sizes)
    return out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CostArrays:
    """A cost table as arrays, objectives in the order of :data:`OBJECTIVES`.

    ``T`` counts structures, ``S`` sites, ``K`` options, ``E`` pairs of neighbours.

    Attributes:
        base: cost of an option in the original network, ``(4, S, K)``.
        drop: what the metric loses beside, or gains, ``(S, K)``.
        allowed: which options exist, ``(S, K)``.
        scale: factor of a structure on a site's costs, ``(T, 4, S)``; 0 where the site is absent.
        fixed: costs outside the sites, ``(T, 4)``.
        domain: where an option computes, ``(S, K)``.
        edges: neighbouring sites, ``(E, 2)``.
        edge_cost: cost of differing domains along each edge, ``(4, E)``.
        loss_std: uncertainty of a structure's own loss, ``(T,)``.
        train_s: seconds until a structure can be tried, ``(T,)``.
        present: which structure has which site, ``(T, S)``.
    """

    base: Floats
    drop: Floats
    allowed: NDArray[np.bool_]
    scale: Floats
    fixed: Floats
    domain: NDArray[np.int64]
    edges: NDArray[np.int64]
    edge_cost: Floats
    loss_std: Floats
    train_s: Floats
    present: NDArray[np.bool_]

    def of(self, objective: Objective, structure: int) -> Floats:
        """Costs of the options of a structure, ``(S, K)``."""
        m = row_of(objective)
        out: Floats = self.base[m] * self.scale[structure, m][:, None]
        return out

    def conversion(self, objective: Objective, structure: int) -> Floats:
        """Cost of differing domains along each edge in a structure, ``(E,)``."""
        m = row_of(objective)
        first, second = self.edges[:, 0], self.edges[:, 1]
        both = self.present[structure, first] & self.present[structure, second]
        out: Floats = (
            self.edge_cost[m] * both * np.sqrt(self.scale[structure, m, first] * self.scale[structure, m, second])
        )
        return out

    def crossings(self, choices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which edges join different domains under ``choices`` of shape ``(n, S)``; shape ``(n, E)``."""
        sites = np.arange(self.domain.shape[0])
        domains = self.domain[sites, choices]
        out: NDArray[np.bool_] = domains[:, self.edges[:, 0]] != domains[:, self.edges[:, 1]]
        return out

    def predict(self, objective: Objective, structure: int, choices: NDArray[np.int64]) -> Floats:
        """What the prior expects of ``choices`` of shape ``(n, S)``; shape ``(n,)``."""
        sites = np.arange(choices.shape[1])
        own = self.of(objective, structure)[sites, choices].sum(axis=1)
        total: Floats = self.fixed[structure, row_of(objective)] + own
        if len(self.edges):
            total = total + self.crossings(choices) @ self.conversion(objective, structure)
        return total
