"""What a recipe is called, and what a built file really executes, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from modeltailor.compress.vocabulary import Format, Recipe, Settings, Structure
from modeltailor.reports.summary import ModelAxis
from modeltailor.reports.wording import ms_text
from modeltailor.search.records import SiteRecord

__all__ = [
    "KernelFamily",
    "audit_sentence",
    "axis_of",
    "format_text",
    "kernel_family",
    "loading_sentence",
    "recipe_name",
    "recipe_text",
]

KernelFamily = Literal["integer", "block", "float"]

_INTEGER_KERNELS = frozenset({
    "QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "ConvInteger", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul", "QLinearConvTranspose", "DynamicQuantizeLSTM", "QAttention", "NhwcQLinearConv",
})  # fmt: skip


def kernel_family(kernel: str) -> KernelFamily:
    """Whether an ONNX Runtime operator multiplies in 8-bit integers, unpacks blocks, or computes in float."""
    name = kernel.partition("(")[0].rpartition(".")[2].strip()
    return "integer" if name in _INTEGER_KERNELS else "block" if name == "MatMulNBits" else "float"


def axis_of(recipe: Recipe) -> ModelAxis:
    """The axis that changed a model most: structure before formats."""
    if recipe.structure.axis != "none":
        return recipe.structure.axis
    return "formats" if recipe.formats else "none"


def _structure_words(structure: Structure) -> list[str]:
    words = []
    if structure.width != 1.0 or structure.depth != 1.0:
        words.append(f"student {structure.width:g}× wide, {structure.depth:g}× deep")
    if structure.removed:
        words.append(f"{len(structure.removed)} block{'s' * (len(structure.removed) > 1)} removed")
    if structure.keep:
        shares = [s for _, s in structure.keep]
        low, high = min(shares), max(shares)
        kept = f"{100 * low:.0f} %" if low == high else f"{100 * low:.0f}–{100 * high:.0f} %"
        words.append(f"{kept} of channels in {len(shares)} group{'s' * (len(shares) > 1)}")
    if structure.ranks:
        n = len(structure.ranks)
        words.append(f"{n} layer{'s' * (n > 1)} split in two of low rank")
    if structure.sparsity:
        zeros = [s for _, s in structure.sparsity]
        low, high = 100 * min(zeros), 100 * max(zeros)
        share = f"{low:.0f} %" if f"{low:.0f}" == f"{high:.0f}" else f"{low:.0f}–{high:.0f} %"
        pattern = "" if structure.pattern == "unstructured" else f", {structure.pattern}"
        words.append(f"{share} zeros in {len(zeros)} layer{'s' * (len(zeros) > 1)}{pattern}")
    if structure.resolution != 1.0:
        words.append(f"sees {100 * structure.resolution:.0f} % of the resolution")
    return words


def recipe_name(recipe: Recipe, sites: Sequence[SiteRecord]) -> str:
    """A short name such as ``2 blocks removed · w8a8 ×14, w4a8 ×5``."""
    used = Counter(s.format for s in sites) or Counter(f.name for _, f in recipe.formats)
    if not used or set(used) == {"fp32"}:
        formats = "fp32"
    elif len(used) == 1:
        formats = f"all {next(iter(used))}"
    else:
        formats = ", ".join(f"{name} ×{n}" for name, n in used.most_common(3))
        if len(used) > 3:
            formats += f" +{len(used) - 3}"
    again = ["learned again"] if recipe.recovery is not None else []
    return " · ".join([*_structure_words(recipe.structure), formats, *again])


def format_text(name: str) -> str:
    """What a format's name means, for people who have not met it: ``weights stored in 4 bits, computed by the 8-bit kernel``."""
    fmt = Format.parse(name)
    stored = f"weights stored in {fmt.weight_bits} bits"
    match fmt.scheme:
        case "float":
            return f"{fmt.weight_bits}-bit floating point"
        case "static":
            return f"{stored}, multiplied with {fmt.activation_bits}-bit activations"
        case "dynamic":
            return f"{stored}, multiplied with {fmt.activation_bits}-bit activations, their range found anew for each input"
        case "weight-only":
            return f"{stored}, unpacked while loading and computed in float"
        case "block":
            return f"{stored}, one scale for {fmt.block} of them, unpacked block by block while computing"
        case "codebook":
            computed = "in float" if fmt.activation_bits == 32 else f"with {fmt.activation_bits}-bit activations"
            return f"weights stored as {fmt.weight_bits}-bit numbers of {2**fmt.weight_bits} shared values, computed {computed}"


def recipe_text(recipe: Recipe, sites: Sequence[SiteRecord]) -> str:
    """What was done, one or two sentences."""
    words = _structure_words(recipe.structure)
    training = recipe.structure.training
    if words:
        first = ", ".join(words)
        first = f"{first[0].upper()}{first[1:]}"
        first += (
            f", trained for {training.epochs:g} epochs by distillation from the original." if training
            else ", weights inherited without training."
        )  # fmt: skip
    else:
        first = "The original network."
    used = Counter(s.format for s in sites)
    listed = ", ".join(f"{name} in {n} layer{'s' * (n > 1)}" for name, n in used.most_common())
    if not recipe.formats:
        return f"{first} All weights in fp32."
    rounding = {"gptq": "GPTQ rounding", "adaround": "learned rounding (AdaRound)", "nearest": "rounding to nearest"}
    how = rounding[recipe.settings.rounding]
    signed = "int8" if recipe.settings.activation_signed else "uint8"
    scale = "channel" if recipe.settings.per_channel else "tensor"
    symmetric = "symmetric " if recipe.settings.activation_symmetric else ""
    detail = f"{how}, one scale a {scale}, {symmetric}{signed} activations, ranges by {recipe.settings.range_method}"
    detail += "".join(f", {words}" for words in _further(recipe.settings))
    last = " Trained once more with this rounding in its forward pass." if recipe.recovery is not None else ""
    return f"{first} Formats: {listed} ({detail}).{last}" if listed else f"{first} ({detail}.){last}"


def _further(settings: Settings) -> list[str]:
    """What was done to the numbers besides, where it is not the usual."""
    found = ["layers equalized"] if settings.equalize else []
    if settings.smoothing != "none":
        found.append({"smoothquant": "smoothed (SmoothQuant)", "awq": "smoothed (AWQ)"}[settings.smoothing])
    if not settings.bias_correction:
        found.append("biases not corrected")
    if not settings.block_symmetric:
        found.append("blocks with a zero point")
    return found


def loading_sentence(sites: Sequence[SiteRecord], load_ms: float | None, original_ms: float | None) -> str:
    """In which form the weights are stored, and what the runtime makes of them while it loads the file."""
    if not sites:
        return ""
    packed = sum(1 for s in sites if s.storage_bits < 8 and kernel_family(s.executed_kernel) != "block")
    blocks = sum(1 for s in sites if kernel_family(s.executed_kernel) == "block")
    parts = []
    if packed:
        parts.append(
            f"{packed} of {len(sites)} layers are stored packed; the runtime unpacks them once, while it loads the file"
        )
    if blocks:
        parts.append(f"{blocks} of {len(sites)} layers stay packed in memory, block by block")
    if not parts:
        parts.append("all weights are stored in the form that they are computed with, or one cast away from it")
    text = "; ".join(parts)
    if load_ms is not None:
        text += f"; loading takes {ms_text(load_ms)}"
        if original_ms is not None and original_ms != load_ms:
            text += f", {ms_text(original_ms)} for the original"
    return f"{text[0].upper()}{text[1:]}."


def audit_sentence(sites: Sequence[SiteRecord]) -> str:
    """What the optimized graph executes, against what is stored."""
    if not sites:
        return "The executed kernels were not read."
    families = [kernel_family(s.executed_kernel) for s in sites]
    count = Counter(families)
    packed = sum(1 for s, f in zip(sites, families, strict=True) if f == "integer" and s.storage_bits < 8)
    light = sum(1 for s, f in zip(sites, families, strict=True) if f == "float" and s.storage_bits < 32)
    parts = []
    if n := count["integer"]:
        part = f"{n} of {len(sites)} layers {'runs' if n == 1 else 'run'} on 8-bit integer kernels"
        if packed:
            part += f", {packed} of them stored in fewer than 8 bits and unpacked when the model loads"
        parts.append(part)
    if n := count["block"]:
        parts.append(f"{n} of {len(sites)} layers {'runs' if n == 1 else 'run'} on the block-wise MatMulNBits kernel")
    if n := count["float"]:
        part = f"{n} of {len(sites)} layers {'computes' if n == 1 else 'compute'} in float"
        if n == len(sites):
            part = f"all {n} layers compute in float" if n > 1 else "the only layer computes in float"
        if light:
            part += f" ({light} of them only stored smaller, not executed faster)"
        parts.append(part)
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
