"""How many multiply-accumulates a kernel does, by its operator and the shapes of its tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from modeltailor.estimators.predict.graph import Kernel, Tensor

__all__ = ["Amount", "OperatorClass", "amount_of", "is_heavy", "weight_of"]

OperatorClass = Literal["conv", "pointwise", "depthwise", "matmul", "blocks", "move", "convert"]
"""What decides the rate: sorts of convolution, products, products whose weights are unpacked in blocks while they run, work
that only moves or changes elements, conversions between formats and layouts."""

_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "QLinearConv", "ConvInteger", "NhwcFusedConv", "NhwcConv"})
_PRODUCTS = frozenset({
    "Gemm", "QGemm", "FusedGemm", "MatMul", "FusedMatMul", "TransposeMatMul", "QLinearMatMul", "MatMulInteger",
    "MatMulInteger16", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "MatMulBnb4", "GemmFloat8",
})  # fmt: skip
_SECOND_IS_WEIGHT = frozenset({"Gemm", "FusedGemm", "MatMul", "FusedMatMul", "TransposeMatMul"})
_TRANSPOSING = frozenset({"Gemm", "QGemm", "FusedGemm", "FusedMatMul", "TransposeMatMul"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})
_PROJECTING = {"Attention": 4, "QAttention": 8}
"""The runtime's own attentions that make queries, keys and values themselves, and which input holds those of earlier calls."""
_ATTENDING = {"Attention": 4, "MultiHeadAttention": 6, "GroupQueryAttention": 3}
"""Attentions that are given queries, keys and values, and which input holds the keys of earlier calls."""
_CONVERSIONS = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ReorderInput",
                          "ReorderOutput", "Transpose", "MemcpyFromHost", "MemcpyToHost"})  # fmt: skip
_COUNTED = frozenset({*_CONVOLUTIONS, "ConvTranspose", *_PRODUCTS, *_RECURRENT, *_PROJECTING, *_ATTENDING, "Einsum"})
_UNCOUNTED = frozenset({
    "DeformConv", "CausalConvWithState", "VarlenCausalConvWithState", "ConvTransposeWithDynamicPads", "WordConvEmbedding",
    "MatMulFpQ4", "MatMulNBitsMlp", "MatMulNBitsQkv", "MatMulBlockQuantizedFp4Weight", "MatMulBlockQuantizedFp8Weight",
    "FusedMatMulActivation", "GemmFastGelu", "SparseToDenseMatMul", "QOrderedMatMul", "MoE", "QMoE",
    "PackedAttention", "PackedMultiHeadAttention", "PagedAttention", "SparseAttention", "LongformerAttention",
    "QOrderedAttention", "QOrderedLongformerAttention", "DecoderAttention", "DecoderMaskedSelfAttention",
    "DecoderMaskedMultiHeadAttention", "LinearAttention", "GatedDeltaNet", "FlexAttention", "GatedRelativePositionBias",
    "AttnLSTM", "BeamSearch", "WhisperBeamSearch", "GreedySearch", "Sampling", "EPContext", "Snpe",
    "DFT", "STFT", "Rfft", "Irfft", "Det", "Inverse", "CDist",
    "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor", "SVMClassifier", "SVMRegressor",
    "LinearClassifier", "LinearRegressor",
})  # fmt: skip
"""Compute too, but how much, their shapes do not say, or nobody has written it down here."""
_STANDARD = frozenset({"", "ai.onnx"})
_RUNTIME = "com.microsoft"
_KNOWN_DOMAINS = _STANDARD | {_RUNTIME, "com.microsoft.nchwc", "com.ms.internal.nhwc", "ai.onnx.ml"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """The work of a kernel, but for its bytes.

    Attributes:
        kind: which rate it runs at.
        macs: multiply-accumulates.
        channels: that are laid along a vector; 0 where none are.
        counted: whether this is all of its work.
    """

    kind: OperatorClass
    macs: int = 0
    channels: int = 0
    counted: bool = True


def is_heavy(domain: str, operator: str) -> bool:
    """Whether an operator computes sums of products, or may: of domains that are not known, every one may."""
    return operator in _COUNTED or operator in _UNCOUNTED or domain not in _KNOWN_DOMAINS


def amount_of(kernel: Kernel) -> Amount:
    """Return how much a kernel computes. Bodies of loops and branches are not counted: how often they run, no file says."""
    if not kernel.bodies and (known := _known(kernel)) is not None:
        return known
    heavy = [is_heavy(*node) for node in kernel.bodies] or [is_heavy(kernel.domain, kernel.operator)]
    return Amount(kind="convert" if kernel.operator in _CONVERSIONS else "move", counted=not any(heavy))


def weight_of(kernel: Kernel) -> Tensor:
    """Return the weight of a convolution: of the other inputs the one with as many dimensions as the image."""
    return next(t for t in kernel.inputs[1:] if len(t.shape) == len(kernel.inputs[0].shape))


def _known(kernel: Kernel) -> Amount | None:
    """Return the work of a kernel whose operator is counted; ``None`` for others, and where its shapes are unusual."""
    if kernel.domain not in _KNOWN_DOMAINS:
        return None
    if kernel.operator in _CONVOLUTIONS:
        return _convolution(kernel)
    if kernel.operator == "ConvTranspose":
        weight = weight_of(kernel)
        macs = kernel.inputs[0].elements * math.prod(weight.shape[1:])
        return Amount(kind="conv", macs=macs, channels=weight.shape[1])
    if kernel.operator in _PRODUCTS:
        return _product(kernel)
    if kernel.operator in _RECURRENT:  # weights of all directions and gates, whichever way they lie
        steps = math.prod(kernel.inputs[0].shape[:2])
        return Amount(kind="matmul", macs=steps * sum(t.elements for t in kernel.inputs[1:3]))
    if kernel.operator == "Einsum":
        return _einsum(kernel)
    if kernel.operator in _PROJECTING and kernel.domain == _RUNTIME:
        return _projected_attention(kernel)
    if kernel.operator in _ATTENDING:
        return _attention(kernel)
    return None


def _convolution(kernel: Kernel) -> Amount:
    out_channels, in_of_group, *window = weight_of(kernel).shape
    macs = kernel.outputs[0].elements * in_of_group * math.prod(window)
    groups = kernel.attributes.get("group", (1,))[0]
    kind: OperatorClass = "pointwise" if math.prod(window) == 1 else "conv"
    return Amount(kind="depthwise" if groups > 1 and in_of_group == 1 else kind, macs=macs, channels=out_channels)


def _product(kernel: Kernel) -> Amount:
    out = kernel.outputs[0]
    if "K" in kernel.attributes and "N" in kernel.attributes:  # weights packed in blocks
        return Amount(kind="blocks", macs=out.elements * kernel.attributes["K"][0], channels=kernel.attributes["N"][0])
    channels = out.shape[-1] if out.shape else 1
    others = kernel.inputs[1:2] if kernel.operator in _SECOND_IS_WEIGHT else kernel.inputs[1:]
    weight = next((t for t in others if t.constant and len(t.shape) == 2), None)
    if weight is not None and channels and weight.elements % channels == 0:
        return Amount(kind="matmul", macs=out.elements * (weight.elements // channels), channels=channels)
    return Amount(kind="matmul", macs=out.elements * _depth(kernel), channels=channels)


def _depth(kernel: Kernel) -> int:
    """Return over how many products each element of a product's output sums."""
    first = kernel.inputs[0].shape
    if len(first) < 2 or kernel.operator not in _TRANSPOSING or not kernel.attributes.get("transA", (0,))[0]:
        return first[-1] if first else 1
    return first[0 if kernel.attributes.get("transBatchA", (0,))[0] else -2]


def _projected_attention(kernel: Kernel) -> Amount | None:
    """Queries, keys and values of one product, then what every attention does."""
    first, weight, past = kernel.inputs[0], kernel.given(1), kernel.given(_PROJECTING[kernel.operator])
    if weight is None or len(first.shape) != 3 or len(weight.shape) != 2:
        return None
    batch, length, width = first.shape
    third = weight.shape[-1] // 3
    queries, _, values = kernel.attributes.get("qkv_hidden_sizes", (third, third, third))
    attended = length + (past.shape[-2] if past is not None else 0)
    return Amount(kind="matmul", macs=batch * length * (width * weight.shape[-1] + attended * (queries + values)))


def _attention(kernel: Kernel) -> Amount | None:
    """Queries times keys, then the shares times values; who made them are nodes of their own.

    Each element of the queries meets all keys, each of the output all values, whichever way the heads lie.
    """
    if (kernel.domain in _STANDARD) != (kernel.operator == "Attention"):
        return None
    query, key, past = kernel.inputs[0], kernel.given(1), kernel.given(_ATTENDING[kernel.operator])
    ranks = (3, 4) if kernel.operator == "Attention" else (3, 5)
    if len(query.shape) not in ranks or (key is None and kernel.operator == "Attention"):
        return None
    out = kernel.outputs[0].elements
    packed = len(query.shape) == 5 or kernel.operator == "GroupQueryAttention"
    attended = query.shape[1] if key is None else key.shape[1 if len(key.shape) == 5 else -2]
    attended += past.shape[-2] if past is not None else 0
    return Amount(kind="matmul", macs=attended * (out + (out if packed else query.elements)))


def _einsum(kernel: Kernel) -> Amount | None:
    """Operands are taken together one after the other; what no later one needs is summed up at once."""
    given, arrow, result = kernel.texts.get("equation", "").replace(" ", "").partition("->")
    if given.count(",") + 1 != len(kernel.inputs):
        return None
    terms = [_labels(term, t) for term, t in zip(given.split(","), kernel.inputs, strict=True)]
    sizes: dict[str, int] = {}
    for labels, tensor in zip(terms, kernel.inputs, strict=True):
        if len(labels) != len(tensor.shape):
            return None
        for label, size in zip(labels, tensor.shape, strict=True):
            sizes[label] = max(sizes.get(label, 1), size)
    if len(terms) == 1:
        return Amount(kind="move")
    kept = result if arrow else [label for label in given if given.count(label) == 1]
    wanted = {label for label in sizes if label in kept or label.isdecimal()}
    macs, left = 0, set(terms[0])
    for place, term in enumerate(terms[1:], start=1):
        left |= set(term)
        macs += math.prod(sizes[label] for label in left)
        left &= wanted.union(*terms[place + 1 :])
    return Amount(kind="matmul", macs=macs)


def _labels(term: str, tensor: Tensor) -> list[str]:
    """Return a label for each dimension; those that an ellipsis stands for are numbered from the last one."""
    before, dots, after = term.partition("...")
    between = len(tensor.shape) - len(before) - len(after) if dots else 0
    return [*before, *(str(i) for i in range(between - 1, -1, -1)), *after]
