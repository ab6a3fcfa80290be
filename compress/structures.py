"""What of a network is kept, before any format is decided: ``Structure``, one immutable decision."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from modeltailor.canonical import content_key
from modeltailor.compress.training import Training
from modeltailor.errors import ConfigError

__all__ = ["ChannelScore", "Structure", "WeightScore", "pattern_counts"]

ChannelScore = Literal["magnitude", "bn-scale", "taylor", "fisher", "activation"]
"""How channels, neurons and heads are ranked."""

WeightScore = Literal["magnitude", "wanda", "obs"]
"""How single weights are ranked: size, size times input norm, or error after the others made up for it."""

_PATTERN = re.compile(r"^(\d{1,2}):(\d{1,2})$")


def pattern_counts(pattern: str) -> tuple[int, int] | None:
    """Return N and M of an ``N:M`` pattern (N of every M weights along the inputs stay); ``None`` of ``unstructured``.

    Raises:
        ConfigError: it is neither.
    """
    if pattern == "unstructured":
        return None
    found = _PATTERN.match(pattern)
    kept, block = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < kept < block <= 32:
        raise ConfigError("CFG-08", "structure.pattern", f"'{pattern}' is no pattern", "use unstructured or e.g. 2:4")
    return kept, block


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What of the network is kept. The default is the original network, untouched.

    Decisions are carried out in the order of ``removed`` (or ``width`` and ``depth``), ``keep``, ``ranks``,
    ``sparsity``, ``resolution``; then the network learns.

    Attributes:
        keep: kept share (0..1] of each channel group, by group name; groups that are not named stay whole.
        removed: names of residual or transformer blocks that are taken out.
        width: width multiplier of a student from the user's factory; 1.0 with ``depth`` 1.0 means: no such student.
        depth: depth multiplier of such a student.
        score: how channels are ranked; all but ``magnitude`` and ``bn-scale`` need calibration data.
        ranks: rank by layer name; the layer becomes two thin ones. Only ranks that save something are accepted.
        sparsity: share (0..1) of a layer's weights that become zero, by layer name; the shape stays.
        pattern: ``unstructured``, or ``N:M``: N of every M weights along the inputs stay. All shares are then 1 - N/M.
        sparsity_score: how weights are ranked; ``wanda`` and ``obs`` need calibration data.
        resolution: side of the image that the network sees as a share (0.25..1] of the side that it is given.
        training: how the rest learns; ``None`` leaves inherited weights as they are.
    """

    keep: tuple[tuple[str, float], ...] = ()
    removed: tuple[str, ...] = ()
    width: float = 1.0
    depth: float = 1.0
    score: ChannelScore = "magnitude"
    ranks: tuple[tuple[str, int], ...] = ()
    sparsity: tuple[tuple[str, float], ...] = ()
    pattern: str = "unstructured"
    sparsity_score: WeightScore = "magnitude"
    resolution: float = 1.0
    training: Training | None = None

    def __post_init__(self) -> None:
        for group, share in self.keep:
            if not 0.0 < share <= 1.0:
                raise ConfigError("CFG-08", group, f"a keep ratio must lie in (0, 1]; got {share}", "choose e.g. 0.75")
        for layer, rank in self.ranks:
            if rank < 1:
                raise ConfigError("CFG-08", layer, f"a rank must be 1 or more; got {rank}")
        counts = pattern_counts(self.pattern)
        for layer, share in self.sparsity:
            if not 0.0 <= share < 1.0:
                raise ConfigError(
                    "CFG-08", layer, f"a share of zeros must lie in [0, 1); got {share}", "choose e.g. 0.5"
                )
            if counts is not None and abs(share - (1 - counts[0] / counts[1])) > 1e-6:
                raise ConfigError(
                    "CFG-09", layer, f"pattern {self.pattern} leaves {1 - counts[0] / counts[1]:g} zeros; got {share}",
                    f"ask for {1 - counts[0] / counts[1]:g}",
                )  # fmt: skip
        if not 0.25 <= self.resolution <= 1.0:
            raise ConfigError("CFG-08", "structure.resolution", f"must lie in 0.25..1; got {self.resolution}")
        for name in ("keep", "ranks", "sparsity"):
            if len(dict(getattr(self, name))) != len(getattr(self, name)):
                raise ConfigError("CFG-08", f"structure.{name}", "a name is given twice", "name each once")
        object.__setattr__(self, "keep", tuple(sorted((g, float(s)) for g, s in self.keep if s != 1.0)))
        object.__setattr__(self, "removed", tuple(sorted(self.removed)))
        object.__setattr__(self, "ranks", tuple(sorted((n, int(r)) for n, r in self.ranks)))
        object.__setattr__(self, "sparsity", tuple(sorted((n, float(s)) for n, s in self.sparsity if s != 0.0)))

    @property
    def is_original(self) -> bool:
        """Whether nothing is changed."""
        return self.axis == "none"

    @property
    def axis(self) -> Literal["none", "sparsity", "student"]:
        """Which axis of the search changed it: what is inside layers (``sparsity``), or depth and students (``student``)."""
        if self.removed or self.width != 1.0 or self.depth != 1.0 or self.resolution != 1.0:
            return "student"
        return "sparsity" if self.keep or self.ranks or self.sparsity else "none"

    @property
    def key(self) -> str:
        """Content key of 16 hex digits."""
        return content_key(self)
