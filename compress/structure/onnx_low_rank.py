"""Low-rank factorization of an ONNX file without PyTorch: a node becomes two, see ``low_rank`` for the method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from modeltailor.compress.formats.calibrate import Calibration
from modeltailor.compress.formats.graph import PreparedGraph, SiteNode, prepare
from modeltailor.compress.formats.nodes import attribute_int, names_used
from modeltailor.compress.formats.store import Store
from modeltailor.compress.structure.low_rank import Factorizable, factors
from modeltailor.errors import CandidateError
from modeltailor.targets import Inputs, RuntimeOptions

__all__ = ["factorize_onnx", "onnx_factorizable"]

_SMALLEST_RANK = 2


def onnx_factorizable(
    model: Path | bytes | ModelProto, *, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[Factorizable, ...]:
    """List the sites of a float ONNX model that a lower rank makes cheaper, in the order of execution.

    Args:
        model: not changed.
        input_shapes: shape of each input, where the file leaves dimensions free.

    Raises:
        ModelError: the model cannot be read.
    """
    graph = prepare(model, input_shapes=input_shapes)
    total = max(1, sum(s.site.macs for s in graph.sites))
    found = []
    for site in graph.sites:
        largest = _largest_rank(graph, site)
        if largest >= _SMALLEST_RANK:
            rows = _rows(graph, site)
            found.append(
                Factorizable(
                    name=site.site.name, full_rank=min(rows.shape), largest_rank=largest,
                    macs_share=site.site.macs / total,
                )
            )  # fmt: skip
    return tuple(found)


def factorize_onnx(
    model: Path | bytes | ModelProto,
    ranks: Mapping[str, int],
    *,
    calibration: Inputs | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> ModelProto:
    """Return the model with those sites cut into two thin ones.

    Args:
        model: a float model; not changed.
        ranks: rank by site name.
        calibration: inputs by name; what enters the sites is read off here. Without it the weights alone count.
        input_shapes: shape of each input, where the file leaves dimensions free.

    Raises:
        CandidateError: a site is unknown, cannot be factorized, or that rank saves nothing.
        ModelError: the model cannot be read.
    """
    shapes = input_shapes or (None if calibration is None else {k: v.shape for k, v in calibration.items()})
    graph = prepare(model, input_shapes=shapes)
    figures = None
    if calibration is not None:
        figures = Calibration(graph, calibration, options=RuntimeOptions(), store=Store(None, ""), seed=0)
    made = ModelProto()
    made.CopyFrom(graph.model)
    replaced: dict[int, list[NodeProto]] = {}
    for name, rank in ranks.items():
        site = _checked(graph, name, rank)
        moments = None if figures is None else figures.moments(site)
        moment = None if moments is None else torch.from_numpy(moments.second[0].astype(np.float64))
        left, right = factors(torch.tensor(_rows(graph, site)), rank, moment)
        nodes, tensors = _two_nodes(graph, site, left.numpy(), right.numpy())
        replaced[site.node] = nodes
        made.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in tensors.items())
    nodes = [n for k, node in enumerate(made.graph.node) for n in replaced.get(k, [node])]
    kept = [_copied(n) for n in nodes]
    del made.graph.node[:]
    made.graph.node.extend(kept)
    del made.graph.value_info[:]
    used = names_used(made.graph.node)
    left_over = [t for t in made.graph.initializer if t.name in used]
    tensors_kept = [_tensor(t) for t in left_over]
    del made.graph.initializer[:]
    made.graph.initializer.extend(tensors_kept)
    return made


def _copied(node: NodeProto) -> NodeProto:
    made = NodeProto()
    made.CopyFrom(node)
    return made


def _tensor(tensor: TensorProto) -> TensorProto:
    made = TensorProto()
    made.CopyFrom(tensor)
    return made


def _rows(graph: PreparedGraph, site: SiteNode) -> NDArray[np.float32]:
    """The weight as [outputs, inputs]."""
    weight = graph.weight(site)
    return np.ascontiguousarray(np.moveaxis(weight, site.out_axis, 0).reshape(weight.shape[site.out_axis], -1))


def _largest_rank(graph: PreparedGraph, site: SiteNode) -> int:
    node = graph.model.graph.node[site.node]
    plain = site.site.kind in ("matmul", "gemm") and graph.weight(site).ndim == 2 and node.input[1] == site.weight
    if node.op_type == "Gemm" and attribute_int(node, "transA", 0):
        plain = False
    if not plain and not (site.site.kind == "conv" and site.group == 1):
        return 0
    out, inputs = _rows(graph, site).shape
    return int((out * inputs - 1) // (out + inputs))


def _checked(graph: PreparedGraph, name: str, rank: int) -> SiteNode:
    if name not in graph.names:
        raise CandidateError("UNSUPPORTED", name, "is no site of this model", "list onnx_factorizable()")
    site = graph.site(name)
    largest = _largest_rank(graph, site)
    if not largest:
        raise CandidateError(
            "UNSUPPORTED", name, f"a {site.site.kind} site has no low-rank form here", "leave it whole"
        )
    if not 1 <= rank <= largest:
        raise CandidateError("UNSUPPORTED", name, f"only ranks 1 to {largest} save something; got {rank}", "lower it")
    return site


def _two_nodes(
    graph: PreparedGraph, site: SiteNode, left: NDArray[np.float32], right: NDArray[np.float32]
) -> tuple[list[NodeProto], dict[str, NDArray[np.float32]]]:
    node = graph.model.graph.node[site.node]
    thin, wide, between = f"{site.weight}/thin", f"{site.weight}/wide", f"{node.output[0]}/thin"
    first, second = _copied(node), _copied(node)
    first.name, second.name = f"{node.name or node.output[0]}/thin", f"{node.name or node.output[0]}/wide"
    first.output[0], second.input[0] = between, between
    first.input[1], second.input[1] = thin, wide
    if node.op_type == "Conv":
        weight = graph.weight(site)
        del first.input[2:]
        del second.attribute[:]
        second.attribute.append(helper.make_attribute("kernel_shape", [1] * (weight.ndim - 2)))
        shape = (len(right), *weight.shape[1:])
        return [first, second], {thin: right.reshape(shape), wide: left.reshape(*left.shape, *[1] * (weight.ndim - 2))}
    if node.op_type == "Gemm":
        del first.input[2:]
        for attribute in first.attribute:
            if attribute.name == "beta":
                attribute.f = 1.0
        for attribute in second.attribute:
            if attribute.name == "alpha":
                attribute.f = 1.0
        by_rows = site.out_axis == 0
        return [first, second], {thin: right if by_rows else right.T.copy(), wide: left if by_rows else left.T.copy()}
    return [first, second], {thin: right.T.copy(), wide: left.T.copy()}
