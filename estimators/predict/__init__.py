"""Latency of devices that are not attached: predicted from few measurements, with honest bands."""

from modeltailor.estimators.predict.bands import Band, band_factor, needed_factors, widened
from modeltailor.estimators.predict.field import Component, Hypothesis, LatencyField
from modeltailor.estimators.predict.likeness import near, same, trend
from modeltailor.estimators.predict.mixture import Mixture
from modeltailor.estimators.predict.nearest import KnownItems, Windows, completed
from modeltailor.estimators.predict.pool import Pool, smoothed
from modeltailor.estimators.predict.pooled import Mixed, pooled_field
from modeltailor.estimators.predict.population import CostPopulation, learn_costs
from modeltailor.estimators.predict.roofline import PathTerms, TwoPathRoofline

__all__ = [
    "Band",
    "Component",
    "CostPopulation",
    "Hypothesis",
    "KnownItems",
    "LatencyField",
    "Mixed",
    "Mixture",
    "PathTerms",
    "Pool",
    "TwoPathRoofline",
    "Windows",
    "band_factor",
    "completed",
    "learn_costs",
    "near",
    "needed_factors",
    "pooled_field",
    "same",
    "smoothed",
    "trend",
    "widened",
]
