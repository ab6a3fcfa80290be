"""What runs otherwise than the file or the request has it, and why, as far as the optimized graph shows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from modeltailor.compress import Format
from modeltailor.compress.formats.names import label_of
from modeltailor.estimators.audit_data import AuditNode, FallBack

if TYPE_CHECKING:
    import onnx

__all__ = ["fall_backs"]

_WITH_INTEGER_KERNEL = frozenset(
    (
        "Conv", "MatMul", "Gemm", "Add", "Mul", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax",
        "Concat", "Where",
    )
)  # fmt: skip


def fall_backs(
    optimized: onnx.ModelProto, nodes: Sequence[AuditNode], requested: Mapping[str, Format], provider: str
) -> tuple[FallBack, ...]:
    """Return the fall-backs, each node once, by share.

    Args:
        optimized: the graph that the runtime wrote.
        nodes: executed nodes.
        requested: format by name of a node or label of a site.
        provider: execution provider that was asked for.
    """
    found = [
        *_elsewhere(nodes, provider),
        *_asked_otherwise(nodes, requested),
        *_unfused(optimized, nodes),
        *_nowhere(nodes, requested),
    ]
    return tuple(sorted({f.name: f for f in reversed(found)}.values(), key=lambda f: -f.share))


def _fall_back(node: AuditNode, asked: str, reason: str) -> FallBack:
    return FallBack(
        name=node.name, asked=asked, executed=f"{node.op_type} in {node.precision}", reason=reason, share=node.share
    )


def _elsewhere(nodes: Sequence[AuditNode], provider: str) -> list[FallBack]:
    """Find nodes that the asked execution provider left to another one, which the runtime does without a word."""
    return [
        _fall_back(node, provider, f"{provider} does not take {node.op_type} here; {node.provider} runs it")
        for node in nodes
        if node.provider and node.provider != provider and node.role != "layout"
    ]


def _is_integer(asked: Format) -> bool:
    """Whether a format promises the integer kernel; 16-bit activations are computed in float, and say so."""
    return asked.activation_bits == 8 and asked.scheme in ("static", "dynamic", "codebook")


def _asked_otherwise(nodes: Sequence[AuditNode], requested: Mapping[str, Format]) -> list[FallBack]:
    found: list[FallBack] = []
    for node in nodes:
        asked = requested.get(node.name) or requested.get(label_of(node.name))
        if asked is None or node.role != "compute":
            continue
        if _is_integer(asked) and node.precision in ("float32", "float16", "float64"):
            reason = "its inputs or its output were not quantized by the time that the runtime fused nodes"
            found.append(_fall_back(node, asked.name, reason))
        elif asked.scheme == "block" and node.precision != "weights only":
            reason = "the runtime unfolded the weights at load: it saves size, not time"
            found.append(_fall_back(node, asked.name, reason))
    return found


def _nowhere(nodes: Sequence[AuditNode], requested: Mapping[str, Format]) -> list[FallBack]:
    """Find requests for which no node executes at all."""
    known = {n.name for n in nodes} | {label_of(n.name) for n in nodes}
    reason = (
        "no node of that name executes: the runtime computed it while loading, merged it with an equal one, or fused it "
        "into a node with another name"
    )
    return [
        FallBack(name=name, asked=asked.name, executed="nothing", reason=reason, share=0.0)
        for name, asked in requested.items()
        if name not in known and asked.scheme != "float"
    ]


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
