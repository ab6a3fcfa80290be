"""The stages of a trial, each run in a child process: what they crash, hang or eat is lost there and nowhere else.

Functions here are called by name through :class:`modeltailor.targets.Child`; arguments and results travel pickled
between our own processes. What is dear to make (the loaded network, calibration, cached parts) stays in the child
between calls, keyed by the run's work folder.
"""

from modeltailor.search.stages.building import (
    baselines,
    compose,
    realize_structure,
    recipe_cost,
    recover_formats,
    site_costs,
    site_drops,
    sites,
)
from modeltailor.search.stages.facts import (
    ORIGINAL,
    BuiltModel,
    ExecutedGraph,
    FactorFacts,
    GroupFacts,
    PreparedFacts,
    RealizedFacts,
    ScoredModel,
    SiteFacts,
)
from modeltailor.search.stages.preparing import prepare
from modeltailor.search.stages.scoring import graph_key, inspect, score

__all__ = [
    "ORIGINAL",
    "BuiltModel",
    "ExecutedGraph",
    "FactorFacts",
    "GroupFacts",
    "PreparedFacts",
    "RealizedFacts",
    "ScoredModel",
    "SiteFacts",
    "baselines",
    "compose",
    "graph_key",
    "inspect",
    "prepare",
    "realize_structure",
    "recipe_cost",
    "recover_formats",
    "score",
    "site_costs",
    "site_drops",
    "sites",
]
