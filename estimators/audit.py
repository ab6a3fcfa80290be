"""What really executes: each node's kernel, precision and share of the time, what fell back, and why it is not faster.

Works on any ONNX file. The graph is read as the runtime wrote it after its own optimizations, times come from the
runtime's profiler, and all of it happens in a process of its own, because the file may come from anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from modeltailor.compress import Format
from modeltailor.compress.formats.names import label_of
from modeltailor.errors import CandidateError
from modeltailor.estimators.audit_conversions import CONVERSIONS, conversion_pairs, conversions
from modeltailor.estimators.audit_data import Audit, AuditNode, Conversion, ConversionPair, FallBack, Precision, Role
from modeltailor.estimators.audit_fall_backs import fall_backs
from modeltailor.estimators.audit_saturation import saturating_nodes
from modeltailor.estimators.audit_sentence import why_not_faster
from modeltailor.targets import Child, Inputs, RuntimeOptions

if TYPE_CHECKING:
    import onnx

    from modeltailor.targets.session import NodeTime

__all__ = ["Audit", "AuditNode", "Conversion", "ConversionPair", "FallBack", "audit", "look"]

_LAYOUT = frozenset(("ReorderInput", "ReorderOutput", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"))
_HEAVY = frozenset(
    (
        "Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "ConvInteger", "QLinearConv",
        "Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul", "TransposeMatMul", "QLinearMatMul", "MatMulInteger",
        "MatMulInteger16", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits", "Einsum",
        "LSTM", "GRU", "RNN", "DynamicQuantizeLSTM", "Attention", "QAttention", "MultiHeadAttention",
    )
)  # fmt: skip
_WEIGHT_ONLY = frozenset(("MatMulNBits", "MatMulBnb4", "GatherBlockQuantized"))
_CPU = "CPUExecutionProvider"
_SIZE_KEPT = 256  # bytes of a tensor that the audit still has a use for
_BITS = "bits"  # metadata of a node: bits that its weights are stored in


@dataclass(frozen=True, slots=True)
class Looked:
    """What the child process saw.

    Attributes:
        optimized: the graph that the runtime wrote, without its large tensors, serialized.
        times: of the executed nodes.
        tensors: names of the tensors that nodes of the file give; empty if it has local functions, whose tensors are
            renamed when they are inlined.
        asked: what the file says of a node by its name: the bits that its weights are stored in.
        saturating: nodes whose sums of products may saturate on this machine.
    """

    optimized: bytes
    times: tuple[NodeTime, ...]
    tensors: frozenset[str]
    asked: tuple[tuple[str, str], ...]
    saturating: tuple[str, ...] = ()


def look(model: Path, inputs: Inputs, options: RuntimeOptions, n: int) -> Looked:
    """Return what executes in a file; runs in the child process."""
    import onnx

    from modeltailor.targets.saturation import saturates_here
    from modeltailor.targets.session import optimized_model, profile_nodes

    optimized = optimized_model(model, options)
    saturating = saturating_nodes(optimized) if options.provider == _CPU and saturates_here() else ()
    for tensor in optimized.graph.initializer:
        if len(tensor.raw_data) > _SIZE_KEPT:
            tensor.ClearField("raw_data")
    file = onnx.load(model, load_external_data=False)
    asked = tuple(
        (node.name, f"{entry.value} bits stored")
        for node in file.graph.node
        for entry in node.metadata_props
        if entry.key == _BITS and node.name
    )
    known = frozenset() if file.functions else frozenset(o for node in file.graph.node for o in node.output)
    return Looked(optimized.SerializeToString(), profile_nodes(model, inputs, options, n), known, asked, saturating)


def audit(
    model: Path,
    inputs: Inputs,
    options: RuntimeOptions | None = None,
    requested: Mapping[str, Format] | None = None,
    *,
    n: int = 50,
    timeout_s: float = 120.0,
) -> Audit:
    """Find out what executes in a model.

    Args:
        model: any ONNX file.
        inputs: one batch by input name.
        options: how the session is opened.
        requested: format by site label; the nodes of a site have the label as their name, or before ``_`` or ``/``.
        n: timed runs.
        timeout_s: wall-clock limit.

    Raises:
        CandidateError: the model crashes, hangs, or runs out of memory; ``where`` names the file.
        ModelError: the runtime refuses it.
    """
    with Child(name="audit") as child:
        try:
            seen = cast(
                "Looked",
                child.call(
                    "modeltailor.estimators.audit:look",
                    timeout_s=timeout_s,
                    model=model,
                    inputs=dict(inputs),
                    options=options or RuntimeOptions(),
                    n=n,
                ),
            )
        except CandidateError as error:
            raise CandidateError(error.code, model.name, error.what, error.next_step) from error
    import onnx

    provider = (options or RuntimeOptions()).provider
    optimized = onnx.load_from_string(seen.optimized)
    return read(
        model.name, optimized, seen.times, requested or {}, provider, tensors=seen.tensors, asked=dict(seen.asked),
        saturating=seen.saturating,
    )  # fmt: skip


def read(
    name: str,
    optimized: onnx.ModelProto,
    times: Sequence[NodeTime],
    requested: Mapping[str, Format],
    provider: str,
    *,
    tensors: frozenset[str] = frozenset(),
    asked: Mapping[str, str] | None = None,
    saturating: tuple[str, ...] = (),
) -> Audit:
    """Return the audit of what was seen.

    Args:
        name: of the file.
        optimized: the graph that the runtime wrote.
        times: of the executed nodes.
        requested: format by name of a node or label of a site.
        provider: execution provider that was asked for.
        tensors: names of the tensors that nodes of the file give; without them no conversion counts as inserted.
        asked: what the file itself says of a node, by its name.
        saturating: nodes whose sums of products may saturate.
    """
    total = sum(t.ms for t in times)
    said = dict(asked or {}) | {label: fmt.name for label, fmt in requested.items()}
    nodes = tuple(
        AuditNode(
            name=t.name,
            op_type=t.op_type,
            domain=t.domain,
            provider=t.provider,
            role=_role(t),
            precision=_precision(t),
            ms=t.ms,
            share=t.ms / total if total else 0.0,
            input_types=t.input_types,
            asked=(said.get(t.name) or said.get(label_of(t.name), "")) if _role(t) == "compute" else "",
        )
        for t in times
    )
    fallen = fall_backs(optimized, nodes, requested, provider)
    converting = conversions(optimized, times, tensors)
    compute: dict[Precision, float] = {}
    for node in nodes:
        if node.role == "compute":
            compute[node.precision] = compute.get(node.precision, 0.0) + node.share
    shares = tuple(sorted(compute.items(), key=lambda kv: -kv[1]))
    conversion_share = sum(c.share for c in converting)
    return Audit(
        model=name,
        nodes=nodes,
        fall_backs=fallen,
        node_ms=total,
        compute_share=shares,
        conversion_share=conversion_share,
        conversions=len(converting),
        layout_share=sum(n.share for n in nodes if n.role == "layout"),
        sentence=why_not_faster(nodes, fallen, shares, converting),
        converting=converting,
        pairs=conversion_pairs(optimized, converting),
        saturating=saturating,
    )


def _role(node: NodeTime) -> Role:
    if node.op_type in CONVERSIONS:
        return "conversion"
    if node.op_type in _LAYOUT:
        return "layout"
    return "compute" if node.op_type in _HEAVY else "other"


def _precision(node: NodeTime) -> Precision:
    if node.op_type in _WEIGHT_ONLY:
        return "weights only"
    types = node.input_types
    if node.op_type.startswith(("DynamicQuantize", "QAttention")) or "Integer" in node.op_type:
        return "int8"
    first = types[0] if types else "float"
    if first in ("uint8", "int8"):
        return "int8"
    if first in ("uint16", "int16"):
        return "int16"
    if first in ("float16", "bfloat16"):
        return "float16"
    if first == "double":
        return "float64"
    return "float32" if first == "float" else "integer"
