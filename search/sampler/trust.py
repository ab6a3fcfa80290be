"""How far what is known of an objective before searching is trusted."""

from __future__ import annotations

from dataclasses import dataclass

from modeltailor.search.front import Objective

__all__ = ["Trust"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How far the prior of one objective is trusted before any trial.

    Attributes:
        factor_log_std: standard deviation of the logarithm of the factor between prior and reality.
        deviation: expected relative error of a single (site, option).
        shared: expected relative error that all sites share, or all sites with the same option.
        interaction: expected strength of neighbours' interactions relative to their own costs.
        noise: expected noise of a measurement, relative to the objective's unit.
        relative_noise: error of the additive form itself, relative to the value.
        swing: standard deviation of what all sites' effects of either sign add up to, relative to the objective's unit.
        drop: expected relative error of the measured drops as a whole.
        power_log_std: standard deviation of the logarithm of the power by which values grow with the prior's sum; 0 where
            they are proportional to it.
    """

    factor_log_std: float
    deviation: float
    shared: float
    interaction: float
    noise: float
    relative_noise: float
    swing: float = 0.0
    drop: float = 0.0
    power_log_std: float = 0.0

    @staticmethod
    def default(objective: Objective) -> Trust:
        """Sizes are arithmetic, latencies are measured, losses are guessed from single changes, memory is rough."""
        match objective:
            case "accuracy":
                return Trust(
                    factor_log_std=1.0, deviation=0.4, shared=0.5, interaction=0.3, noise=0.01, relative_noise=0.1,
                    swing=0.06, drop=0.4, power_log_std=0.5,
                )  # fmt: skip
            case "elsewhere":  # other devices are only roughly like the first one
                return Trust(
                    factor_log_std=0.4, deviation=0.3, shared=0.3, interaction=0.03, noise=0.01, relative_noise=0.0
                )
            case "latency":
                return Trust(
                    factor_log_std=0.2, deviation=0.15, shared=0.15, interaction=0.03, noise=0.01, relative_noise=0.0
                )
            case "size":
                return Trust(
                    factor_log_std=0.02, deviation=0.01, shared=0.01, interaction=0.0, noise=1e-4, relative_noise=0.0
                )
            case "memory":
                return Trust(
                    factor_log_std=0.5, deviation=0.3, shared=0.3, interaction=0.0, noise=0.02, relative_noise=0.0
                )
