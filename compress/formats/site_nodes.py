"""The nodes of one site in one format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from modeltailor.compress.formats.blockwise import emit_block_gather, emit_block_matmul, emit_row_gather
from modeltailor.compress.formats.emitter import MICROSOFT, Emitter
from modeltailor.compress.formats.graph import PreparedGraph, SiteNode
from modeltailor.compress.formats.integer_ops import Folding
from modeltailor.compress.formats.names import site_label
from modeltailor.compress.formats.parts import Part
from modeltailor.compress.formats.ranges import QuantParams
from modeltailor.compress.formats.transposed import spread_of
from modeltailor.compress.pack import tree_bytes
from modeltailor.compress.vocabulary import Format
from modeltailor.errors import CandidateError

__all__ = ["Emitted", "emit_site"]


@dataclass(frozen=True, slots=True)
class Emitted:
    """What was emitted for a site: the operator that computes, the bytes of weight, scales and table, and a remark."""

    kernel: str
    stored_bytes: int
    note: str = ""


class _Plan(Protocol):
    @property
    def part_of(self) -> Callable[[SiteNode, Format], Part]: ...
    @property
    def params_of(self) -> Callable[[str, int], QuantParams | None]: ...
    @property
    def block_accuracy(self) -> int: ...


def part_bytes(part: Part) -> int:
    """Bytes that a part's weight, scales and table take in the file."""
    stored = part.planes if part.planes is not None else part.integers
    payload = stored.nbytes if part.tree is None else tree_bytes(part.tree)
    return payload + part.scale.nbytes + (part.table.nbytes if part.table is not None else 0)


def _node(graph: PreparedGraph, site: SiteNode) -> NodeProto:
    node: NodeProto = graph.model.graph.node[site.node]
    return node


def emit_site(emitter: Emitter, folding: Folding, plan: _Plan, site: SiteNode, fmt: Format) -> Emitted:
    """Emit a site in a format other than fp32.

    Raises:
        CandidateError: the format cannot be built there.
    """
    if fmt.scheme == "float":
        return _emit_half(emitter, site)
    part = plan.part_of(site, fmt)
    kind = site.site.kind
    is_static = fmt.scheme == "static" or (fmt.scheme == "codebook" and fmt.activation_bits == 8)
    match kind:
        case "conv" | "depthwise" if is_static and fmt.activation_bits == 8:
            return _emit_conv(emitter, folding, plan, site, part)
        case "conv-transpose" if is_static and fmt.activation_bits == 8:
            return _emit_transposed(emitter, folding, plan, site, part)
        case "gemm" if is_static and fmt.activation_bits == 8:
            return _emit_gemm(emitter, folding, plan, site, part)
        case "matmul" if is_static and fmt.activation_bits == 8:
            return _emit_matmul(emitter, folding, plan, site, part)
        case "matmul" | "gemm" if fmt.scheme == "dynamic":
            return _emit_dynamic(emitter, folding, site, part)
        case "matmul" | "gemm" if fmt.scheme == "block":
            if site.bias_node is not None:  # its bias comes with the part
                folding.consumed.add(site.bias_node)
            return Emitted(*emit_block_matmul(emitter, site, part, fmt, plan.block_accuracy))
        case "embedding" if fmt.scheme == "block":
            return Emitted(*emit_block_gather(emitter, site, part, fmt))
        case "embedding" if fmt.scheme == "weight-only":
            return _emit_table(emitter, site, part)
        case "conv" | "depthwise" | "conv-transpose" | "matmul" | "gemm" if is_static:
            return _emit_wide(emitter, folding, plan, site, part, fmt)
        case "recurrent" | "other":
            pass
        case _ if fmt.scheme in ("weight-only", "codebook"):
            return _emit_float_kernel(emitter, folding, site, part, site.input)
    raise CandidateError("UNSUPPORTED", site.site.name, f"format {fmt.name} cannot be built at a {kind} site")


def integer_weight(emitter: Emitter, part: Part) -> str:
    """Return the name of a part's int8 weight as the integer kernel reads it."""
    if part.table is not None:
        indices = _indices(emitter, part)
        out = emitter.fresh("w")
        emitter.node("Gather", [emitter.constant(part.table), indices], [out])
        return out
    if part.tree is not None:
        return emitter.decoded(part.tree, part.integers.shape)
    if part.planes is not None:
        return emitter.unpacked(part.planes, part.integers.shape, signed=True)
    return emitter.constant(part.integers)


def _indices(emitter: Emitter, part: Part) -> str:
    if part.tree is not None:
        stored = emitter.decoded(part.tree, part.integers.shape)
    elif part.planes is not None:
        stored = emitter.unpacked(part.planes, part.integers.shape, signed=False)
    else:
        stored = emitter.constant(part.integers.view(np.uint8))
    out = emitter.fresh("i")
    emitter.node("Cast", [stored], [out], to=TensorProto.INT32)
    return out


def float_weight(emitter: Emitter, part: Part) -> str:
    """Return the name of a part's weight in float, which the runtime folds while it loads."""
    if part.table is not None and part.table.dtype == np.float32:
        out = emitter.fresh("w")
        emitter.node("Gather", [emitter.constant(part.table), _indices(emitter, part)], [out])
        return out
    cast, out = emitter.fresh("c"), emitter.fresh("w")
    emitter.node("Cast", [integer_weight(emitter, part)], [cast], to=TensorProto.FLOAT)
    shape = [-1 if k == part.out_axis else 1 for k in range(part.integers.ndim)]
    scale = part.scale.reshape(shape) if part.scale.ndim else part.scale
    emitter.node("Mul", [cast, emitter.constant(scale)], [out])
    return out


def _integer_bias(part: Part, scale: float, out: int) -> NDArray[np.int32] | None:
    if part.bias is None:
        return None
    step = np.float64(scale) * np.broadcast_to(part.scale.astype(np.float64), (out,))
    limit = 2.0**31 - 1
    return np.clip(np.rint(part.bias.astype(np.float64) / step), -limit, limit).astype(np.int32)


def _integer_input(emitter: Emitter, plan: _Plan, site: SiteNode) -> tuple[str, QuantParams]:
    known = emitter.integer_form(site.input)
    if known is not None:
        return known
    params = plan.params_of(site.input, 8)
    if params is None:
        raise CandidateError("UNSUPPORTED", site.site.name, "its input has no calibrated range")
    return emitter.as_integer(site.input, params)


def _emit_conv(emitter: Emitter, folding: Folding, plan: _Plan, site: SiteNode, part: Part) -> Emitted:
    x, xp = _integer_input(emitter, plan, site)
    output, yp = folding.clipped(site.output, plan.params_of)
    if yp is None:
        raise CandidateError("UNSUPPORTED", site.site.name, "its output has no calibrated range")
    zero = emitter.constant(np.asarray(0, np.int8))
    inputs = [x, *emitter.scalars(xp), integer_weight(emitter, part), emitter.constant(part.scale), zero]
    inputs += emitter.scalars(yp)
    bias = _integer_bias(part, xp.scale, part.integers.shape[0])
    if bias is not None:
        inputs.append(emitter.constant(bias))
    attributes = {a.name: helper.get_attribute_value(a) for a in _node(emitter.graph, site).attribute}
    shape = site.site.weight_shape
    for name, plain in (
        ("auto_pad", b"NOTSET"), ("group", 1), ("dilations", [1] * (len(shape) - 2)),
        ("strides", [1] * (len(shape) - 2)), ("pads", [0] * (2 * len(shape) - 4)), ("kernel_shape", list(shape[2:])),
    ):  # fmt: skip
        if attributes.get(name) == plain:  # what is the default anyway only takes space
            del attributes[name]
    emitter.node(
        "QLinearConv", inputs, [emitter.made_integer(output, yp)], name=site_label(site.site.position), **attributes
    )
    return Emitted("QLinearConv", part_bytes(part))


def _emit_transposed(emitter: Emitter, folding: Folding, plan: _Plan, site: SiteNode, part: Part) -> Emitted:
    spread = spread_of(emitter.graph, site)
    output, yp = folding.clipped(site.output, plan.params_of)
    if spread is None or yp is None:
        raise CandidateError("UNSUPPORTED", site.site.name, "it is no plain convolution, or its output has no range")
    x, xp = _integer_input(emitter, plan, site)
    channels = (part.integers.shape[0], part.integers.shape[1])
    if part.table is None and part.tree is None and part.planes is None:
        weight = emitter.constant(spread.of_weight(part.integers))
    else:
        weight = spread.emit_weight(emitter, integer_weight(emitter, part), channels)
    scale = spread.of_values(part.scale)
    inputs = [x, *emitter.scalars(xp), weight, emitter.constant(scale), emitter.constant(np.asarray(0, np.int8))]
    inputs += emitter.scalars(yp)
    bias = _integer_bias(part, xp.scale, channels[1])
    if bias is not None:
        inputs.append(emitter.constant(spread.of_values(bias)))
    made = emitter.made_integer(output, yp)
    value = made if spread.is_plain else emitter.fresh("v")
    attributes: dict[str, Any] = {"pads": spread.pads} if any(spread.pads) else {}
    emitter.node("QLinearConv", inputs, [value], name=site_label(site.site.position), **attributes)
    spread.emit_output(emitter, value, made)
    return Emitted("QLinearConv", part_bytes(part) + scale.nbytes - part.scale.nbytes)


def _wants_integers(folding: Folding, tensor: str, plan: _Plan) -> bool:
    """Whether a static site reads the tensor, directly or through a ``Relu``."""
    formats = getattr(plan, "formats", {})
    static = {
        s.input for s in folding.graph.sites if s.site.name in formats and formats[s.site.name].scheme == "static"
    }
    reader = folding.only_reader(tensor)
    after = folding.graph.model.graph.node[reader].output[0] if reader is not None else ""
    return tensor in static or after in static


def _emit_gemm(emitter: Emitter, folding: Folding, plan: _Plan, site: SiteNode, part: Part) -> Emitted:
    x, xp = _integer_input(emitter, plan, site)
    width = part.integers.shape[1]
    zero = emitter.constant(np.zeros(part.scale.shape, np.int8))
    inputs = [x, *emitter.scalars(xp), integer_weight(emitter, part), emitter.constant(part.scale), zero]
    bias = _integer_bias(part, xp.scale, width)
    inputs.append(emitter.constant(bias) if bias is not None else "")
    label = site_label(site.site.position)
    if _wants_integers(folding, site.output, plan):
        output, yp = folding.clipped(site.output, plan.params_of)
        if yp is not None:
            inputs += emitter.scalars(yp)
            emitter.node("QGemm", inputs, [emitter.made_integer(output, yp)], name=label, domain=MICROSOFT)
            return Emitted("QGemm", part_bytes(part))
    while inputs[-1] == "":
        inputs.pop()
    emitter.node("QGemm", inputs, [site.output], name=label, domain=MICROSOFT)
    emitter.made_float(site.output)
    return Emitted("QGemm", part_bytes(part))


def _matmul_inputs(emitter: Emitter, part: Part, a: tuple[str, str, str]) -> list[str]:
    """Inputs of ``MatMulIntegerToFloat``: A, B, scales, zero point of A, bias."""
    inputs = [a[0], integer_weight(emitter, part), a[1], emitter.constant(part.scale), a[2]]
    if part.bias is not None:
        inputs += ["", emitter.constant(part.bias)]
    return inputs


def _emit_matmul(emitter: Emitter, folding: Folding, plan: _Plan, site: SiteNode, part: Part) -> Emitted:
    x, xp = _integer_input(emitter, plan, site)
    inputs = _matmul_inputs(emitter, part, (x, *emitter.scalars(xp)))
    emitter.node("MatMulIntegerToFloat", inputs, [site.output], name=site_label(site.site.position), domain=MICROSOFT)
    _finish_matmul(emitter, folding, site)
    return Emitted("MatMulIntegerToFloat", part_bytes(part))


def _finish_matmul(emitter: Emitter, folding: Folding, site: SiteNode) -> None:
    emitter.made_float(site.output)
    if site.bias_node is not None:
        folding.consumed.add(site.bias_node)


def _emit_dynamic(emitter: Emitter, folding: Folding, site: SiteNode, part: Part) -> Emitted:
    label = site_label(site.site.position)
    emitter.as_float(site.input)
    readers = [s for s in emitter.graph.sites if s.input == site.input]
    if len(readers) == 1:
        inputs = [site.input, integer_weight(emitter, part), emitter.constant(part.scale)]
        if part.bias is not None:
            inputs += ["", emitter.constant(part.bias)]
        emitter.node("DynamicQuantizeMatMul", inputs, [site.output], name=label, domain=MICROSOFT)
        kernel = "DynamicQuantizeMatMul"
    else:  # several sites read this activation: it is quantized once for all of them
        shared = emitter.dynamic_form(site.input)
        emitter.node(
            "MatMulIntegerToFloat", _matmul_inputs(emitter, part, shared), [site.output], name=label, domain=MICROSOFT
        )
        kernel = "MatMulIntegerToFloat"
    _finish_matmul(emitter, folding, site)
    return Emitted(kernel, part_bytes(part))


def _with_weight(emitter: Emitter, site: SiteNode, weight: str, bias: NDArray[np.float32] | None, x: str) -> None:
    """Copy a site's float node, with another weight (and bias, which a node of its own may add)."""
    node = _node(emitter.graph, site)
    made = NodeProto()
    made.CopyFrom(node)
    made.input[1] = weight
    made.input[0] = emitter.as_float(x)
    if bias is not None and site.bias_node is None and site.site.kind != "matmul":
        del made.input[2:]
        made.input.append(emitter.constant(bias))
    made.name = site_label(site.site.position)
    made.ClearField("doc_string")
    del made.metadata_props[:]
    emitter.nodes.append(made)
    emitter.made_float(node.output[0])


def _emit_float_kernel(
    emitter: Emitter, folding: Folding, site: SiteNode, part: Part, x: str, note: str = ""
) -> Emitted:
    """Weights stored in few bits and folded to float while loading: size only, the kernel stays the float one."""
    node = _node(emitter.graph, site)
    if site.site.kind == "matmul" and part.bias is not None:
        weight = float_weight(emitter, part)
        product = node.output[0] if site.bias_node is not None else emitter.fresh(node.output[0])
        emitter.node("MatMul", [emitter.as_float(x), weight], [product], name=site_label(site.site.position))
        emitter.node("Add", [product, emitter.constant(part.bias)], [site.output])
        emitter.made_float(site.output)
        emitter.made_float(product)
        if site.bias_node is not None:
            folding.consumed.add(site.bias_node)
    else:
        _with_weight(emitter, site, float_weight(emitter, part), part.bias, x)
    return Emitted(node.op_type, part_bytes(part), note)


def _emit_wide(emitter: Emitter, folding: Folding, plan: _Plan, site: SiteNode, part: Part, fmt: Format) -> Emitted:
    """16-bit activations: a quantize/dequantize pair in front of the float kernel."""
    params = plan.params_of(site.input, fmt.activation_bits)
    if params is None:
        raise CandidateError("UNSUPPORTED", site.site.name, "its input has no calibrated range")
    domain = "" if emitter.graph.opset >= 21 else MICROSOFT
    q, back = emitter.fresh("q"), emitter.fresh("d")
    emitter.node("QuantizeLinear", [emitter.as_float(site.input), *emitter.scalars(params)], [q], domain=domain)
    # equal scales by channel keep the runtime from rounding the weights once more, see Emitter.as_float
    is_matrix = site.site.kind in ("matmul", "gemm")
    shape = site.site.weight_shape
    inputs_first = is_matrix or site.site.kind == "conv-transpose"
    channels = shape[1 - site.out_axis] if inputs_first else shape[1] * site.group
    ends = [emitter.constant(np.full(channels, emitter.tensor_value(k))) for k in emitter.scalars(params)]
    axis = -1 if is_matrix else 1
    emitter.node("DequantizeLinear", [q, *ends], [back], domain=domain, axis=axis)
    emitter.made_float(back)
    return _emit_float_kernel(emitter, folding, site, part, back, "computed in float between 16-bit conversions")


def _emit_half(emitter: Emitter, site: SiteNode) -> Emitted:
    """fp16: half the bytes in the file; this runtime computes in float32 on a CPU."""
    graph = emitter.graph
    half = np.clip(graph.weight(site), -65504, 65504).astype(np.float16)
    node = _node(graph, site)
    stored, out = emitter.constant(half), emitter.fresh("w")
    note = "stored as float16, computed in float32"
    if site.site.kind == "embedding":
        emitter.node("Gather", [stored, emitter.as_float(site.input)], [out], name=site_label(site.site.position))
        emitter.node("Cast", [out], [site.output], to=TensorProto.FLOAT)
        emitter.made_float(site.output)
        return Emitted("Gather", half.nbytes, note)
    emitter.node("Cast", [stored], [out], to=TensorProto.FLOAT)
    _with_weight(emitter, site, out, graph.bias(site), site.input)
    return Emitted(node.op_type, half.nbytes, note)


def _emit_table(emitter: Emitter, site: SiteNode, part: Part) -> Emitted:
    """An embedding whose table stays small in memory: rows are gathered first and scaled afterwards.

    Four bits stay four bits: unfolding a large table while loading would take several times its float bytes.
    """
    if part.bits == 4 and part.tree is None and part.table is None and part.integers.shape[1] % 2 == 0:
        return Emitted(*emit_row_gather(emitter, site, part))
    ids = emitter.as_float(site.input)
    rows, scales, cast = emitter.fresh("r"), emitter.fresh("s"), emitter.fresh("c")
    label = site_label(site.site.position)
    emitter.node("Gather", [integer_weight(emitter, part), ids], [rows], name=label)
    emitter.node("Gather", [emitter.constant(part.scale.reshape(-1, 1)), ids], [scales])
    emitter.node("Cast", [rows], [cast], to=TensorProto.FLOAT)
    emitter.node("Mul", [cast, scales], [site.output])
    emitter.made_float(site.output)
    return Emitted("Gather", part_bytes(part))
