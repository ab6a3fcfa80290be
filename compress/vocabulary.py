"""The words of compression: ``Site``, ``Format``, ``Settings``, ``Structure``, ``Recipe``, ``Artifact``.

All are immutable values. A recipe is one complete set of decisions; its key is the hash of its canonical JSON, so that
the same decisions have the same key in every process.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from modeltailor.canonical import content_key, plain
from modeltailor.compress.structures import Structure
from modeltailor.compress.training import Training
from modeltailor.errors import ConfigError

__all__ = [
    "Artifact",
    "Format",
    "Recipe",
    "Rounding",
    "Scheme",
    "Settings",
    "Site",
    "SiteKind",
    "SiteReport",
    "Smoothing",
    "Structure",
    "Training",
    "recipe_from_plain",
]

Scheme = Literal["float", "static", "dynamic", "weight-only", "block", "codebook"]
Rounding = Literal["nearest", "gptq", "adaround"]
Smoothing = Literal["none", "smoothquant", "awq"]
SiteKind = Literal["conv", "depthwise", "conv-transpose", "matmul", "gemm", "embedding", "recurrent", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One place in a model where a decision is made.

    Attributes:
        name: unique in the model; the layer's name where one is known (``layer1.0.conv1``).
        kind: what computes here.
        weight_shape: shape of the weight as stored in the ONNX file.
        weight_elements: product of ``weight_shape``.
        macs: multiply-accumulate operations of one inference at batch 1; 0 where unknown.
        position: index in the order of execution, from 0.
        channels: output channels (units, columns of an embedding's rows); 0 where the layer has no such axis.
    """

    name: str
    kind: SiteKind
    weight_shape: tuple[int, ...]
    weight_elements: int
    macs: int
    position: int
    channels: int = 0


_FORMAT = re.compile(
    r"^(?:fp(?P<float>32|16)"
    r"|w(?P<w>[1-8])(?:a(?P<a>8|16)(?P<dynamic>-dynamic)?|-block(?P<block>\d+))?"
    r"|codebook(?P<codebook>[2-8])(?:a(?P<ca>8))?)$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a site's weights and activations are kept and computed.

    Named as in ``fp32``, ``fp16``, ``w8a8`` (static), ``w4a8`` (stored in 4 bits, computed by the 8-bit kernel),
    ``w8a16``, ``w8a8-dynamic``, ``w4`` (weight-only: stored packed, computed in float), ``w4-block32`` (block-wise
    weight-only, ``MatMulNBits``), ``codebook4`` (weight sharing: 16 values, 4-bit indices, computed in float).

    Attributes:
        scheme: which technique builds it.
        weight_bits: stored bits of one weight.
        activation_bits: bits of the activations that enter the kernel; 32 (or 16 for ``fp16``) means float.
        block: block size along the input dimension for the ``block`` scheme, else 0.
    """

    scheme: Scheme = "float"
    weight_bits: int = 32
    activation_bits: int = 32
    block: int = 0

    def __post_init__(self) -> None:
        if _FORMAT.match(self.name) is None or Format.parse(self.name) != self:
            raise ConfigError("CFG-10", "format", f"{plain(self)} is not a known combination", "use e.g. w4a8 or w8")

    @property
    def name(self) -> str:
        """The name that CLI, files and reports use."""
        match self.scheme:
            case "float":
                return f"fp{self.weight_bits}"
            case "static":
                return f"w{self.weight_bits}a{self.activation_bits}"
            case "dynamic":
                return f"w{self.weight_bits}a{self.activation_bits}-dynamic"
            case "weight-only":
                return f"w{self.weight_bits}"
            case "block":
                return f"w{self.weight_bits}-block{self.block}"
            case "codebook":
                return f"codebook{self.weight_bits}" + ("" if self.activation_bits == 32 else "a8")

    @staticmethod
    def parse(name: str) -> Format:
        """Return the format of that name.

        Raises:
            ConfigError: no format has that name.
        """
        m = _FORMAT.match(name)
        if m is None:
            raise ConfigError(
                "CFG-10", "format", f"no format is named '{name}'", "use fp32, fp16, w8a8, w4a8, w8a8-dynamic, w4, ..."
            )
        make = _unchecked
        if m["float"]:
            return make("float", int(m["float"]), int(m["float"]))
        if m["codebook"]:
            return make("codebook", int(m["codebook"]), 8 if m["ca"] else 32)
        bits = int(m["w"])
        if m["block"]:
            return make("block", bits, 32, int(m["block"]))
        if m["a"]:
            return make("dynamic" if m["dynamic"] else "static", bits, int(m["a"]))
        return make("weight-only", bits, 32)

    def __str__(self) -> str:
        return self.name


def _unchecked(scheme: Scheme, weight_bits: int, activation_bits: int, block: int = 0) -> Format:
    made = object.__new__(Format)  # parse() is what __post_init__ checks against: no recursion
    for name, value in (
        ("scheme", scheme), ("weight_bits", weight_bits), ("activation_bits", activation_bits), ("block", block)
    ):  # fmt: skip
        object.__setattr__(made, name, value)
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the numbers of all quantized sites are chosen; one set a recipe.

    Attributes:
        activation_signed: int8 activations instead of uint8; which one is fast depends on the device.
        activation_symmetric: zero point in the middle of the range.
        reduce_range: 8-bit weights that meet unsigned activations in an integer kernel take 7 of their bits, so that two
            products fit 16 bits. x86 processors without VNNI add pairs of products in 16 bits and saturate: with all 8
            bits such a file computes something else there. Signed activations need no room.
        per_channel: one weight scale an output channel instead of one a tensor.
        range_method: how activation ranges come from calibration data.
        rounding: to the nearest grid point, with error compensation (GPTQ, Frantar et al. 2022), or learned for each
            weight (AdaRound, Nagel et al. 2020).
        bias_correction: move each bias by the mean output error (Nagel et al. 2019).
        equalize: cross-layer equalization before quantization (Nagel et al. 2019).
        smoothing: move outlying input channels of matrix products into their weights, by a factor that the operator in
            front takes up (SmoothQuant, Xiao et al. 2022, for 8-bit activations; AWQ, Lin et al. 2023, for few weight
            bits).
        block_symmetric: block-wise weights have no zero point of their own.
        block_accuracy: ``accuracy_level`` of ``MatMulNBits``: 4 computes in int8, 1 in float32.
    """

    activation_signed: bool = False
    activation_symmetric: bool = False
    reduce_range: bool = True
    per_channel: bool = True
    range_method: Literal["minmax", "percentile", "entropy", "mse"] = "mse"
    rounding: Rounding = "gptq"
    bias_correction: bool = True
    equalize: bool = False
    smoothing: Smoothing = "none"
    block_symmetric: bool = True
    block_accuracy: Literal[1, 4] = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One complete set of decisions.

    Attributes:
        structure: what of the network is kept.
        formats: format of each site by name; a site that is not named stays ``fp32``.
        settings: how quantized numbers are chosen; the usual ones where no site is quantized.
        recovery: how the network learns again with the rounding of ``formats`` in its forward pass; ``None``: formats
            are applied to the weights as they are.
    """

    structure: Structure = field(default_factory=Structure)
    formats: tuple[tuple[str, Format], ...] = ()
    settings: Settings = field(default_factory=Settings)
    recovery: Training | None = None

    def __post_init__(self) -> None:
        named = dict(self.formats)
        if len(named) != len(self.formats):
            raise ConfigError("CFG-08", "recipe", "a site is named twice", "name each site once")
        kept = tuple(sorted((s, f) for s, f in named.items() if f.scheme != "float" or f.weight_bits != 32))
        object.__setattr__(self, "formats", kept)
        if not kept:  # nothing is quantized, so nothing is said about how
            object.__setattr__(self, "settings", Settings())

    @property
    def format_of(self) -> Mapping[str, Format]:
        """Format by site name, without the ``fp32`` sites."""
        return dict(self.formats)

    @property
    def key(self) -> str:
        """Content key of 16 hex digits."""
        return content_key(self)

    def to_plain(self) -> dict[str, object]:
        """The recipe as JSON-able data, formats by name; :func:`recipe_from_plain` reads it back."""
        return {
            "structure": plain(self.structure),
            "formats": {site: fmt.name for site, fmt in self.formats},
            "settings": plain(self.settings),
            "recovery": None if self.recovery is None else plain(self.recovery),
        }


def recipe_from_plain(data: Mapping[str, object]) -> Recipe:
    """Read back what :meth:`Recipe.to_plain` wrote.

    Raises:
        ConfigError: a key is unknown or a value is not valid.
    """
    try:
        structure = dict(data["structure"])  # type: ignore[call-overload]
        for name in ("keep", "ranks", "sparsity"):
            structure[name] = tuple((g, s) for g, s in structure.get(name, ()))
        structure["removed"] = tuple(structure["removed"])
        if structure["training"] is not None:
            structure["training"] = Training(**structure["training"])
        formats = tuple((s, Format.parse(f)) for s, f in dict(data["formats"]).items())  # type: ignore[call-overload]
        settings = Settings(**dict(data["settings"]))  # type: ignore[call-overload]
        taught = data.get("recovery")
        recovery = None if taught is None else Training(**dict(taught))  # type: ignore[call-overload]
        return Recipe(structure=Structure(**structure), formats=formats, settings=settings, recovery=recovery)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError("CFG-08", "recipe", f"not a recipe ({error})", "pass what Recipe.to_plain() wrote") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteReport:
    """What a built file holds at one site: what was asked, what is stored, what should execute.

    Attributes:
        site: the site's name.
        format: name of the requested format.
        storage_bits: bits of one stored weight.
        stored_bytes: bytes of the stored weight, scales and codebook included.
        kernel: operator that executes it in the graph as built (``QLinearConv``, ``Conv``, ``MatMulNBits`` ...).
        note: why it differs from the request; empty if it does not.
        sparsity: share of its weights, as they are computed with, that are exactly zero; ``None`` where not counted.
    """

    site: str
    format: str
    storage_bits: int
    stored_bytes: int
    kernel: str
    note: str = ""
    sparsity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The ONNX file that a recipe built.

    Attributes:
        path: where it lies.
        sha256: of its content.
        size_bytes: of the file.
        recipe_key: key of the recipe.
        sites: one report a site, in the order of execution.
    """

    path: Path
    sha256: str
    size_bytes: int
    recipe_key: str
    sites: tuple[SiteReport, ...]

    def to_plain(self) -> dict[str, object]:
        """JSON-able data without the machine's path."""
        return {
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "recipe_key": self.recipe_key,
            "sites": [dataclasses.asdict(s) for s in self.sites],
        }
