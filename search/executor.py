"""The ``Executor`` protocol: who builds and measures a recipe. Here, on this machine, in child processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, cast

import numpy as np

from modeltailor.compress import Recipe, Settings, Site, SiteReport, Structure
from modeltailor.errors import CandidateError, ModelTailorError
from modeltailor.estimators.accuracy import Accuracy
from modeltailor.estimators.estimate import Estimate
from modeltailor.estimators.latency import screen
from modeltailor.search import stages
from modeltailor.search.plan import SearchPlan
from modeltailor.search.records import AccuracyRecord, IntervalRecord, Role, SiteRecord, TrialRecord
from modeltailor.search.run_folder import RunFolder
from modeltailor.targets import Child, Device, Inputs
from modeltailor.workloads import WorkloadSpec, bind_inputs, open_split

__all__ = ["Executor", "FakeExecutor", "LocalExecutor", "Task", "accuracy_record", "interval_record"]

T = TypeVar("T")

_PREPARE_TIMEOUT_S = 900.0
_TRAINING_GRACE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A recipe to evaluate.

    Attributes:
        number: of the trial.
        recipe: what to build.
        role: why it is evaluated.
        label: for people, for instance ``int8 static``.
        deadline_s: seconds that training may take, if the recipe needs any.
    """

    number: int
    recipe: Recipe
    role: Role
    label: str = ""
    deadline_s: float | None = None


class Executor(Protocol):
    """Builds and measures recipes. A recipe that fails is a record with its outcome code, never an exception."""

    def submit(self, task: Task) -> Future[TrialRecord]:
        """Start evaluating a recipe."""
        ...

    def close(self) -> None:
        """Stop all work and release processes. Safe to call twice."""
        ...


class FakeExecutor:
    """An executor for tests: records come from a function; nothing is built.

    Args:
        outcome: called with each task.
    """

    def __init__(self, outcome: Callable[[Task], TrialRecord]) -> None:
        self.outcome = outcome
        self.tasks: list[Task] = []

    def submit(self, task: Task) -> Future[TrialRecord]:
        """Return the function's record as a finished future."""
        self.tasks.append(task)
        future: Future[TrialRecord] = Future()
        future.set_result(self.outcome(task))
        return future

    def close(self) -> None:
        """Nothing to release."""


def interval_record(estimate: Estimate) -> IntervalRecord:
    """Write an estimate down."""
    return IntervalRecord(value=estimate.value, low=estimate.low, high=estimate.high, evidence=estimate.evidence)


def accuracy_record(accuracy: Accuracy) -> AccuracyRecord:
    """Write an accuracy down."""
    return AccuracyRecord(
        value=accuracy.value,
        low=accuracy.low,
        high=accuracy.high,
        difference=accuracy.difference,
        difference_low=accuracy.difference_low,
        difference_high=accuracy.difference_high,
        n_samples=accuracy.n_samples,
    )


class LocalExecutor:
    """Builds, scores and measures on this machine, one recipe at a time.

    Building, scoring and timing each have a child process of their own; nothing of ours runs while latency is measured.

    Args:
        spec: the workload as data.
        folder: the run folder.
        device: where latency is measured.
        plan: limits of time and memory.
        cache: where trained structures are kept between runs; ``None`` keeps none.
        cores: threads for building and training.
        memory: whether peak memory is measured for every candidate.
    """

    def __init__(
        self,
        *,
        spec: WorkloadSpec,
        folder: RunFolder,
        device: Device,
        plan: SearchPlan,
        cache: Path | None,
        cores: int,
        memory: bool,
    ) -> None:
        self.spec = spec
        self.folder = folder
        self.device = device
        self.plan = plan
        self.cache = cache
        self.cores = cores
        self.memory = memory
        self.facts: stages.PreparedFacts | None = None
        self.channel_multiple = 8
        self._screened: dict[str, TrialRecord] = {}
        self._builder = Child(memory_bytes=plan.memory_limit_bytes, threads=cores, name="build")
        self._scorer = Child(memory_bytes=plan.memory_limit_bytes, threads=cores, name="score")
        self._realized: dict[str, stages.RealizedFacts] = {}
        self._sites: dict[str, tuple[stages.SiteFacts, ...]] = {}

    # -- what the search asks for beside trials ---------------------------------------------------------------------

    def prepare(self, structures: bool) -> stages.PreparedFacts:
        """Load and check the workload; see :func:`stages.prepare`."""
        self.facts = cast(
            "stages.PreparedFacts",
            self._builder.call(
                "modeltailor.search.stages:prepare",
                timeout_s=_PREPARE_TIMEOUT_S,
                spec=self.spec,
                work=self.folder.work,
                cache=self.cache,
                seed=self.plan.seed,
                structures=structures,
            ),
        )
        return self.facts

    def sites(self, structure_key: str = stages.ORIGINAL) -> tuple[stages.SiteFacts, ...]:
        """List the sites of a structure that exists."""
        if structure_key not in self._sites:
            self._sites[structure_key] = cast(
                "tuple[stages.SiteFacts, ...]",
                self._build("sites", self.plan.trial_timeout_s, structure_key=structure_key),
            )
        return self._sites[structure_key]

    def baselines(self) -> tuple[tuple[str, tuple[tuple[str, str], ...], Settings], ...]:
        """List the uniform baselines of the original."""
        return cast(
            "tuple[tuple[str, tuple[tuple[str, str], ...], Settings], ...]",
            self._build("baselines", self.plan.trial_timeout_s, structure_key=stages.ORIGINAL),
        )

    def site_costs(
        self, settings: Settings, formats: tuple[str, ...], limit_s: float
    ) -> tuple[tuple[str, str, int, float], ...]:
        """Bytes and sensitivity of those formats at every site of the original."""
        return cast(
            "tuple[tuple[str, str, int, float], ...]",
            self._build(
                "site_costs", limit_s + self.plan.trial_timeout_s, structure_key=stages.ORIGINAL, settings=settings,
                formats=formats, limit_s=limit_s,
            ),
        )  # fmt: skip

    def _build(self, name: str, timeout_s: float, **arguments: object) -> object:
        return self._builder.call(
            f"modeltailor.search.stages:{name}",
            timeout_s=timeout_s,
            spec=self.spec,
            work=self.folder.work,
            cache=self.cache,
            seed=self.plan.seed,
            **arguments,
        )

    # -- trials -----------------------------------------------------------------------------------------------------

    def submit(self, task: Task) -> Future[TrialRecord]:
        """Evaluate a recipe now and return its finished record."""
        future: Future[TrialRecord] = Future()
        future.set_result(self._evaluate(task))
        return future

    def _evaluate(self, task: Task) -> TrialRecord:
        seconds: dict[str, float] = {}
        stage = "structure"

        def timed(name: str, function: Callable[[], T]) -> T:
            nonlocal stage
            stage = name
            started = time.monotonic()
            try:
                return function()
            finally:
                seconds[name] = round(time.monotonic() - started, 4)

        base = {
            "number": task.number,
            "key": task.recipe.key,
            "role": task.role,
            "label": task.label,
            "recipe": task.recipe.to_plain(),
        }
        try:
            structure_key = timed("structure", lambda: self._structure(task.recipe.structure, task.deadline_s))
            built = timed("build", lambda: self._compose(task.recipe, structure_key))
            sha256 = self.folder.keep_artifact(built.data)
            path = self.folder.artifact(sha256)
            scored = timed(
                "score",
                lambda: self.score(path, self._sites_of(structure_key), "search", is_reference=task.role == "fp32"),
            )
            if task.role == "fp32":
                self._baseline = path
            shared = None if self.memory else self._screened.get(scored.graph)
            if shared is None:
                screened = timed(
                    "latency", lambda: screen(self.device, (self.baseline, path), self.inputs(), memory=self.memory)
                )
                latency, speedup = interval_record(screened.latency_ms), interval_record(screened.speedup)
                load_ms, peak = screened.load_ms, screened.peak_memory_bytes
            else:
                assert shared.latency_ms is not None
                assert shared.speedup is not None
                latency, speedup, load_ms, peak = shared.latency_ms, shared.speedup, None, None
        except CandidateError as error:
            return TrialRecord.model_validate(
                {**base, "outcome": error.code, "stage": stage, "error": error.line(), "seconds": seconds}
            )
        except ModelTailorError as error:
            # On the original itself, what is wrong is the user's input, and the run has nothing to compare with.
            if task.role == "fp32" or error.exit_code in (5, 6):
                raise
            return TrialRecord.model_validate(
                {**base, "outcome": "EVAL", "stage": stage, "error": error.line(), "seconds": seconds}
            )
        record = TrialRecord(
            **base,  # type: ignore[arg-type]
            sha256=sha256,
            size_bytes=len(built.data),
            latency_ms=latency,
            speedup=speedup,
            accuracy=accuracy_record(scored.accuracy),
            load_ms=load_ms,
            peak_memory_bytes=peak,
            sites=self._site_records(structure_key, built.sites, dict(scored.kernels)),
            graph=scored.graph,
            timed_as=None if shared is None else shared.number,
            seconds=seconds,
        )
        self.remember((record,))
        return record

    def remember(self, records: Iterable[TrialRecord]) -> None:
        """Take over screenings that are known already, so that no graph is timed twice."""
        for record in records:
            if record.is_measured and record.graph and record.timed_as is None:
                self._screened.setdefault(record.graph, record)

    @property
    def baseline(self) -> Path:
        """The built fp32 original."""
        return self._baseline

    @baseline.setter
    def baseline(self, path: Path) -> None:
        self._baseline = path

    def inputs(self) -> Inputs:
        """One sample of the search split, as the model takes it."""
        assert self.facts is not None
        split = open_split(self.folder.work / "data", "search")
        assert split is not None
        rows = self.facts.fixed_batch or 1
        return bind_inputs({k: np.array(v[:rows]) for k, v in split.inputs.items()}, self.facts.input_names)

    def _structure(self, structure: Structure, deadline_s: float | None) -> str:
        if structure.is_original:
            return stages.ORIGINAL
        if structure.key not in self._realized:
            limit = self.plan.trial_timeout_s if deadline_s is None else deadline_s
            self._realized[structure.key] = cast(
                "stages.RealizedFacts",
                self._build(
                    "realize_structure",
                    limit + _TRAINING_GRACE_S,
                    structure=structure,
                    deadline_s=limit,
                    channel_multiple=self.channel_multiple,
                ),
            )
        return structure.key

    def _compose(self, recipe: Recipe, structure_key: str) -> stages.BuiltModel:
        known = {s.site.name for s in self.sites(structure_key)}
        formats = {site: fmt.name for site, fmt in recipe.formats if site in known}
        return cast(
            "stages.BuiltModel",
            self._build(
                "compose",
                self.plan.trial_timeout_s,
                structure_key=structure_key,
                formats=formats,
                settings=recipe.settings,
            ),
        )

    def score(
        self, model: Path, sites: tuple[Site, ...], split: str, *, is_reference: bool = False
    ) -> stages.ScoredModel:
        """Score a built file on a split in a child process, and read the executed kernels of those sites.

        Raises:
            CandidateError: it crashed, hung, or gave nothing that can be scored.
            DataError: the metric failed.
        """
        assert self.facts is not None
        return cast(
            "stages.ScoredModel",
            self._scorer.call(
                "modeltailor.search.stages:score",
                timeout_s=self.plan.trial_timeout_s,
                work=self.folder.work,
                model=model,
                split_name=split,
                metric_spec=self.spec.metric,
                root=self.spec.root,
                input_names=self.facts.input_names,
                options=self.device.describe().options,
                fixed_batch=self.facts.fixed_batch,
                known_sites=sites,
                is_reference=is_reference,
            ),
        )

    def _sites_of(self, structure_key: str) -> tuple[Site, ...]:
        return tuple(s.site for s in self.sites(structure_key))

    def _site_records(
        self, structure_key: str, reports: tuple[SiteReport, ...], kernels: Mapping[str, str]
    ) -> tuple[SiteRecord, ...]:
        by_name = {s.site.name: s.site for s in self.sites(structure_key)}
        return tuple(
            SiteRecord(
                site=r.site,
                kind=by_name[r.site].kind,
                format=r.format,
                storage_bits=r.storage_bits,
                stored_bytes=r.stored_bytes,
                weight_elements=by_name[r.site].weight_elements,
                macs=by_name[r.site].macs,
                executed_kernel=kernels.get(r.site, r.kernel),
                note=r.note,
            )
            for r in reports
        )

    def close(self) -> None:
        """Stop the children. Safe to call twice."""
        self._builder.close()
        self._scorer.close()
        self.device.close()
