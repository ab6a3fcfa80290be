"""Which structures are worth a try: a short list of arms over the sparsity and the student axis.

What pays on a CPU, in the order tried: depth (blocks taken out), widths of inner channels, then both. Every arm has a
training schedule that follows from arithmetic alone, so that the same job names the same recipes on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from modeltailor.compress import Structure, Training
from modeltailor.search.plan import Axis, SearchPlan
from modeltailor.search.stages import FactorFacts, GroupFacts, PreparedFacts

__all__ = ["Arm", "RecoveryPlan", "plan_recoveries", "propose_structures", "spare_structures"]

# Multiply-accumulates of training that a desktop core does in a second; only a plan, the deadline is what holds.
_NOMINAL_MACS_PER_S = 4.0e10
_TRAINING_SHARE = 0.35
_RECOVERY_SHARE = 0.2
"""Of the time of a run: training structures, and letting recipes learn again with their formats."""

_FORWARD_AND_BACKWARD = 3.0
_EPOCHS = (0.5, 12.0)
_WORTHWHILE_EPOCHS = 6.0
"""Fewer passes than that and a student learns too little to say what its structure is worth."""

_NARROWEST = 16
_LEAST_SHARE = 0.02
_LEAST_RANK = 4
_ZEROS = 0.6
_UNTRAINED_S = 20.0
_LONG_EPOCHS = 8.0
_MIXUP = 0.5
_RECOVERY_EPOCHS = 3.0
_MOST_RECOVERIES = 6


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
        is_spare: not of the plan, which has no time for it; it is trained where time is left after all.
    """

    label: str
    structure: Structure
    axis: Axis
    work: float
    train_s: float
    is_uniform: bool = False
    is_spare: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPlan:
    """How recipes learn again with their formats.

    Attributes:
        training: the schedule of one recovery.
        train_s: seconds that are set aside for one.
        most: at most so many.
    """

    training: Training
    train_s: float
    most: int


def plan_recoveries(facts: PreparedFacts, plan: SearchPlan, *, cores: int) -> RecoveryPlan | None:
    """Return how many recipes may learn again, and how; ``None`` where nothing can be trained.

    Args:
        facts: of the network and its data.
        plan: a share of its time goes into recoveries; formats must be among its axes.
        cores: of the machine that trains.
    """
    if (
        not plan.recovery
        or facts.kind == "onnx"
        or "formats" not in plan.axes
        or not dict(facts.split_sizes).get("train", 0)
    ):
        return None
    whole = _epochs(facts, time_s=plan.time_s * _RECOVERY_SHARE, cores=cores)
    most = min(_MOST_RECOVERIES, max(1, int(whole / _RECOVERY_EPOCHS)))
    epochs = plan.epochs or min(max(round(whole / most * 2.0) / 2.0, _EPOCHS[0]), _EPOCHS[1])
    return RecoveryPlan(
        training=replace(plan.training, epochs=epochs, seed=plan.seed, assistants=0),
        train_s=plan.time_s * _RECOVERY_SHARE / most,
        most=most,
    )


def propose_structures(facts: PreparedFacts, plan: SearchPlan, *, cores: int, most: int = 10) -> tuple[Arm, ...]:
    """Return the arms, most promising first.

    Args:
        facts: what can be changed in the network.
        plan: which axes are open, how changed networks learn, and the time, of which a share goes into training.
        cores: of the machine that trains.
        most: at most so many arms.
    """
    if facts.kind == "onnx":
        return _untrained(facts, plan.axes)
    return tuple(a for a in _trained(facts, plan, cores, most) if not a.is_spare)


def spare_structures(facts: PreparedFacts, plan: SearchPlan, *, cores: int, most: int = 10) -> tuple[Arm, ...]:
    """Return the arms that :func:`propose_structures` has no time for; both together are at most so many."""
    if facts.kind == "onnx" or not dict(facts.split_sizes).get("train", 0):
        return ()
    return tuple(a for a in _trained(facts, plan, cores, most) if a.is_spare)


def _trained(facts: PreparedFacts, plan: SearchPlan, cores: int, most: int) -> tuple[Arm, ...]:
    """Arms that are trained; those beyond the time of the plan are spares, and would learn as the others do."""
    axes = plan.axes
    shapes = _interleave(
        _sparse(facts) if "sparsity" in axes else [],
        _shallow(facts, narrow="sparsity" in axes) if "student" in axes else [],
    )
    opened = len({axis for _, axis, _, _ in shapes})
    time_s = plan.time_s * _TRAINING_SHARE
    affordable = int(_epochs(facts, time_s=time_s, cores=cores) / _WORTHWHILE_EPOCHS)
    count = max(1, min(most, len(shapes), max(opened, affordable)))
    first_sparse = next((i for i, s in enumerate(shapes) if s[1] == "sparsity"), -1)
    training = _schedule(facts, plan, share=1.0 / count, cores=cores)
    return tuple(
        Arm(
            label=label,
            axis=axis,
            work=work,
            train_s=time_s / count,
            is_uniform=axis == "sparsity" and index == first_sparse,
            is_spare=index >= count,
            structure=replace(shape, training=training),
        )
        for index, (label, axis, work, shape) in enumerate(shapes[:most])
    )


def _untrained(facts: PreparedFacts, axes: Sequence[Axis]) -> tuple[Arm, ...]:
    """Arms of an ONNX file: what nothing can be trained after must be mild."""
    if "sparsity" not in axes:
        return ()
    shapes = [_low_rank(facts.factors, 0.9), _narrowed("inner channels", _inner(facts.groups), 0.9)]
    return tuple(
        Arm(label=f"{label}, untrained", structure=shape, axis=axis, work=work, train_s=_UNTRAINED_S)
        for label, axis, work, shape in (s for s in shapes if s is not None)
    )


_Shape = tuple[str, Axis, float, Structure]


def _inner(groups: Sequence[GroupFacts]) -> list[GroupFacts]:
    """Groups inside blocks: no residual addition ties them to others."""
    return [g for g in groups if g.kind == "heads" or (not g.coupled and g.channels >= _NARROWEST)]


def _narrowed(label: str, groups: Sequence[GroupFacts], share: float) -> _Shape | None:
    """One keep ratio for those groups."""
    if not groups:
        return None
    work = 1.0 - (1.0 - share) * min(1.0, sum(g.macs_share for g in groups))
    return f"{label} x{share:g}", "sparsity", work, Structure(keep=tuple((g.name, share) for g in groups))


def _low_rank(factors: Sequence[FactorFacts], share: float) -> _Shape | None:
    """That share of the work of each layer that is wide enough to matter, by two thin layers."""
    worth = [f for f in factors if f.macs_share >= _LEAST_SHARE and dict(f.ranks).get(share, 0) >= _LEAST_RANK]
    if not worth:
        return None
    work = 1.0 - (1.0 - share) * min(1.0, sum(f.macs_share for f in worth))
    ranks = tuple((f.name, dict(f.ranks)[share]) for f in worth)
    return f"low rank in {len(ranks)} layers", "sparsity", work, Structure(ranks=ranks)


def _sparse(facts: PreparedFacts) -> list[_Shape]:
    inner = _inner(facts.groups)
    name = "heads and neurons" if any(g.kind == "heads" for g in inner) else "inner channels"
    wide = [g for g in facts.groups if g.channels >= _NARROWEST and g.kind == "channels"]
    found = [
        _narrowed(name, inner, 0.75),
        _narrowed(name, inner, 0.5),
        _narrowed("all channels", wide, 0.75) if len(wide) > len(inner) else None,
        _low_rank(facts.factors, 0.5),
    ]
    zeros = tuple((f.name, _ZEROS) for f in facts.factors if f.macs_share >= _LEAST_SHARE)
    if zeros:  # no kernel is faster for it: what it saves is bytes
        found.append((f"{_ZEROS:.0%} zeros", "sparsity", 1.0, Structure(sparsity=zeros, sparsity_score="obs")))
    return [shape for shape in found if shape is not None]


def _shallow(facts: PreparedFacts, *, narrow: bool) -> list[_Shape]:
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
    inner = _narrowed("inner channels", _inner(facts.groups), 0.75)
    if narrow and inner is not None and found and found[0][3].removed:
        label, _, work, shape = found[0]
        both = replace(shape, keep=inner[3].keep)
        found.append((f"{label}, {inner[0]}", "student", work * inner[2], both))
    if facts.resolutions:
        share = facts.resolutions[0]
        found.append((f"images x{share:g}", "student", share * share, Structure(resolution=share)))
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


def _schedule(facts: PreparedFacts, plan: SearchPlan, *, share: float, cores: int) -> Training | None:
    if not dict(facts.split_sizes).get("train", 0):
        return None
    epochs = plan.epochs
    if epochs is None:
        affordable = _epochs(facts, time_s=plan.time_s * _TRAINING_SHARE * share, cores=cores)
        epochs = min(max(round(affordable * 2.0) / 2.0, _EPOCHS[0]), _EPOCHS[1])
    mixup = plan.training.mixup
    if mixup is None and facts.is_image and epochs >= _LONG_EPOCHS:
        mixup = _MIXUP  # the teacher alone teaches, on mixtures too: what a student saw often it learns by heart
    return replace(plan.training, epochs=epochs, mixup=mixup, seed=plan.seed)
