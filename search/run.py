"""A run, from the workload to certified finalists: baselines first, then the sampler, every result durable at once."""

from __future__ import annotations

import contextlib
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from modeltailor.canonical import content_key, plain
from modeltailor.compress import Format, Recipe, Settings, Site, Structure
from modeltailor.errors import CandidateError, DataError, ModelError, StudyConflict
from modeltailor.search.executor import LocalExecutor, Task
from modeltailor.search.finalize import certify_finalists, choose_finalists
from modeltailor.search.front import Figures, Objective, history_figures, pareto_front, recommend
from modeltailor.search.hypervolume import hypervolume
from modeltailor.search.ledger import Ledger
from modeltailor.search.options import FormatChoice, choose_formats
from modeltailor.search.plan import SearchPlan
from modeltailor.search.prior import build_costs, build_space
from modeltailor.search.probing import Probed, probe_device, read_table
from modeltailor.search.records import Role, RunHistory, RunRecord, TrialRecord
from modeltailor.search.run_folder import RunFolder
from modeltailor.search.sampler import CostTable, Goal, SearchSpace, TailorSampler, make_sampler
from modeltailor.search.stages import ORIGINAL, PreparedFacts
from modeltailor.search.structures import Arm, propose_structures
from modeltailor.targets import Budget, Device
from modeltailor.workloads import WorkloadSpec, resolve_metric

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler

__all__ = ["Phase", "Progress", "RunRequest", "run_search"]

T = TypeVar("T")

Phase = Literal["prepare", "baselines", "costs", "search", "finals", "done"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is going on, for whoever shows it.

    Attributes:
        phase: of the run.
        text: what is being tried now.
        trial: the trial that has just finished, if one has.
        finished: trials finished so far.
        planned: trials planned in all.
        elapsed_s: seconds since the run started.
        remaining_s: expected seconds to the end.
        history: everything known so far, once there is a baseline.
    """

    phase: Phase
    text: str
    trial: TrialRecord | None = None
    finished: int = 0
    planned: int = 0
    elapsed_s: float = 0.0
    remaining_s: float = 0.0
    history: RunHistory | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """Everything a run needs.

    Attributes:
        spec: model, data and metric.
        device: where latency is measured.
        profile: the device's profile as data, for the record.
        budget: the user's limits.
        plan: the search's own limits.
        out: the run folder.
        job: the job as data; a run folder belongs to one job.
        job_text: the job as the file that is kept beside the results.
        cache: where trained structures are kept between runs; ``None`` keeps none.
        resume: continue what stands in ``out``.
    """

    spec: WorkloadSpec
    device: Device
    profile: Mapping[str, object]
    budget: Budget
    plan: SearchPlan
    out: Path
    job: Mapping[str, object]
    job_text: str
    cache: Path | None
    resume: bool = False


def run_search(request: RunRequest, notify: Callable[[Progress], None] = lambda _: None) -> RunHistory:
    """Run a search, or continue one, and return everything that was found.

    Whatever stops it, every trial that was reported before is in the run folder; ``resume`` goes on from there.

    Raises:
        ConfigError, ModelError, DataError: the input cannot be used; nothing is lost.
        StudyConflict: the folder is busy, holds another job, or a run and ``resume`` was not asked for.
        EnvironmentFault, DeviceError: disk, storage or device failed.
        KeyboardInterrupt: stopped by the user.
    """
    return _Run(request, notify).go()


_MOST_COPIES = 25
"""So many proposals in a row that were evaluated before mean: the space is exhausted."""

_BREAKER = 20
"""So many failures of one kind in a row mean: it is not the candidates."""

_BETWEEN_ARMS = 3
"""Trials on structures that exist before the next one is trained."""

_FINAL_SHARE = 0.2
_COSTS_SHARE = 0.12
_TRIAL_S = 6.0
"""Seconds of a trial without training, to weigh it against training; not the clock's, so that proposals repeat."""


_LOSS_SCALE = 0.10
_REFERENCE = 1.1


class _Run:
    """One run in this process, phase by phase."""

    def __init__(self, request: RunRequest, notify: Callable[[Progress], None]) -> None:
        self.request = request
        self.plan = request.plan
        self.folder = RunFolder(request.out)
        self.metric = resolve_metric(request.spec.metric, request.spec.root)
        asked: tuple[Objective, ...] = ("memory",) if request.budget.memory_bytes is not None else ()
        self.objectives: tuple[Objective, ...] = ("accuracy", "latency", "size", *asked)
        self._notify = notify
        self._started = time.monotonic()
        self._spent_before = 0.0
        self._seconds: dict[str, float] = {}
        self._phase: Phase = "prepare"

    # -- the way through --------------------------------------------------------------------------------------------

    def go(self) -> RunHistory:
        """Run all phases; release everything whatever happens."""
        request = self.request
        if self.folder.exists() and not request.resume:
            raise StudyConflict(
                "RUN-04", request.out, "holds a run already", "continue it with --resume, or choose another --out"
            )
        self.folder.create()
        self.folder.lock()
        self.executor = LocalExecutor(
            spec=request.spec,
            folder=self.folder,
            device=request.device,
            plan=self.plan,
            cache=request.cache,
            cores=os.cpu_count() or 1,
            memory=request.budget.memory_bytes is not None,
        )
        try:
            self.study = self._open_study()
            self.ledger = Ledger(
                self.study, objectives=self.objectives, budget=request.budget, minimize=self.metric.minimize
            )
            self._spent_before = float(self.ledger.attribute("elapsed", 0.0))
            self._seconds = dict(self.ledger.attribute("seconds", {}))
            return self._phases()
        finally:
            self.executor.close()
            self.folder.unlock()

    def _phases(self) -> RunHistory:
        self._say("loading model and data")
        facts = self._prepare()
        again = self.ledger.recover()
        self.executor.remember(self.ledger.records())
        if again:
            self.folder.event("recovered", trials=again)
        self._phase = "baselines"
        with _on_the_original():
            sites = self._timed("build", self.executor.sites)
        probed = self._probe([s.site for s in sites])
        fp32, settings = self._baselines(probed)
        self._phase = "search"
        if not self._is_over():
            self.ledger.keep("stopped", self._search(facts, fp32, settings, probed))
        self._phase = "finals"
        self._finish()
        self._phase = "done"
        self._say("done")
        return self.history()

    def _open_study(self) -> Study:
        study = self.folder.study(create=True, n_objectives=len(self.objectives))
        own = _job_key(self.request.job)
        if study.user_attrs.get("job_key", own) != own:
            raise StudyConflict(
                "RUN-05",
                self.request.out,
                "was made for another job",
                "choose another --out, or resume with the same job",
            )
        study.set_user_attr("job_key", own)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # metric names are marked experimental upstream
            study.set_metric_names(list(self.objectives))
        self.folder.write_text("job.yaml", self.request.job_text)
        return study

    def _prepare(self) -> PreparedFacts:
        structures = bool(set(self.plan.axes) - {"formats"})
        with _on_the_original():
            facts = self._timed("prepare", lambda: self.executor.prepare(structures))
        before = self.study.user_attrs.get("model_digest", facts.digest)
        if before != facts.digest:
            raise StudyConflict(
                "RUN-06",
                self.request.out,
                "the model changed since this run started",
                "start a new run for the new model",
            )
        self.study.set_user_attr("model_digest", facts.digest)
        self.study.set_user_attr("run", self._run_record(facts).model_dump_json())
        return facts

    def _is_over(self) -> bool:
        """Whether the search stopped before, and more trials or time were not given since."""
        limits_bind = len(self.ledger.records()) >= self.plan.trials or not self._time_left(reserve=True)
        reason = str(self.ledger.attribute("stopped", ""))
        return bool(reason) and (limits_bind or not reason.startswith(("all ", "the time")))

    def _probe(self, sites: Sequence[Site]) -> Probed:
        """What pays on this device; decided once a run, so that a resumed one goes on alike."""
        kept = self.ledger.attribute("probe")
        if kept is None:
            self._say("probing what pays on this device")
            table = self._timed(
                "probe",
                lambda: probe_device(self.request.device, sites, cache=self.request.cache, time_s=self.plan.time_s),
            )
            kept = plain(read_table(table, sites))
            self.ledger.keep("probe", kept)
        probed = Probed(**{**kept, "notes": tuple(kept["notes"])})
        self.executor.channel_multiple = probed.channel_multiple
        return probed

    def _baselines(self, probed: Probed) -> tuple[TrialRecord, dict[str, Settings]]:
        fp32 = self._evaluate_fixed(Recipe(), "fp32", "fp32")
        if not fp32.is_measured:
            kind = DataError if fp32.stage == "score" else ModelError
            raise kind(
                "MODEL-10", "the original model", f"{fp32.outcome} while {fp32.stage}: {fp32.error}", "mend the model"
            )
        self.executor.baseline = self.folder.artifact(fp32.sha256)
        self._reference_outputs(fp32)
        settings: dict[str, Settings] = {}
        with _on_the_original():
            uniform = self._timed("build", self.executor.baselines)
        for label, formats, default in uniform:
            chosen = replace(default, activation_signed=probed.activation_signed)
            settings[label] = chosen
            recipe = Recipe(formats=tuple((s, Format.parse(f)) for s, f in formats), settings=chosen)
            if not self._time_left(reserve=True):
                break
            self._evaluate_fixed(recipe, "baseline", label)
        return fp32, settings

    def _reference_outputs(self, fp32: TrialRecord) -> None:
        """After a resume the original's outputs are gone with the old scratch: make them again."""
        if not (self.folder.work / "outputs-search.npz").exists():
            self.executor.score(self.executor.baseline, (), "search", is_reference=True)

    def _evaluate_fixed(self, recipe: Recipe, role: Role, label: str) -> TrialRecord:
        known = self.ledger.by_key().get(recipe.key)
        if known is not None:
            return known
        self._say(f"measuring {label}")
        task = Task(number=self.ledger.next_number(), recipe=recipe, role=role, label=label)
        record = self._stamp(self.executor.submit(task).result())
        self.ledger.add(record)
        self._after(record)
        return record

    # -- the search -------------------------------------------------------------------------------------------------

    def _search(self, facts: PreparedFacts, fp32: TrialRecord, settings: Mapping[str, Settings], probed: Probed) -> str:
        """Ask, evaluate, tell, until a reason to stop. Returns the reason."""
        sites = self.executor.sites()
        baselines = [t for t in self.ledger.records() if t.role == "baseline" and t.label in settings]
        choice = choose_formats(sites, baselines, settings, search_formats="formats" in self.plan.axes)
        arms = propose_structures(
            facts, axes=self.plan.axes, time_s=self.plan.time_s, cores=os.cpu_count() or 1, seed=self.plan.seed
        )
        self._note(choice, facts, arms, probed)
        space = build_space(choice, arms, self.plan.sampler)
        uniform = next((t for t in baselines if t.label == choice.uniform), None)
        self._say("finding out what each format costs at each site")
        costs = self._site_costs(choice, space)
        table = build_costs(space, sites, costs, fp32, uniform, arms)
        by_label = {a.label: a for a in arms}
        self.study.sampler = self._sampler(space, table, by_label, fp32)
        self._seed(space, choice, (fp32, *baselines))
        return self._loop(space, choice, by_label)

    def _site_costs(self, choice: FormatChoice, space: SearchSpace) -> dict[tuple[str, str], tuple[int, float]]:
        if all(len(d.options) == 1 for d in space.decisions):
            return {}
        limit = _COSTS_SHARE * self.plan.time_s
        formats = tuple(sorted({f for d in space.decisions for f in d.options}))
        try:
            rows = self._timed("sensitivity", lambda: self.executor.site_costs(choice.settings, formats, limit))
        except CandidateError as error:
            # The search can do without: what is measured corrects any prior.
            self.folder.event("no-sensitivity", error=error.line())
            return {}
        return {(site, name): (stored, loss) for site, name, stored, loss in rows}

    def _sampler(self, space: SearchSpace, table: CostTable, arms: Mapping[str, Arm], fp32: TrialRecord) -> BaseSampler:
        if self.plan.sampler != "tailor":
            return make_sampler(self.plan.sampler, seed=self.plan.seed)
        assert fp32.latency_ms is not None
        assert fp32.accuracy is not None
        goal = Goal.of(
            self.objectives,
            self.request.budget,
            latency_ms=fp32.latency_ms.value,
            metric=fp32.accuracy.value,
            minimize=self.metric.minimize,
            evaluation_s=_TRIAL_S,
        )
        return TailorSampler(
            space,
            table,
            goal=goal,
            seed=self.plan.seed,
            affordable=lambda name: name == ORIGINAL or self._affordable(arms[name]),
        )

    def _affordable(self, arm: Arm) -> bool:
        return self.plan.time_s - self._elapsed() > arm.train_s + self._reserve()

    def _seed(self, space: SearchSpace, choice: FormatChoice, known: Iterable[TrialRecord]) -> None:
        """Enqueue what the baselines measured, so that the sampler learns from it; nothing is measured again."""
        options = dict(choice.options)
        for trial in known:
            formats = trial.recipe["formats"]
            assert isinstance(formats, dict)
            if trial.recipe["settings"] != plain(choice.settings) and formats:
                continue
            if all(formats.get(site, "fp32") in options[site] for site in options):
                params = space.params_of(ORIGINAL, {site: formats.get(site, "fp32") for site in options})
                self.study.enqueue_trial(params, skip_if_exists=True)

    def _loop(self, space: SearchSpace, choice: FormatChoice, arms: Mapping[str, Arm]) -> str:
        copies = 0
        while True:
            records = self.ledger.records()
            if len(records) >= self.plan.trials:
                return f"all {self.plan.trials} trials are done"
            if not self._time_left(reserve=True):
                return f"the time of {self.plan.time_s:.0f} s is used up"
            broken = _breaker(records)
            if broken:
                return broken
            self._enqueue_arm(space, choice, arms, records)
            trial = self.study.ask()
            structure, assignment = space.suggest(trial)
            arm = arms.get(structure)
            recipe = Recipe(
                structure=arm.structure if arm else Structure(),
                formats=tuple((s, Format.parse(f)) for s, f in assignment.items()),
                settings=choice.settings,
            )
            known = self.ledger.by_key().get(recipe.key)
            if known is not None:
                self.ledger.finish(trial, known, copy_of=known.number)
                copies += 1
                if copies >= _MOST_COPIES:
                    return "the search has tried every recipe it can tell apart"
                continue
            copies = 0
            self._say(f"trying {arm.label if arm else 'formats'}")
            role: Role = trial.user_attrs.get("role", "search")
            label = str(trial.user_attrs.get("seed_label", ""))
            deadline = arm.train_s * 1.5 if arm else None
            task = Task(number=trial.number, recipe=recipe, role=role, label=label, deadline_s=deadline)
            record = self._stamp(self.executor.submit(task).result())
            self.ledger.finish(trial, record)
            self._after(record)

    def _enqueue_arm(
        self, space: SearchSpace, choice: FormatChoice, arms: Mapping[str, Arm], records: tuple[TrialRecord, ...]
    ) -> None:
        """Put the next structure in the queue, every few trials, in its best uniform format."""
        tried = {
            t.user_attrs["seed_label"] for t in self.study.get_trials(deepcopy=False) if "seed_label" in t.user_attrs
        }
        waiting = [a for a in arms.values() if a.label not in tried]
        searched = sum(t.role == "search" for t in records)
        if not waiting or searched < _BETWEEN_ARMS * (len(tried) + 1) - 1:
            return
        arm = waiting[0]
        if not self._affordable(arm):
            return
        fastest = {site: next((f for f in options if f != "fp32"), "fp32") for site, options in choice.options}
        self.study.enqueue_trial(
            space.params_of(arm.label, fastest),
            user_attrs={"role": "baseline" if arm.is_uniform else "seed", "seed_label": arm.label},
        )

    # -- the end ----------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        history = self.history()
        finalists = choose_finalists(
            history, self.request.budget, minimize=self.metric.minimize, objectives=self.objectives
        )
        done = {f.key for f in history.finals}
        if finalists and {t.key for t in finalists} != done:
            left = min(max(self.plan.time_s - self._elapsed(), 0.5 * self._reserve()), self._reserve())
            self._say(f"certifying {len(finalists)} finalists")
            finals = self._timed(
                "finals",
                lambda: certify_finalists(self.executor, finalists, seconds=left, say=self._say),
            )
            self.ledger.keep("finals", [f.model_dump() for f in finals])
            self._note_seen_samples(self.history())
        self._keep_times()
        self._publish(self.history())
        self.folder.event("finished", stopped=self.ledger.attribute("stopped"))
        self.folder.drop_work()

    def _note_seen_samples(self, history: RunHistory) -> None:
        """Say it when the original does much better on ``search`` than on ``test``: it has probably seen those samples."""
        fp32 = history.baseline
        test = next((f.test_accuracy for f in history.finals if fp32 is not None and f.key == fp32.key), None)
        if fp32 is None or fp32.accuracy is None or test is None:
            return
        search = fp32.accuracy
        apart = search.high < test.low if self.metric.minimize else search.low > test.high
        if apart:
            self._add_notes(
                f"the original scores {search.value:.4f} on search and {test.value:.4f} on test: it has probably seen the "
                "search samples in training, so what retrained models lose on search says less than what they lose on test"
            )

    def _after(self, record: TrialRecord) -> None:
        """What is due after each finished trial: the event, the curve, the public files, the word to the listener."""
        self.folder.event(
            "trial",
            number=record.number,
            key=record.key,
            outcome=record.outcome,
            label=record.label,
            error=record.error,
        )
        for stage, seconds in record.seconds.items():
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
        self._keep_times()
        history = self.history()
        self._curve(history)
        self._publish(history)
        self._say(record.label or record.key[:8], record)

    def _keep_times(self) -> None:
        self.ledger.keep("elapsed", round(self._elapsed(), 3))
        known = sum(self._seconds.values())
        other = max(0.0, self._elapsed() - known)
        self.ledger.keep("seconds", {k: round(v, 3) for k, v in self._seconds.items() if k != "other"})
        self.ledger.keep("other_seconds", round(other, 3))

    def _curve(self, history: RunHistory) -> None:
        fp32 = history.baseline
        if fp32 is None:
            return
        sign = 1.0 if self.metric.minimize else -1.0
        points = [
            (sign * f.accuracy.difference / _LOSS_SCALE, 1.0 / f.speedup.value, f.size_bytes / fp32.size_bytes)
            for f in history_figures(history).values()
        ]
        value = hypervolume(points, (1.0, _REFERENCE, _REFERENCE))
        curve = self.ledger.attribute("hypervolume", [])
        self.ledger.keep("hypervolume", [*curve, [round(self._elapsed(), 2), round(value, 6)]])

    def _publish(self, history: RunHistory) -> None:
        figures = history_figures(history)
        by_key = {t.key: t for t in reversed(history.trials) if t.is_measured}
        chosen = _certified(figures, history)
        front = pareto_front(chosen, minimize=self.metric.minimize, objectives=self.objectives)
        best = recommend(chosen, self.request.budget, minimize=self.metric.minimize)
        self.folder.publish(by_key[best.key] if best else None, [by_key[f.key] for f in front])

    # -- small things -----------------------------------------------------------------------------------------------

    def history(self) -> RunHistory:
        """Everything that finished so far."""
        return self.folder.read(self.study)

    def _stamp(self, record: TrialRecord) -> TrialRecord:
        return record.model_copy(update={"finished_at_s": round(self._elapsed(), 3)})

    def _elapsed(self) -> float:
        return self._spent_before + time.monotonic() - self._started

    def _reserve(self) -> float:
        return _FINAL_SHARE * self.plan.time_s

    def _time_left(self, *, reserve: bool) -> bool:
        return self._elapsed() < self.plan.time_s - (self._reserve() if reserve else 0.0)

    def _timed(self, stage: str, function: Callable[[], T]) -> T:
        started = time.monotonic()
        try:
            return function()
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + time.monotonic() - started

    def _say(self, text: str, trial: TrialRecord | None = None) -> None:
        history = self.history() if self._phase != "prepare" else None
        finished = len(history.trials) if history else 0
        elapsed = self._elapsed()
        rest = self.plan.trials - finished
        by_trials = elapsed / finished * rest + self._reserve() if finished else self.plan.time_s
        self._notify(
            Progress(
                phase=self._phase,
                text=text,
                trial=trial,
                finished=finished,
                planned=self.plan.trials,
                elapsed_s=elapsed,
                remaining_s=max(0.0, min(self.plan.time_s - elapsed, by_trials)),
                history=history,
            )
        )

    def _note(self, choice: FormatChoice, facts: PreparedFacts, arms: tuple[Arm, ...], probed: Probed) -> None:
        notes = [*facts.notes, *probed.notes, *choice.notes]
        closed = [a for a in self.plan.axes if a != "formats" and not any(arm.axis == a for arm in arms)]
        if closed and facts.kind == "onnx":
            notes.append(
                f"{' and '.join(closed)}: needs a PyTorch model; this ONNX file is searched along formats only"
            )
        elif closed:
            notes.append(f"{' and '.join(closed)}: nothing found in this model that can be changed, or no train split")
        self._add_notes(*notes)

    def _add_notes(self, *notes: str) -> None:
        record = RunRecord.model_validate_json(self.study.user_attrs["run"])
        kept = tuple(dict.fromkeys((*record.notes, *notes)))
        self.study.set_user_attr("run", record.model_copy(update={"notes": kept}).model_dump_json())

    def _run_record(self, facts: PreparedFacts) -> RunRecord:
        request = self.request
        sizes, digests = dict(facts.split_sizes), dict(facts.split_digests)
        device = asdict(request.device.describe())
        return RunRecord(
            job=dict(request.job),
            budget=asdict(request.budget),
            profile=dict(request.profile),
            device=device,
            metric={
                "name": self.metric.name,
                "minimize": self.metric.minimize,
                "unit": self.metric.unit,
                "rows_per_sample": self.metric.rows_per_sample,
            },
            model={
                "kind": facts.kind,
                "source": request.spec.model.source,
                "digest": facts.digest,
                "parameters": facts.parameters,
                "input_names": list(facts.input_names),
            },
            splits={name: {"samples": n, "digest": digests.get(name, "")} for name, n in sizes.items()},
            axes=tuple(self.plan.axes),
            notes=facts.notes,
            environment={
                **_environment(),
                "processor": str(device["processor"]),
                "threads": str(device["options"]["intra_op_threads"]),
            },
            seed=self.plan.seed,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )


@contextlib.contextmanager
def _on_the_original() -> Iterator[None]:
    """What fails on the original is no failed candidate: the input cannot be used."""
    try:
        yield
    except CandidateError as error:
        raise ModelError(
            "MODEL-10", "the original model", f"{error.code}: {error.what}", "check that it runs on your data"
        ) from error


def _job_key(job: Mapping[str, object]) -> str:
    search = job.get("search")
    assert isinstance(search, Mapping)
    kept = {k: v for k, v in search.items() if k not in ("trials", "time", "trial_timeout")}
    return content_key({**job, "search": kept})


def _certified(figures: Mapping[str, Figures], history: RunHistory) -> list[Figures]:
    """Once finalists were measured again, only they count: a lucky screening must not beat a certified figure."""
    finals = {f.key for f in history.finals}
    return [f for k, f in figures.items() if not finals or k in finals]


def _breaker(records: tuple[TrialRecord, ...]) -> str:
    last = records[-_BREAKER:]
    if len(last) == _BREAKER and not any(r.is_measured for r in last) and len({r.outcome for r in last}) == 1:
        return f"{_BREAKER} trials in a row failed with {last[0].outcome}: {last[0].error}"
    return ""


def _environment() -> dict[str, str]:
    names = ("modeltailor", "onnxruntime", "onnx", "torch", "optuna", "numpy")
    found = {name: version(name) for name in names}
    return {**found, "python": platform.python_version(), "system": platform.platform(), "cores": str(os.cpu_count())}
