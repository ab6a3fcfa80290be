"""What really executes: each node's kernel, precision and share of the time, what fell back, and why it is not faster.

Works on any ONNX file. The graph is read as the runtime wrote it after its own optimizations, times come from the
runtime's profiler, and all of it happens in a process of its own, because the file may come from anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from modeltailor.compress import Format
from modeltailor.errors import CandidateError
from modeltailor.targets import Child, Inputs, RuntimeOptions

if TYPE_CHECKING:
    import onnx

    from modeltailor.targets.session import NodeTime

__all__ = ["Audit", "AuditNode", "FallBack", "audit", "look"]

Role = Literal["compute", "conversion", "layout", "other"]
Precision = Literal["int8", "int16", "weights only", "float16", "float32", "float64", "integer"]

_CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"}
_LAYOUT = {"ReorderInput", "ReorderOutput", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_HEAVY = {
    "Conv",
    "FusedConv",
    "ConvTranspose",
    "ConvInteger",
    "QLinearConv",
    "NhwcFusedConv",
    "Gemm",
    "FusedGemm",
    "QGemm",
    "MatMul",
    "FusedMatMul",
    "TransposeMatMul",
    "QLinearMatMul",
    "MatMulInteger",
    "MatMulInteger16",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "MatMulNBits",
    "LSTM",
    "GRU",
    "RNN",
    "DynamicQuantizeLSTM",
    "Attention",
    "QAttention",
    "MultiHeadAttention",
}
_WEIGHT_ONLY = {"MatMulNBits", "MatMulBnb4", "GatherBlockQuantized"}
_WITH_INTEGER_KERNEL = {
    "Conv",
    "MatMul",
    "Gemm",
    "Add",
    "Mul",
    "AveragePool",
    "GlobalAveragePool",
    "LeakyRelu",
    "Sigmoid",
    "Softmax",
    "Concat",
    "Where",
}
_SIZE_KEPT = 256  # bytes of a tensor that the audit still has a use for


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
        ms: median milliseconds of a call, by the profiler.
        share: of the time of all nodes, 0..1.
        input_types: element types of its inputs.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FallBack:
    """A node that does not run as the file or the request has it.

    Attributes:
        name: of the node in the optimized graph.
        asked: what was asked for.
        executed: kernel that runs instead.
        reason: why, as far as the graph shows it.
        share: of the time of all nodes, 0..1.
    """

    name: str
    asked: str
    executed: str
    reason: str
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


def look(model: Path, inputs: Inputs, options: RuntimeOptions, n: int) -> tuple[bytes, tuple[NodeTime, ...]]:
    """Return the optimized graph without its large tensors, and node times; runs in the child process."""
    from modeltailor.targets.session import optimized_model, profile_nodes

    optimized = optimized_model(model, options)
    for tensor in optimized.graph.initializer:
        if len(tensor.raw_data) > _SIZE_KEPT:
            tensor.ClearField("raw_data")
    return optimized.SerializeToString(), profile_nodes(model, inputs, options, n)


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
    import onnx

    with Child(name="audit") as child:
        try:
            data, times = cast(
                "tuple[bytes, tuple[NodeTime, ...]]",
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
    provider = (options or RuntimeOptions()).provider
    return _read(model.name, onnx.load_from_string(data), times, requested or {}, provider)


def _read(
    name: str,
    optimized: onnx.ModelProto,
    times: Sequence[NodeTime],
    requested: Mapping[str, Format],
    provider: str,
) -> Audit:
    total = sum(t.ms for t in times)
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
        )
        for t in times
    )
    found = [*_elsewhere(nodes, provider), *_asked_otherwise(nodes, requested), *_unfused(optimized, nodes)]
    fall_backs = tuple(sorted({f.name: f for f in reversed(found)}.values(), key=lambda f: -f.share))
    compute: dict[Precision, float] = {}
    for node in nodes:
        if node.role == "compute":
            compute[node.precision] = compute.get(node.precision, 0.0) + node.share
    conversions = [n for n in nodes if n.role == "conversion"]
    shares = tuple(sorted(compute.items(), key=lambda kv: -kv[1]))
    conversion_share = sum(n.share for n in conversions)
    return Audit(
        model=name,
        nodes=nodes,
        fall_backs=fall_backs,
        node_ms=total,
        compute_share=shares,
        conversion_share=conversion_share,
        conversions=len(conversions),
        layout_share=sum(n.share for n in nodes if n.role == "layout"),
        sentence=_sentence(nodes, fall_backs, shares, conversion_share, len(conversions)),
    )


def _role(node: NodeTime) -> Role:
    if node.op_type in _CONVERSIONS:
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


def _label(name: str) -> str:
    return re.split(r"[_/]", name, maxsplit=1)[0]


def _elsewhere(nodes: Sequence[AuditNode], provider: str) -> list[FallBack]:
    """Find nodes that the asked execution provider left to another one, which the runtime does without a word."""
    return [
        _fall_back(node, provider, f"{provider} does not take {node.op_type} here; {node.provider} runs it")
        for node in nodes
        if node.provider and node.provider != provider and node.role != "layout"
    ]


def _asked_otherwise(nodes: Sequence[AuditNode], requested: Mapping[str, Format]) -> list[FallBack]:
    found: list[FallBack] = []
    for node in nodes:
        asked = requested.get(node.name) or requested.get(_label(node.name))
        if asked is None or node.role != "compute":
            continue
        integer = asked.scheme in ("static", "dynamic") or (asked.scheme == "codebook" and asked.activation_bits == 8)
        if integer and node.precision in ("float32", "float16", "float64"):
            reason = "its inputs or its output were not quantized by the time that the runtime fused nodes"
            found.append(_fall_back(node, asked.name, reason))
        elif asked.scheme == "block" and node.precision != "weights only":
            found.append(
                _fall_back(node, asked.name, "the runtime unfolded the weights at load: it saves size, not time")
            )
    return found


def _fall_back(node: AuditNode, asked: str, reason: str) -> FallBack:
    return FallBack(
        name=node.name, asked=asked, executed=f"{node.op_type} in {node.precision}", reason=reason, share=node.share
    )


def _unfused(optimized: onnx.ModelProto, nodes: Sequence[AuditNode]) -> list[FallBack]:
    """Find nodes that read dequantized values, so were meant to run on integers, and run in float."""
    graph = optimized.graph
    made_by = {out: n for n in graph.node for out in n.output}
    read_by: dict[str, list[onnx.NodeProto]] = {}
    for n in graph.node:
        for value in n.input:
            read_by.setdefault(value, []).append(n)
    outputs = {o.name for o in graph.output}
    by_name = {(n.name, n.op_type): n for n in nodes}
    found: list[FallBack] = []
    for n in graph.node:
        executed = by_name.get((n.name, n.op_type))
        if executed is None or executed.role != "compute" or executed.precision != "float32":
            continue
        sources = [made_by.get(value) for value in n.input if value]
        dequantized = [s is not None and s.op_type == "DequantizeLinear" for s in sources]
        if any(dequantized[:2]):
            readers = read_by.get(n.output[0], [])
            kinds = {by_name[key].input_types[0] for s in sources[:1] if s and (key := (s.name, s.op_type)) in by_name}
            kinds |= {
                by_name[key].input_types[2]
                for r in readers
                if (key := (r.name, r.op_type)) in by_name and len(by_name[key].input_types) > 2
            }
            found.append(_fall_back(executed, "integers", _why(n, dequantized, readers, n.output[0] in outputs, kinds)))
    return found


def _why(
    node: onnx.NodeProto,
    dequantized: Sequence[bool],
    readers: Sequence[onnx.NodeProto],
    is_output: bool,
    element_types: Collection[str],
) -> str:
    plain = node.op_type.removeprefix("Fused")
    if plain not in _WITH_INTEGER_KERNEL:
        return f"the runtime has no integer kernel for {node.op_type}"
    if not dequantized[0]:
        return "only its weights are quantized; its input is float"
    if len(dequantized) > 1 and not dequantized[1]:
        return "only its input is quantized; its weights are float"
    if is_output:
        return "its output is a float output of the model"
    others = sorted({r.op_type for r in readers if r.op_type != "QuantizeLinear"})
    if others:
        return f"its output is read in float by {', '.join(others)}"
    if len(element_types) > 1:
        both = " and ".join(sorted(element_types))
        return (
            f"its input and output have different element types ({both}), which the runtime mixed where tensors branch"
        )
    if node.op_type.startswith("Fused"):
        return "its activation function does not fold into the zero point of its output"
    if len(dequantized) > 2 and not dequantized[2]:
        return "its bias is float; an integer kernel needs an int32 bias with the product of both scales"
    return "the runtime did not fuse it; its scales, zero points or element types do not fit an integer kernel"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _sentence(
    nodes: Sequence[AuditNode],
    fall_backs: Sequence[FallBack],
    compute: Sequence[tuple[Precision, float]],
    conversion_share: float,
    n_conversions: int,
) -> str:
    if not nodes:
        return "Nothing executes: the runtime folded the whole graph into constants."
    heavy = [n for n in nodes if n.role == "compute"]
    wide = [n for n in heavy if n.precision in ("float32", "float64")]
    top = max(nodes, key=lambda n: n.share)
    lost = sum(f.share for f in fall_backs)
    largest = f"the largest node is {top.name} ({top.op_type}, {_percent(top.share)})"
    conversions = f"{n_conversions} conversions between number formats take {_percent(conversion_share)}"
    if fall_backs and lost >= max(0.05, conversion_share):
        worst = fall_backs[0]
        return (
            f"{len(fall_backs)} of {len(heavy)} heavy nodes with {_percent(lost)} of the time do not run as asked; "
            f"first {worst.name}: {worst.reason}."
        )
    if n_conversions and conversion_share >= 0.10:
        return f"{conversions[0].upper()}{conversions[1:]} of the time; neighbours in one format would save them."
    if not heavy:
        return f"It has no heavy nodes: its time is the overhead of {len(nodes)} small ones; {largest}."
    share = sum(s for _, s in compute)
    if share < 0.5:
        return (
            f"Only {_percent(share)} of the time is in heavy nodes, the rest in {len(nodes) - len(heavy)} small ones "
            f"that no number format makes faster; {largest}."
        )
    if len(wide) == len(heavy):
        return f"Nothing is quantized: all {len(heavy)} heavy nodes compute in {wide[0].precision}; {largest}."
    if wide:
        return (
            f"{len(wide)} of {len(heavy)} heavy nodes still compute in float with "
            f"{_percent(sum(n.share for n in wide))} of the time; {largest}."
        )
    kinds = " and ".join(p for p, _ in compute)
    tail = f"; {conversions}" if n_conversions else ""
    return f"All {len(heavy)} heavy nodes run as {kinds}{tail}; {largest}: less work, not fewer bits, is what is left."
