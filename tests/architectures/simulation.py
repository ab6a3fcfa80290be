"""What a recipe should compute, in float: dequantized weights and fake-quantized activations in the float graph.

Written from the meaning of the formats, not from the graphs that the composer builds: a node that is lost, an axis that
is swapped or a conversion with another tensor's scale shows up as a difference. The rules:

- a weight is the part's dequantized weight; a bias under an integer kernel is rounded to ``scale_x * scale_w``;
- what enters a static site is fake-quantized, and so is what leaves it if it leaves as integers (after a ``Relu`` or
  ``Clip`` that saturation does);
- operators between integers (additions, pooling, moves) fake-quantize what they give; moves keep the grid they got;
- dynamic sites and ``MatMulNBits`` at accuracy level 4 quantize their input by the range it has at run time.

The graph runs in ONNX Runtime with all optimizations off, so that nothing is fused to an integer kernel.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from modeltailor.compress import Format, Settings
from modeltailor.compress.formats import Composer
from modeltailor.compress.formats.graph import PreparedGraph, SiteNode
from modeltailor.compress.formats.nodes import attribute_ints, attribute_text, has_subgraph
from modeltailor.compress.formats.parts import Part
from modeltailor.compress.formats.ranges import QuantParams

__all__ = ["simulated"]

_MOVES = {
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Split", "Pad",
    "Resize",
}  # fmt: skip
_MICROSOFT = "com.microsoft"


def simulated(composer: Composer, formats: Mapping[str, Format], settings: Settings) -> bytes:
    """Return the float model that computes what a recipe should.

    Args:
        composer: of the float model.
        formats: format by site name; the others are fp32.
        settings: how quantized numbers are chosen.
    """
    graph, plan = composer.plan(formats, settings)
    simulation = _Simulation(graph, formats, plan.part_of, plan.params_of)
    return simulation.model()


class _Simulation:
    def __init__(self, graph: PreparedGraph, formats, part_of, params_of) -> None:  # type: ignore[no-untyped-def]
        self._graph = graph
        self._source = list(graph.model.graph.node)
        self._formats = formats
        self._part_of = part_of
        self._params_of = params_of
        self._nodes: list[NodeProto] = []
        self._tensors: list[TensorProto] = []
        self._grids: dict[str, tuple[str, QuantParams]] = {}  # by tensor: name of the value on the grid, the grid
        self._whole: set[str] = set()  # tensors that exist on the grid only: made by integer operators
        self._done: set[int] = set()
        self._outputs = {o.name for o in graph.model.graph.output}
        self._count = 0

    def model(self) -> bytes:
        site_at = {s.node: s for s in self._graph.sites}
        for index, node in enumerate(self._source):
            site = site_at.get(index)
            fmt = self._formats.get(site.site.name) if site is not None else None
            if index in self._done:
                continue
            if site is not None:
                if fmt is None or fmt.name == "fp32":
                    self._copy(node)
                else:
                    self._site(site, node, fmt)
            elif not self._on_grid(node):
                self._copy(node)
        source = self._graph.model
        made = helper.make_graph(
            self._nodes, "simulation", list(source.graph.input), list(source.graph.output),
            [*source.graph.initializer, *self._tensors],
        )  # fmt: skip
        opsets = {o.domain: o.version for o in source.opset_import} | {_MICROSOFT: 1}
        imports = [helper.make_opsetid(d, v) for d, v in opsets.items()]
        model: ModelProto = helper.make_model(made, opset_imports=imports, ir_version=10)
        return bytes(model.SerializeToString())

    # --- building blocks ----------------------------------------------------------------------------------------------

    def _fresh(self) -> str:
        self._count += 1
        return f"sim~{self._count}"

    def _add(self, op: str, inputs: list[str], output: str = "", domain: str = "", **attributes: object) -> str:
        out = output or self._fresh()
        self._nodes.append(helper.make_node(op, inputs, [out], domain=domain, **attributes))
        return out

    def _constant(self, value: NDArray[np.generic]) -> str:
        name = self._fresh()
        self._tensors.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _copy(self, node: NodeProto) -> None:
        made = NodeProto()
        made.CopyFrom(node)
        made.name = ""
        self._nodes.append(made)

    def _rounded(self, tensor: str, params: QuantParams, output: str = "") -> str:
        """A value on the grid of ``params``."""
        kind = np.dtype(f"{'' if params.signed else 'u'}int{params.bits}")
        ends = [self._constant(np.float32(params.scale)), self._constant(kind.type(params.zero_point))]
        wide = (params.bits > 8 and self._graph.opset < 21) or self._graph.opset > 27
        domain = _MICROSOFT if wide else ""
        integer = self._add("QuantizeLinear", [tensor, *ends], domain=domain)
        return self._add("DequantizeLinear", [integer, *ends], output, domain=domain)

    def _entering(self, tensor: str) -> tuple[str, QuantParams]:
        """A tensor as an integer kernel reads it: once quantized, every integer kernel reads the same integers."""
        if tensor not in self._grids:
            params = self._params_of(tensor, 8)
            assert params is not None, tensor
            self._grids[tensor] = (self._rounded(tensor, params), params)
        return self._grids[tensor]

    def _leaves(self, value: str, tensor: str, params: QuantParams, *, is_there: bool = False) -> None:
        """``tensor`` is made by an integer kernel: it has the values of ``value`` on the grid of ``params``."""
        if is_there:
            self._add("Identity", [value], tensor)
        else:
            self._rounded(value, params, tensor)
        self._grids[tensor] = (tensor, params)
        self._whole.add(tensor)

    def _after(self, tensor: str) -> tuple[str, QuantParams | None]:
        """The tensor that leaves an integer kernel: behind a ``Relu`` or ``Clip`` that saturation does, if one follows."""
        readers = self._graph.consumers.get(tensor, ())
        if len(readers) == 1 and tensor not in self._outputs:
            node = self._source[readers[0]]
            bounds = self._bounds(node)
            params = self._params_of(node.output[0], 8) if bounds is not None else None
            if bounds is not None and params is not None:
                low, high = ((end - params.zero_point) * params.scale for end in (params.lowest, params.highest))
                half = 0.501 * params.scale
                from_zero = bounds[0] != 0 or params.zero_point == params.lowest
                if low >= bounds[0] - half and high <= bounds[1] + half and from_zero:
                    self._done.add(readers[0])
                    return node.output[0], params
        return tensor, self._params_of(tensor, 8)

    def _bounds(self, node: NodeProto) -> tuple[float, float] | None:
        if node.op_type == "Relu":
            return 0.0, np.inf
        if node.op_type != "Clip":
            return None
        ends = [-np.inf, np.inf]
        for k, name in enumerate(list(node.input)[1:3]):
            if name:
                value = self._graph.constants.get(name)
                if value is None or value.size != 1:
                    return None
                ends[k] = float(value.reshape(-1)[0])
        return ends[0], ends[1]

    # --- sites --------------------------------------------------------------------------------------------------------

    def _site(self, site: SiteNode, node: NodeProto, fmt: Format) -> None:
        if fmt.scheme == "float":
            half = np.clip(self._graph.weight(site), -65504, 65504).astype(np.float16).astype(np.float32)
            self._with(site, node, half, self._graph.bias(site))
            return
        part: Part = self._part_of(site, fmt)
        weight = part.float_weight()
        if part.out_axis != site.out_axis:
            weight = weight.T
        kind = site.site.kind
        if fmt.scheme == "static" and fmt.activation_bits == 16:
            params = self._params_of(site.input, 16)
            self._with(site, node, weight, part.bias, x=self._rounded(site.input, params))
        elif fmt.scheme == "static" or (fmt.scheme == "codebook" and fmt.activation_bits == 8):
            x, params = self._entering(site.input)
            if kind == "matmul":
                self._with(site, node, weight, part.bias, x=x)
            else:
                self._integer_kernel(site, node, part, weight, x, params)
        elif fmt.scheme == "dynamic":
            self._with(site, node, weight, part.bias, x=self._at_run_time(site.input))
        elif fmt.scheme == "block" and kind != "embedding":
            bias = part.bias if kind == "gemm" else None  # a MatMul keeps the Add that follows it
            self._with(site, node, weight, bias, x=self._by_block(site, fmt.block), keeps_add=True)
        else:
            self._with(site, node, weight, part.bias)

    def _with(
        self,
        site: SiteNode,
        node: NodeProto,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        x: str = "",
        *,
        output: str = "",
        keeps_add: bool = False,
    ) -> None:
        """Copy a site's float node with another weight, bias and input."""
        made = NodeProto()
        made.CopyFrom(node)
        made.name = ""
        made.input[0 if site.site.kind == "embedding" else 1] = self._constant(weight)
        if x:
            made.input[0] = x
        if site.site.kind == "matmul":
            leaves = output or site.output
            if keeps_add:
                made.output[0] = node.output[0]
            elif bias is not None:
                made.output[0] = self._fresh()
            elif site.bias_node is None:
                made.output[0] = leaves
            self._nodes.append(made)
            if not keeps_add and bias is not None:
                self._add("Add", [made.output[0], self._constant(bias)], leaves)
                if site.bias_node is not None:
                    self._done.add(site.bias_node)
            return
        if bias is not None and site.site.kind != "embedding":
            del made.input[2:]
            made.input.append(self._constant(bias))
        if output:
            made.output[0] = output
        self._nodes.append(made)

    def _integer_kernel(
        self, site: SiteNode, node: NodeProto, part: Part, weight: NDArray[np.float32], x: str, params: QuantParams
    ) -> None:
        """A convolution or Gemm that sums up in integers: its bias is on their grid."""
        bias = part.bias
        if bias is not None:
            step = params.scale * np.broadcast_to(part.scale.astype(np.float64), bias.shape)
            bias = (np.rint(bias / step) * step).astype(np.float32)
        if site.site.kind == "gemm" and not self._read_as_integers(site.output):
            self._with(site, node, weight, bias, x=x)
            return
        leaves, grid = self._after(site.output)
        assert grid is not None, site.site.name
        value = self._fresh()
        self._with(site, node, weight, bias, x=x, output=value)
        self._leaves(value, leaves, grid)

    def _read_as_integers(self, tensor: str) -> bool:
        """Whether a static site reads the output of a Gemm, behind a ``Relu`` perhaps; else it leaves in float."""
        wanted = {
            s.input
            for s in self._graph.sites
            if s.site.name in self._formats and self._formats[s.site.name].scheme == "static"
        }
        readers = self._graph.consumers.get(tensor, ())
        behind = self._source[readers[0]].output[0] if len(readers) == 1 and tensor not in self._outputs else ""
        return tensor in wanted or behind in wanted

    def _at_run_time(self, tensor: str) -> str:
        names = [self._fresh() for _ in range(3)]
        self._nodes.append(helper.make_node("DynamicQuantizeLinear", [tensor], names))
        domain = _MICROSOFT if self._graph.opset > 27 else ""
        return self._add("DequantizeLinear", names, domain=domain)

    def _by_block(self, site: SiteNode, block: int) -> str:
        """Each block of a row in steps of its largest value over 127."""
        width = site.site.weight_shape[1 - site.out_axis]
        as_blocks = self._constant(np.array([-1, width // block, block], np.int64))
        x = self._add("Reshape", [site.input, as_blocks])
        shape = self._add("Shape", [site.input])
        size = self._add("Abs", [x])
        if self._graph.opset >= 18:
            largest = self._add("ReduceMax", [size, self._constant(np.array([2], np.int64))], keepdims=1)
        else:
            largest = self._add("ReduceMax", [size], axes=[2], keepdims=1)
        tiny = self._add("Max", [largest, self._constant(np.float32(1e-30))])
        step = self._add("Div", [tiny, self._constant(np.float32(127))])
        integers = self._add("Round", [self._add("Div", [x, step])])
        return self._add("Reshape", [self._add("Mul", [integers, step]), shape])

    # --- operators between sites --------------------------------------------------------------------------------------

    def _on_grid(self, node: NodeProto) -> bool:
        """Simulate an operator that works on integers; false if it works in float."""
        if node.domain not in ("", "ai.onnx") or has_subgraph(node) or not node.input:
            return False
        op = node.op_type
        if op in ("Add", "Mul", "Concat"):
            return self._joined(node)
        first = node.input[0]
        if first not in self._grids or first in self._graph.constants:
            return False
        _, params = self._grids[first]
        if op in _MOVES:
            return self._moved(node, params)
        if op in ("Relu", "Clip") and self._bounds(node) is not None:
            self._leaves(self._value(node), node.output[0], params)
            return True
        if op in ("GlobalAveragePool", "ReduceMean", "AveragePool", "LeakyRelu", "Sigmoid"):
            made = self._params_of(node.output[0], 8)
            if made is None or made.signed != params.signed or not self._is_pooled(node):
                return False
            self._leaves(self._value(node), node.output[0], made)
            return True
        return False

    def _is_pooled(self, node: NodeProto) -> bool:
        rank = len(self._graph.shapes.get(node.input[0], ()))
        if node.op_type == "AveragePool":
            return rank == 4 and all(d == 1 for d in attribute_ints(node, "dilations", ()))
        if node.op_type == "ReduceMean":
            axes = attribute_ints(node, "axes", ())
            if len(node.input) > 1 and node.input[1] in self._graph.constants:
                axes = tuple(int(a) for a in self._graph.constants[node.input[1]].reshape(-1))
            return rank == 4 and {a % 4 for a in axes} == {2, 3}
        return True

    def _value(self, node: NodeProto) -> str:
        """The node in float on the values that its integer form reads; returns its first output's name."""
        made = NodeProto()
        made.CopyFrom(node)
        made.name = ""
        for k, name in enumerate(made.input):
            if name in self._grids and name not in self._graph.constants:
                made.input[k] = self._grids[name][0]
        made.output[0] = self._fresh()
        self._nodes.append(made)
        return str(made.output[0])

    def _moved(self, node: NodeProto, params: QuantParams) -> bool:
        if node.op_type == "MaxPool" and len([o for o in node.output if o]) > 1:
            return False
        if node.op_type == "Resize" and (
            attribute_text(node, "mode", "nearest") != "nearest"
            or attribute_text(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
        ):
            return False
        if any(self._graph.types.get(i) == 1 and i not in self._graph.constants for i in node.input[1:] if i):
            return False
        made = NodeProto()
        made.CopyFrom(node)
        made.name = ""
        made.input[0] = self._grids[node.input[0]][0]
        if node.op_type == "Pad" and attribute_text(node, "mode", "constant") == "constant":
            value = np.float32(0)
            if len(node.input) > 2 and node.input[2]:
                if node.input[2] not in self._graph.constants:
                    return False
                value = np.float32(self._graph.constants[node.input[2]].reshape(-1)[0])
            on_grid = (params.quantized(np.asarray(value)).astype(np.float64) - params.zero_point) * params.scale
            rest = [*made.input, "", ""][3:] if len(made.input) > 3 else []
            inputs = [made.input[0], made.input[1], self._constant(np.float32(on_grid)), *[r for r in rest if r]]
            del made.input[:]
            made.input.extend(inputs)
        self._nodes.append(made)
        for output in node.output:
            if output:
                self._grids[output] = (output, params)
                self._whole.add(output)
        return True

    def _joined(self, node: NodeProto) -> bool:
        constant = [i in self._graph.constants for i in node.input]
        moving = [i for i, c in zip(node.input, constant, strict=True) if not c]
        if not moving or any(i not in self._grids for i in moving):
            return False
        fixed = [i for i, c in zip(node.input, constant, strict=True) if c]
        if any(self._graph.constants[i].dtype != np.float32 for i in fixed):
            return False
        is_concat = node.op_type == "Concat"
        output, params = (
            (node.output[0], self._params_of(node.output[0], 8)) if is_concat else self._after(node.output[0])
        )
        if params is None:
            return False
        grids = {self._grids[i][1] for i in moving}
        kept = next(iter(grids)) if is_concat and len(grids) == 1 else None
        for name in fixed:
            if name not in self._grids:
                grid = kept or _range_of(self._graph.constants[name], params)
                self._grids[name] = (self._rounded(name, grid), grid)
        made = NodeProto()
        made.CopyFrom(node)
        made.name = ""
        for k, name in enumerate(node.input):
            made.input[k] = self._grids[name][0]
        made.output[0] = self._fresh()
        self._nodes.append(made)
        self._leaves(made.output[0], output, kept or params)
        return True


def _range_of(value: NDArray[np.generic], like: QuantParams) -> QuantParams:
    """The grid of a constant that joins integers: from its smallest to its largest value, zero among them."""
    low, high = min(float(value.min(initial=0)), 0.0), max(float(value.max(initial=0)), 0.0)
    scale = float(np.float32(max(high - low, 1e-12) / 255))
    zero = int(np.clip(round(like.lowest - low / scale), like.lowest, like.highest))
    return QuantParams(scale, zero, like.signed)
