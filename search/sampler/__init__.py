"""The search space, what is known of its costs, and the samplers that propose the next recipe."""

from modeltailor.search.sampler.costs import (
    OBJECTIVES,
    Conversion,
    CostArrays,
    CostTable,
    OptionCost,
    SiteCosts,
    StructureCost,
)
from modeltailor.search.sampler.factory import SAMPLERS, encoding_for, make_sampler
from modeltailor.search.sampler.goal import Goal
from modeltailor.search.sampler.knapsack import front, solve
from modeltailor.search.sampler.space import PASSED_OVER, Assignment, Decision, Encoding, SearchSpace
from modeltailor.search.sampler.tailor import TailorSampler

__all__ = [
    "OBJECTIVES",
    "PASSED_OVER",
    "SAMPLERS",
    "Assignment",
    "Conversion",
    "CostArrays",
    "CostTable",
    "Decision",
    "Encoding",
    "Goal",
    "OptionCost",
    "SearchSpace",
    "SiteCosts",
    "StructureCost",
    "TailorSampler",
    "encoding_for",
    "front",
    "make_sampler",
    "solve",
]
