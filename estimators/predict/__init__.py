"""Latency of devices that are not attached: predicted from few measurements, with honest bands."""

from modeltailor.estimators.predict.bands import Band, band_factor, checked_factor, needed_factors, widened
from modeltailor.estimators.predict.device_model import Constants, DeviceModel, Joint, constants_of
from modeltailor.estimators.predict.executed import ExecutedFile, executed_files
from modeltailor.estimators.predict.field import Component, Hypothesis, LatencyField
from modeltailor.estimators.predict.likeness import near, same, trend
from modeltailor.estimators.predict.measurements import read_measurements
from modeltailor.estimators.predict.microcontroller import Fit, MemoryPlan, fit, plan_memory
from modeltailor.estimators.predict.mixture import Mixture
from modeltailor.estimators.predict.nearest import KnownItems, Windows, completed
from modeltailor.estimators.predict.pool import Pool, smoothed
from modeltailor.estimators.predict.pooled import Mixed, pooled_field
from modeltailor.estimators.predict.population import CostPopulation, learn_costs
from modeltailor.estimators.predict.predict import (
    Forecast,
    Measured,
    NoEstimate,
    Over,
    Suggestion,
    could_be_best,
    forecast,
    predict,
    predict_all,
    suggest_measurements,
)
from modeltailor.estimators.predict.roofline import PathTerms, TwoPathRoofline
from modeltailor.estimators.predict.traces import KernelPoints, Trace, TracedKernel, points_of, read_trace
from modeltailor.estimators.predict.work import GraphWork, KernelWork

__all__ = [
    "Band",
    "Component",
    "Constants",
    "CostPopulation",
    "DeviceModel",
    "ExecutedFile",
    "Fit",
    "Forecast",
    "GraphWork",
    "Hypothesis",
    "Joint",
    "KernelPoints",
    "KernelWork",
    "KnownItems",
    "LatencyField",
    "Measured",
    "MemoryPlan",
    "Mixed",
    "Mixture",
    "NoEstimate",
    "Over",
    "PathTerms",
    "Pool",
    "Suggestion",
    "Trace",
    "TracedKernel",
    "TwoPathRoofline",
    "Windows",
    "band_factor",
    "checked_factor",
    "completed",
    "constants_of",
    "could_be_best",
    "executed_files",
    "fit",
    "forecast",
    "learn_costs",
    "near",
    "needed_factors",
    "plan_memory",
    "points_of",
    "pooled_field",
    "predict",
    "predict_all",
    "read_measurements",
    "read_trace",
    "same",
    "smoothed",
    "suggest_measurements",
    "trend",
    "widened",
]
