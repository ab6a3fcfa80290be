"""Which structures are worth a try: a short list of arms over the sparsity and the student axis.

What pays on a CPU, in the order tried: depth (blocks taken out), widths of inner channels, then both. Every arm has a
training schedule that follows from arithmetic alone, so that the same job names the same recipes on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modeltailor.compress import Structure, Training
from modeltailor.search.plan import Axis
from modeltailor.search.stages import GroupFacts, PreparedFacts

__all__ = ["Arm", "propose_structures"]

# Multiply-accumulates of training that a desktop core does in a second; only a plan, the deadline is what holds.
_NOMINAL_MACS_PER_S = 4.0e10
_TRAINING_SHARE = 0.45
_FORWARD_AND_BACKWARD = 3.0
_EPOCHS = (0.5, 12.0)
_WORTHWHILE_EPOCHS = 6.0
"""Fewer passes than that and a student learns too little to say what its structure is worth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A structure to try.

    Attributes:
        label: for people.
        structure: what to build.
        axis: which axis of the search it belongs to.
        work: expected share of the original's multiply-accumulates.
        train_s: seconds that are set aside for its training.
        is_uniform: one keep ratio for all groups it touches: the narrower network that people try by hand first.
    """

    label: str
    structure: Structure
    axis: Axis
    work: float
    train_s: float
    is_uniform: bool = False


def propose_structures(
    facts: PreparedFacts, *, axes: Sequence[Axis], time_s: float, cores: int, seed: int, most: int = 6
) -> tuple[Arm, ...]:
    """Return the arms, most promising first.

    Args:
        facts: groups and blocks of the network.
        axes: which axes the user opened.
        time_s: wall clock of the whole run; a share of it goes into training.
        cores: of the machine that trains.
        seed: of the training.
        most: at most so many arms.
    """
    shapes = _interleave(
        _sparse(facts.groups) if "sparsity" in axes else [],
        _shallow(facts) if "student" in axes else [],
    )
    opened = len({axis for _, axis, _, _ in shapes})
    affordable = int(_epochs(facts, time_s=time_s * _TRAINING_SHARE, cores=cores) / _WORTHWHILE_EPOCHS)
    count = max(1, min(most, len(shapes), max(opened, affordable)))
    first_sparse = next((i for i, s in enumerate(shapes) if s[1] == "sparsity"), -1)
    training = _schedule(facts, share=1.0 / count, time_s=time_s, cores=cores, seed=seed)
    return tuple(
        Arm(
            label=label,
            axis=axis,
            work=work,
            train_s=time_s * _TRAINING_SHARE / count,
            is_uniform=axis == "sparsity" and index == first_sparse,
            structure=Structure(
                keep=shape.keep, removed=shape.removed, width=shape.width, depth=shape.depth, training=training
            ),
        )
        for index, (label, axis, work, shape) in enumerate(shapes[:count])
    )


_Shape = tuple[str, Axis, float, Structure]


def _sparse(groups: Sequence[GroupFacts]) -> list[_Shape]:
    found: list[_Shape] = []
    inner = [g for g in groups if not g.coupled and g.channels >= 16]
    for share in (0.75, 0.5):
        if inner:
            kept = tuple((g.name, share) for g in inner)
            work = 1.0 - (1.0 - share) * sum(g.macs_share for g in inner)
            found.append((f"inner channels x{share:g}", "sparsity", work, Structure(keep=kept)))
    wide = [g for g in groups if g.channels >= 16]
    if wide and len(wide) > len(inner):
        found.append(("all channels x0.75", "sparsity", 0.6, Structure(keep=tuple((g.name, 0.75) for g in wide))))
    return found


def _shallow(facts: PreparedFacts) -> list[_Shape]:
    found: list[_Shape] = []
    n = len(facts.blocks)
    for share in (0.3, 0.45, 0.6):
        taken = tuple(sorted(facts.blocks[: max(1, round(share * n))]))
        if taken and all(taken != s.removed for _, _, _, s in found):
            work = 1.0 - len(taken) / (n + 2)
            found.append((f"{len(taken)} of {n} blocks removed", "student", work, Structure(removed=taken)))
    if facts.has_student:
        for width, depth in ((0.75, 1.0), (1.0, 0.5), (0.5, 1.0), (0.5, 0.5)):
            shape = Structure(width=width, depth=depth)
            found.append((f"student width {width:g} depth {depth:g}", "student", width * width * depth, shape))
    return found


def _interleave(a: list[_Shape], b: list[_Shape]) -> list[_Shape]:
    out: list[_Shape] = []
    for i in range(max(len(a), len(b))):
        out += a[i : i + 1] + b[i : i + 1]
    return out


def _epochs(facts: PreparedFacts, *, time_s: float, cores: int) -> float:
    """Epochs of the original that fit into ``time_s``, by arithmetic."""
    samples = max(1, dict(facts.split_sizes).get("train", 0))
    return time_s * _NOMINAL_MACS_PER_S * cores / (max(facts.macs, 1) * samples * _FORWARD_AND_BACKWARD)


def _schedule(facts: PreparedFacts, *, share: float, time_s: float, cores: int, seed: int) -> Training | None:
    if not dict(facts.split_sizes).get("train", 0):
        return None
    epochs = _epochs(facts, time_s=time_s * _TRAINING_SHARE * share, cores=cores)
    rounded = min(max(round(epochs * 2.0) / 2.0, _EPOCHS[0]), _EPOCHS[1])
    return Training(epochs=rounded, seed=seed)
