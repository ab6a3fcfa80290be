"""What a search stands on: which formats and structures are worth trying, what each should cost, and who proposes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modeltailor.canonical import plain
from modeltailor.compress import Format, Recipe, Settings, Site
from modeltailor.errors import CandidateError, DataError, ModelError
from modeltailor.estimators.effects import signed_effects
from modeltailor.search.course import Course
from modeltailor.search.fleet import choose_on_all, elsewhere_limit
from modeltailor.search.options import FormatChoice
from modeltailor.search.prior import build_costs, build_space
from modeltailor.search.probing import Probed
from modeltailor.search.records import TrialRecord
from modeltailor.search.sampler import CostTable, Goal, SearchSpace, TailorSampler, make_sampler
from modeltailor.search.stages import ORIGINAL, PreparedFacts
from modeltailor.search.structures import Arm, RecoveryPlan, plan_recoveries, propose_structures, spare_structures
from modeltailor.search.tuning import Tuned, candidates, is_kept, probing_recipes, settle, variants

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

__all__ = ["USUAL_TRIAL_S", "Groundwork", "is_affordable", "lay_groundwork", "note_on_gains"]

_COSTS_SHARE = 0.12
_DROPS_SHARE = 0.06
_GAIN_WORTH_A_NOTE = 0.01
_TUNING_SHARE = 0.05
_REFUSED = (CandidateError, DataError, ModelError)
"""A variant that cannot be built, that the runtime refuses, or of which the metric makes nothing: none is the user's fault."""

USUAL_TRIAL_S = 6.0
"""Seconds of a trial without training, to weigh it against training; not the clock's, so that proposals repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Groundwork:
    """What a search may choose from.

    Attributes:
        space: the decisions.
        choice: the formats, and their settings.
        arms: structures to try, by label, most promising first; then spare ones, which wait until there is time left.
        recoveries: how recipes learn again; ``None`` where they cannot.
    """

    space: SearchSpace
    choice: FormatChoice
    arms: Mapping[str, Arm]
    recoveries: RecoveryPlan | None


def lay_groundwork(
    course: Course, facts: PreparedFacts, fp32: TrialRecord, settings: Mapping[str, Settings], probed: Probed
) -> Groundwork:
    """Find out what is worth searching and what it should cost, and give the study its sampler."""
    sites = course.executor.sites()
    baselines: Sequence[TrialRecord] = [
        t for t in course.ledger.records() if t.role == "baseline" and t.label in settings
    ]
    names = [o.name for o in course.request.others]
    choice = choose_on_all(sites, baselines, settings, names, search_formats="formats" in course.plan.axes)
    if "formats" in course.plan.axes:
        choice, baselines = _tuned(course, choice, baselines, [s.site for s in sites], probed)
    cores = os.cpu_count() or 1
    arms = _arms(course, facts, cores)
    recoveries = plan_recoveries(facts, course.plan, cores=cores)
    _note(course, choice, facts, arms, probed)
    space = build_space(choice, arms, course.plan.sampler)
    uniform = next((t for t in baselines if t.label == choice.uniform), None)
    course.say("finding out what each format costs at each site")
    costs = _site_costs(course, choice, space)
    effects = _effects(course, choice, space, costs)
    course.add_notes(*filter(None, [note_on_gains(effects, course.worthless_loss(fp32))]))
    shares = _time_shares(course, [fp32, *([uniform] if uniform else [])])
    table = build_costs(
        space, sites, costs, fp32, uniform, arms,
        effects=effects, shares=shares, conversion_us=probed.conversion_us, worthless_loss=course.worthless_loss(fp32),
    )  # fmt: skip
    by_label = {a.label: a for a in arms}
    course.study.sampler = _sampler(course, space, table, by_label, fp32)
    _seed(course, space, choice, (fp32, *baselines))
    return Groundwork(space=space, choice=choice, arms=by_label, recoveries=recoveries)


def _arms(course: Course, facts: PreparedFacts, cores: int) -> tuple[Arm, ...]:
    """The structures that the run began with: their names are the choices of a parameter, which cannot change any more.

    A run that goes on with more time, or on a machine with another number of cores, knows the same ones; one that began
    before there were spare structures goes on without.
    """
    begun = course.ledger.attribute("arms")
    if begun is None:
        begun = {"time_s": course.plan.time_s, "cores": cores, "spares": True}
        course.ledger.keep("arms", begun)
    plan = replace(course.plan, time_s=begun["time_s"])
    planned = propose_structures(facts, plan, cores=begun["cores"])
    return planned + (spare_structures(facts, plan, cores=begun["cores"]) if begun.get("spares") else ())


def _tuned(
    course: Course, choice: FormatChoice, baselines: Sequence[TrialRecord], sites: Sequence[Site], probed: Probed
) -> tuple[FormatChoice, Sequence[TrialRecord]]:
    """Vary the settings of the best uniform baseline; the best ones go on if that baseline stands in them."""
    uniform = next((t for t in baselines if t.label == choice.uniform), None)
    if uniform is None:
        return choice, baselines
    kept = course.ledger.attribute("settings")
    if kept is None:
        course.say(f"varying how {uniform.label} rounds")
        tuned = course.timed("settings", lambda: _settled(course, choice, uniform, sites, probed))
        kept = {"candidates": [plain(c) for c in candidates(tuned, choice.settings)], "tried": plain(tuned.tried)}
        course.ledger.keep("settings", kept)
        course.add_notes(*filter(None, [tuned.note(uniform.label)]))
    formats = tuple((s, Format.parse(f)) for s, f in _formats(uniform).items())
    for words, settings in kept["candidates"]:
        label, recipe = f"{uniform.label}, {words}", Recipe(formats=formats, settings=Settings(**settings))
        record = course.evaluate(recipe, "baseline", label)
        others = [b for b in baselines if b.key != record.key]
        if is_kept(record, uniform, minimize=course.metric.minimize):
            return replace(choice, settings=recipe.settings, uniform=label), [*others, record]
        course.add_notes(f"{label}: slower or less accurate than {uniform.label} as a whole, so not carried on")
    return choice, baselines


def _settled(
    course: Course, choice: FormatChoice, uniform: TrialRecord, sites: Sequence[Site], probed: Probed
) -> Tuned:
    limit, started = _TUNING_SHARE * course.plan.time_s, course.elapsed()
    build_s = uniform.seconds.get("build", 0.0)

    def measure(settings: Settings, formats: Mapping[str, str]) -> tuple[float, int] | None:
        try:
            return course.executor.recipe_cost(formats, settings)
        except _REFUSED as error:
            course.folder.event("no-settings", error=error.line())
            return None

    offered = {Format.parse(f) for _, options in choice.options for f in options}
    return settle(
        choice.settings,
        variants(sites, offered, choice.settings, probed),
        probing_recipes(choice, _formats(uniform)),
        sum(s.weight_elements for s in sites),
        measure,
        lambda builds: course.elapsed() - started + builds * build_s <= limit,
    )


def _formats(trial: TrialRecord) -> dict[str, str]:
    found = trial.recipe["formats"]
    assert isinstance(found, dict)
    return found


def _time_shares(course: Course, trials: Sequence[TrialRecord]) -> dict[str, Mapping[str, float]]:
    """Where the time goes in those models: share by site, by recipe key; measured once a run, as the probe is."""
    kept: dict[str, dict[str, float]] = course.ledger.attribute("time_shares", {})
    for trial in trials:
        if trial.key not in kept:
            kept[trial.key] = course.timed("profile", lambda t=trial: course.executor.time_shares(t))  # type: ignore[misc]
    course.ledger.keep("time_shares", kept)
    return dict(kept)


def _site_costs(course: Course, choice: FormatChoice, space: SearchSpace) -> dict[tuple[str, str], tuple[int, float]]:
    if all(len(d.options) == 1 for d in space.decisions):
        return {}
    limit = _COSTS_SHARE * course.plan.time_s
    formats = tuple(sorted({f for d in space.decisions for f in d.options}))
    try:
        rows = course.timed("sensitivity", lambda: course.executor.site_costs(choice.settings, formats, limit))
    except _REFUSED as error:
        # The search can do without: what is measured corrects any prior.
        course.folder.event("no-sensitivity", error=error.line())
        return {}
    course.ledger.keep(
        "sensitivities", [[s, f, float(f"{loss:.4g}")] for s, f, _, loss, known in rows if known and f != "fp32"]
    )
    return {(site, name): (stored, loss) for site, name, stored, loss, _ in rows}


def _effects(
    course: Course, choice: FormatChoice, space: SearchSpace, costs: Mapping[tuple[str, str], tuple[int, float]]
) -> dict[tuple[str, str], float]:
    """What coarse formats do to the metric itself beyond how far they move the outputs; measured once a run."""
    kept = course.ledger.attribute("drops")
    if kept is None:
        kept = []
        if costs:
            limit = _DROPS_SHARE * course.plan.time_s
            formats = tuple(sorted({f for d in space.decisions for f in d.options}))
            try:
                kept = course.timed("sensitivity", lambda: course.executor.site_drops(choice.settings, formats, limit))
            except _REFUSED as error:  # the search can do without
                course.folder.event("no-drops", error=error.line())
        kept = [list(row) for row in kept]
        course.ledger.keep("drops", kept)
    drops = {(site, name): drop for site, name, drop in kept}
    return signed_effects(drops, {key: loss for key, (_, loss) in costs.items()})


def note_on_gains(effects: Mapping[tuple[str, str], float], worthless_loss: float) -> str | None:
    """Say so if few bits do layers good; ``None`` if that comes to less than a hundredth of what is worth anything."""
    best: dict[str, tuple[float, str]] = {}
    for (site, name), effect in effects.items():
        best[site] = min(best.get(site, (0.0, "")), (effect, name))
    gains = {site: (-effect, name) for site, (effect, name) in best.items() if effect < 0.0}
    if sum(g for g, _ in gains.values()) < _GAIN_WORTH_A_NOTE * worthless_loss:
        return None
    site, (gain, name) = max(gains.items(), key=lambda item: item[1])
    return (
        f"rounded to few bits on their own, {len(gains)} of {len(best)} layers score higher on a part of the search split, "
        f"beyond chance (most of all {site} as {name}, by {gain:.2g}); the search builds on that, and the test split tells "
        "whether it holds"
    )


def _sampler(
    course: Course, space: SearchSpace, table: CostTable, arms: Mapping[str, Arm], fp32: TrialRecord
) -> BaseSampler:
    if course.plan.sampler != "tailor":
        known = len(course.ledger.study.get_trials(deepcopy=False))  # a resumed run must not draw the same again
        return make_sampler(course.plan.sampler, seed=course.plan.seed + 7919 * known)
    assert fp32.latency_ms is not None
    assert fp32.accuracy is not None
    goal = Goal.of(
        course.ledger.objectives,
        course.request.budget,
        latency_ms=fp32.latency_ms.value,
        metric=fp32.accuracy.value,
        minimize=course.metric.minimize,
        reference=(("accuracy", course.worthless_loss(fp32)),),
        evaluation_s=USUAL_TRIAL_S,
        elsewhere=elsewhere_limit(fp32, course.request.others),
    )
    return TailorSampler(
        space,
        table,
        goal=goal,
        seed=course.plan.seed,
        affordable=lambda name: name == ORIGINAL or (not arms[name].is_spare and is_affordable(course, arms[name])),
    )


def is_affordable(course: Course, arm: Arm) -> bool:
    """Whether there is time to train a structure, beside what is set aside for the finalists."""
    return course.plan.time_s - course.elapsed() > arm.train_s + course.reserve()


def _seed(course: Course, space: SearchSpace, choice: FormatChoice, known: Iterable[TrialRecord]) -> None:
    """Enqueue what the baselines measured, so that the sampler learns from it; nothing is measured again."""
    options = dict(choice.options)
    for trial in known:
        formats = trial.recipe["formats"]
        assert isinstance(formats, dict)
        if trial.recipe["settings"] != plain(choice.settings) and formats:
            continue
        if all(formats.get(site, "fp32") in options[site] for site in options):
            params = space.params_of(ORIGINAL, {site: formats.get(site, "fp32") for site in options})
            course.study.enqueue_trial(params, skip_if_exists=True)


def _note(course: Course, choice: FormatChoice, facts: PreparedFacts, arms: tuple[Arm, ...], probed: Probed) -> None:
    notes = [*choice.notes]
    closed = [a for a in course.plan.axes if a != "formats" and not any(arm.axis == a for arm in arms)]
    if closed and facts.kind == "onnx":
        notes.append(f"{' and '.join(closed)}: needs a PyTorch model")
    elif closed:
        notes.append(f"{' and '.join(closed)}: nothing found in this model that can be changed, or no train split")
    course.add_notes(*notes)
    for note in (*probed.notes, *choice.notes):
        course.say(note)
