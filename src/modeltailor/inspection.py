"""What ``modeltailor init`` finds out about a model and its data before it writes a job."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from modeltailor.errors import CandidateError, DataError, ModelError
from modeltailor.targets import Child
from modeltailor.validation_child import DataSeen, ModelSeen
from modeltailor.workloads import DataSpec, MetricSpec, ModelSpec, WorkloadSpec

__all__ = ["Inspected", "find_student", "inspect_workload", "suggest_metric"]

_LOAD_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """What was found.

    Attributes:
        model: kind, parameters and inputs.
        data: splits and shapes.
        student: function that builds smaller networks, if the model's file has one called ``student``; else empty.
        metric: what the labels suggest.
    """

    model: ModelSeen
    data: DataSeen
    student: str
    metric: str

    def lines(self) -> tuple[str, ...]:
        """For people: one sentence a fact."""
        return (f"model: {self.model.line()}", f"data: {self.data.line()}", *self.data.notes)


def inspect_workload(model: str, weights: str, data: str, root: Path) -> Inspected:
    """Load model and data in a child process and look at them.

    Args:
        model: ``model.source`` of the job.
        weights: ``model.weights``; may be empty.
        data: a function, or a file for ``data.train``.
        root: folder that paths start from.

    Raises:
        ConfigError, ModelError, DataError: one of them cannot be used; says why.
    """
    files = (("train", data),) if data.endswith(".npz") else ()
    spec = WorkloadSpec(
        root=root,
        model=ModelSpec(source=model, weights=weights),
        data=DataSpec(function="" if files else data, files=files),
        metric=MetricSpec(),
    )
    with Child(name="init") as child:
        seen = cast("ModelSeen", _call(child, "model", spec))
        found = cast("DataSeen", _call(child, "data", spec))
    return Inspected(model=seen, data=found, student=find_student(model, root), metric=suggest_metric(found))


def _call(child: Child, part: str, spec: WorkloadSpec) -> object:
    try:
        return child.call(f"modeltailor.validation_child:{part}", timeout_s=_LOAD_S, spec=spec)
    except CandidateError as error:
        kind = ModelError if part == "model" else DataError
        raise kind("CODE-02", part, f"{error.what} ({error.code})", f"mend what --{part} names") from error


def find_student(model: str, root: Path) -> str:
    """Return ``file.py:student`` if the model's file has a function of that name with two parameters; else ``""``."""
    place, _, _ = model.rpartition(":")
    path = root / place
    if not place.endswith(".py") or not path.is_file():
        return ""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return ""
    has_one = any(isinstance(n, ast.FunctionDef) and n.name == "student" and len(n.args.args) == 2 for n in tree.body)
    return f"{place}:student" if has_one else ""


def suggest_metric(data: DataSeen) -> str:
    """Suggest a built-in metric from the labels: classes, a class a pixel, or a number."""
    if data.labels.startswith("i"):
        return "accuracy" if data.label_ndim == 1 else "miou" if data.label_ndim >= 3 else "accuracy"
    return "rmse" if data.labels.startswith("f") else "accuracy"
