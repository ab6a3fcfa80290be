"""The workload as data: where the model, the data and the metric come from. What child processes are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from modeltailor.workloads.metric import MetricSpec

__all__ = ["SPLITS", "DataSpec", "ModelSpec", "WorkloadSpec"]

SPLITS = ("train", "calibration", "search", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Where the model comes from.

    Attributes:
        source: ``file.py:function``, ``package.module:function``, an ``.onnx`` file, or a Hugging Face folder.
        weights: a ``.safetensors`` file, or a ``.pt`` file that holds tensors only.
        student: ``file.py:function`` called as ``function(width, depth)`` for narrower or shallower students.
    """

    source: str
    weights: str = ""
    student: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """Where the data comes from: a function that returns all splits, or one ``.npz`` file a split.

    Attributes:
        function: ``file.py:function``; returns ``{"train": {"x": ..., "y": ...}, ...}``.
        files: split name and file.
        allow_overlap: accept samples that stand in two splits; the report says so.
    """

    function: str = ""
    files: tuple[tuple[str, str], ...] = ()
    allow_overlap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSpec:
    """Model, data and metric as data.

    Attributes:
        root: folder that relative paths start from: the job file's.
        model: where the model comes from.
        data: where the data comes from.
        metric: what a model is worth.
    """

    root: Path
    model: ModelSpec
    data: DataSpec
    metric: MetricSpec = field(default_factory=MetricSpec)
