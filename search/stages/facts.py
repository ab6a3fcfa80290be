"""What the stages of a trial tell the run: plain values that travel between processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modeltailor.compress import Site, SiteReport
from modeltailor.estimators.accuracy import Accuracy

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
]

ORIGINAL = "original"
"""Key of the structure that nothing was changed in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """A channel group as the search sees it.

    Attributes:
        name: of the group.
        channels: how many there are.
        coupled: whether residual additions tie several layers together.
        macs_share: share of the network's work in its layers.
        kind: ``channels``, or ``heads`` of an attention.
    """

    name: str
    channels: int
    coupled: bool
    macs_share: float
    kind: Literal["channels", "heads"] = "channels"


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorFacts:
    """A layer that a lower rank makes cheaper.

    Attributes:
        name: of the layer.
        ranks: rank by the share of the layer's work that is left.
        macs_share: share of the network's work in it.
    """

    name: str
    ranks: tuple[tuple[float, int], ...]
    macs_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedFacts:
    """What loading the workload found out.

    Attributes:
        kind: ``torch``, ``hf`` or ``onnx``.
        digest: content key of the model's weights.
        parameters: how many there are.
        input_names: of the model.
        fixed_batch: rows of one inference if the model fixes them.
        split_sizes: samples by split.
        split_digests: content key by split.
        notes: what was cut, allowed or left out; for the report.
        groups: channel groups that can be pruned; empty without a PyTorch model.
        blocks: blocks that can be taken out, the cheapest to lose first.
        has_student: whether the user gave a factory for students.
        macs: multiply-accumulate operations of one inference; 0 where unknown.
        factors: layers that a lower rank makes cheaper.
        resolutions: shares of the image's side at which the network still runs, largest first.
        is_image: whether the one input is an image of floats, ``[n, channels, height, width]``.
    """

    kind: str
    digest: str
    parameters: int
    input_names: tuple[str, ...]
    fixed_batch: int | None
    split_sizes: tuple[tuple[str, int], ...]
    split_digests: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()
    groups: tuple[GroupFacts, ...] = ()
    blocks: tuple[str, ...] = ()
    has_student: bool = False
    macs: int = 0
    factors: tuple[FactorFacts, ...] = ()
    resolutions: tuple[float, ...] = ()
    is_image: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFacts:
    """A site and the formats that can be built there."""

    site: Site
    formats: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RealizedFacts:
    """A structure that was built and, if asked, trained; ``key`` names its exported network in the work folder."""

    key: str
    parameters: int
    macs: int
    seconds: float
    from_cache: bool
    trained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltModel:
    """A built file before it gets its name."""

    data: bytes
    sites: tuple[SiteReport, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedGraph:
    """What the runtime makes of a built file.

    Attributes:
        kernels: executed operator by site, read off the optimized graph.
        graph: key of the executed graph without the values of its weights, see :func:`graph_key`.
    """

    kernels: tuple[tuple[str, str], ...] = ()
    graph: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredModel:
    """What running a built file over a split showed.

    Attributes:
        accuracy: over the samples that were run.
        complete: all samples were run; else it was clear before that the model could not get over the bar.
        seconds: that it took.
    """

    accuracy: Accuracy
    complete: bool
    seconds: float
