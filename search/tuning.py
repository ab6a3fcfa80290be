"""How the numbers of quantized sites are chosen: variants of the best uniform setting are measured, the winner goes on.

Symmetric or not, range method, one scale a channel or a tensor, zero points of blocks, smoothing, equalization, rounding
and bias correction hold for a whole recipe. They are settled one after the other, each by what it does to the outputs on
calibration data and to the bytes, without what the device's probe found to be slow. The result is measured as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from modeltailor.compress import Format, Settings, Site
from modeltailor.search.options import FormatChoice
from modeltailor.search.probing import Probed
from modeltailor.search.records import TrialRecord

__all__ = ["Dimension", "Tried", "Tuned", "candidates", "is_kept", "probing_recipes", "settle", "variants"]

Measure = Callable[[Settings, Mapping[str, str]], tuple[float, int] | None]
"""Loss of the outputs and bytes of a recipe in given settings; ``None`` where it cannot be built."""

_CLEARLY = 0.1
"""Bits a weight that a variant must be worth: calibration data of that size cannot tell less apart."""

_LEAST_LOSS = 1e-7
_FEW_BITS = 4
_MOST_LEARNED = 1 << 21
"""Weights up to which rounding is learned within the time of a search."""

_SLOWER = 0.97


@dataclass(frozen=True, slots=True)
class Dimension:
    """A field of :class:`~modeltailor.compress.Settings`.

    Attributes:
        field: its name.
        values: to try beside the present one, each with its words.
        builds: how long one value takes to measure, in times of the uniform baseline's build.
    """

    field: str
    values: tuple[tuple[object, str], ...]
    builds: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One set of settings that was measured.

    Attributes:
        label: how it differs from what was best then; empty for the start.
        settings: see there.
        losses: of the outputs on calibration data, one a probing recipe.
        size_bytes: of their files.
        worth: bits a weight that it gains over the start, see :func:`settle`.
        taken: it became the best.
    """

    label: str
    settings: Settings
    losses: tuple[float, ...]
    size_bytes: tuple[int, ...]
    worth: float
    taken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What came out: the settings, how they differ from the start in words, and everything that was tried."""

    settings: Settings
    label: str = ""
    tried: tuple[Tried, ...] = ()

    def note(self, start: str) -> str:
        """One sentence for people; empty if nothing was tried. ``start`` is the baseline that was varied."""
        others = [t for t in self.tried if t.label]
        if not others:
            return ""
        shown = ", ".join(f"{t.label} {t.worth:+.2f}" for t in others)
        verdict = f"taken: {self.label}" if self.label else "none is clearly worth it"
        return f"settings of {start} by output loss and bytes on calibration data, in bits a weight: {shown}; {verdict}"


def variants(
    sites: Sequence[Site], formats: Iterable[Format], start: Settings, probed: Probed
) -> tuple[Dimension, ...]:
    """List what is worth varying for those formats, the cheapest to measure first.

    Args:
        sites: of the network.
        formats: that a recipe may hold.
        start: the present settings.
        probed: what the device's probe found.
    """
    offered = set(formats)
    schemes = {f.scheme for f in offered}
    by_rows = schemes & {"static", "dynamic", "weight-only"}
    kinds = {s.kind for s in sites}
    heavy = sum(s.weight_elements for s in sites if s.kind != "embedding")
    found: list[Dimension] = []
    if "static" in schemes:
        if not start.activation_symmetric:
            found.append(Dimension("activation_symmetric", ((True, "symmetric activations"),), 0.1))
        methods = [m for m in ("minmax", "percentile", "entropy", "mse") if m != start.range_method]
        found.append(Dimension("range_method", tuple((m, f"ranges by {m}") for m in methods), 0.1))
    if by_rows and start.per_channel and probed.per_tensor_pays:
        found.append(Dimension("per_channel", ((False, "one scale a tensor"),)))
    if "block" in schemes:
        words = "zero points of blocks" if start.block_symmetric else "symmetric blocks"
        found.append(Dimension("block_symmetric", ((not start.block_symmetric, words),)))
    if start.bias_correction and by_rows:
        found.append(Dimension("bias_correction", ((False, "no bias correction"),)))
    if start.smoothing == "none" and kinds & {"matmul", "gemm"} and by_rows | schemes & {"block"}:
        found.append(Dimension("smoothing", (("smoothquant", "SmoothQuant"), ("awq", "AWQ")), 2.0))
    if not start.equalize and kinds & {"conv", "depthwise"} and by_rows:
        found.append(Dimension("equalize", ((True, "equalized layers"),), 2.0))
    if start.rounding == "gptq" and heavy <= _MOST_LEARNED:
        found.append(Dimension("rounding", (("adaround", "learned rounding"),), 4.0))
    return tuple(found)


def probing_recipes(choice: FormatChoice, uniform: Mapping[str, str]) -> tuple[Mapping[str, str], ...]:
    """Return the recipes that settings are judged on: the uniform one, and its like with few weight bits.

    Args:
        choice: what the search may choose from.
        uniform: format by site of the best uniform baseline.
    """
    few = dict(uniform)
    for site, options in choice.options:
        if site not in uniform:
            continue
        own = Format.parse(uniform[site])
        parsed = [f for n in options if (f := Format.parse(n)).scheme == own.scheme and f.block == own.block]
        alike = [f for f in parsed if f.activation_bits == own.activation_bits and f.weight_bits >= _FEW_BITS]
        few[site] = min((own, *alike), key=lambda f: f.weight_bits).name
    return (dict(uniform),) if few == dict(uniform) else (dict(uniform), few)


def settle(
    start: Settings,
    dimensions: Sequence[Dimension],
    recipes: Sequence[Mapping[str, str]],
    weights: int,
    measure: Measure,
    has_time: Callable[[float], bool] = lambda builds: True,
) -> Tuned:
    """Settle one dimension after the other; a value is taken if it is clearly worth it.

    Loss and bytes are traded at the rate of rounding noise itself, which falls by four with each bit a weight: a
    setting costs ``log4(loss)`` and its stored bits a weight, mean over the recipes.

    Args:
        start: the present settings.
        dimensions: what to vary, in order.
        recipes: format by site of the recipes that are measured.
        weights: of the network.
        measure: see :data:`Measure`.
        has_time: whether there is time for so many builds more; what there is no time for is left as it is.
    """
    first = _measured(start, recipes, measure)
    if first is None:
        return Tuned(settings=start)
    reference, best, current, labels = _bits(first, weights), 0.0, start, []
    tried = [_tried("", start, first, 0.0)]
    for dimension in dimensions:
        found = []
        for value, words in dimension.values:
            if not has_time(dimension.builds):
                break
            settings = replace(current, **{dimension.field: value})  # type: ignore[arg-type]
            figures = _measured(settings, recipes, measure)
            if figures is not None:
                found.append(_tried(words, settings, figures, reference - _bits(figures, weights)))
        top = max(found, key=lambda t: t.worth, default=None)
        if top is not None and top.worth > best + _CLEARLY:
            best, current = top.worth, top.settings
            labels.append(top.label)
            found = [replace(t, taken=t is top) for t in found]
        tried += found
    return Tuned(settings=current, label=", ".join(labels), tried=tuple(tried))


def _tried(label: str, settings: Settings, figures: Sequence[tuple[float, int]], worth: float) -> Tried:
    losses, sizes = tuple(f[0] for f in figures), tuple(f[1] for f in figures)
    return Tried(label=label, settings=settings, losses=losses, size_bytes=sizes, worth=worth)


def _measured(
    settings: Settings, recipes: Sequence[Mapping[str, str]], measure: Measure
) -> tuple[tuple[float, int], ...] | None:
    found = []
    for recipe in recipes:
        figures = measure(settings, recipe)
        if figures is None:
            return None
        found.append(figures)
    return tuple(found)


def _bits(figures: Sequence[tuple[float, int]], weights: int) -> float:
    """Bits a weight that figures amount to; only differences mean something."""
    each = [math.log(max(loss, _LEAST_LOSS), 4.0) + 8.0 * size / max(1, weights) for loss, size in figures]
    return sum(each) / len(each)


def candidates(tuned: Tuned, start: Settings) -> tuple[tuple[str, Settings], ...]:
    """Return what to measure as a whole, in order: the tuned settings, then without what changes the executed graph."""
    same = replace(tuned.settings, activation_symmetric=start.activation_symmetric, per_channel=start.per_channel)
    found = [(tuned.label, tuned.settings)]
    if same != tuned.settings:
        found.append((f"{tuned.label} but the same graph", same))
    return tuple((label, settings) for label, settings in found if settings != start)


def is_kept(tuned: TrialRecord, uniform: TrialRecord, *, minimize: bool) -> bool:
    """Whether tuned settings stand, measured as a whole: neither clearly slower nor clearly less accurate.

    Args:
        tuned: the best uniform baseline in the tuned settings.
        uniform: the same as it was.
        minimize: whether a smaller metric is better.
    """
    if not tuned.is_measured or tuned.speedup is None or tuned.accuracy is None:
        return False
    assert uniform.speedup is not None
    assert uniform.accuracy is not None
    if tuned.speedup.value < _SLOWER * uniform.speedup.value:
        return False
    if minimize:
        return tuned.accuracy.difference_low <= uniform.accuracy.difference
    return tuned.accuracy.difference_high >= uniform.accuracy.difference
