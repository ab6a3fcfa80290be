"""The job file: what a person asks for, validated before anything starts.

Paths start from the folder of the job file. Unknown keys are refused. ``Job.model_fields`` documents each default.
"""

from __future__ import annotations

import copy
import difflib
import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from modeltailor.compress import Training
from modeltailor.errors import ConfigError
from modeltailor.quantity import parse_duration_s, parse_latency_ms, parse_size_bytes
from modeltailor.search.plan import AXES, Axis, SamplerName, SearchPlan
from modeltailor.search.scale import UNITS
from modeltailor.targets import Budget
from modeltailor.targets.strict_yaml import read_mapping
from modeltailor.workloads import BUILT_IN, DataSpec, MetricSpec, ModelSpec, WorkloadSpec

__all__ = ["Job", "assign", "check_job", "is_share", "load_job", "parse_job", "unit_of"]

_LARGEST_BYTES = 1_000_000
_DEFAULT_MAX_DROP = 1.0
_DEFAULT_MAX_DROP_SHARE = 0.01
"""The same where only the measured original tells whether the metric is a share: of 1, or of what the original has."""
_MAY_BE_EMPTY = ("metric", "budget", "search")
"""Sections that may stand there without a value: YAML reads one that holds comments alone as null."""
_SHORT_FORMS = {"data": "function", "metric": "name", "model": "source"}


def unit_of(metric: str, given: str = "", *, minimize: bool = False) -> str:
    """Return the unit that a metric is counted in, where that is its own; empty for what can be a share.

    Args:
        metric: its name.
        given: the unit that the job gives it.
        minimize: whether the job says that smaller is better.
    """
    unit = given or (BUILT_IN[metric].unit if metric in BUILT_IN else UNITS if minimize else "")
    return "" if unit == "%" else unit


def is_share(metric: str, given: str = "") -> bool:
    """Whether a metric is a share for certain, whose points are percent: of others the original's value tells.

    Args:
        metric: its name.
        given: the unit that the job gives it.
    """
    if metric in BUILT_IN:
        return not unit_of(metric, given)
    return given == "%"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class ModelPart(_Part):
    """``model:`` where the network comes from."""

    source: str = Field(description="model.py:build, package.module:function, model.onnx, or a Hugging Face folder")
    weights: str = Field("", description="weights.safetensors (or a .pt file that holds tensors only)")
    student: str = Field("", description="model.py:student, called as student(width, depth); enables your own students")


class DataPart(_Part):
    """``data:`` one .npz file a split with arrays x (or x.NAME) and y."""

    train: str = Field("", description="teaches students; missing splits are cut from it")
    calibration: str = Field("", description="gives activation ranges and error compensation; labels are not used")
    search: str = Field("", description="scores every candidate")
    test: str = Field("", description="scores the finalists, once")
    function: str = Field("", description="data.py:load, which returns arrays by split, in place of files")
    allow_overlap: bool = Field(False, description="accept samples that stand in two splits")


class MetricPart(_Part):
    """``metric:`` what the model is worth."""

    name: str = Field("accuracy", description="a built-in, or metric.py:function called as function(outputs, y)")
    minimize: bool = Field(False, description="for your own function: whether smaller is better")
    unit: str = Field("", description="for reports; '%' says that your own metric is a share, from 0 to 1")
    rows_per_sample: int = Field(1, ge=1, description="consecutive rows that make one sample")


def _number(value: object) -> object:
    if isinstance(value, bool):  # YAML 1.1 reads no, off and yes as truth values
        raise ValueError(f"must be a number; got the truth value {value} (YAML reads no, off, yes, on as one)")
    return value


_Number = Annotated[float, BeforeValidator(_number)]


class BudgetPart(_Part):
    """``budget:`` hard limits; any subset. Without any, 1 point of a share, or 1 % of the original's value, may be lost."""

    max_drop: _Number | None = Field(
        None,
        description="largest loss in points: hundredths of the metric's unit; of a share such as accuracy, percent points",
    )
    min_accuracy: _Number | None = Field(
        None, description="worst allowed value of the metric: the smallest, or the largest where smaller is better"
    )
    latency: Annotated[float, BeforeValidator(parse_latency_ms)] | None = Field(
        None, description="longest allowed time of one inference, e.g. 2 ms"
    )
    size: Annotated[int, BeforeValidator(parse_size_bytes)] | None = Field(
        None, description="largest allowed file, e.g. 200 KB"
    )
    memory: Annotated[int, BeforeValidator(parse_size_bytes)] | None = Field(
        None, description="largest allowed peak of memory, e.g. 64 MB"
    )


class DeviceBudgetPart(_Part):
    """``targets[].budget:`` limits of one device, in place of the study's."""

    latency: Annotated[float, BeforeValidator(parse_latency_ms)] | None = Field(
        None, description="longest allowed time of one inference there, e.g. 8 ms"
    )
    memory: Annotated[int, BeforeValidator(parse_size_bytes)] | None = Field(
        None, description="largest allowed peak of memory there, e.g. 64 MB"
    )


def _by_name(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class TargetPart(_Part):
    """One of ``targets:``, a name or a mapping."""

    name: str = Field(description="a profile's name, or a profile file")
    budget: DeviceBudgetPart = Field(
        DeviceBudgetPart(latency=None, memory=None), description="limits of this device, in place of the study's"
    )


class TrainingPart(_Part):
    """``search.training:`` how changed networks learn from the original; what is not said follows from the time."""

    epochs: float | None = Field(
        None, gt=0.0, description="passes over train for one structure or recovery; as time allows if not given"
    )
    temperature: float = Field(4.0, description="softens the answers of teacher and student")
    hard_label_weight: float = Field(0.3, description="share of the loss against the labels; 0 without labels")
    learning_rate: float | None = Field(None, description="peak; 0.05 for SGD, 0.001 for AdamW if not given")
    batch_size: int = Field(128, ge=1, description="samples a step")
    optimizer: Literal["auto", "sgd", "adamw"] = Field("auto", description="auto, sgd or adamw")
    augment: bool = Field(True, description="random crops and mirroring of images")
    mixup: float | None = Field(
        None,
        description="largest share of another image blended in; by default in long trainings on images",
    )
    features: tuple[str, ...] = Field((), description="layers whose outputs are matched: NAME or STUDENT=TEACHER")
    feature_loss: Literal["hint", "attention"] = Field("hint", description="hint or attention")
    feature_weight: float = Field(1.0, description="of the feature loss")
    assistants: Literal["auto"] | int = Field("auto", description="middle sizes that pass the knowledge on; 0 for none")
    holdout: float = Field(0.0, description="share of train that is watched, for patience")
    patience: int = Field(0, ge=0, description="looks without progress before training stops; 0 learns to the end")

    def to_training(self) -> Training:
        """The schedule, but for its length."""
        return Training(**self.model_dump(exclude={"epochs"}))


class SearchPart(_Part):
    """``search:`` how long and along which axes."""

    trials: int = Field(60, ge=1, description="candidates in the whole study, baselines included")
    time: Annotated[float, BeforeValidator(parse_duration_s)] = Field(1200.0, description="wall clock of the whole run")
    seed: int = Field(0, ge=0, description="of everything that is drawn")
    axes: tuple[Axis, ...] = Field(AXES, description="what may change: formats, sparsity, student")
    sampler: SamplerName = Field("tailor", description="tailor, tpe, nsga2, nsga3, gp or random")
    trial_timeout: Annotated[float, BeforeValidator(parse_duration_s)] = Field(
        300.0, description="limit of one candidate"
    )
    recovery: bool = Field(True, description="let recipes with few bits learn again with their formats")
    training: TrainingPart = TrainingPart()  # type: ignore[call-arg]


class Job(_Part):
    """A job as it stands in ``job.yaml``."""

    version: int = Field(1, ge=1, le=1, description="of this file's form")
    model: ModelPart
    data: DataPart
    metric: MetricPart = MetricPart()  # type: ignore[call-arg]
    target: str = Field(
        "desktop-cpu", description="a profile's name, see `modeltailor targets list`, or a profile file"
    )
    targets: tuple[Annotated[TargetPart, BeforeValidator(_by_name)], ...] = Field(
        (), exclude_if=operator.not_, description="several devices instead of target; the first one leads the search"
    )
    budget: BudgetPart = BudgetPart()  # type: ignore[call-arg]
    search: SearchPart = SearchPart()  # type: ignore[call-arg]

    @model_validator(mode="before")
    @classmethod
    def _first_leads(cls, data: object) -> object:
        """Without a ``target`` of its own a job with ``targets`` is led by the first of them."""
        if not isinstance(data, dict) or "target" in data or not isinstance(data.get("targets"), (list, tuple)):
            return data
        first = next(iter(data["targets"]), None)
        name = first.get("name") if isinstance(first, dict) else first
        return {**data, "target": name} if isinstance(name, str) else data

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if self.targets and self.target != self.targets[0].name:
            raise ValueError(f"target {self.target!r} and targets are both given; give one of the two")
        names = [t.name for t in self.targets]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise ValueError(f"targets names {twice!r} twice; each device stands in it once")
        return self

    def devices(self) -> tuple[tuple[str, Budget], ...]:
        """The devices of the study, the leading one first, each with every limit that holds on it."""
        whole = self.limits()
        if not self.targets:
            return ((self.target, whole),)
        return tuple(
            (t.name, whole.on_device(Budget(latency_ms=t.budget.latency, memory_bytes=t.budget.memory)))
            for t in self.targets
        )

    def workload(self, root: Path) -> WorkloadSpec:
        """The workload as data; ``root`` is the folder that relative paths start from."""
        files = tuple(
            (name, value)
            for name in ("train", "calibration", "search", "test")
            if (value := str(getattr(self.data, name)))
        )
        if self.data.function and files:
            raise ConfigError("CFG-08", "data", "names a function and files", "give one of the two")
        return WorkloadSpec(
            root=root,
            model=ModelSpec(**self.model.model_dump()),
            data=DataSpec(function=self.data.function, files=files, allow_overlap=self.data.allow_overlap),
            metric=MetricSpec(**self.metric.model_dump()),
        )

    def limits(self) -> Budget:
        """The budget; without any limit, one point of a share may be lost, of other metrics 1 % of the original's value."""
        b = self.budget
        budget = Budget(
            latency_ms=b.latency,
            size_bytes=b.size,
            memory_bytes=b.memory,
            min_accuracy=b.min_accuracy,
            max_drop=b.max_drop,
        )
        if not budget.is_empty:
            return budget
        if is_share(self.metric.name, self.metric.unit):
            return Budget(max_drop=_DEFAULT_MAX_DROP)
        return Budget(max_drop_share=_DEFAULT_MAX_DROP_SHARE)

    def plan(self) -> SearchPlan:
        """The search's own limits."""
        s = self.search
        return SearchPlan(
            trials=s.trials, time_s=s.time, seed=s.seed, axes=s.axes, sampler=s.sampler, trial_timeout_s=s.trial_timeout,
            recovery=s.recovery, training=s.training.to_training(), epochs=s.training.epochs,
        )  # fmt: skip


def _long_form(key: str, value: object) -> object:
    """A section that was written as one text, as the mapping that it is short for."""
    if key not in _SHORT_FORMS or not isinstance(value, str):
        return value
    return {"train" if key == "data" and value.endswith(".npz") else _SHORT_FORMS[key]: value}


def _set(data: dict[str, Any], assignment: str) -> None:
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise ConfigError("CFG-04", "--set", f"must be key=value; got '{assignment}'", "e.g. --set search.trials=20")
    *parents, last = path.split(".")
    if parents and parents[0] in data:
        data[parents[0]] = _long_form(parents[0], data[parents[0]])
    at: Any = data
    for part in parents:
        if at.get(part) is None:  # not there, or a section that holds comments alone
            at[part] = {}
        at = at[part]
        if not isinstance(at, dict):
            raise ConfigError("CFG-04", "--set", f"'{part}' of '{path}' holds no keys", "check the path")
    try:
        at[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            "CFG-02", "--set", f"'{text}' is no YAML value", f"quote it, e.g. --set '{path}=[a, b]'"
        ) from error


def assign(data: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Return a job as nested mappings with keys overridden.

    >>> assign({"model": "net.onnx"}, ["model.weights=w.safetensors", "search.trials=20"])
    {'model': {'source': 'net.onnx', 'weights': 'w.safetensors'}, 'search': {'trials': 20}}

    Args:
        data: not changed.
        assignments: as in ``search.trials=20``; the value is YAML.

    Raises:
        ConfigError: one has another form, or its path leads through a value that holds no keys.
    """
    made = copy.deepcopy(dict(data))
    for assignment in assignments:
        _set(made, assignment)
    return made


def parse_job(data: Mapping[str, Any], where: str = "job") -> Job:
    """Validate a job given as nested mappings.

    Short forms: ``model: net.onnx``, ``data: data.py:load`` or ``data: train.npz``, and ``metric: accuracy`` or
    ``metric: metric.py:function``.

    Raises:
        ConfigError: a key is unknown, missing or wrong; says which, what came, and what was probably meant.
    """
    raw = {key: _long_form(key, value) for key, value in data.items() if not (value is None and key in _MAY_BE_EMPTY)}
    try:
        job = Job.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, where) from error
    budget = job.limits()
    job.plan()
    bounded = job.metric.name in ("accuracy", "top5", "f1", "miou", "spearman", "pair-spearman")
    if bounded and budget.min_accuracy is not None and budget.min_accuracy > 1.0:
        raise ConfigError(
            "CFG-09", f"{where}: budget.min_accuracy",
            f"can never be met: {job.metric.name} is at most 1.0; got {budget.min_accuracy:g}", "write 0.9 for 90 %",
        )  # fmt: skip
    return job


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Job
    for part in location:
        found = getattr(model, "model_fields", {}).get(part)
        model = None if found is None else found.annotation
    return list(getattr(model, "model_fields", {}))


def _explain(error: ValidationError, where: str) -> ConfigError:
    """The first problem; the others are counted in its next step."""
    every = _explain_all(error, where)
    if len(every) > 1:
        more = f"{len(every) - 1} more problem{'s' if len(every) > 2 else ''}: `modeltailor validate` lists all"
        hint = every[0].next_step
        return ConfigError(
            every[0].code, every[0].where, every[0].what, f"{hint}{' ' if hint[-1] in '?!.' else '; '}{more}"
        )
    return every[0]


def _explain_all(error: ValidationError, where: str) -> list[ConfigError]:
    return [_explain_one(dict(e), where) for e in error.errors(include_url=False)]


def _explain_one(problem: Mapping[str, Any], where: str) -> ConfigError:
    location: tuple[int | str, ...] = problem["loc"]
    path = ".".join(str(p) for p in location if not str(p).startswith("function-"))
    place = f"{where}: {path}" if path else where
    if problem["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
        return ConfigError("CFG-04", place, f"unknown key '{location[-1]}'", hint)
    if problem["type"] == "missing":
        return ConfigError("CFG-04", place, "is missing", "add it, or run `modeltailor init`")
    message = str(problem["msg"]).removeprefix("Value error, ")
    given = problem.get("input")
    if isinstance(given, str) and problem["type"] in ("float_parsing", "int_parsing", "float_type", "int_type"):
        return ConfigError(
            "CFG-05", place, f"must be a number; got text '{given}'", "write it as a plain number, e.g. 1.0"
        )
    got = "" if "got" in message else f"; got {given!r} ({type(given).__name__})"
    hint = "mend this value"
    if problem["type"] == "literal_error" and isinstance(given, str):
        close = difflib.get_close_matches(given, str(problem.get("ctx", {}).get("expected", "")).split("'"), n=1)
        hint = f"did you mean '{close[0]}'?" if close else hint
    return ConfigError("CFG-08", place, message[:1].lower() + message[1:] + got, hint)


def load_job(path: Path, assignments: tuple[str, ...] = ()) -> Job:
    """Read and validate a job file.

    Args:
        path: the YAML file.
        assignments: overrides as in ``search.trials=20``.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong.
    """
    return parse_job(_read(path, assignments), path.name)


def check_job(path: Path, assignments: tuple[str, ...] = ()) -> tuple[Job | None, tuple[ConfigError, ...]]:
    """Read a job file and list everything that is wrong with it, in place of the first problem alone.

    Returns:
        the job, or ``None`` if there are problems; and the problems.
    """
    try:
        return load_job(path, assignments), ()
    except ConfigError as error:
        cause = error.__cause__
        if isinstance(cause, ValidationError):
            return None, tuple(_explain_all(cause, path.name))
        return None, (error,)


def _read(path: Path, assignments: tuple[str, ...]) -> dict[str, Any]:
    if path.is_dir():
        raise ConfigError("CFG-01", path.name, "is a folder, not a job file", "name the job.yaml inside it")
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ConfigError("CFG-14", path.name, "is too large for a job file (over 1 MB)", "check the path")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError("CFG-01", path, "no such file", "run `modeltailor init` to write one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("CFG-01", path, f"cannot read ({error})", "check the file") from error
    return assign(read_mapping(text, path.name), assignments)
