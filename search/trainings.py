"""What is trained next, and when: structures of the plan, recipes that learn again, structures beyond the plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from optuna.trial import TrialState

from modeltailor.compress import Recipe
from modeltailor.search.course import REFERENCE, Course
from modeltailor.search.groundwork import USUAL_TRIAL_S, Groundwork, is_affordable
from modeltailor.search.points import training_s, was_trained
from modeltailor.search.records import TrialRecord
from modeltailor.search.recoveries import Recovery, propose_recovery
from modeltailor.search.sampler import PASSED_OVER
from modeltailor.search.sampler.goal import LEAST_TARGET, allowed_loss
from modeltailor.search.spares import Spare, propose_spare
from modeltailor.search.structures import Arm

__all__ = ["BEYOND_PLAN", "Trainings"]

BEYOND_PLAN = "beyond_plan"
"""User attribute of trials that train a structure which the plan had no time for."""

_BETWEEN_ARMS = 3
"""Trials on structures that exist before the next one is trained."""

_AFTER_A_SPARE = 6
"""Trials that there must be room for once a structure beyond the plan is trained."""

_SETTLED_AFTER = 12
"""Trials of formats whose gain tells what further ones would give."""

_CLEARLY_MORE = 3.0
"""So many times as much a second a structure must promise: its gain is expected, that of formats was measured."""

_SLOWER_THAN_SEEN = 1.5

_RECOVER_AFTER = 0.6
"""Share of the trials or of the time after which recipes learn again, even if structures still wait."""


class Trainings:
    """The trainings of a search: minutes each, among trials of seconds.

    Args:
        course: the run.
        ground: what may be chosen from.
    """

    def __init__(self, course: Course, ground: Groundwork) -> None:
        self.course = course
        self.ground = ground

    def has_time_for(self, arm: Arm, *, beyond: bool) -> bool:
        """Whether a structure may be trained now, by the plan or ``beyond`` it."""
        return self.course.time_left(reserve=True) if beyond else is_affordable(self.course, arm)

    def deadline_s(self, arm: Arm, *, beyond: bool) -> float:
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
        trial_s = _SLOWER_THAN_SEEN * median(seen) if seen else USUAL_TRIAL_S
        return self.course.plan.time_s - self.course.elapsed() - self.course.reserve() - trials * trial_s

    def is_trained(self, arm: Arm) -> bool:
        """Whether a structure was trained, and measured in some formats."""
        structure = Recipe(structure=arm.structure).to_plain()["structure"]
        return any(t.is_measured and t.recipe["structure"] == structure for t in self.course.ledger.records())

    def next_recovery(self, records: tuple[TrialRecord, ...], waits: bool, *, stalled: bool = False) -> Recovery | None:
        """The recipe that should learn again now, if one should: when structures are through, a few trials apart.

        Args:
            records: everything so far.
            waits: structures of the plan wait that there is time for.
            stalled: nothing moves the front any more: no trials to come are worth waiting for.
        """
        plan = self.ground.recoveries
        if plan is None or self.course.plan.time_s - self.course.elapsed() < plan.train_s + self.course.reserve():
            return None
        late = (
            max(len(records) / self.course.plan.trials, self.course.elapsed() / self.course.plan.time_s)
            > _RECOVER_AFTER
        )
        done = [t.number for t in records if t.recipe.get("recovery") is not None]
        since = sum(t.role == "search" and t.number > max(done, default=-1) for t in records)
        early = (waits and not late) or since < (_BETWEEN_ARMS if done else 2 * _BETWEEN_ARMS)
        if len(done) >= plan.most or (early and not stalled):
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

    def enqueue_planned(self, records: tuple[TrialRecord, ...]) -> bool:
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

    def at_a_stall(self, records: tuple[TrialRecord, ...]) -> Recovery | Spare | None:
        """What learns next where formats move the front no more: the recipe or the structure that promises more a second.

        Nothing does while anything waits in the queue.
        """
        if self.is_queued():
            return None
        recovery = self.next_recovery(records, waits=False, stalled=True)
        spare = self.next_spare(records, stalled=True)
        if recovery is None or spare is None:
            return recovery or spare
        by_recipe, by_structure = recovery.gain / self._recovery_s(records), spare.gain / max(spare.train_s, 1.0)
        return recovery if by_recipe >= by_structure else spare

    def next_spare(self, records: tuple[TrialRecord, ...], *, stalled: bool) -> Spare | None:
        """The structure beyond the plan that should be trained now, where there is time that nothing else would use.

        That is so once nothing moves the front any more, once the trials will be through before the time is, or once
        further formats gain clearly less a second than a structure should.

        Args:
            records: everything so far.
            stalled: nothing moves the front any more.

        Returns:
            none while anything waits in the queue.
        """
        arms = tuple(self.ground.arms.values())
        left = self.course.plan.trials - len(records)
        if not any(a.is_spare for a in arms) or left <= _AFTER_A_SPARE or self.is_queued():
            return None
        recoveries_s = 0.0 if stalled else self._recoveries_s(records)
        seconds, unused_s = (self._free_s(n) - recoveries_s for n in (_AFTER_A_SPARE, left))
        original = next((t for t in records if t.role == "fp32"), None)
        if seconds <= 0.0 or original is None or not (stalled or self._is_settled(records)):
            return None
        in_use = not stalled and unused_s <= 0.0  # by formats, which must gain little then
        rate = self._recent_rate(records)
        if in_use and (rate == math.inf or len(records) % _BETWEEN_ARMS):
            return None
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
        if spare is not None and not stalled and unused_s < spare.train_s:
            whole = worthless * REFERENCE * REFERENCE
            if spare.gain * math.prod(box) / whole / spare.train_s < _CLEARLY_MORE * rate:
                return None
        return spare

    def enqueue_spare(self, spare: Spare) -> None:
        """Put a structure beyond the plan in the queue."""
        self.course.folder.event(
            "spare", label=spare.arm.label, gain=round(spare.gain, 6), train_s=round(spare.train_s, 1)
        )
        self._enqueue(spare.arm, beyond=True)

    def _recent_rate(self, records: Sequence[TrialRecord]) -> float:
        """Gain of hypervolume a second, as a share of the box, by the formats tried last; infinite after too few."""
        last = max((t.number for t in records if was_trained(t)), default=-1)
        curve = self.course.ledger.attribute("hypervolume", [])
        since = [point for t, point in zip(records, curve, strict=False) if t.number > last][-_SETTLED_AFTER:]
        if len(since) < _SETTLED_AFTER:
            return math.inf
        (begun, low), (ended, high) = since[0], since[-1]
        return float(max(0.0, high - low) / max(ended - begun, 1e-3) / (REFERENCE * REFERENCE))

    def is_queued(self) -> bool:
        """Whether trials wait that were put in the queue."""
        return bool(self.course.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _recovery_s(self, records: Sequence[TrialRecord]) -> float:
        """Seconds that a recipe should take to learn again: as long as those before it, or as planned."""
        assert self.ground.recoveries is not None
        seen = [s for t in records if (s := training_s(t, "recovery")) > 0.0]
        return max(1.0, median(seen) if seen else self.ground.recoveries.train_s)

    def _recoveries_s(self, records: Sequence[TrialRecord]) -> float:
        """Seconds that recipes may still learn again for."""
        plan = self.ground.recoveries
        if plan is None:
            return 0.0
        return plan.train_s * max(0, plan.most - sum(t.recipe.get("recovery") is not None for t in records))

    def _is_settled(self, records: Sequence[TrialRecord]) -> bool:
        """Whether some formats were tried since something was trained last."""
        last = max((t.number for t in records if was_trained(t)), default=-1)
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
                **({BEYOND_PLAN: True} if beyond else {}),
            },
        )
