"""The composer: one float model and its calibration data, from which any candidate is put together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto

from modeltailor.compress.formats.assemble import Plan, assemble
from modeltailor.compress.formats.blockwise import block_bytes
from modeltailor.compress.formats.calibrate import Calibration
from modeltailor.compress.formats.equalize import equalized
from modeltailor.compress.formats.graph import PreparedGraph, SiteNode, prepare
from modeltailor.compress.formats.integer_ops import INTEGER_OPS
from modeltailor.compress.formats.names import label_of, site_label
from modeltailor.compress.formats.parts import Part, PartMaker, PartRequest
from modeltailor.compress.formats.ranges import QuantParams, quant_params
from modeltailor.compress.formats.smooth import smoothed
from modeltailor.compress.formats.store import Store
from modeltailor.compress.formats.transposed import spread_of
from modeltailor.compress.formats.unsupported import Unsupported, list_unsupported
from modeltailor.compress.pack import packed_bytes
from modeltailor.compress.vocabulary import Format, Settings, Site, SiteReport, Smoothing
from modeltailor.errors import CandidateError
from modeltailor.targets import Inputs, RuntimeOptions

__all__ = ["Composed", "Composer", "executed_kernels", "kernels_agree"]

_F = Format.parse
_BITS = (8, 7, 6, 5, 4, 3, 2)
_WIDE = ("w8a16", "w4a16")
_CONV = ("fp32", "fp16", *(f"w{b}a8" for b in _BITS), *(f"w{b}" for b in _BITS), *_WIDE)
_CODEBOOKS = tuple(f"codebook{b}" for b in range(2, 9))
_INTEGER_CODEBOOKS = tuple(f"codebook{b}a8" for b in range(2, 6))
_DYNAMIC = tuple(f"w{b}a8-dynamic" for b in _BITS)
_BLOCKS = tuple(f"w{b}-block{size}" for b in (8, 4, 2) for size in (32, 64, 128))

_NAMES: Mapping[str, tuple[str, ...]] = {
    "conv": (*_CONV, *_CODEBOOKS, *_INTEGER_CODEBOOKS),
    "depthwise": (*_CONV, *_CODEBOOKS, *_INTEGER_CODEBOOKS),
    "conv-transpose": (*_CONV, *_CODEBOOKS, *_INTEGER_CODEBOOKS),
    "matmul": (
        "fp32",
        "fp16",
        *(f"w{b}a8" for b in _BITS),
        *_DYNAMIC,
        *(f"w{b}" for b in _BITS),
        *_WIDE,
        *_CODEBOOKS,
        *_INTEGER_CODEBOOKS,
        *_BLOCKS,
    ),
    "gemm": (
        "fp32",
        "fp16",
        *(f"w{b}a8" for b in _BITS),
        *_DYNAMIC,
        *(f"w{b}" for b in _BITS),
        *_WIDE,
        *_CODEBOOKS,
        *_INTEGER_CODEBOOKS,
        *_BLOCKS,
    ),
    "embedding": ("fp32", "fp16", *(f"w{b}" for b in _BITS), *_BLOCKS),
    "recurrent": ("fp32",),
    "other": ("fp32",),
}
_FORMATS = {kind: tuple(_F(n) for n in names) for kind, names in _NAMES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """A candidate.

    Attributes:
        model_bytes: the ONNX file.
        sites: what is stored and should execute at each site.
    """

    model_bytes: bytes
    sites: tuple[SiteReport, ...]


class Composer:
    """Puts candidates together from cached parts. The same recipe gives the same bytes.

    Args:
        model: the float model: a file, its bytes, or a proto. Never written to.
        calibration: unlabeled inputs by name, each of shape ``[n, ...]``.
        cache_dir: where figures and parts are kept between runs; ``None`` keeps them in memory only.
        options: how calibration runs.
        seed: of the choice of positions in feature maps.
        site_names: the layer's name by weight initializer, where the caller knows better than the graph.

    Raises:
        ModelError: the model cannot be read.
        DataError: the calibration data does not fit the model.
    """

    def __init__(
        self,
        model: Path | bytes | ModelProto,
        calibration: Inputs,
        *,
        cache_dir: Path | None = None,
        options: RuntimeOptions | None = None,
        seed: int = 0,
        site_names: Mapping[str, str] | None = None,
    ) -> None:
        shapes = {name: value.shape for name, value in calibration.items()}
        self._graph = prepare(model, site_names=site_names, input_shapes=shapes)
        self._inputs = calibration
        self._options = options or RuntimeOptions()
        self._cache_dir = cache_dir
        self._seed = seed
        self._contexts: dict[tuple[bool, Smoothing], _Context] = {}
        self._by_name = {s.site.name: s for s in self._graph.sites}

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites in the order of execution."""
        return tuple(s.site for s in self._graph.sites)

    @property
    def graph(self) -> PreparedGraph:
        """The prepared float model."""
        return self._graph

    @property
    def calibration(self) -> Calibration:
        """Figures of the float model on the calibration data."""
        return self._context().calibration

    @property
    def store(self) -> Store:
        """Where figures that belong to this model and this data are kept."""
        return self._context().store

    @property
    def unsupported(self) -> tuple[Unsupported, ...]:
        """Heavy operators that stay fp32 in every recipe, with the reason, in the order of execution."""
        return list_unsupported(self._graph)

    def formats(self, site: Site) -> tuple[Format, ...]:
        """Return the formats that can be built at a site, fp32 first."""
        names = _FORMATS[site.kind]
        if site.kind == "conv-transpose" and spread_of(self._graph, self._by_name[site.name]) is None:
            return tuple(f for f in names if f.activation_bits != 8)
        if site.kind == "embedding" or site.kind in ("matmul", "gemm"):
            node = self._by_name[site.name]
            width = site.weight_shape[1 - node.out_axis]
            return tuple(f for f in names if not f.block or width % f.block == 0)
        return names

    def _context(self, *, equalize: bool = False, smoothing: Smoothing = "none") -> _Context:
        key = (equalize, smoothing)
        if key not in self._contexts:
            graph, left_out = self._graph, {}
            if smoothing != "none":
                base = self._context(equalize=equalize)
                made = smoothed(base.graph, base.calibration, smoothing)
                graph, left_out = made.graph, dict(made.left_out)
            elif equalize:
                graph = equalized(graph)
            self._contexts[key] = _Context(
                graph, self._inputs, self._options, self._cache_dir, self._seed, left_out=left_out
            )
        return self._contexts[key]

    def left_unsmoothed(self, settings: Settings) -> Mapping[str, str]:
        """Return why matrix products keep their channels although ``settings`` ask for smoothing, by site."""
        return self._context(equalize=settings.equalize, smoothing=settings.smoothing).left_out

    def compose(self, formats: Mapping[str, Format], settings: Settings | None = None) -> Composed:
        """Build a candidate.

        Args:
            formats: format by site name; a site that is not named stays fp32.
            settings: how quantized numbers are chosen.

        Raises:
            CandidateError: a site is unknown, or a format cannot be built there.
        """
        graph, plan = self.plan(formats, settings)
        model, sites = assemble(graph, plan)
        return Composed(model_bytes=model.SerializeToString(deterministic=True), sites=sites)

    def plan(self, formats: Mapping[str, Format], settings: Settings | None = None) -> tuple[PreparedGraph, Plan]:
        """Return what a candidate is put together from: the float graph, and the numbers of each site in its format.

        Args:
            formats: format by site name; a site that is not named stays fp32.
            settings: how quantized numbers are chosen.

        Raises:
            CandidateError: a site is unknown, or a format cannot be built there.
        """
        chosen = settings or Settings()
        for name, fmt in formats.items():
            site = self._by_name.get(name)
            if site is None:
                raise CandidateError("UNSUPPORTED", name, "the model has no such site", "name one of Composer.sites")
            if fmt not in self.formats(site.site):
                raise CandidateError(
                    "UNSUPPORTED", name, f"format {fmt.name} cannot be built at a {site.site.kind} site"
                )
        context = self._context(equalize=chosen.equalize, smoothing=chosen.smoothing)
        return context.graph, Plan(
            formats=formats,
            part_of=lambda site, fmt: context.parts.part(PartRequest.of(site, fmt, chosen)),
            params_of=lambda tensor, bits: context.params(tensor, bits, chosen),
            block_accuracy=chosen.block_accuracy,
        )

    def float_model(self) -> bytes:
        """Return the fp32 model, constants and batch normalization folded."""
        return self.compose({}).model_bytes

    def stored_bytes(self, site: Site, fmt: Format, settings: Settings | None = None) -> int:
        """Return the bytes that weight, scales and table of a site take in a format at most, by arithmetic.

        Weights whose values are far from equally frequent (pruned ones above all) take less once they are built.
        """
        chosen = settings or Settings()
        count = site.weight_elements
        node = self._by_name[site.name]
        channels = site.weight_shape[node.out_axis] if chosen.per_channel or site.kind == "embedding" else 1
        spread = spread_of(self._graph, node) if fmt.activation_bits == 8 else None
        if spread is not None and channels > 1:
            channels *= spread.step**2
        match fmt.scheme:
            case "float":
                return count * fmt.weight_bits // 8
            case "block":
                rows = site.weight_shape[node.out_axis]
                return block_bytes(rows, count // rows, fmt.weight_bits, fmt.block, offset=not chosen.block_symmetric)
            case "codebook":
                payload = packed_bytes(count, fmt.weight_bits) if fmt.weight_bits < 8 else count
                return (
                    payload
                    + (1 << fmt.weight_bits) * (4 if fmt.activation_bits == 32 else 1)
                    + (4 if fmt.activation_bits == 32 else 4 * channels)
                )
            case _:
                return (packed_bytes(count, fmt.weight_bits) if fmt.weight_bits < 8 else count) + 4 * channels

    def baselines(
        self, *, blocks: bool = False, wide: bool = False
    ) -> Mapping[str, tuple[Mapping[str, Format], Settings]]:
        """Return the uniform baselines by name: formats and settings of each.

        Args:
            blocks: block-wise weights, too: worth it where a probe found that their kernel pays.
            wide: 16-bit activations, too: the same.
        """
        found: dict[str, tuple[Mapping[str, Format], Settings]] = {}
        by_site = {s.name: {f.name for f in self.formats(s)} for s in self.sites}

        def uniform(*wanted: str) -> dict[str, Format]:
            chosen = {s: next((w for w in wanted if w in names), None) for s, names in by_site.items()}
            return {s: _F(w) for s, w in chosen.items() if w is not None}

        kinds = {s.kind for s in self.sites}
        for name, wanted in (
            ("int8 static", ("w8a8", "w8")),
            ("int8 dynamic", ("w8a8-dynamic", "w8")),
            ("int8 weight-only", ("w8",)),
            ("fp16", ("fp16",)),
            ("int8 block-wise", ("w8-block32", "w8")),
            ("int8, 16-bit activations", ("w8a16", "w8")),
        ):
            if name in ("int8 dynamic", "int8 block-wise") and not kinds & {"matmul", "gemm"}:
                continue
            if (name == "int8 block-wise" and not blocks) or ("16-bit" in name and not wide):
                continue
            formats = uniform(*wanted)
            if formats:
                found[name] = (formats, Settings())
        return found


class _Context:
    """Graph, calibration and parts, with or without scaled channels."""

    def __init__(
        self,
        graph: PreparedGraph,
        inputs: Inputs,
        options: RuntimeOptions,
        cache_dir: Path | None,
        seed: int,
        *,
        left_out: Mapping[str, str],
    ) -> None:
        self.graph = graph
        self.left_out = left_out
        digest = hashlib.sha256(graph.model.SerializeToString(deterministic=True))
        for name in sorted(inputs):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(inputs[name]).tobytes())
        self.store = store = Store(cache_dir, f"{digest.hexdigest()}-{seed}-1")
        self.calibration = Calibration(graph, inputs, options=options, store=store, seed=seed)
        self.parts = PartMaker(graph, self.calibration, store)
        self._params: dict[tuple[str, int, str, bool, bool], QuantParams | None] = {}
        self._calibrated: set[str] | None = None

    def part(self, site: SiteNode, fmt: Format, settings: Settings) -> Part:
        return self.parts.part(PartRequest.of(site, fmt, settings))

    def _tensors(self) -> set[str]:
        """Activations that may become integers: around sites, and around operators that stay in integers."""
        wanted: set[str] = set()
        for site in self.graph.sites:
            if site.site.kind in ("conv", "depthwise", "conv-transpose", "gemm", "matmul"):
                wanted.add(site.input)
                if site.site.kind != "matmul":
                    wanted.add(site.output)
        if any(s.site.kind in ("conv", "depthwise", "conv-transpose", "gemm") for s in self.graph.sites):
            for node in self.graph.model.graph.node:
                if node.op_type in INTEGER_OPS:
                    wanted.update(node.output)
        return {t for t in wanted if t and t not in self.graph.constants and self.graph.types.get(t, 1) == 1}

    def params(self, tensor: str, bits: int, settings: Settings) -> QuantParams | None:
        key = (tensor, bits, settings.range_method, settings.activation_signed, settings.activation_symmetric)
        if key not in self._params:
            if self._calibrated is None:
                self._calibrated = self._tensors()
                self._histograms = self.calibration.histograms(self._calibrated)
            self._params[key] = (
                None
                if tensor not in self._histograms
                else quant_params(
                    self._histograms[tensor],
                    settings.range_method,
                    signed=settings.activation_signed,
                    symmetric=settings.activation_symmetric,
                    bits=bits,
                )
            )
        return self._params[key]


_KERNELS: Mapping[str, tuple[str, ...]] = {
    "conv": ("Conv", "FusedConv", "QLinearConv", "ConvInteger", "NhwcFusedConv"),
    "conv-transpose": ("ConvTranspose",),
    "matmul": (
        "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul", "MatMulNBits",
    ),
    "embedding": ("Gather", "GatherBlockQuantized", "EmbedLayerNormalization"),
    "recurrent": ("LSTM", "GRU", "RNN"),
}  # fmt: skip
_AS_CONV = ("_bn_nchwc", "_mul_nchwc")  # normalizations and factors of channels that the runtime computes as a Conv
_FAMILY = {"depthwise": "conv", "gemm": "matmul"}


def executed_kernels(optimized: ModelProto, sites: Sequence[Site | SiteReport]) -> dict[str, str]:
    """Return the operator that executes each site, read off the graph that the runtime wrote after its optimizations.

    Nodes bear the label of their site. Where a fusion gave nodes other names, they are matched with the missing sites
    of their kind in order, if they are equally many.

    Args:
        optimized: the optimized graph of a model that :meth:`Composer.compose` built.
        sites: all sites of that model in the order of execution, as the composer or the candidate lists them.

    Returns:
        Operator by site name; a site whose node is not found is missing.
    """
    names = [s.name if isinstance(s, Site) else s.site for s in sites]
    labels = {site_label(k): name for k, name in enumerate(names)}
    known = {op for ops in _KERNELS.values() for op in ops}
    found: dict[str, str] = {}
    renamed: dict[str, list[str]] = {"conv": [], "matmul": []}
    for node in optimized.graph.node:
        if node.op_type not in known or node.name.endswith(_AS_CONV):
            continue
        label = label_of(node.name)
        if label in labels and labels[label] not in found:
            found[labels[label]] = node.op_type
        elif node.op_type in ("Conv", "FusedConv", "NhwcFusedConv"):
            renamed["conv"].append(node.op_type)
        elif node.op_type in ("Gemm", "FusedGemm", "FusedMatMul"):
            renamed["matmul"].append(node.op_type)
    for family, kernels in renamed.items():
        missing = [n for n, s in zip(names, sites, strict=True) if n not in found and _family(s) == family]
        if len(missing) == len(kernels):
            found.update(zip(missing, kernels, strict=True))
    return {n: found[n] for n in names if n in found}


_ALIKE = (
    {"MatMulIntegerToFloat", "DynamicQuantizeMatMul"},
    {"MatMul", "Gemm", "FusedMatMul", "FusedGemm"},
    {"Conv", "FusedConv", "NhwcFusedConv"},
)


def kernels_agree(reported: str, executed: str) -> bool:
    """Whether the executed operator computes what was reported: fusions that only add a bias or a ``Relu`` do."""
    return reported == executed or any(reported in alike and executed in alike for alike in _ALIKE)


def _family(site: Site | SiteReport) -> str:
    if isinstance(site, Site):
        return _FAMILY.get(site.kind, site.kind)
    return next((family for family, kernels in _KERNELS.items() if site.kernel in kernels), "")
