"""What a recipe is called, and what a built file really executes, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from modeltailor.compress.vocabulary import Recipe, Structure
from modeltailor.reports.summary import ModelAxis
from modeltailor.search.records import SiteRecord

__all__ = ["KernelFamily", "audit_sentence", "axis_of", "kernel_family", "recipe_name", "recipe_text"]

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
    return " · ".join([*_structure_words(recipe.structure), formats])


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
    how = "GPTQ rounding" if recipe.settings.rounding == "gptq" else "rounding to nearest"
    signed = "int8" if recipe.settings.activation_signed else "uint8"
    scale = "channel" if recipe.settings.per_channel else "tensor"
    detail = f"{how}, one scale a {scale}, {signed} activations, ranges by {recipe.settings.range_method}"
    return f"{first} Formats: {listed} ({detail})." if listed else f"{first} ({detail}.)"


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
