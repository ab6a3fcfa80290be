"""What an audit finds, as data: frozen, and JSON-able by :meth:`Audit.to_plain`. The form is told in ``docs/audit.md``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

__all__ = ["Audit", "AuditNode", "Conversion", "ConversionPair", "FallBack", "Precision", "Role"]

Role = Literal["compute", "conversion", "layout", "other"]
Precision = Literal["int8", "int16", "weights only", "float16", "float32", "float64", "integer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditNode:
    """One executed node.

    Attributes:
        name: in the optimized graph.
        op_type: kernel that ran.
        domain: of the kernel; empty for standard ONNX.
        provider: execution provider that ran it.
        role: computing, converting between number formats, moving data, or anything else.
        precision: what it computes in.
        ms: median milliseconds of one inference, by the profiler, without the nodes in its own body.
        share: of the time of all nodes, 0..1; the shares of all nodes sum to 1.
        input_types: element types of its inputs.
        asked: what was asked for there: the requested format, or what the file says; empty if nothing special.
    """

    name: str
    op_type: str
    domain: str
    provider: str
    role: Role
    precision: Precision
    ms: float
    share: float
    input_types: tuple[str, ...]
    asked: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallBack:
    """A node that does not run as the file or the request has it.

    Attributes:
        name: of the node in the optimized graph; of the request where no node executes for it.
        asked: what was asked for.
        executed: kernel that runs instead; ``nothing`` if none does.
        reason: why, as far as the graph shows it.
        share: of the time of all nodes, 0..1.
    """

    name: str
    asked: str
    executed: str
    reason: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A node that only changes the number format of a tensor.

    Attributes:
        name: in the optimized graph.
        op_type: ``QuantizeLinear``, ``DequantizeLinear``, ``DynamicQuantizeLinear`` or ``Cast``.
        source: element type that enters.
        target: element type that leaves.
        after: operator that makes what enters; ``input`` for an input of the model.
        before: operators that read what leaves, each once; ``output`` for an output of the model.
        is_inserted: whether the runtime put it there; false if the file has it.
        ms: as of a node.
        share: of the time of all nodes, 0..1.
    """

    name: str
    op_type: str
    source: str
    target: str
    after: str
    before: tuple[str, ...]
    is_inserted: bool
    ms: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionPair:
    """Two conversions in a row that undo each other but for rounding: neighbours of one format would need neither.

    Attributes:
        first: name of the first node.
        second: name of the one that reads it.
        share: of the time of all nodes that both take, 0..1.
    """

    first: str
    second: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What executes in one model.

    Attributes:
        model: name of the file.
        nodes: executed nodes in order.
        fall_backs: what runs otherwise than meant, by share.
        node_ms: milliseconds of all nodes together, profiler included.
        compute_share: share of the time in heavy computing nodes, by precision, largest first.
        conversion_share: share of the time spent on converting between number formats.
        conversions: number of converting nodes.
        layout_share: share of the time spent on moving data into other layouts.
        sentence: one sentence that answers "why is it not faster?".
        converting: the converting nodes one by one, by share.
        pairs: conversions in a row that undo each other, by share.
        saturating: nodes whose sums of 8-bit products may saturate on the machine that ran the audit: their outputs differ
            from those on other machines. Empty where integer kernels add exactly.
    """

    model: str
    nodes: tuple[AuditNode, ...]
    fall_backs: tuple[FallBack, ...]
    node_ms: float
    compute_share: tuple[tuple[Precision, float], ...]
    conversion_share: float
    conversions: int
    layout_share: float
    sentence: str
    converting: tuple[Conversion, ...] = ()
    pairs: tuple[ConversionPair, ...] = ()
    saturating: tuple[str, ...] = ()

    @property
    def inserted(self) -> tuple[Conversion, ...]:
        """Conversions that the runtime put in, by share."""
        return tuple(c for c in self.converting if c.is_inserted)

    def to_plain(self) -> dict[str, object]:
        """The audit as JSON-able data, field by field; tuples become lists when it is written."""
        return dataclasses.asdict(self)
