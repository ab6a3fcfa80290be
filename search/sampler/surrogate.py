"""What the measured trials say about the costs: a Bayesian linear model around the additive prior, one an objective.

A value is modelled as the prior's sum times a learned factor, plus deviations that are shared by all sites (of the
whole sum, of each option by name, of each structure), plus deviations of each (site, option), plus interactions of
neighbours, plus noise. Deviations are relative: an option that is believed to cost much may be wrong by much. How wrong
the prior is, is read off the trials by maximising the marginal likelihood (Rasmussen and Williams, "Gaussian
Processes for Machine Learning", 2006, chapters 2 and 5). All algebra happens in the space of the trials (the kernel
form), so that a thousand sites cost little more than ten.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

from modeltailor.search.front import Objective
from modeltailor.search.sampler.costs import CostArrays, row_of
from modeltailor.search.sampler.knapsack import PairCosts
from modeltailor.search.sampler.space import SearchSpace

__all__ = ["AdditiveModel", "Belief", "Draw", "Trust"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_EVIDENCE_ROWS = 96  # hyperparameters are read off at most this many trials: the cost grows with the cube


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How far the prior of one objective is trusted before any trial.

    Attributes:
        factor_log_std: standard deviation of the logarithm of the factor between prior and reality.
        deviation: expected relative error of a single (site, option).
        shared: expected relative error that all sites share, or all sites with the same option.
        interaction: expected strength of neighbours' interactions relative to their own costs.
        noise: expected noise of a measurement, relative to the objective's unit.
        relative_noise: error of the additive form itself, relative to the value.
    """

    factor_log_std: float
    deviation: float
    shared: float
    interaction: float
    noise: float
    relative_noise: float

    @staticmethod
    def default(objective: Objective) -> Trust:
        """Sizes are arithmetic, latencies are measured, losses are guessed from single changes, memory is rough."""
        match objective:
            case "accuracy":
                return Trust(
                    factor_log_std=1.0, deviation=0.4, shared=0.5, interaction=0.3, noise=0.01, relative_noise=0.1
                )
            case "elsewhere":  # other devices are only roughly like the first one
                return Trust(
                    factor_log_std=0.4, deviation=0.3, shared=0.3, interaction=0.03, noise=0.01, relative_noise=0.0
                )
            case "latency":
                return Trust(
                    factor_log_std=0.2, deviation=0.15, shared=0.15, interaction=0.03, noise=0.01, relative_noise=0.0
                )
            case "size":
                return Trust(
                    factor_log_std=0.02, deviation=0.01, shared=0.01, interaction=0.0, noise=1e-4, relative_noise=0.0
                )
            case "memory":
                return Trust(
                    factor_log_std=0.5, deviation=0.3, shared=0.3, interaction=0.0, noise=0.02, relative_noise=0.0
                )


_FACTORS = np.array(
    [0.03, 0.06, 0.1, 0.18, 0.3, 0.42, 0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.65, 2.4, 3.3, 5.5, 10.0, 17.0, 33.0]
)
_DEVIATIONS = np.array([0.01, 0.03, 0.1, 0.25, 0.5, 1.0, 2.0])  # as multiples of the trusted values
_NOISES = np.array([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draw:
    """One version of an objective's costs: the expected one, or a sample.

    Attributes:
        own: cost of each option at each site, ``(S, K)``.
        pairs: costs between neighbours, ``(E, K, K)``.
        fixed: what is paid anyway.
    """

    own: Floats
    pairs: Floats
    fixed: float

    def total(self, edges: Indices, choices: Indices) -> Floats:
        """Value of choices ``(n, S)``; shape ``(n,)``."""
        out: Floats = self.fixed + self.own[np.arange(choices.shape[1]), choices].sum(axis=1)
        if len(edges):
            out = out + self.pairs[np.arange(len(edges)), choices[:, edges[:, 0]], choices[:, edges[:, 1]]].sum(axis=1)
        return out


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
        columns = (e * (k * k))[None, :] + a * k + b
        return Features(
            structures=structures,
            fixed=self.arrays.fixed[structures, row_of(self.objective)],
            total=total + crossing,
            shared=np.column_stack([
                total, by_name, which * total[:, None], crossing, pair.sum(axis=1), (crossed * pair).sum(axis=1),
            ]),
            constants=np.column_stack([np.ones(n), which]),
            own=own,
            site=site,
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
        factor, deviation, noise = self._hyperparameters(features, y) if len(y) else (1.0, 1.0, 1.0)
        gram = _gram(self, features, features, factor, deviation)
        variance = self._noise(features, y, factor, noise)
        residual = y - features.fixed - factor * features.total
        cholesky = cho_factor(gram + np.diag(variance), lower=True)[0] if len(y) else np.zeros((0, 0))
        return Belief(
            model=self, features=features, residual=residual, cholesky=cholesky, variance=variance, factor=factor,
            deviation=deviation,
        )  # fmt: skip

    def _noise(self, features: Features, y: Floats, factor: float, noise: float) -> Floats:
        """Noise variance of each trial; in a saturated loss nothing can be read."""
        relative = self.trust.relative_noise
        size = np.maximum(np.abs(y), 0.5 * np.abs(features.fixed + factor * features.total)) if relative else 0.0
        variance = (noise * self.trust.noise * self.unit) ** 2 + (noise * relative * size) ** 2
        if self.ceiling is not None:
            variance = variance + (0.5 * y * np.clip(y / self.ceiling, 0.0, None)) ** 2
        return np.broadcast_to(np.asarray(variance, dtype=np.float64), y.shape).copy()

    def _hyperparameters(self, features: Features, y: Floats) -> tuple[float, float, float]:
        """Factor, deviation and noise (as multiples of the trusted ones) of greatest posterior density, by turns."""
        if len(y) > _EVIDENCE_ROWS:
            rows = np.linspace(0, len(y) - 1, _EVIDENCE_ROWS).astype(np.int64)
            features, y = features.take(rows), y[rows]
        parts = _gram_parts(self, features, features)
        best = np.array([1.0, 1.0, 1.0])

        def score(factor: float, deviation: float, noise: float) -> float:
            gram = parts[0] + factor**2 * (parts[1] + deviation**2 * parts[2])
            covariance = gram + np.diag(self._noise(features, y, factor, noise))
            residual = y - features.fixed - factor * features.total
            try:
                cholesky = np.linalg.cholesky(covariance)
            except np.linalg.LinAlgError:
                return -np.inf
            fit = np.linalg.solve(cholesky, residual)
            prior = (
                (np.log(factor) / self.trust.factor_log_std) ** 2
                + np.log(deviation) ** 2 / 2.0
                + np.log(noise) ** 2 / 2.0
            )
            return float(-0.5 * (fit @ fit) - np.log(np.diag(cholesky)).sum() - 0.5 * prior)

        for _ in range(2):
            for axis, grid in enumerate((_FACTORS, _DEVIATIONS, _NOISES)):
                trials = [best.copy() for _ in grid]
                for trial, value in zip(trials, grid, strict=True):
                    trial[axis] = value
                scores = [score(*trial.tolist()) for trial in trials]
                best = trials[int(np.argmax(np.round(scores, 9)))]
        return float(best[0]), float(best[1]), float(best[2])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Features:
    """Features of ``n`` recipes; see :class:`AdditiveModel`.

    Attributes:
        structures: ``(n,)``.
        fixed: expected value outside the sites, ``(n,)``.
        total: expected value of the sites and crossings at factor 1, ``(n,)``.
        shared: what all sites share, ``(n, G)``.
        constants: one, and one a structure, ``(n, 1 + T)``.
        own: expected cost of the choice at each site, ``(n, S)``.
        site: one-hot choices times their deviation scale, ``(n, S * K)``.
        pair: one-hot pairs of choices times their scale, ``(n, E * K * K)``.
    """

    structures: Indices
    fixed: Floats
    total: Floats
    shared: Floats
    constants: Floats
    own: Floats
    site: Floats
    pair: csr_array

    def take(self, rows: Indices) -> Features:
        """The features of some of the recipes."""
        return Features(
            structures=self.structures[rows], fixed=self.fixed[rows], total=self.total[rows], shared=self.shared[rows],
            constants=self.constants[rows], own=self.own[rows], site=self.site[rows], pair=self.pair[rows],
        )  # fmt: skip


def _gram_parts(model: AdditiveModel, left: Features, right: Features) -> tuple[Floats, Floats, Floats]:
    """Covariance of two sets of recipes: constants, what is shared, and deviations of sites and pairs."""
    constants = (left.constants * model._constant_std() ** 2) @ right.constants.T
    shared = (left.shared * model._shared_std() ** 2) @ right.shared.T
    deviation = model.trust.deviation**2 * (left.site @ right.site.T + left.own @ right.own.T)
    if model.trust.interaction:
        deviation = deviation + model.trust.interaction**2 * (left.pair @ right.pair.T).toarray()
    return constants, shared, deviation


def _gram(model: AdditiveModel, left: Features, right: Features, factor: float, deviation: float) -> Floats:
    constants, shared, own = _gram_parts(model, left, right)
    return constants + factor**2 * (shared + deviation**2 * own)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Belief:
    """An objective's model after the trials.

    Attributes:
        model: the prior.
        features: of the trials.
        residual: what the prior did not explain, ``(n,)``, on the straight scale.
        cholesky: lower factor of the trials' covariance, ``(n, n)``.
        variance: noise variance of each trial, ``(n,)``.
        factor: learned factor between prior and reality.
        deviation: learned multiple of the trusted deviation.
    """

    model: AdditiveModel
    features: Features
    residual: Floats
    cholesky: Floats
    variance: Floats
    factor: float
    deviation: float

    def draw(self, structure: int, rng: np.random.Generator | None = None) -> Draw:
        """Return the expected costs of a structure, or with ``rng`` a sample of what they may be (Matheron's rule).

        Costs are kept from turning a price into a gift: no option costs less than a tenth of its expectation.
        """
        model, f = self.model, self.features
        s, k = model.groups.shape
        shared_std, constant_std = self.factor * model._shared_std(), model._constant_std()
        site_std = self.factor * self.deviation * model.trust.deviation
        pair_std = self.factor * self.deviation * model.trust.interaction
        shared, constants = np.zeros(len(shared_std)), np.zeros(len(constant_std))
        slope: Floats = np.zeros(s)
        site, pair = np.zeros(s * k), np.zeros(len(model.edges) * k * k)
        residual = self.residual
        if rng is not None:
            shared = shared_std * rng.standard_normal(len(shared))
            constants = constant_std * rng.standard_normal(len(constants))
            slope = site_std * rng.standard_normal(len(slope))
            site = site_std * rng.standard_normal(len(site))
            pair = pair_std * rng.standard_normal(len(pair))
            noise = np.sqrt(self.variance) * rng.standard_normal(len(self.variance))
            residual = residual - noise - (f.shared @ shared + f.constants @ constants + f.pair @ pair)
            residual = residual - (f.own @ slope + f.site @ site)
        if len(residual):
            v = cho_solve((self.cholesky, True), residual)
            shared = shared + shared_std**2 * (f.shared.T @ v)
            constants = constants + constant_std**2 * (f.constants.T @ v)
            slope = slope + site_std**2 * (f.own.T @ v)
            site = site + site_std**2 * (f.site.T @ v)
            pair = pair + pair_std**2 * (f.pair.T @ v)
        return self._assemble(structure, shared, constants, slope, site, pair)

    def _assemble(self, t: int, shared: Floats, constants: Floats, slope: Floats, site: Floats, pair: Floats) -> Draw:
        model = self.model
        s, k = model.groups.shape
        n_groups, n_structures = int(model.groups.max(initial=0)) + 1, len(model.arrays.fixed)
        whole, by_name = shared[0], shared[1 : 1 + n_groups]
        by_structure = shared[1 + n_groups : 1 + n_groups + n_structures]
        crossing, interaction, across = shared[1 + n_groups + n_structures :]
        scale = model._site_scale(np.array([t]))[0]
        base = model.arrays.of(model.objective, t)
        relative = self.factor + whole + by_name[model.groups] + by_structure[t] + slope[:, None]
        site_of_option = np.take_along_axis(site.reshape(s, k), model._columns(), axis=1)
        own = base * relative + site_of_option * model._deviation_scale() * scale[:, None]
        own = np.where(base > 0, np.maximum(own, 0.1 * self.factor * base), own)
        differ = model._differ()
        pair_scale = np.sqrt(scale[model.edges[:, 0]] * scale[model.edges[:, 1]])[:, None, None] * model._pair_scale()
        pairs = pair_scale * (interaction + across * differ + pair.reshape(-1, k, k))
        pairs = pairs + differ * ((self.factor + crossing) * model.crossing[t])[:, None, None]
        fixed = model.arrays.fixed[t, row_of(model.objective)] + constants[0] + constants[1 + t]
        return Draw(own=own, pairs=pairs, fixed=float(fixed))

    def predict(self, structures: Indices, choices: Indices) -> tuple[Floats, Floats]:
        """Mean and standard deviation of recipes ``(q,)``, ``(q, S)``, without measurement noise; shapes ``(q,)``."""
        query = self.model.features(structures, choices)
        mean = query.fixed + self.factor * query.total
        constants, shared = self.model._constant_std(), self.model._shared_std()
        own = self.model.trust.deviation**2 * (np.square(query.site).sum(axis=1) + np.square(query.own).sum(axis=1))
        own = own + self.model.trust.interaction**2 * query.pair.multiply(query.pair).sum(axis=1)
        variance = np.square(query.constants) @ constants**2
        variance = variance + self.factor**2 * (np.square(query.shared) @ shared**2 + self.deviation**2 * own)
        if len(self.residual):
            cross = _gram(self.model, query, self.features, self.factor, self.deviation)
            solved = cho_solve((self.cholesky, True), np.column_stack([self.residual, cross.T]))
            mean = mean + cross @ solved[:, 0]
            variance = variance - np.einsum("qn,nq->q", cross, solved[:, 1:])
        std = np.sqrt(np.maximum(variance, (1e-9 * self.model.unit) ** 2))
        return self.model.bend(mean), std * self.model.slope(mean)


def pair_costs(draws: list[Draw], edges: Indices) -> PairCosts:
    """Join the neighbours' costs of several objectives for the knapsack."""
    return PairCosts(edges=edges, costs=np.stack([d.pairs for d in draws]))
