"""The book of a study: which trials were asked for, which finished, and what they found. Optuna behind one door.

A finished trial's record is stored before its state, so a kill between the two loses nothing: on resume the state is
told from the record. A trial that was running when the process died is asked for again, at most
:data:`MOST_ATTEMPTS` times in all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from modeltailor.search.devices import elsewhere_excess, elsewhere_ratio
from modeltailor.search.front import Objective, figures_of, margins
from modeltailor.search.records import TrialRecord
from modeltailor.search.run_folder import SUPERSEDED, disk_faults
from modeltailor.targets import Budget

if TYPE_CHECKING:
    import optuna

__all__ = ["MOST_ATTEMPTS", "Ledger"]

MOST_ATTEMPTS = 2


class Ledger:
    """Bookkeeping over an Optuna study.

    Args:
        study: where trials live.
        objectives: what is minimised, in the order of the study's directions.
        budget: limits that become constraints.
        minimize: whether a smaller metric is better.
        elsewhere: limits of further devices by name.
    """

    def __init__(
        self,
        study: optuna.Study,
        *,
        objectives: Sequence[Objective],
        budget: Budget,
        minimize: bool = False,
        elsewhere: Mapping[str, Budget] | None = None,
    ) -> None:
        self.study = study
        self.objectives = tuple(objectives)
        self.budget = budget
        self.minimize = minimize
        self.elsewhere = dict(elsewhere or {})
        self._records: dict[int, TrialRecord] = {}
        self._superseded: list[int] = self.attribute(SUPERSEDED, [])

    # -- reading ------------------------------------------------------------------------------------------------------

    def records(self) -> tuple[TrialRecord, ...]:
        """All finished trials with a record of their own, by number, but for those that were evaluated again."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.number not in self._records and "record" in trial.user_attrs and trial.state.is_finished():
                self._records[trial.number] = TrialRecord.model_validate_json(trial.user_attrs["record"])
        return tuple(self._records[n] for n in sorted(self._records) if n not in self._superseded)

    def by_key(self) -> dict[str, TrialRecord]:
        """Finished trials by recipe key; the first one where a recipe was evaluated twice."""
        found: dict[str, TrialRecord] = {}
        for record in self.records():
            found.setdefault(record.key, record)
        return found

    def next_number(self) -> int:
        """The number that the next trial will get."""
        return len(self.study.get_trials(deepcopy=False))

    @staticmethod
    def enqueued(trial: optuna.trial.Trial) -> Mapping[str, Any] | None:
        """The parameters that a trial was put in the queue with; ``None`` if the sampler decides them."""
        found: Mapping[str, Any] | None = trial.storage.get_trial(trial._trial_id).system_attrs.get("fixed_params")
        return found

    def attribute(self, name: str, default: Any = None) -> Any:
        """A JSON value kept with the study."""
        stored = self.study.user_attrs.get(name)
        return default if stored is None else json.loads(stored)

    def keep(self, name: str, value: object) -> None:
        """Keep a JSON value with the study."""
        with disk_faults("study.db"):
            self.study.set_user_attr(name, json.dumps(value))

    # -- writing ------------------------------------------------------------------------------------------------------

    def add(self, record: TrialRecord) -> None:
        """Store a finished trial that no sampler asked for, in one transaction."""
        import optuna

        values, state = self._values(record)
        trial = optuna.trial.create_trial(
            state=state,
            values=values,
            user_attrs={"record": record.model_dump_json(), "label": record.label or record.role},
            system_attrs=_artifact_of(record),
            constraints=self._constraints(record) if values else {},
        )
        with disk_faults("study.db"):
            self.study.add_trial(trial)

    def supersede(self, number: int) -> None:
        """Let a failed trial be none of the run's: its recipe was evaluated again. Its point of the curve goes with it."""
        numbers = [r.number for r in self.records()]
        curve = self.attribute("hypervolume", [])
        if len(curve) == len(numbers):
            self.keep("hypervolume", [point for n, point in zip(numbers, curve, strict=True) if n != number])
        self._superseded.append(number)
        self.keep(SUPERSEDED, self._superseded)

    def pass_over(self, trial: optuna.trial.Trial) -> None:
        """Settle a trial that was asked for and not evaluated; nobody is to learn anything from it."""
        import optuna

        from modeltailor.search.sampler.space import PASSED_OVER

        with disk_faults("study.db"):
            trial.set_user_attr(PASSED_OVER, True)
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def finish(self, trial: optuna.trial.Trial, record: TrialRecord, *, copy_of: int | None = None) -> None:
        """Store the record of a trial that was asked for, then its state.

        Args:
            trial: what :meth:`optuna.Study.ask` gave.
            record: what was found.
            copy_of: the same recipe was evaluated as that trial; nothing new was measured and no new record is kept.
        """
        values, state = self._values(record)
        with disk_faults("study.db"):
            if copy_of is None:
                trial.set_user_attr("label", record.label or record.role)
                trial.set_user_attr("record", record.model_dump_json())
                for key, note in _artifact_of(record).items():
                    trial.storage.set_trial_system_attr(trial._trial_id, key, note)
            else:
                trial.set_user_attr("copy_of", copy_of)
            if values:
                for name, value in self._constraints(record).items():
                    trial.set_constraint(name, value)
            self.study.tell(trial, values, state=state)

    def recover(self) -> int:
        """Settle what a killed process left running. Returns how many trials will be asked for again."""
        import optuna

        again = 0
        for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            with disk_faults("study.db"):
                stored = trial.user_attrs.get("record")
                if stored is not None:
                    values, state = self._values(TrialRecord.model_validate_json(stored))
                    self.study.tell(trial.number, values, state=state)
                    continue
                attempts = int(trial.user_attrs.get("attempts", 1))
                self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                if attempts < MOST_ATTEMPTS and trial.params:
                    self.study.enqueue_trial(
                        dict(trial.params), user_attrs={**trial.user_attrs, "attempts": attempts + 1}
                    )
                    again += 1
        return again

    def _values(self, record: TrialRecord) -> tuple[list[float] | None, optuna.trial.TrialState]:
        import optuna

        figures = figures_of(record)
        there = elsewhere_ratio(record) if "elsewhere" in self.objectives else 0.0
        if figures is None or there is None:  # what one device cannot run is no point of a front over all of them
            return None, optuna.trial.TrialState.FAIL
        sign = 1.0 if self.minimize else -1.0
        by_name: Mapping[Objective, float] = {
            "accuracy": sign * figures.accuracy.difference,  # the loss against the original
            "latency": 1.0 / figures.speedup.value,
            "size": float(figures.size_bytes),
            "memory": float(figures.memory_bytes or 0),
            "elsewhere": there,
        }
        return [by_name[o] for o in self.objectives], optuna.trial.TrialState.COMPLETE

    def _constraints(self, record: TrialRecord) -> dict[str, float]:
        figures = figures_of(record)
        assert figures is not None
        found: dict[str, float] = {m.limit: m.excess for m in margins(figures, self.budget, minimize=self.minimize)}
        excess = elsewhere_excess(record, self.elsewhere)
        return found if excess is None else {**found, "elsewhere": excess}


def _artifact_of(record: TrialRecord) -> dict[str, str]:
    """What makes dashboards offer the built file with the trial: the note that ``optuna.artifacts`` would leave.

    The artifact's identifier is the name of its file in the run's ``artifacts/``, without its ending; see
    :class:`modeltailor.search.dashboard.BuiltFiles`.
    """
    from optuna.artifacts import ArtifactMeta

    if not record.sha256:
        return {}
    name = record.sha256[:16]
    meta = ArtifactMeta(artifact_id=name, filename=f"{name}.onnx", mimetype="application/octet-stream", encoding=None)
    return {f"artifacts:{name}": json.dumps(asdict(meta))}
