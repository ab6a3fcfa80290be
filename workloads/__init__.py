"""What is being tailored, and what is it worth?"""

from modeltailor.workloads.code import load_callable, looks_like_code
from modeltailor.workloads.data import Split, Splits, load_splits, open_split, open_splits, store_splits
from modeltailor.workloads.metric import BUILT_IN, Metric, MetricSpec, Outputs
from modeltailor.workloads.model import ModelKind, check_onnx_file, load_module, model_kind
from modeltailor.workloads.spec import SPLITS, DataSpec, ModelSpec, WorkloadSpec
from modeltailor.workloads.workload import bind_inputs, resolve_metric

__all__ = [
    "BUILT_IN",
    "SPLITS",
    "DataSpec",
    "Metric",
    "MetricSpec",
    "ModelKind",
    "ModelSpec",
    "Outputs",
    "Split",
    "Splits",
    "WorkloadSpec",
    "bind_inputs",
    "check_onnx_file",
    "load_callable",
    "load_module",
    "load_splits",
    "looks_like_code",
    "model_kind",
    "open_split",
    "open_splits",
    "resolve_metric",
    "store_splits",
]
