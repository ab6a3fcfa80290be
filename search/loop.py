"""The search itself: ask, evaluate, tell, until there is a reason to stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

from optuna.trial import TrialState

from modeltailor.compress import Format, Recipe, Structure
from modeltailor.search.course import REFERENCE, Course
from modeltailor.search.devices import is_met_on_all
from modeltailor.search.executor import Task
from modeltailor.search.fleet import device_views
from modeltailor.search.front import history_figures
from modeltailor.search.groundwork import Groundwork, is_affordable
from modeltailor.search.racing import Race
from modeltailor.search.records import Role, TrialRecord
from modeltailor.search.recoveries import Recovery, propose_recovery
from modeltailor.search.sampler import PASSED_OVER, TailorSampler
from modeltailor.search.sampler.goal import LEAST_TARGET, allowed_loss
from modeltailor.search.spares import propose_spare
from modeltailor.search.stopping import broken, flat, solved
from modeltailor.search.structures import Arm

__all__ = ["SearchLoop"]

_Tried = Literal["new", "copy", "unreadable", "no time", "closed"]

_MOST_COPIES = 25
"""So many proposals in a row that were evaluated before mean: the space is exhausted."""

_BETWEEN_ARMS = 3
"""Trials on structures that exist before the next one is trained."""

_MOST_CLOSED = 1000
"""So many proposals in a row of structures that nobody may begin but the search itself."""

_AFTER_A_SPARE = 6
"""Trials that there must be room for once a structure beyond the plan is trained."""

_BEYOND_PLAN = "beyond_plan"
"""User attribute of trials that train a structure which the plan had no time for."""

_SETTLED_AFTER = 12
"""Trials of formats whose gain tells what further ones would give."""

_CLEARLY_MORE = 3.0
"""So many times as much a second a structure must promise: its gain is expected, that of formats was measured."""

_USUAL_TRIAL_S = 6.0
_SLOWER_THAN_SEEN = 1.5

_RECOVER_AFTER = 0.6
"""Share of the trials or of the time after which recipes learn again, even if structures still wait."""


def _is_training(record: TrialRecord) -> bool:
    """Whether something learned in a trial, not taken from the cache."""
    return record.seconds.get("structure", 0.0) >= 1.0 or record.seconds.get("recovery", 0.0) >= 1.0


class SearchLoop:
    """A search over what the groundwork offers.

    Args:
        course: the run.
        ground: what may be chosen from.
    """

    def __init__(self, course: Course, ground: Groundwork) -> None:
        self.course = course
        self.ground = ground
        # A search that goes on after it had stopped must not stop again for what it saw before.
        self._begun_at = len(course.ledger.records()) if course.ledger.attribute("stopped") else 0

    def run(self) -> str:
        """Go on until there is a reason to stop. Returns the reason."""
        copies = unaffordable = closed = 0
        while True:
            records = self.course.ledger.records()
            reason = self._reason_to_stop(records)
            if reason:
                return reason
            waits = self._enqueue_arm(records)
            recovery = self._next_recovery(records, waits)
            if recovery is not None:
                assert self.ground.recoveries is not None
                self.course.evaluate(
                    recovery.recipe, "search", recovery.label, deadline_s=self.ground.recoveries.train_s * 1.5
                )
                continue
            if not waits:
                reason = self._nothing_to_gain(records)
                if not self._enqueue_spare(records, stalled=bool(reason)) and reason:
                    return reason
            tried = self._try_next()
            closed = closed + 1 if tried == "closed" else 0
            if tried != "closed":
                copies, unaffordable = (0, 0) if tried == "new" else (copies + 1, unaffordable + (tried == "no time"))
            if copies >= _MOST_COPIES or closed >= _MOST_CLOSED:
                if self._enqueue_spare(self.course.ledger.records(), stalled=True):
                    copies = unaffordable = closed = 0
                    continue
                if unaffordable:
                    return "what the sampler proposes would have to be trained, and there is no time left for that"
                return "the search has tried every recipe it can tell apart"

    def _reason_to_stop(self, records: tuple[TrialRecord, ...]) -> str:
        return self.course.used_up() or broken(records[self._begun_at :])

    def _nothing_to_gain(self, records: tuple[TrialRecord, ...]) -> str:
        """The reason to stop early, if there is one."""
        searched = {t.number for t in records[self._begun_at :] if t.role == "search"}
        curve = [
            v
            for t, (_, v) in zip(records, self.course.ledger.attribute("hypervolume", []), strict=False)
            if t.number in searched
        ]
        is_met = is_met_on_all(device_views(self.course.history()), minimize=self.course.metric.minimize)
        return flat(curve) or solved(self._expected_gains(), is_met=is_met)

    def _expected_gains(self) -> list[float]:
        sampler = self.course.study.sampler
        return list(sampler.expected_gains) if isinstance(sampler, TailorSampler) else []

    def _try_next(self) -> _Tried:
        """Ask, evaluate, tell. Returns what became of the recipe."""
        trial = self.course.study.ask()
        asked = self.course.ledger.enqueued(trial)
        if asked is not None and self.ground.space.indices_of_params(asked) is None:
            # Put in the queue before the last baselines were measured, which decide what may be chosen.
            self.course.ledger.pass_over(trial)
            return "unreadable"
        arm = self.ground.arms.get(self.ground.space.suggest_structure(trial))
        if asked is None and arm is not None and arm.is_spare and not self._is_trained(arm):
            self.course.ledger.pass_over(trial)
            return "closed"
        _, assignment = self.ground.space.suggest(trial)
        recipe = Recipe(
            structure=arm.structure if arm else Structure(),
            formats=tuple((s, Format.parse(f)) for s, f in assignment.items()),
            settings=self.ground.choice.settings,
        )
        known = self.course.ledger.by_key().get(recipe.key)
        if known is not None:
            self.course.ledger.finish(trial, known, copy_of=known.number)
            return "copy"
        beyond = bool(trial.user_attrs.get(_BEYOND_PLAN))
        if arm is not None and not self._has_time_for(arm, beyond) and not self._is_trained(arm):
            self.course.ledger.pass_over(trial)
            return "no time"
        self.course.say(f"trying {arm.label if arm else 'formats'}")
        role: Role = trial.user_attrs.get("role", "search")
        task = Task(
            number=trial.number,
            recipe=recipe,
            role=role,
            label=str(trial.user_attrs.get("seed_label", "")),
            deadline_s=self._deadline_s(arm, beyond) if arm else None,
            race=self._race() if role == "search" and not self.course.request.others else None,
        )
        record = self.course.stamp(self.course.executor.submit(task).result())
        self.course.ledger.finish(trial, record)
        self.course.after(record)
        return "new"

    def _has_time_for(self, arm: Arm, beyond: bool) -> bool:
        return self.course.time_left(reserve=True) if beyond else is_affordable(self.course, arm)

    def _deadline_s(self, arm: Arm, beyond: bool) -> float:
        """Seconds that a structure may train; one beyond the plan must leave some for its formats."""
        usual = 1.5 * arm.train_s
        return min(usual, max(1.0, self._free_s(_AFTER_A_SPARE))) if beyond else usual

    def _free_s(self, trials: int) -> float:
        """Seconds that so many trials without training would leave, beside what is set aside for the finalists."""
        seen = [
            sum(s for stage, s in t.seconds.items() if stage not in ("structure", "recovery"))
            for t in self.course.ledger.records()
            if t.role == "search" and t.is_measured
        ]
        trial_s = _SLOWER_THAN_SEEN * median(seen) if seen else _USUAL_TRIAL_S
        return self.course.plan.time_s - self.course.elapsed() - self.course.reserve() - trials * trial_s

    def _is_trained(self, arm: Arm) -> bool:
        structure = Recipe(structure=arm.structure).to_plain()["structure"]
        return any(t.is_measured and t.recipe["structure"] == structure for t in self.course.ledger.records())

    def _race(self) -> Race:
        figures = history_figures(self.course.history())
        return Race(
            rivals=tuple(figures.values()), budget=self.course.request.budget, minimize=self.course.metric.minimize
        )

    def _next_recovery(self, records: tuple[TrialRecord, ...], waits: bool) -> Recovery | None:
        """The recipe that should learn again now, if one should: when structures are through, a few trials apart."""
        plan = self.ground.recoveries
        if plan is None or self.course.plan.time_s - self.course.elapsed() < plan.train_s + self.course.reserve():
            return None
        late = (
            max(len(records) / self.course.plan.trials, self.course.elapsed() / self.course.plan.time_s)
            > _RECOVER_AFTER
        )
        done = [t.number for t in records if t.recipe.get("recovery") is not None]
        since = sum(t.role == "search" and t.number > max(done, default=-1) for t in records)
        if (waits and not late) or len(done) >= plan.most or since < (_BETWEEN_ARMS if done else 2 * _BETWEEN_ARMS):
            return None
        return propose_recovery(
            records,
            options=dict(self.ground.choice.options),
            training=plan.training,
            reference=self._box(records),
            minimize=self.course.metric.minimize,
        )

    def _box(self, records: Sequence[TrialRecord]) -> tuple[float, float, float]:
        """Loss, latency and bytes (over the original's) from which on a model is worth nothing to this user."""
        budget = self.course.request.budget
        original = next(t for t in records if t.role == "fp32")
        assert original.latency_ms is not None
        assert original.accuracy is not None
        loss, latency, size = self.course.worthless_loss(original), REFERENCE, REFERENCE
        allowed = allowed_loss(budget, original.accuracy.value, minimize=self.course.metric.minimize)
        if allowed is not None:
            loss = min(loss, max(allowed, LEAST_TARGET * loss))
        if budget.latency_ms is not None:
            latency = min(latency, budget.latency_ms / original.latency_ms.value)
        if budget.size_bytes is not None:
            size = min(size, budget.size_bytes / original.size_bytes)
        return loss, latency, size

    def _enqueue_arm(self, records: tuple[TrialRecord, ...]) -> bool:
        """Put the next structure in the queue, every few trials, in its best uniform format.

        Returns:
            whether structures wait that there is time for.
        """
        tried = {
            t.user_attrs["seed_label"]
            for t in self.course.study.get_trials(deepcopy=False)
            if "seed_label" in t.user_attrs and PASSED_OVER not in t.user_attrs
        }
        planned = [a for a in self.ground.arms.values() if not a.is_spare]
        waiting = [a for a in planned if a.label not in tried and is_affordable(self.course, a)]
        searched = sum(t.role == "search" for t in records)
        if not waiting or searched < _BETWEEN_ARMS * (len(tried) + 1) - 1:
            return bool(waiting)
        self._enqueue(waiting[0], beyond=False)
        return True

    def _enqueue_spare(self, records: tuple[TrialRecord, ...], *, stalled: bool) -> bool:
        """Put a structure beyond the plan in the queue, where there is time for it that nothing else would use.

        That is so once nothing moves the front any more, once the trials will be through before the time is, or once
        further formats gain clearly less a second than a structure should.

        Args:
            records: everything so far.
            stalled: nothing moves the front any more.

        Returns:
            whether one waits there now, or anything else does.
        """
        arms = tuple(self.ground.arms.values())
        left = self.course.plan.trials - len(records)
        if not any(a.is_spare for a in arms):
            return False
        if self._queued():
            return True
        if left <= _AFTER_A_SPARE:
            return False
        recoveries_s = 0.0 if stalled else self._recoveries_s(records)
        seconds, unused_s = (self._free_s(n) - recoveries_s for n in (_AFTER_A_SPARE, left))
        original = next((t for t in records if t.role == "fp32"), None)
        if seconds <= 0.0 or original is None or not (stalled or self._is_settled(records)):
            return False
        in_use = not stalled and unused_s <= 0.0  # by formats, which must gain little then
        rate = self._recent_rate(records)
        if in_use and (rate == math.inf or len(records) % _BETWEEN_ARMS):
            return False
        worthless = self.course.worthless_loss(original)
        box = self._box(records)
        spare = propose_spare(
            records,
            arms,
            reference=box,
            worthless_loss=worthless,
            seconds=seconds,
            minimize=self.course.metric.minimize,
        )
        if spare is None:
            return False
        if not stalled and unused_s < spare.train_s:
            whole = worthless * REFERENCE * REFERENCE
            if spare.gain * math.prod(box) / whole / spare.train_s < _CLEARLY_MORE * rate:
                return False
        self.course.folder.event(
            "spare", label=spare.arm.label, gain=round(spare.gain, 6), train_s=round(spare.train_s, 1)
        )
        self._enqueue(spare.arm, beyond=True)
        self._begun_at = len(records)
        if isinstance(self.course.study.sampler, TailorSampler):
            self.course.study.sampler.expected_gains.clear()
        return True

    def _recent_rate(self, records: Sequence[TrialRecord]) -> float:
        """Gain of hypervolume a second, as a share of the box, by the formats tried last; infinite after too few."""
        last = max((t.number for t in records if _is_training(t)), default=-1)
        curve = self.course.ledger.attribute("hypervolume", [])
        since = [point for t, point in zip(records, curve, strict=False) if t.number > last][-_SETTLED_AFTER:]
        if len(since) < _SETTLED_AFTER:
            return math.inf
        (begun, low), (ended, high) = since[0], since[-1]
        return float(max(0.0, high - low) / max(ended - begun, 1e-3) / (REFERENCE * REFERENCE))

    def _queued(self) -> bool:
        """Whether trials wait that were put in the queue."""
        return bool(self.course.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _recoveries_s(self, records: Sequence[TrialRecord]) -> float:
        """Seconds that recipes may still learn again for."""
        plan = self.ground.recoveries
        if plan is None:
            return 0.0
        return plan.train_s * max(0, plan.most - sum(t.recipe.get("recovery") is not None for t in records))

    def _is_settled(self, records: Sequence[TrialRecord]) -> bool:
        """Whether some formats were tried since something was trained last."""
        last = max((t.number for t in records if _is_training(t)), default=-1)
        return sum(t.role == "search" and t.number > last for t in records) >= 2 * _BETWEEN_ARMS

    def _enqueue(self, arm: Arm, *, beyond: bool) -> None:
        """Put a structure in the queue in its best uniform format."""
        fastest = {
            site: next((f for f in options if f != "fp32"), "fp32") for site, options in self.ground.choice.options
        }
        self.course.study.enqueue_trial(
            self.ground.space.params_of(arm.label, fastest),
            user_attrs={
                "role": "baseline" if arm.is_uniform else "seed",
                "seed_label": arm.label,
                **({_BEYOND_PLAN: True} if beyond else {}),
            },
        )
