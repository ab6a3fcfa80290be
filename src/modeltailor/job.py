"""The job file: what a person asks for, validated before anything starts.

Paths start from the folder of the job file. Unknown keys are refused. ``Job.model_fields`` documents each default.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from modeltailor.errors import ConfigError
from modeltailor.quantity import parse_duration_s, parse_latency_ms, parse_size_bytes
from modeltailor.search.plan import AXES, Axis, SamplerName, SearchPlan
from modeltailor.targets import Budget
from modeltailor.targets.strict_yaml import read_mapping
from modeltailor.workloads import DataSpec, MetricSpec, ModelSpec, WorkloadSpec

__all__ = ["Job", "load_job", "parse_job"]

_LARGEST_BYTES = 1_000_000
_DEFAULT_MAX_DROP = 1.0


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
    function: str = Field("", description="data.py:load instead of files; or write data: data.py:load")
    allow_overlap: bool = Field(False, description="accept samples that stand in two splits")


class MetricPart(_Part):
    """``metric:`` what the model is worth."""

    name: str = Field("accuracy", description="a built-in, or metric.py:function called as function(outputs, y)")
    minimize: bool = Field(False, description="for your own function: smaller is better")
    unit: str = Field("", description="for reports")
    rows_per_sample: int = Field(1, ge=1, description="consecutive rows that make one sample")


def _number(value: object) -> object:
    if isinstance(value, bool):  # YAML 1.1 reads no, off and yes as truth values
        raise ValueError(f"must be a number; got the truth value {value} (YAML reads no, off, yes, on as one)")
    return value


_Number = Annotated[float, BeforeValidator(_number)]


class BudgetPart(_Part):
    """``budget:`` hard limits; any subset. Without any, max_drop 1.0 holds."""

    max_drop: _Number | None = Field(None, description="largest loss in points of the metric in percent")
    min_accuracy: _Number | None = Field(None, description="smallest allowed value of the metric")
    latency: Annotated[float, BeforeValidator(parse_latency_ms)] | None = Field(None, description="e.g. 2 ms")
    size: Annotated[int, BeforeValidator(parse_size_bytes)] | None = Field(None, description="e.g. 200 KB")
    memory: Annotated[int, BeforeValidator(parse_size_bytes)] | None = Field(None, description="e.g. 64 MB")


class SearchPart(_Part):
    """``search:`` how long and along which axes."""

    trials: int = Field(60, ge=1, description="candidates in the whole study, baselines included")
    time: Annotated[float, BeforeValidator(parse_duration_s)] = Field(1200.0, description="wall clock of the whole run")
    seed: int = Field(0, ge=0, description="of everything that is drawn")
    axes: tuple[Axis, ...] = Field(AXES, description="formats, sparsity, student")
    sampler: SamplerName = Field("tailor", description="tailor, tpe, nsga2, nsga3, gp or random")
    trial_timeout: Annotated[float, BeforeValidator(parse_duration_s)] = Field(
        300.0, description="limit of one candidate"
    )


class Job(_Part):
    """A job as it stands in ``job.yaml``."""

    version: int = Field(1, ge=1, le=1, description="of this file's form")
    model: ModelPart
    data: DataPart
    metric: MetricPart = MetricPart()  # type: ignore[call-arg]
    target: str = Field(
        "desktop-cpu", description="a profile's name, see `modeltailor targets list`, or a profile file"
    )
    budget: BudgetPart = BudgetPart()  # type: ignore[call-arg]
    search: SearchPart = SearchPart()  # type: ignore[call-arg]

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
        """The budget; without any limit, ``max_drop`` of 1.0 point holds."""
        b = self.budget
        budget = Budget(
            latency_ms=b.latency,
            size_bytes=b.size,
            memory_bytes=b.memory,
            min_accuracy=b.min_accuracy,
            max_drop=b.max_drop,
        )
        return Budget(max_drop=_DEFAULT_MAX_DROP) if budget.is_empty else budget

    def plan(self) -> SearchPlan:
        """The search's own limits."""
        s = self.search
        return SearchPlan(
            trials=s.trials, time_s=s.time, seed=s.seed, axes=s.axes, sampler=s.sampler, trial_timeout_s=s.trial_timeout
        )


def _set(data: dict[str, Any], assignment: str) -> None:
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise ConfigError("CFG-04", "--set", f"must be key=value; got '{assignment}'", "e.g. --set search.trials=20")
    at: Any = data
    *parents, last = path.split(".")
    for part in parents:
        at = at.setdefault(part, {})
        if not isinstance(at, dict):
            raise ConfigError("CFG-04", "--set", f"'{part}' of '{path}' holds no keys", "check the path")
    at[last] = yaml.safe_load(text)


def parse_job(data: Mapping[str, Any], where: str = "job") -> Job:
    """Validate a job given as nested mappings.

    Short forms: ``data: data.py:load`` and ``metric: accuracy`` (or ``metric: metric.py:function``).

    Raises:
        ConfigError: a key is unknown, missing or wrong; says which, what came, and what was probably meant.
    """
    raw = dict(data)
    if isinstance(raw.get("data"), str):
        raw["data"] = {"function": raw["data"]}
    if isinstance(raw.get("metric"), str):
        raw["metric"] = {"name": raw["metric"]}
    if isinstance(raw.get("model"), str):
        raw["model"] = {"source": raw["model"]}
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
    first = error.errors(include_url=False)[0]
    path = ".".join(str(p) for p in first["loc"] if not str(p).startswith("function-"))
    place = f"{where}: {path}" if path else where
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"][:-1])
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
        return ConfigError("CFG-04", place, f"unknown key '{first['loc'][-1]}'", hint)
    if first["type"] == "missing":
        return ConfigError("CFG-04", place, "is missing", "add it, or run `modeltailor init`")
    message = str(first["msg"]).removeprefix("Value error, ")
    given = first.get("input")
    if isinstance(given, str) and first["type"] in ("float_parsing", "int_parsing", "float_type", "int_type"):
        return ConfigError(
            "CFG-05", place, f"must be a number; got text '{given}'", "write it as a plain number, e.g. 1.0"
        )
    got = "" if "got" in message else f"; got {given!r} ({type(given).__name__})"
    return ConfigError("CFG-08", place, message[:1].lower() + message[1:] + got, "mend this value")


def load_job(path: Path, assignments: tuple[str, ...] = ()) -> Job:
    """Read and validate a job file.

    Args:
        path: the YAML file.
        assignments: overrides as in ``search.trials=20``.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong.
    """
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
    data = read_mapping(text, path.name)
    for assignment in assignments:
        _set(data, assignment)
    return parse_job(data, path.name)
