"""What a metric measured with single sites changed says beyond how far they move the outputs; arithmetic alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from modeltailor.compress import Format

__all__ = ["signed_effects"]


def signed_effects(
    drops: Mapping[tuple[str, str], float], losses: Mapping[tuple[str, str], float]
) -> dict[tuple[str, str], float]:
    """Return what the drops of single sites say beyond the sensitivities: effects of either sign that can be believed.

    A drop is the sensitivity times a factor that all share, plus an effect of either sign, plus chance. What varies among
    the drops of the mildest formats, those of most bits, is chance; of a format whose drops vary more, the share that is
    not chance is believed (empirical Bayes: James and Stein 1961).

    Args:
        drops: by site and format name; see :func:`~modeltailor.estimators.sensitivity.metric_drops`.
        losses: the same of :func:`~modeltailor.estimators.sensitivity.sensitivities`.

    Returns:
        Effect in the metric's unit by site and format name, of those that have a loss.
    """
    keys = [k for k in drops if losses.get(k, 0.0) > 0.0]
    if not keys:
        return {}
    loss, drop = np.array([losses[k] for k in keys]), np.array([drops[k] for k in keys])
    factor = max(0.0, float(loss @ drop / (loss @ loss)))
    left = drop - factor * loss
    names = np.array([name for _, name in keys])
    bits = np.array([Format.parse(name).weight_bits for _, name in keys])
    chance = float(np.mean(left[bits == bits.max()] ** 2))
    spread = {name: float(np.mean(left[names == name] ** 2)) for name in set(names.tolist())}
    believed = {name: max(0.0, 1.0 - chance / max(s, 1e-300)) for name, s in spread.items()}
    return {key: believed[key[1]] * float(x) for key, x in zip(keys, left, strict=True)}
