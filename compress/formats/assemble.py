"""A candidate put together from parts: the graph that ONNX Runtime executes with the formats that were asked for.

Quantized regions are in operator form (``QLinearConv``, ``QLinearAdd`` ...). Forward through the graph each tensor
exists in float, in integers, or both once somebody needs the other form; so neighbours of one kind have no conversion
between them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, helper

from modeltailor.compress.formats.emitter import Emitter
from modeltailor.compress.formats.graph import PreparedGraph, SiteNode
from modeltailor.compress.formats.integer_ops import Folding, emit_integer_op
from modeltailor.compress.formats.names import shorten, site_label
from modeltailor.compress.formats.node_metadata import describe_nodes
from modeltailor.compress.formats.parts import Part, zero_share
from modeltailor.compress.formats.ranges import QuantParams
from modeltailor.compress.formats.site_nodes import Emitted, emit_site
from modeltailor.compress.formats.twins import twins
from modeltailor.compress.pack import (
    DOMAIN,
    JOIN,
    SHAPE,
    UNPACK,
    join_function,
    shape_function,
    tree_bytes,
    unpack_function,
)
from modeltailor.compress.vocabulary import Format, SiteReport

__all__ = ["Plan", "assemble"]

_FLOAT = Format()
_DECODER_BYTES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a candidate is put together from.

    Attributes:
        formats: format of each site that is not fp32.
        part_of: the part of a site in a format.
        params_of: scale and zero point of an activation tensor at a number of bits; ``None`` where calibration never
            saw it.
        block_accuracy: ``accuracy_level`` of block-wise matrix products.
    """

    formats: Mapping[str, Format]
    part_of: Callable[[SiteNode, Format], Part]
    params_of: Callable[[str, int], QuantParams | None]
    block_accuracy: int = 4


def assemble(graph: PreparedGraph, plan: Plan) -> tuple[ModelProto, tuple[SiteReport, ...]]:
    """Build the graph of a candidate.

    Args:
        graph: the float model; not changed.
        plan: formats and parts.

    Returns:
        The model with short names, and one report a site in the order of execution.
    """
    plan = _without_trees(graph, plan)
    emitter = Emitter(graph)
    folding = Folding(graph)
    site_at = {s.node: s for s in graph.sites}
    reports: list[SiteReport] = []
    for index, node in enumerate(graph.model.graph.node):
        if index in folding.consumed:
            continue
        site = site_at.get(index)
        if site is not None:
            fmt = plan.formats.get(site.site.name, _FLOAT)
            if fmt == _FLOAT:
                emitter.copy(node, name=site_label(site.site.position))
                reports.append(_float_report(graph, site, node))
            else:
                emitted = emit_site(emitter, folding, plan, site, fmt)
                reports.append(_report(graph, plan, site, fmt, emitted))
        elif not emit_integer_op(emitter, folding, plan.params_of, index):
            emitter.copy(node)
    for output in graph.model.graph.output:
        emitter.as_float(output.name)
    describe_nodes(emitter.nodes, reports)
    return _model(graph, emitter), _with_twins(emitter, reports)


def _with_twins(emitter: Emitter, reports: list[SiteReport]) -> tuple[SiteReport, ...]:
    """Note at each site that the runtime will merge with an earlier one, that it does."""
    labels = {site_label(k): k for k in range(len(reports))}
    found = twins(emitter.nodes, labels)
    for label, first in [*found.items(), *((first, label) for label, first in found.items())]:  # either may be kept
        report, of = reports[labels[label]], reports[labels[first]].site
        note = f"the same weights on the same input as {of}: the runtime computes it once for both"
        reports[labels[label]] = dataclasses.replace(report, note="; ".join(n for n in (report.note, note) if n))
    return tuple(reports)


def _without_trees(graph: PreparedGraph, plan: Plan) -> Plan:
    """Leave coded weights packed where, in this file, coding saves no more than the functions that decode it take."""
    saved = 0
    for site in graph.sites:
        fmt = plan.formats.get(site.site.name, _FLOAT)
        if fmt.scheme != "float":
            part = plan.part_of(site, fmt)
            if part.tree is not None:
                saved += (part.integers if part.planes is None else part.planes).nbytes - tree_bytes(part.tree)
    if saved > _DECODER_BYTES:
        return plan
    return dataclasses.replace(plan, part_of=lambda s, f: dataclasses.replace(plan.part_of(s, f), tree=None))


def _float_report(graph: PreparedGraph, site: SiteNode, node: NodeProto) -> SiteReport:
    return SiteReport(
        site=site.site.name,
        format="fp32",
        storage_bits=32,
        stored_bytes=4 * site.site.weight_elements,
        kernel=node.op_type,
        sparsity=zero_share(graph.weight(site)),
    )


def _report(graph: PreparedGraph, plan: Plan, site: SiteNode, fmt: Format, emitted: Emitted) -> SiteReport:
    return SiteReport(
        site=site.site.name,
        format=fmt.name,
        storage_bits=fmt.weight_bits,
        stored_bytes=emitted.stored_bytes,
        kernel=emitted.kernel,
        note=emitted.note,
        sparsity=zero_share(graph.weight(site)) if fmt.scheme == "float" else plan.part_of(site, fmt).sparsity,
    )


def _model(graph: PreparedGraph, emitter: Emitter) -> ModelProto:
    source = graph.model
    made = helper.make_graph(
        emitter.nodes, "g", list(source.graph.input), list(source.graph.output), list(emitter.tensors.values())
    )
    for value in (*made.input, *made.output):
        value.ClearField("doc_string")
        del value.metadata_props[:]
    opsets = [helper.make_opsetid("", graph.opset)]
    domains = {n.domain for n in emitter.nodes} - {"", "ai.onnx"}
    versions = {o.domain: o.version for o in source.opset_import}
    opsets += [helper.make_opsetid(d, versions.get(d, 1)) for d in sorted(domains)]
    called = {n.op_type for n in emitter.nodes if n.domain == DOMAIN}
    makers = {UNPACK: unpack_function, JOIN: join_function, SHAPE: shape_function}
    functions = [make(graph.opset) for name, make in makers.items() if name in called]
    ir_version = max(8, min(source.ir_version, 10))
    model = helper.make_model(made, opset_imports=opsets, functions=functions, ir_version=ir_version)
    model.ClearField("producer_name")
    shorten(model, _labels(graph, model))
    return model


_FUSED_AFTER = frozenset(
    ("BatchNormalization", "Mul", "Add", "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid")
)


def _labels(graph: PreparedGraph, model: ModelProto) -> dict[str, str]:
    """Names by which the sites are found again after the runtime's fusions, which name nodes after what they give."""
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    labels: dict[str, str] = {}
    for site in graph.sites:
        tensor, label = graph.model.graph.node[site.node].output[0], site_label(site.site.position)
        if not tensor:  # recurrent layers may leave outputs out
            continue
        labels[tensor] = label
        for step in "abc" if site.site.kind in ("conv", "depthwise") else "":
            after = readers.get(tensor, [])
            if len(after) != 1 or after[0].op_type not in _FUSED_AFTER:
                break
            tensor = after[0].output[0]
            labels.setdefault(tensor, f"{label}_{step}")
    return labels
