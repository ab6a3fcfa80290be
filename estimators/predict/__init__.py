"""Latency of devices that are not attached: predicted from few measurements, with honest bands."""

from modeltailor.estimators.predict.bands import Band, band_factor, needed_factors, widened
from modeltailor.estimators.predict.field import Component, Hypothesis, LatencyField
from modeltailor.estimators.predict.mixture import Mixture
from modeltailor.estimators.predict.pool import Pool, smoothed
from modeltailor.estimators.predict.pooled import Mixed, pooled_field
from modeltailor.estimators.predict.roofline import PathTerms, TwoPathRoofline

__all__ = [
    "Band",
    "Component",
    "Hypothesis",
    "LatencyField",
    "Mixed",
    "Mixture",
    "PathTerms",
    "Pool",
    "TwoPathRoofline",
    "band_factor",
    "needed_factors",
    "pooled_field",
    "smoothed",
    "widened",
]
