"""Recipes built, scored and measured on this machine, in child processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from modeltailor.compress import Recipe, Settings, Site, SiteReport, Structure
from modeltailor.errors import CandidateError, ModelTailorError
from modeltailor.estimators.latency import screen
from modeltailor.search import stages
from modeltailor.search.auditing import audit_file
from modeltailor.search.elsewhere import Elsewhere, FurtherDevice
from modeltailor.search.executor import Task, accuracy_record, interval_record
from modeltailor.search.measurements import Measurements, ScreeningRecord
from modeltailor.search.plan import SearchPlan
from modeltailor.search.records import AccuracyRecord, PlaceRecord, SiteRecord, TrialRecord
from modeltailor.search.run_folder import RunFolder
from modeltailor.targets import Child, Device, Inputs, RuntimeOptions, TimingPlan, machine
from modeltailor.targets.local import options_here
from modeltailor.workloads import WorkloadSpec, bind_inputs, open_split

__all__ = ["LocalExecutor"]

T = TypeVar("T")

_PREPARE_TIMEOUT_S = 900.0
_TRAINING_GRACE_S = 120.0
_METRICS = 2  # raised whenever a built-in metric comes to mean something else: older scores are not taken then


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
        others: further devices of the study.
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
        others: Sequence[FurtherDevice] = (),
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
        self.measurements = Measurements(cache / "measurements" if cache else None)
        self.elsewhere = Elsewhere(others, self.measurements)
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

    def sites(self, network: str = stages.ORIGINAL) -> tuple[stages.SiteFacts, ...]:
        """List the sites of a network that lies in the work folder."""
        if network not in self._sites:
            self._sites[network] = cast(
                "tuple[stages.SiteFacts, ...]",
                self._build("sites", self.plan.trial_timeout_s, network=network),
            )
        return self._sites[network]

    @cached_property
    def options_here(self) -> RuntimeOptions:
        """How sessions are opened where candidates are scored, here: as on the device, as far as this machine can."""
        return options_here(self.device)

    def saturates(self) -> bool:
        """Whether integer kernels saturate where candidates are scored, or on a device of the study."""
        devices = (self.device, *(o.device for o in self.elsewhere.devices))
        return any(d.describe().may_saturate for d in devices) or bool(
            self._scorer.call("modeltailor.targets.saturation:saturates_here", timeout_s=self.plan.trial_timeout_s)
        )

    def baselines(self, *, blocks: bool, wide: bool) -> tuple[tuple[str, tuple[tuple[str, str], ...], Settings], ...]:
        """List the uniform baselines of the original; block-wise weights and 16-bit activations where they pay."""
        return cast(
            "tuple[tuple[str, tuple[tuple[str, str], ...], Settings], ...]",
            self._build("baselines", self.plan.trial_timeout_s, network=stages.ORIGINAL, blocks=blocks, wide=wide),
        )

    def recipe_cost(self, formats: Mapping[str, str], settings: Settings) -> tuple[float, int]:
        """How far formats move the original's outputs on calibration data, and the bytes of the file."""
        return cast(
            "tuple[float, int]",
            self._build(
                "recipe_cost", self.plan.trial_timeout_s, network=stages.ORIGINAL, formats=formats, settings=settings
            ),
        )

    def site_costs(
        self, settings: Settings, formats: tuple[str, ...], limit_s: float
    ) -> tuple[tuple[str, str, int, float, bool], ...]:
        """Bytes and sensitivity of those formats at every site of the original; the last value: whether that was measured."""
        return cast(
            "tuple[tuple[str, str, int, float, bool], ...]",
            self._build(
                "site_costs", limit_s + self.plan.trial_timeout_s, network=stages.ORIGINAL, settings=settings,
                formats=formats, limit_s=limit_s,
            ),
        )  # fmt: skip

    def site_drops(
        self, settings: Settings, formats: tuple[str, ...], limit_s: float
    ) -> tuple[tuple[str, str, float], ...]:
        """What the metric loses with one site of the original alone changed, by site and format; empty without time."""
        assert self.facts is not None
        return cast(
            "tuple[tuple[str, str, float], ...]",
            self._build(
                "site_drops", limit_s + self.plan.trial_timeout_s, network=stages.ORIGINAL, settings=settings,
                formats=formats, limit_s=limit_s, fixed_batch=self.facts.fixed_batch,
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

    def time_shares(self, trial: TrialRecord) -> dict[str, float]:
        """Share of the time that each site takes in a built file, by this machine's profiler.

        Empty if it gives none, or if the device is not this machine: its time goes elsewhere.
        """
        path = self.folder.artifact(trial.sha256)
        facts = self.device.describe()
        if facts.processor != machine.processor():
            return {}
        found = audit_file(path, trial.sites, self.inputs(), self.options_here, facts.evidence)
        return dict(found.time_shares) if found is not None else {}

    # -- trials -----------------------------------------------------------------------------------------------------

    def submit(self, task: Task) -> Future[TrialRecord]:
        """Evaluate a recipe now and return its finished record."""
        future: Future[TrialRecord] = Future()
        future.set_result(self._evaluate(task))
        return future

    def _evaluate(self, task: Task) -> TrialRecord:
        book = _Book()
        base = {
            "number": task.number,
            "key": task.recipe.key,
            "role": task.role,
            "label": task.label,
            "recipe": task.recipe.to_plain(),
        }
        try:
            found = self._build_and_measure(task, book)
        except CandidateError as error:
            return TrialRecord.model_validate(
                {**base, **book.so_far(), "outcome": error.code, "stage": book.stage, "error": error.line()}
            )
        except ModelTailorError as error:
            # On the original itself, what is wrong is the user's input, and the run has nothing to compare with.
            if task.role == "fp32" or error.exit_code in (5, 6):
                raise
            return TrialRecord.model_validate(
                {**base, **book.so_far(), "outcome": "EVAL", "stage": book.stage, "error": error.line()}
            )
        record = TrialRecord.model_validate({**base, **book.so_far(), **found})
        self.remember((record,))
        return record

    def _build_and_measure(self, task: Task, book: _Book) -> dict[str, object]:
        network, is_known = book.timed("structure", lambda: self._structure(task.recipe.structure, task.deadline_s))
        book.reused += ["structure"] if is_known else []
        if task.recipe.recovery is not None:
            network, is_known = book.timed("recovery", lambda: self._recovered(task.recipe, network, task.deadline_s))
            book.reused += ["recovery"] if is_known else []
        built = book.timed("build", lambda: self._compose(task.recipe, network))
        sha256 = self.folder.keep_artifact(built.data)
        path = self.folder.artifact(sha256)
        is_original = task.role == "fp32"
        executed = book.timed("build", lambda: self._inspect(path, self._sites_of(network)))
        if is_original:
            self._baseline = path
        shared = None if self.memory or self.elsewhere.memory else self._screened.get(executed.graph)
        reused: list[str] = []
        if shared is None:
            screened, is_known = book.timed("latency", lambda: self._screen(path, sha256))
            reused += ["latency"] if is_known else []
        else:
            assert shared.latency_ms is not None
            assert shared.speedup is not None
            screened = ScreeningRecord(latency_ms=shared.latency_ms, speedup=shared.speedup)
        places = {} if shared is None else shared.elsewhere
        if shared is None and self.elsewhere.devices:
            places = book.timed("latency elsewhere", lambda: self._screen_elsewhere(path))
        bar = None
        if task.race is not None:
            bar = task.race.bar(
                size_bytes=len(built.data),
                speedup=screened.speedup.value,
                memory_bytes=screened.peak_memory_bytes,
            )
        accuracy, is_complete, is_known = book.timed(
            "score", lambda: self._search_score(path, sha256, bar, is_original)
        )
        reused += ["accuracy"] if is_known else []
        return {
            "sha256": sha256,
            "size_bytes": len(built.data),
            "latency_ms": screened.latency_ms,
            "speedup": screened.speedup,
            "accuracy": accuracy,
            "scored_fully": is_complete,
            "load_ms": screened.load_ms,
            "peak_memory_bytes": screened.peak_memory_bytes,
            "sites": self._site_records(network, built.sites, dict(executed.kernels)),
            "graph": executed.graph,
            "timed_as": None if shared is None else shared.number,
            "elsewhere": places,
            "reused": (*book.reused, *reused),
        }

    @property
    def _screening_plan(self) -> TimingPlan:
        """A screening may take as long as any other part of a trial."""
        return TimingPlan(timeout_s=max(TimingPlan().timeout_s, self.plan.trial_timeout_s))

    def _screen(self, path: Path, sha256: str) -> tuple[ScreeningRecord, bool]:
        """Screen a file against the original; the second value says whether an earlier run has done it."""
        what = {
            "file": sha256,
            "original": self.baseline.stem,
            "device": self.device.describe().fingerprint,
            "memory": self.memory,
            "inputs": self._search_digest(),
        }
        known = None if path == self.baseline else self.measurements.screening(what)
        if known is not None:
            return known, True
        screened = screen(
            self.device, (self.baseline, path), self.inputs(), memory=self.memory, plan=self._screening_plan
        )
        record = ScreeningRecord(
            latency_ms=interval_record(screened.latency_ms),
            speedup=interval_record(screened.speedup),
            load_ms=screened.load_ms,
            peak_memory_bytes=screened.peak_memory_bytes,
        )
        self.measurements.keep_screening(what, record)
        return record, False

    def _screen_elsewhere(self, path: Path) -> dict[str, PlaceRecord]:
        """Screen a file on the further devices; the workers here are idle meanwhile, in case one stands in."""
        return self.elsewhere.screen(
            self.baseline, path, self.inputs(), digest=self._search_digest(), plan=self._screening_plan
        )

    def _search_score(
        self, path: Path, sha256: str, bar: float | None, is_original: bool
    ) -> tuple[AccuracyRecord, bool, bool]:
        """Score a file on ``search``: its figure, whether over all samples, and whether an earlier run has done it."""
        metric = self.spec.metric
        what = {
            "file": sha256,
            "original": self.baseline.stem,
            "split": self._search_digest(),
            "metric": metric,
            "metrics": _METRICS,
            "runtime": machine.runtime(),  # scores are made here, wherever latency is measured
            "processor": machine.processor(),
            "instructions": machine.instructions(),
            "options": self.options_here,
        }
        keeps = ":" not in metric.name
        known = self.measurements.score(what) if keeps and not is_original else None
        if known is not None:
            return known, True, True
        scored = self.score(path, "search", is_reference=is_original, bar=bar)
        record = accuracy_record(scored.accuracy)
        if keeps and scored.complete:
            self.measurements.keep_score(what, record)
        return record, scored.complete, False

    def _search_digest(self) -> str:
        assert self.facts is not None
        return dict(self.facts.split_digests).get("search", "")

    def remember(self, records: Iterable[TrialRecord]) -> None:
        """Take over screenings that are known already, so that no graph is timed twice."""
        for record in records:
            if record.is_measured_everywhere and record.graph and record.timed_as is None:
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

    def _structure(self, structure: Structure, deadline_s: float | None) -> tuple[str, bool]:
        """Build and train a structure, once: its name, and whether its weights had been trained before this trial asked.

        What an earlier trial of this process built costs nothing here, and does not count as that.
        """
        if structure.is_original:
            return stages.ORIGINAL, False
        if structure.key in self._realized:
            return structure.key, False
        facts = self._trained("realize_structure", deadline_s, structure=structure)
        self._realized[structure.key] = facts
        return structure.key, facts.from_cache

    def _trained(self, stage: str, deadline_s: float | None, **what: object) -> stages.RealizedFacts:
        """Run a stage that trains, in ``deadline_s`` seconds or those of a trial, and a grace for what comes after."""
        limit = self.plan.trial_timeout_s if deadline_s is None else deadline_s
        return cast(
            "stages.RealizedFacts",
            self._build(
                stage, limit + _TRAINING_GRACE_S, deadline_s=limit, channel_multiple=self.channel_multiple, **what
            ),
        )

    def _recovered(self, recipe: Recipe, network: str, deadline_s: float | None) -> tuple[str, bool]:
        """Train the recipe's structure with its formats in the forward pass: the name of what comes of it.

        The second value says whether its weights had been trained before.
        """
        facts = self._trained(
            "recover_formats",
            deadline_s,
            structure=recipe.structure,
            formats=self._formats_at(recipe, network),
            training=recipe.recovery,
        )
        return facts.key, facts.from_cache

    def _compose(self, recipe: Recipe, network: str) -> stages.BuiltModel:
        formats = self._formats_at(recipe, network)
        return cast(
            "stages.BuiltModel",
            self._build(
                "compose", self.plan.trial_timeout_s, network=network, formats=formats, settings=recipe.settings
            ),
        )

    def _formats_at(self, recipe: Recipe, network: str) -> dict[str, str]:
        """Format name by site of a network; the parts of a layer that was cut in two take the format of the whole."""
        asked = recipe.format_of
        found = {}
        for facts in self.sites(network):
            name = facts.site.name
            while name not in asked and (cut := max(name.rfind("."), name.rfind("/"))) > 0:
                name = name[:cut]
            if name in asked and asked[name].name in facts.formats:
                found[facts.site.name] = asked[name].name
        return found

    def _inspect(self, model: Path, sites: tuple[Site, ...]) -> stages.ExecutedGraph:
        return cast(
            "stages.ExecutedGraph",
            self._scorer.call(
                "modeltailor.search.stages:inspect",
                timeout_s=self.plan.trial_timeout_s,
                model=model,
                options=self.options_here,
                known_sites=sites,
            ),
        )

    def score(
        self, model: Path, split: str, *, is_reference: bool = False, bar: float | None = None
    ) -> stages.ScoredModel:
        """Score a built file on a split in a child process; see :func:`stages.score`.

        A trial's time limit is that of ``search``; a larger split may take as much longer as it is larger.

        Raises:
            CandidateError: it crashed, hung, or gave nothing that can be scored.
            DataError: the metric failed.
        """
        assert self.facts is not None
        samples = dict(self.facts.split_sizes)
        larger = max(1.0, samples.get(split, 1) / max(1, samples.get("search", 1)))
        return cast(
            "stages.ScoredModel",
            self._scorer.call(
                "modeltailor.search.stages:score",
                timeout_s=self.plan.trial_timeout_s * larger,
                work=self.folder.work,
                model=model,
                split_name=split,
                metric_spec=self.spec.metric,
                root=self.spec.root,
                options=self.options_here,
                fixed_batch=self.facts.fixed_batch,
                is_reference=is_reference,
                bar=bar,
            ),
        )

    def _sites_of(self, network: str) -> tuple[Site, ...]:
        return tuple(s.site for s in self.sites(network))

    def _site_records(
        self, network: str, reports: tuple[SiteReport, ...], kernels: Mapping[str, str]
    ) -> tuple[SiteRecord, ...]:
        by_name = {s.site.name: s.site for s in self.sites(network)}
        before = {s.site.name: s.site.channels for s in self.sites()}
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
                channels=by_name[r.site].channels or None,
                channels_kept=by_name[r.site].channels / before[r.site] if before.get(r.site) else None,
                sparsity=None if r.sparsity is None else round(r.sparsity, 4),
            )
            for r in reports
        )

    def close(self) -> None:
        """Stop the children. Safe to call twice."""
        self._builder.close()
        self._scorer.close()
        self.device.close()
        self.elsewhere.close()


class _Book:
    """What a trial is doing, the seconds that each stage took, and the trainings that had been done before."""

    def __init__(self) -> None:
        self.stage = "structure"
        self.seconds: dict[str, float] = {}
        self.reused: list[str] = []

    def so_far(self) -> dict[str, object]:
        """What goes into the trial's record, however the trial ends."""
        return {"seconds": self.seconds, "reused": tuple(self.reused)}

    def timed(self, stage: str, function: Callable[[], T]) -> T:
        """Call a function on the account of a stage."""
        self.stage = stage
        started = time.monotonic()
        try:
            return function()
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - started, 4)
