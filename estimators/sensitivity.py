"""What each format of each site costs in accuracy, with only that site changed.

Sensitivities of single sites add up well enough to rank whole recipes (HAWQ, Dong et al. 2019), so this table is what
the search starts from. They tell how far the outputs move, without labels. Where there are labels, the metric itself
tells more: coarse rounding of some sites makes a network better, and such effects add up, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from modeltailor.compress import Format, Settings
from modeltailor.compress.formats.composer import Composer
from modeltailor.compress.formats.graph import PreparedGraph
from modeltailor.compress.formats.parts import PartRequest
from modeltailor.errors import CandidateError
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session

__all__ = ["metric_drops", "output_loss", "recipe_loss", "sensitivities"]

_NO_NUMBER = 10.0
"""Loss of outputs that are no numbers any more: more than any others lose."""

_DEFAULT = ("8", "6", "5", "4", "3", "2")


def output_loss(reference: NDArray[np.generic], value: NDArray[np.generic]) -> float:
    """Return how far outputs are from the float model's.

    Args:
        reference: float outputs, ``[n, ...]``.
        value: the same outputs of a candidate.

    Returns:
        Mean KL divergence of the softmax if the output is ``[n, classes]``, otherwise the mean squared error relative
        to the mean square.
    """
    a, b = np.asarray(reference, np.float64), np.asarray(value, np.float64)
    if a.ndim == 2 and a.shape[1] > 1 and a.shape[1] <= 1 << 17 and not _is_normalized(a):
        log_p, log_q = _log_softmax(a), _log_softmax(b)
        return float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1)))
    return float(np.mean((a - b) ** 2) / max(float(np.mean(a**2)), 1e-30))


def _is_normalized(rows: NDArray[np.float64]) -> bool:
    """Whether rows are embeddings of length one, which are no logits."""
    return bool(np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-3))


def _log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = x - x.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _base(composer: Composer) -> dict[str, Format]:
    """8 bits everywhere: runs several times faster than float, and costs next to nothing in accuracy."""
    wanted = ("w8a8",) if any(s.kind in ("conv", "depthwise") for s in composer.sites) else ("w8a8-dynamic", "w8")
    base = {}
    for site in composer.sites:
        names = {f.name for f in composer.formats(site)}
        chosen = next((w for w in wanted if w in names), None)
        if chosen is not None:
            base[site.name] = Format.parse(chosen)
    return base


def recipe_loss(
    composer: Composer, formats: Mapping[str, Format], settings: Settings, *, samples: int = 256
) -> tuple[float, int]:
    """Return how far a recipe's outputs are from the float model's on calibration data, and the bytes of its file.

    Args:
        composer: of the model.
        formats: format by site name.
        settings: how quantized numbers are chosen.
        samples: calibration samples that outputs are compared on.

    Returns:
        mean of :func:`output_loss` over the outputs, and bytes.

    Raises:
        CandidateError: it cannot be built.
    """
    model = composer.compose(formats, settings).model_bytes
    return _model_loss(composer, model, samples), len(model)


def _loss(composer: Composer, formats: Mapping[str, Format], settings: Settings, samples: int) -> float:
    return recipe_loss(composer, formats, settings, samples=samples)[0]


def _model_loss(composer: Composer, model: bytes, samples: int) -> float:
    reference = composer.calibration.outputs()
    session = open_session(model, RuntimeOptions())
    names = list(reference)
    rows: dict[str, list[NDArray[np.generic]]] = {n: [] for n in names}
    for feed in composer.calibration.feeds(samples):
        for name, value in zip(names, session.run(names, feed), strict=True):
            rows[name].append(np.asarray(value))
    losses = []
    for name in names:
        value = np.concatenate(rows[name]) if rows[name][0].ndim else np.asarray(rows[name])
        if np.issubdtype(value.dtype, np.floating):
            finite = bool(np.isfinite(value).all())
            losses.append(output_loss(reference[name][: len(value)], value) if finite else _NO_NUMBER)
    return float(np.mean(losses)) if losses else 0.0


def _requests(composer: Composer, graph: PreparedGraph, settings: Settings) -> dict[PartRequest, list[str]]:
    """Formats by distinct part: those that differ in activations only are measured once."""
    found: dict[PartRequest, list[str]] = {}
    for site in graph.sites:
        for fmt in composer.formats(site.site):
            if fmt.scheme != "float":
                request = PartRequest.of(site, fmt, settings)
                found.setdefault(request, []).append(fmt.name)
    return found


def sensitivities(
    composer: Composer,
    *,
    settings: Settings | None = None,
    formats: Iterable[str] | None = None,
    samples: int = 256,
) -> dict[tuple[str, str], float]:
    """Return the loss of every site and format, with that site alone changed in a network of 8-bit sites.

    Args:
        composer: of the model.
        settings: how quantized numbers are chosen.
        formats: names of the formats that matter; by default those of 2 to 6 and 8 bits without tables and blocks.
        samples: calibration samples that outputs are compared on.

    Returns:
        Loss over that of the 8-bit network by site and format name, never negative; see :func:`output_loss`. Formats
        that store the same weights share one figure. ``fp32`` and ``fp16`` cost nothing.
    """
    chosen = settings or Settings()
    wanted = None if formats is None else set(formats)
    base = _base(composer)
    floor = _loss(composer, base, chosen, samples) if base else 0.0
    found: dict[tuple[str, str], float] = {}
    by_site = {s.name: s for s in composer.sites}
    for request, names in _requests(composer, composer.graph, chosen).items():
        asked = [n for n in names if (n in wanted if wanted is not None else _is_default(n))]
        if not asked:
            continue
        site = by_site[request.site]
        kept = composer.store.arrays("sensitivity", [request, chosen, samples])
        if kept is None:
            fast = next((n for n in names if n.endswith(("a8", "-dynamic"))), asked[0])
            available = {f.name for f in composer.formats(site)}
            one = {**base, site.name: Format.parse(fast if fast in available else asked[0])}
            loss = floor if one == base else _loss(composer, one, chosen, samples)
            kept = {"loss": np.array(max(loss - floor, 0.0))}
            composer.store.keep("sensitivity", [request, chosen, samples], **kept)
        for name in asked:
            found[site.name, name] = float(kept["loss"])
    for site in composer.sites:
        for fmt in composer.formats(site):
            if fmt.scheme == "float" and (wanted is None or fmt.name in wanted):
                found[site.name, fmt.name] = 0.0
    return found


def metric_drops(
    composer: Composer,
    judge: Callable[[bytes], float],
    *,
    settings: Settings | None = None,
    formats: Iterable[str],
    limit_s: float = float("inf"),
) -> dict[tuple[str, str], float]:
    """Return what the metric loses with one site alone changed in a network of 8-bit sites; negative where it gains.

    Only the formats that round most, those of the two fewest bits, move a metric by more than chance; those of most bits
    below 8 are measured beside them, because they show how much chance there is: see
    :func:`~modeltailor.estimators.effects.signed_effects`.

    Args:
        composer: of the model.
        judge: of a built file: what it loses of the metric on labelled samples, always the same ones.
        settings: how quantized numbers are chosen.
        formats: names of the formats that matter.
        limit_s: seconds; if the first half of the changes shows that all will take longer, nothing comes back.

    Returns:
        Drop in the metric's unit by site and format name; empty if there are no coarse formats to measure, or no time.
        Changes that cannot be judged are left out.

    Raises:
        CandidateError: the network of 8-bit sites itself cannot be built or judged.
    """
    chosen = settings or Settings()
    base = _base(composer)
    names = _coarse_and_mild(formats, {f.name for f in base.values()})
    changes = [(s.name, f.name) for s in composer.sites for f in composer.formats(s) if f.name in names]
    if not changes:
        return {}
    started = time.monotonic()
    floor = judge(composer.compose(base, chosen).model_bytes)
    found: dict[tuple[str, str], float] = {}
    for done, (site, name) in enumerate(changes):
        took = time.monotonic() - started
        if took / (1 + done) * (1 + len(changes)) > limit_s and done < len(changes) // 2:
            return {}
        one = {**base, site: Format.parse(name)}
        try:
            found[site, name] = judge(composer.compose(one, chosen).model_bytes) - floor
        except CandidateError:  # two bits may ruin a network beyond judging: what that costs, the divergence tells
            continue
    return found


def _coarse_and_mild(formats: Iterable[str], base: set[str]) -> list[str]:
    """The integer formats of the two fewest bits below 8 and of the most, if there are two at least; else none."""
    bits = {
        name: fmt.weight_bits
        for name in sorted(formats)
        if (fmt := Format.parse(name)).scheme in ("static", "dynamic", "weight-only")
        and fmt.weight_bits < 8
        and name not in base
    }
    widths = sorted(set(bits.values()))
    return [name for name, b in bits.items() if b in (*widths[:2], widths[-1])] if len(widths) > 1 else []


def _is_default(name: str) -> bool:
    fmt = Format.parse(name)
    return fmt.scheme in ("static", "dynamic", "weight-only") and str(fmt.weight_bits) in _DEFAULT
