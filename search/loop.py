"""The search itself: ask, evaluate, tell, until there is a reason to stop."""

from __future__ import annotations

from typing import Literal

from modeltailor.compress import Format, Recipe, Structure
from modeltailor.search.course import Course
from modeltailor.search.devices import is_met_on_all
from modeltailor.search.executor import Task
from modeltailor.search.fleet import device_views
from modeltailor.search.front import history_figures
from modeltailor.search.groundwork import Groundwork
from modeltailor.search.racing import Race
from modeltailor.search.records import Role, TrialRecord
from modeltailor.search.recoveries import Recovery
from modeltailor.search.sampler import TailorSampler
from modeltailor.search.stopping import broken, flat, solved
from modeltailor.search.trainings import BEYOND_PLAN, Trainings

__all__ = ["SearchLoop"]

_Tried = Literal["new", "copy", "unreadable", "no time", "closed"]

_MOST_COPIES = 25
"""So many proposals in a row that were evaluated before mean: the space is exhausted."""

_MOST_CLOSED = 1000
"""So many proposals in a row of structures that nobody may begin but the search itself."""


class SearchLoop:
    """A search over what the groundwork offers.

    Args:
        course: the run.
        ground: what may be chosen from.
    """

    def __init__(self, course: Course, ground: Groundwork) -> None:
        self.course = course
        self.ground = ground
        self.trainings = Trainings(course, ground)
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
            waits = self.trainings.enqueue_planned(records)
            recovery = self.trainings.next_recovery(records, waits)
            if recovery is not None:
                self._learn_again(recovery)
                continue
            if not waits:
                reason = self._nothing_to_gain(records)
                if self._train_more(records, stalled=bool(reason)):
                    continue
                if reason and not self.trainings.is_queued():
                    return reason
            tried = self._try_next()
            closed = closed + 1 if tried == "closed" else 0
            if tried != "closed":
                copies, unaffordable = (0, 0) if tried == "new" else (copies + 1, unaffordable + (tried == "no time"))
            if copies >= _MOST_COPIES or closed >= _MOST_CLOSED:
                if self._train_more(self.course.ledger.records(), stalled=True):
                    copies = unaffordable = closed = 0
                    continue
                if unaffordable:
                    return "what the sampler proposes would have to be trained, and there is no time left for that"
                return "the search has tried every recipe it can tell apart"

    def _reason_to_stop(self, records: tuple[TrialRecord, ...]) -> str:
        return self.course.used_up() or broken(records[self._begun_at :])

    def _learn_again(self, recovery: Recovery) -> None:
        assert self.ground.recoveries is not None
        self.course.evaluate(recovery.recipe, "search", recovery.label, deadline_s=self.ground.recoveries.train_s * 1.5)

    def _train_more(self, records: tuple[TrialRecord, ...], *, stalled: bool) -> bool:
        """Train what promises more than further formats, if anything does. Returns whether there is any such thing.

        A structure beyond the plan goes into the queue; a recipe, which only a stalled search asks for here, learns at once.
        """
        more = self.trainings.at_a_stall(records) if stalled else self.trainings.next_spare(records, stalled=False)
        if more is None:
            return False
        self._be_patient_again(records)
        if isinstance(more, Recovery):
            self._learn_again(more)
        else:
            self.trainings.enqueue_spare(more)
        return True

    def _be_patient_again(self, records: tuple[TrialRecord, ...]) -> None:
        """What was seen so far is no reason to stop any more."""
        self._begun_at = len(records)
        if isinstance(self.course.study.sampler, TailorSampler):
            self.course.study.sampler.expected_gains.clear()

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
        if asked is None and arm is not None and arm.is_spare and not self.trainings.is_trained(arm):
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
        beyond = bool(trial.user_attrs.get(BEYOND_PLAN))
        if (
            arm is not None
            and not self.trainings.has_time_for(arm, beyond=beyond)
            and not self.trainings.is_trained(arm)
        ):
            self.course.ledger.pass_over(trial)
            return "no time"
        self.course.say(f"trying {arm.label if arm else 'formats'}")
        role: Role = trial.user_attrs.get("role", "search")
        task = Task(
            number=trial.number,
            recipe=recipe,
            role=role,
            label=str(trial.user_attrs.get("seed_label", "")),
            deadline_s=self.trainings.deadline_s(arm, beyond=beyond) if arm else None,
            race=self._race() if role == "search" and not self.course.request.others else None,
        )
        record = self.course.stamp(self.course.executor.submit(task).result())
        self.course.ledger.finish(trial, record)
        self.course.after(record)
        return "new"

    def _race(self) -> Race:
        figures = history_figures(self.course.history())
        return Race(
            rivals=tuple(figures.values()), budget=self.course.request.budget, minimize=self.course.metric.minimize
        )
