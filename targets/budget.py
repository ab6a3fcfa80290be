"""The user's limits. Hard, not wishes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from modeltailor.errors import ConfigError

__all__ = ["Budget"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits that a model must keep, each checked on the upper end of its confidence interval.

    Attributes:
        latency_ms: milliseconds of one inference.
        size_bytes: bytes of the ONNX file.
        memory_bytes: peak resident memory of a process that loads and runs it.
        min_accuracy: smallest value of the metric that is allowed.
        max_drop: largest loss against the original, in points: hundredths of the metric's unit (1.0 = 0.01 of accuracy).
        max_drop_share: largest loss against the original, as a share of the metric's scale: of 1 for a score between 0
            and 1, of the original's value for anything else. What holds where nobody gave a limit.

    Raises:
        ConfigError: a limit is not finite and positive, or can never be met.
    """

    latency_ms: float | None = None
    size_bytes: int | None = None
    memory_bytes: int | None = None
    min_accuracy: float | None = None
    max_drop: float | None = None
    max_drop_share: float | None = None

    def __post_init__(self) -> None:
        for name in ("latency_ms", "size_bytes", "memory_bytes"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError("CFG-07", f"budget.{name}", f"must be finite and > 0; got {value}", "give a limit")
        for name in ("min_accuracy", "max_drop", "max_drop_share"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ConfigError("CFG-07", f"budget.{name}", f"must be finite; got {value}", "give a limit")
        for name in ("max_drop", "max_drop_share"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError("CFG-07", f"budget.{name}", f"must be 0 or more; got {value}", "give points lost")

    def on_device(self, own: Budget) -> Budget:
        """The limits that hold on one of several devices: its own latency and memory in place of these, the rest alike."""
        return replace(
            self,
            latency_ms=self.latency_ms if own.latency_ms is None else own.latency_ms,
            memory_bytes=self.memory_bytes if own.memory_bytes is None else own.memory_bytes,
        )

    @property
    def limits_metric(self) -> bool:
        """Whether the metric has a limit."""
        return any(v is not None for v in (self.min_accuracy, self.max_drop, self.max_drop_share))

    @property
    def is_empty(self) -> bool:
        """Whether no limit is set."""
        return all(getattr(self, name) is None for name in self.__dataclass_fields__)
