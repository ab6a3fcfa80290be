"""What the measured trials say about the costs: a Bayesian linear model around the additive prior, one an objective.

A value is modelled as the prior's sum times a learned factor, plus deviations that are shared by all sites (of the
whole sum, of each option by name, of each structure), plus deviations of each (site, option), plus interactions of
neighbours, plus noise. Deviations are relative: an option that is believed to cost much may be wrong by much.

A loss may grow faster than the prior's sum: as a power of it, in proportion at the sum of typical options. Little rounding
flips few answers, much of it ever more. The power is read off the trials; deviations count by the slope at each recipe's
own sum, and the knapsack is solved with the slopes at a small, a typical and a large one.

A loss of accuracy has a part of either sign beside that. Rounding moves the outputs by some distance; the output's
divergence, which the prior counts, grows with its square and is never negative, while the metric also changes in
proportion to it, up or down. Each (site, option) has such an effect, of a size in proportion to the root of its
divergence, around what was measured of the metric itself if anything was.

How wrong the prior is, is read off the trials by maximising the marginal likelihood (Rasmussen and Williams, "Gaussian
Processes for Machine Learning", 2006, chapters 2 and 5). All algebra happens in the space of the trials (the kernel
form), so that a thousand sites cost little more than ten.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

from modeltailor.search.front import Objective
from modeltailor.search.sampler.costs import CostArrays, row_of
from modeltailor.search.sampler.draw import LEAST_LEVEL, Draw, Floats, Indices
from modeltailor.search.sampler.space import SearchSpace
from modeltailor.search.sampler.trust import Trust

__all__ = ["AdditiveModel", "Belief"]

_EVIDENCE_ROWS = 96  # hyperparameters are read off at most this many trials: the cost grows with the cube


_FACTORS = np.array(
    [0.03, 0.06, 0.1, 0.18, 0.3, 0.42, 0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.65, 2.4, 3.3, 5.5, 10.0, 17.0, 33.0]
)
_DEVIATIONS = np.array([0.01, 0.03, 0.1, 0.25, 0.5, 1.0, 2.0])  # as multiples of the trusted values
_NOISES = np.array([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0])
_SWINGS = np.array([0.03, 0.1, 0.3, 1.0, 3.0])
_POWERS = np.array([0.7, 0.85, 1.0, 1.15, 1.3, 1.45, 1.6, 1.8, 2.0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdditiveModel:
    """The prior of one objective, ready to be conditioned on trials.

    Attributes:
        objective: which one.
        arrays: the cost table.
        groups: number of the option's name, ``(S, K)``, so that sites share what they learn about an option.
        edges: neighbouring sites that may interact, ``(E, 2)``, smaller index first.
        crossing: expected cost of differing domains by structure and edge, ``(T, E)``.
        unit: size of a value that matters; noise and constants are measured in it.
        ceiling: largest possible value, for losses that saturate at chance level; ``None`` if there is none.
        trust: how far the prior is trusted.
    """

    objective: Objective
    arrays: CostArrays
    groups: Indices
    edges: Indices
    crossing: Floats
    unit: float
    ceiling: float | None
    trust: Trust

    @staticmethod
    def of(
        objective: Objective, space: SearchSpace, arrays: CostArrays, *, unit: float, ceiling: float | None = None
    ) -> AdditiveModel:
        """Set the model up from a cost table; consecutive sites are neighbours unless the table names conversions."""
        names = sorted({o for d in space.decisions for o in d.options})
        groups = np.zeros(arrays.allowed.shape, dtype=np.int64)
        for i, d in enumerate(space.decisions):
            groups[i, : len(d.options)] = [names.index(o) for o in d.options]
        s = space.n_sites
        chain = np.stack([np.arange(s - 1), np.arange(1, s)], axis=1) if s > 1 else np.zeros((0, 2), dtype=np.int64)
        edges = np.unique(np.vstack([np.sort(arrays.edges, axis=1), chain]), axis=0) if s > 1 else chain
        crossing = np.zeros((len(space.structures), len(edges)))
        position = {(int(a), int(b)): i for i, (a, b) in enumerate(edges)}
        for t in range(len(space.structures)):
            cost = arrays.conversion(objective, t)
            for (a, b), value in zip(np.sort(arrays.edges, axis=1).tolist(), cost.tolist(), strict=True):
                crossing[t, position[a, b]] += value
        return AdditiveModel(
            objective=objective, arrays=arrays, groups=groups, edges=edges, crossing=crossing, unit=unit,
            ceiling=ceiling, trust=Trust.default(objective),
        )  # fmt: skip

    # --- features -----------------------------------------------------------------------------------------------------

    def _deviation_scale(self) -> Floats:
        """By how much an option's cost may be wrong, for a relative error of 1, ``(S, K)``."""
        base = np.abs(self.arrays.base[row_of(self.objective)])
        used = base[self.arrays.allowed]
        floor = 0.05 * float(used.mean()) if used.size else 0.0
        out: Floats = np.where(self.arrays.allowed, base + floor, 0.0)
        return out

    def typical(self) -> float:
        """The prior's sum if each site has the mean of the options that cost anything."""
        base = np.abs(self.arrays.base[row_of(self.objective)]) * self.arrays.allowed
        return max(float((base.sum(axis=1) / np.maximum((base > 0).sum(axis=1), 1)).sum()), 1e-300)

    def _swing_scale(self) -> Floats:
        """Size of each option's effect of either sign, if those of all sites at a typical option add up to 1, ``(S, K)``."""
        base = np.abs(self.arrays.base[row_of(self.objective)]) * self.arrays.allowed
        out: Floats = np.sqrt(base / self.typical())
        return out

    def _columns(self) -> Indices:
        """Which options of a site share their error, ``(S, K)``: those told to cost the same in the same domain.

        Formats that differ in storage only run on the same kernel; they must not be told apart by its noise.
        """
        base, domain = self.arrays.base[row_of(self.objective)], self.arrays.domain
        same = (base[:, :, None] == base[:, None, :]) & (domain[:, :, None] == domain[:, None, :])
        out: Indices = same.argmax(axis=2)
        return out

    def _site_scale(self, structures: Indices) -> Floats:
        out: Floats = self.arrays.scale[structures, row_of(self.objective)]
        return out

    def _differ(self) -> NDArray[np.bool_]:
        domain, e = self.arrays.domain, self.edges
        out: NDArray[np.bool_] = domain[e[:, 0]][:, :, None] != domain[e[:, 1]][:, None, :]
        return out

    def _pair_scale(self) -> Floats:
        """Geometric mean of the two options' costs along each edge, ``(E, K, K)``."""
        root = np.sqrt(self._deviation_scale())
        out: Floats = root[self.edges[:, 0]][:, :, None] * root[self.edges[:, 1]][:, None, :]
        return out

    def features(self, structures: Indices, choices: Indices) -> Features:
        """The model's features of recipes ``(n,)``, ``(n, S)``."""
        n, s = choices.shape
        sites = np.arange(s)
        k = self.groups.shape[1]
        scale = self._site_scale(structures)
        base = self.arrays.base[row_of(self.objective)]
        own = base[sites, choices] * scale
        deviation = self._deviation_scale()[sites, choices] * scale
        a, b = choices[:, self.edges[:, 0]], choices[:, self.edges[:, 1]]
        e = np.arange(len(self.edges))
        pair_scale = np.sqrt(scale[:, self.edges[:, 0]] * scale[:, self.edges[:, 1]])
        pair = self._pair_scale()[e, a, b] * pair_scale
        crossed = self._differ()[e, a, b]
        crossing = (self.crossing[structures] * crossed).sum(axis=1)
        n_groups = int(self.groups.max(initial=0)) + 1
        by_name = np.zeros((n, n_groups))
        np.add.at(by_name, (np.arange(n)[:, None], self.groups[sites, choices]), own)
        t = len(self.arrays.fixed)
        which = np.zeros((n, t))
        which[np.arange(n), structures] = 1.0
        total = own.sum(axis=1)
        site = np.zeros((n, s * k))
        site[np.arange(n)[:, None], sites * k + self._columns()[sites, choices]] = deviation
        drop, swing = np.zeros(n), np.zeros((n, 0))
        if self.trust.swing:
            drop = (self.arrays.drop[sites, choices] * scale).sum(axis=1)
            swing = np.zeros((n, s * k))
            at = sites * k + self._columns()[sites, choices]
            swing[np.arange(n)[:, None], at] = self._swing_scale()[sites, choices] * np.sqrt(scale)
        columns = (e * (k * k))[None, :] + a * k + b
        return Features(
            structures=structures,
            fixed=self.arrays.fixed[structures, row_of(self.objective)],
            total=total + crossing,
            level=np.maximum((total + crossing) / self.typical(), LEAST_LEVEL),
            drop=drop,
            shared=np.column_stack([
                total, by_name, which * total[:, None], crossing, pair.sum(axis=1), (crossed * pair).sum(axis=1),
            ]),
            constants=np.column_stack([np.ones(n), which]),
            own=own,
            site=site,
            swing=swing,
            pair=csr_array((pair.ravel(), columns.ravel(), np.arange(n + 1) * len(e)), shape=(n, len(e) * k * k)),
        )  # fmt: skip

    def _shared_std(self) -> Floats:
        trust, t = self.trust, len(self.arrays.fixed)
        n_groups = int(self.groups.max(initial=0)) + 1
        return np.concatenate([
            [trust.shared], np.full(n_groups, trust.shared), np.full(t, 0.5 * trust.shared if t > 1 else 0.0),
            [0.5 if self.crossing.any() else 0.0, trust.interaction, trust.interaction],
        ])  # fmt: skip

    def _constant_std(self) -> Floats:
        free = self.arrays.loss_std if self.objective == "accuracy" else np.full(len(self.arrays.fixed), 0.0)
        if self.objective != "accuracy" and len(self.arrays.fixed) > 1:
            free = np.full(len(self.arrays.fixed), self.trust.deviation * 0.3 * self.unit)
        return np.concatenate(
            [[max(self.trust.noise, 0.3 * self.trust.deviation * (self.objective != "accuracy")) * self.unit], free]
        )

    # --- the link: a loss that saturates is straightened before it is modelled ----------------------------------------

    def straighten(self, values: Floats) -> Floats:
        """Map values to the scale on which they add up."""
        if self.ceiling is None:
            return values
        share = np.clip(values / self.ceiling, -1.0, 0.98)
        return np.where(share > 0, -self.ceiling * np.log1p(-np.maximum(share, 0.0)), values)

    def bend(self, latent: Floats) -> Floats:
        """Inverse of :meth:`straighten`."""
        if self.ceiling is None:
            return latent
        return np.where(latent > 0, self.ceiling * -np.expm1(-np.maximum(latent, 0.0) / self.ceiling), latent)

    def slope(self, latent: Floats) -> Floats:
        """Derivative of :meth:`bend`."""
        if self.ceiling is None:
            return np.ones_like(latent)
        return np.where(latent > 0, np.exp(-np.maximum(latent, 0.0) / self.ceiling), 1.0)

    # --- conditioning -------------------------------------------------------------------------------------------------

    def condition(self, structures: Indices, choices: Indices, values: Floats) -> Belief:
        """Return what is believed after trials ``(n,)``, ``(n, S)`` gave ``values`` ``(n,)``; ``n`` may be 0."""
        features = self.features(structures, choices)
        y = self.straighten(values)
        scales = self._hyperparameters(features, y) if len(y) else Scales()
        gram = _gram(self, features, features, scales)
        variance = self._noise(features, y, scales)
        residual = y - features.mean(scales)
        cholesky = cho_factor(gram + np.diag(variance), lower=True)[0] if len(y) else np.zeros((0, 0))
        return Belief(
            model=self, features=features, residual=residual, cholesky=cholesky, variance=variance, scales=scales
        )

    def _noise(self, features: Features, y: Floats, scales: Scales) -> Floats:
        """Noise variance of each trial; in a saturated loss nothing can be read."""
        relative = self.trust.relative_noise
        size = np.maximum(np.abs(y), 0.5 * np.abs(features.mean(scales))) if relative else 0.0
        variance = (scales.noise * self.trust.noise * self.unit) ** 2 + (scales.noise * relative * size) ** 2
        if self.ceiling is not None:
            variance = variance + (0.5 * y * np.clip(y / self.ceiling, 0.0, None)) ** 2
        return np.broadcast_to(np.asarray(variance, dtype=np.float64), y.shape).copy()

    def _hyperparameters(self, features: Features, y: Floats) -> Scales:
        """The scales of greatest posterior density, found by turns."""
        if len(y) > _EVIDENCE_ROWS:
            rows = np.linspace(0, len(y) - 1, _EVIDENCE_ROWS).astype(np.int64)
            features, y = features.take(rows), y[rows]
        parts = _gram_parts(self, features, features)
        best = Scales()

        def score(scales: Scales) -> float:
            covariance = _weighted(parts, scales) + np.diag(self._noise(features, y, scales))
            try:
                cholesky = np.linalg.cholesky(covariance)
            except np.linalg.LinAlgError:
                return -np.inf
            fit = np.linalg.solve(cholesky, y - features.mean(scales))
            prior = (np.log(scales.factor) / self.trust.factor_log_std) ** 2
            prior += (np.log([scales.deviation, scales.noise, scales.swing]) ** 2).sum() / 2.0
            if self.trust.power_log_std:
                prior += (np.log(scales.power) / self.trust.power_log_std) ** 2
            return float(-0.5 * (fit @ fit) - np.log(np.diag(cholesky)).sum() - 0.5 * prior)

        grids = {"factor": _FACTORS, "deviation": _DEVIATIONS, "noise": _NOISES}
        if self.trust.swing:
            grids["swing"] = _SWINGS
        if self.trust.power_log_std:
            grids = {"power": _POWERS, **grids}
        for _ in range(2):
            for name, grid in grids.items():
                trials = [replace(best, **{name: float(value)}) for value in grid]
                best = trials[int(np.argmax(np.round([score(t) for t in trials], 9)))]
        return best


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """What the trials say of the prior as a whole.

    Attributes:
        factor: between prior and reality.
        deviation: of single options, as a multiple of the trusted one.
        noise: as a multiple of the trusted one.
        swing: of the effects of either sign, as a multiple of the trusted one.
        power: by which values grow with the prior's sum: 1 in proportion, above 1 little for small sums and much for large.
    """

    factor: float = 1.0
    deviation: float = 1.0
    noise: float = 1.0
    swing: float = 1.0
    power: float = 1.0

    def slope(self, level: Floats) -> Floats | float:
        """Derivative of the grown sum, by which deviations count, at sums that are ``level`` (``(n,)``) times the typical one."""
        return 1.0 if self.power == 1.0 else self.power * level ** (self.power - 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Features:
    """Features of ``n`` recipes; see :class:`AdditiveModel`.

    Attributes:
        structures: ``(n,)``.
        fixed: expected value outside the sites, ``(n,)``.
        total: expected value of the sites and crossings at factor 1, ``(n,)``.
        level: the same as a multiple of the typical one, ``(n,)``.
        drop: expected sum of the effects of either sign, ``(n,)``.
        shared: what all sites share, ``(n, G)``.
        constants: one, and one a structure, ``(n, 1 + T)``.
        own: expected cost of the choice at each site, ``(n, S)``.
        site: one-hot choices times their deviation scale, ``(n, S * K)``.
        swing: one-hot choices times the size of their effect of either sign, ``(n, S * K)``; no columns without such.
        pair: one-hot pairs of choices times their scale, ``(n, E * K * K)``.
    """

    structures: Indices
    fixed: Floats
    total: Floats
    level: Floats
    drop: Floats
    shared: Floats
    constants: Floats
    own: Floats
    site: Floats
    swing: Floats
    pair: csr_array

    def mean(self, scales: Scales) -> Floats:
        """What the prior expects of the recipes, ``(n,)``, on the straight scale."""
        grown = self.total * scales.slope(self.level) / scales.power
        out: Floats = self.fixed + scales.factor * grown + self.drop
        return out

    def take(self, rows: Indices) -> Features:
        """The features of some of the recipes."""
        return Features(
            structures=self.structures[rows], fixed=self.fixed[rows], total=self.total[rows], level=self.level[rows],
            drop=self.drop[rows], shared=self.shared[rows], constants=self.constants[rows], own=self.own[rows],
            site=self.site[rows], swing=self.swing[rows], pair=self.pair[rows],
        )  # fmt: skip


_Parts = tuple[Floats, Floats, Floats, Floats, Floats, Floats]


def _gram_parts(model: AdditiveModel, left: Features, right: Features) -> _Parts:
    """Covariance of two sets of recipes: constants, what is shared, deviations of sites and pairs, effects of either sign.

    With the levels of both, on which it depends how much deviations count.
    """
    constants = (left.constants * model._constant_std() ** 2) @ right.constants.T
    constants = constants + model.trust.drop**2 * np.outer(left.drop, right.drop)
    shared = (left.shared * model._shared_std() ** 2) @ right.shared.T
    deviation = model.trust.deviation**2 * (left.site @ right.site.T + left.own @ right.own.T)
    if model.trust.interaction:
        deviation = deviation + model.trust.interaction**2 * (left.pair @ right.pair.T).toarray()
    swing = (model.trust.swing * model.unit) ** 2 * (left.swing @ right.swing.T)
    return constants, shared, deviation, swing, left.level, right.level


def _weighted(parts: _Parts, scales: Scales) -> Floats:
    constants, shared, deviation, swing, left, right = parts
    grown = scales.factor**2 * (shared + scales.deviation**2 * deviation)
    if scales.power != 1.0:
        grown = grown * np.outer(scales.slope(left), scales.slope(right))
    return constants + grown + scales.swing**2 * swing


def _gram(model: AdditiveModel, left: Features, right: Features, scales: Scales) -> Floats:
    return _weighted(_gram_parts(model, left, right), scales)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Belief:
    """An objective's model after the trials.

    Attributes:
        model: the prior.
        features: of the trials.
        residual: what the prior did not explain, ``(n,)``, on the straight scale.
        cholesky: lower factor of the trials' covariance, ``(n, n)``.
        variance: noise variance of each trial, ``(n,)``.
        scales: what they say of the prior as a whole.
    """

    model: AdditiveModel
    features: Features
    residual: Floats
    cholesky: Floats
    variance: Floats
    scales: Scales

    def draw(self, structure: int, rng: np.random.Generator | None = None) -> Draw:
        """Return the expected costs of a structure, or with ``rng`` a sample of what they may be (Matheron's rule).

        Costs are kept from turning a price into a gift: but for effects of either sign, no option costs less than a tenth
        of its expectation.
        """
        model, f = self.model, self.features
        s, k = model.groups.shape
        scales = self.scales
        shared_std, constant_std = scales.factor * model._shared_std(), model._constant_std()
        site_std = scales.factor * scales.deviation * model.trust.deviation
        pair_std = scales.factor * scales.deviation * model.trust.interaction
        swing_std = scales.swing * model.trust.swing * model.unit
        shared, constants = np.zeros(len(shared_std)), np.zeros(len(constant_std))
        slope: Floats = np.zeros(s)
        site, pair = np.zeros(s * k), np.zeros(len(model.edges) * k * k)
        swing, drop = np.zeros(f.swing.shape[1]), 0.0
        residual, growth = self.residual, scales.slope(f.level)
        if rng is not None:
            shared = shared_std * rng.standard_normal(len(shared))
            constants = constant_std * rng.standard_normal(len(constants))
            slope = site_std * rng.standard_normal(len(slope))
            site = site_std * rng.standard_normal(len(site))
            pair = pair_std * rng.standard_normal(len(pair))
            swing = swing_std * rng.standard_normal(len(swing))
            drop = model.trust.drop * rng.standard_normal()
            noise = np.sqrt(self.variance) * rng.standard_normal(len(self.variance))
            residual = residual - noise - growth * (f.shared @ shared + f.pair @ pair + f.own @ slope + f.site @ site)
            residual = residual - (f.constants @ constants + f.swing @ swing + f.drop * drop)
        if len(residual):
            v = cho_solve((self.cholesky, True), residual)
            grown = growth * v
            shared = shared + shared_std**2 * (f.shared.T @ grown)
            constants = constants + constant_std**2 * (f.constants.T @ v)
            slope = slope + site_std**2 * (f.own.T @ grown)
            site = site + site_std**2 * (f.site.T @ grown)
            pair = pair + pair_std**2 * (f.pair.T @ grown)
            swing = swing + swing_std**2 * (f.swing.T @ v)
            drop = drop + model.trust.drop**2 * float(f.drop @ v)
        found = self._assemble(structure, shared, constants, slope, site, pair)
        return replace(found, signed=self._signed(structure, swing, drop))

    def _signed(self, t: int, swing: Floats, drop: float) -> Floats:
        """Effects of either sign in a structure, ``(S, K)``."""
        model = self.model
        s, k = model.groups.shape
        if not len(swing):
            return np.zeros((s, k))
        scale = model._site_scale(np.array([t]))[0][:, None]
        of_option = np.take_along_axis(swing.reshape(s, k), model._columns(), axis=1)
        out: Floats = (1.0 + drop) * model.arrays.drop * scale + of_option * model._swing_scale() * np.sqrt(scale)
        return out

    def _assemble(self, t: int, shared: Floats, constants: Floats, slope: Floats, site: Floats, pair: Floats) -> Draw:
        model = self.model
        s, k = model.groups.shape
        n_groups, n_structures = int(model.groups.max(initial=0)) + 1, len(model.arrays.fixed)
        whole, by_name = shared[0], shared[1 : 1 + n_groups]
        by_structure = shared[1 + n_groups : 1 + n_groups + n_structures]
        crossing, interaction, across = shared[1 + n_groups + n_structures :]
        scale = model._site_scale(np.array([t]))[0]
        base = model.arrays.of(model.objective, t)
        relative = self.scales.factor + whole + by_name[model.groups] + by_structure[t] + slope[:, None]
        site_of_option = np.take_along_axis(site.reshape(s, k), model._columns(), axis=1)
        own = base * relative + site_of_option * model._deviation_scale() * scale[:, None]
        own = np.where(base > 0, np.maximum(own, 0.1 * self.scales.factor * base), own)
        differ = model._differ()
        pair_scale = np.sqrt(scale[model.edges[:, 0]] * scale[model.edges[:, 1]])[:, None, None] * model._pair_scale()
        pairs = pair_scale * (interaction + across * differ + pair.reshape(-1, k, k))
        pairs = pairs + differ * ((self.scales.factor + crossing) * model.crossing[t])[:, None, None]
        fixed = model.arrays.fixed[t, row_of(model.objective)] + constants[0] + constants[1 + t]
        typical = model.typical() * self.scales.factor
        return Draw(
            growing=own,
            signed=np.zeros_like(own),
            pairs=pairs,
            fixed=float(fixed),
            power=self.scales.power,
            told=self.scales.factor * base,
            typical=typical,
        )

    def predict(self, structures: Indices, choices: Indices) -> tuple[Floats, Floats]:
        """Mean and standard deviation of recipes ``(q,)``, ``(q, S)``, without measurement noise; shapes ``(q,)``."""
        query = self.model.features(structures, choices)
        scales = self.scales
        mean = query.mean(scales)
        constants, shared = self.model._constant_std(), self.model._shared_std()
        own = self.model.trust.deviation**2 * (np.square(query.site).sum(axis=1) + np.square(query.own).sum(axis=1))
        own = own + self.model.trust.interaction**2 * query.pair.multiply(query.pair).sum(axis=1)
        variance = np.square(query.constants) @ constants**2 + (self.model.trust.drop * query.drop) ** 2
        grown = scales.factor * scales.slope(query.level)
        variance = variance + grown**2 * (np.square(query.shared) @ shared**2 + scales.deviation**2 * own)
        swing = scales.swing * self.model.trust.swing * self.model.unit
        variance = variance + swing**2 * np.square(query.swing).sum(axis=1)
        if len(self.residual):
            cross = _gram(self.model, query, self.features, scales)
            solved = cho_solve((self.cholesky, True), np.column_stack([self.residual, cross.T]))
            mean = mean + cross @ solved[:, 0]
            variance = variance - np.einsum("qn,nq->q", cross, solved[:, 1:])
        std = np.sqrt(np.maximum(variance, (1e-9 * self.model.unit) ** 2))
        return self.model.bend(mean), std * self.model.slope(mean)
