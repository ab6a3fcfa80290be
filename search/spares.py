"""Which structure is trained beyond the plan, where time is left: the one that should move the front most a second.

A plan trains as many structures as its share of the time allows. Once the formats of these are settled, one more structure
says more than one more format. What it would give is told by the structures that were trained: how much of the time the
same kind of change saves for each multiply-accumulate that it takes out, what it loses, and which formats suit it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from modeltailor.compress import Structure
from modeltailor.search.hypervolume import hypervolume
from modeltailor.search.points import (
    by_structure,
    latency_of,
    loss_of,
    own_of,
    placed,
    point_of,
    structure_key,
    training_s,
)
from modeltailor.search.prior import expected_loss
from modeltailor.search.records import TrialRecord
from modeltailor.search.structures import Arm

__all__ = ["Spare", "propose_spare"]

_LEAST_GAIN = 1e-3
"""Of the box between the original and nothing: less is not worth minutes."""

_LEAST_SCHEDULE = 0.6
"""Share of its training that there must be time for: it is met by running faster through the schedule."""

_LEAST_WORK = 0.1
_MOST_SAVED = 0.9
_UNSEEN_SLOPE = 0.5
"""Share of the time that a share of the work takes out, where nothing alike was measured."""

_LEAST_FACTOR = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Spare:
    """A structure beyond the plan.

    Attributes:
        arm: to be trained.
        gain: expected gain of hypervolume, as a share of the box up to the reference.
        train_s: seconds that its training should take.
    """

    arm: Arm
    gain: float
    train_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """What was measured of a structure. The original counts as one, of all the work."""

    structure: Structure
    work: float
    same: Sequence[TrialRecord]
    latency: float
    own_loss: float


def propose_spare(
    records: Sequence[TrialRecord],
    arms: Sequence[Arm],
    *,
    reference: tuple[float, float, float],
    worthless_loss: float,
    seconds: float,
    minimize: bool = False,
) -> Spare | None:
    """Return the structure beyond the plan that should gain most a second, or ``None`` if none is worth its training.

    Args:
        records: everything measured so far.
        arms: structures of the search; one of the plan counts as spare if the plan's own time for it is over.
        reference: loss, latency and bytes over the original's from which on a model is worth nothing.
        worthless_loss: loss of the metric from which on a model is worth nothing to anybody.
        seconds: that training may take.
        minimize: whether a smaller metric is better.
    """
    measured = placed(records)
    original = next((r for r in measured if r.role == "fp32"), None)
    begun = by_structure(records)
    waiting = [a for a in arms if structure_key(a.structure) not in begun]
    if original is None or not waiting:
        return None
    structures = {key: placed(same) for key, same in begun.items()}
    whole = _shown(Structure(), 1.0, structures, minimize)
    trained = [s for a in arms if (s := _shown(a.structure, a.work, structures, minimize)) is not None]
    if whole is None:
        return None
    points = [point_of(r, original, minimize=minimize) for r in measured]
    now, box = hypervolume(points, reference), float(np.prod(reference))
    found = []
    for arm in waiting:
        train_s = _training_s(arm, trained)
        if _LEAST_SCHEDULE * train_s <= seconds:
            new = _expected(arm, whole, trained, original, worthless_loss, minimize)
            gain = (hypervolume([*points, *new], reference) - now) / box
            found.append(Spare(arm=arm, gain=gain, train_s=train_s))
    best = max(found, key=lambda s: round(s.gain / max(s.train_s, 1.0), 12), default=None)
    return best if best is not None and best.gain >= _LEAST_GAIN else None


def _shown(
    structure: Structure, work: float, structures: Mapping[str, Sequence[TrialRecord]], minimize: bool
) -> _Shown | None:
    """What was measured of a structure; ``None`` if nothing in other formats than the original's."""
    same = structures.get(structure_key(structure), ())
    own = own_of(same, minimize=minimize)
    if own is None:
        return None
    latency = min(latency_of(r) for r in same if r.recipe["formats"])
    return _Shown(structure=structure, work=work, same=same, latency=latency, own_loss=loss_of(own, minimize=minimize))


def _kind(structure: Structure) -> frozenset[str]:
    """What a structure changes, by the names of the fields."""
    default = Structure()
    fields = ("keep", "removed", "width", "depth", "ranks", "sparsity", "resolution")
    return frozenset(f for f in fields if getattr(structure, f) != getattr(default, f))


def _training_s(arm: Arm, trained: Sequence[_Shown]) -> float:
    """Seconds that training should take, at the pace of those before."""
    paces = []
    for shown in trained:
        seconds = max((training_s(r, "structure") for r in shown.same), default=0.0)
        if seconds:  # from the cache it says nothing about how long training takes here
            paces.append(seconds / max(_LEAST_WORK, shown.work))
    return median(paces) * max(_LEAST_WORK, arm.work) if paces else arm.train_s


def _expected(
    arm: Arm,
    whole: _Shown,
    trained: Sequence[_Shown],
    original: TrialRecord,
    worthless_loss: float,
    minimize: bool,
) -> list[tuple[float, float, float]]:
    """Where the structure's models should lie: in the formats of its nearest relative that was measured."""
    near = _nearest(arm, trained)
    latency = whole.latency * (1.0 - _saved(arm, whole, trained))
    # the usual loss, by how far those before were off (one arm's worth of the usual counts as seen); more cut, more lost
    first = expected_loss(0.75, worthless_loss)
    seen = first + sum(max(0.0, s.own_loss) for s in trained)
    usual = first + sum(expected_loss(s.work, worthless_loss) for s in trained)
    deeper = max(1.0, (1.0 - arm.work) / (1.0 - near.work)) if near is not None and near.work < 1.0 else 1.0
    loss = expected_loss(arm.work, worthless_loss) * max(_LEAST_FACTOR, seen / usual) * deeper
    # formats and bytes: those of the nearest relative
    model = near or whole
    scale = max(_LEAST_WORK, arm.work) / max(_LEAST_WORK, model.work)
    plain = [r for r in model.same if r.recipe.get("recovery") is None and r.recipe["formats"]]
    return [
        (
            loss + max(0.0, loss_of(r, minimize=minimize) - model.own_loss),
            latency * latency_of(r) / model.latency,
            scale * r.size_bytes / original.size_bytes,
        )
        for r in plain
    ]


def _nearest(arm: Arm, trained: Sequence[_Shown]) -> _Shown | None:
    """The trained structure that tells most about another: of its kind, of a part of it, or at least of its axis."""
    kind = _kind(arm.structure)
    alike = [s for s in trained if _kind(s.structure) == kind]
    parts = [s for s in trained if _kind(s.structure) < kind]
    same_axis = [s for s in trained if s.structure.axis == arm.axis]
    return min(alike or parts or same_axis, key=lambda s: abs(s.work - arm.work), default=None)


def _saved(arm: Arm, whole: _Shown, trained: Sequence[_Shown]) -> float:
    """Share of the uniform model's latency that a structure should save.

    What the nearest relative saved, and for each multiply-accumulate less as much as that one did, but at most its share:
    what is cut first saves most. Of a structure of several kinds each part saves what it did alone.
    """
    kind = _kind(arm.structure)
    alone = {_kind(s.structure): s for s in trained if len(_kind(s.structure)) == 1}
    if (
        kind not in {_kind(s.structure) for s in trained}
        and len(kind) > 1
        and all(frozenset({k}) in alone for k in kind)
    ):
        left = math.prod(alone[frozenset({k})].latency / whole.latency for k in kind)
        return max(0.0, min(_MOST_SAVED, 1.0 - left))
    near = _nearest(arm, trained)
    if near is None or near.work >= 1.0:
        return min(_MOST_SAVED, _UNSEEN_SLOPE * (1.0 - arm.work))
    before = 1.0 - near.latency / whole.latency
    slope = max(0.0, before / (1.0 - near.work))
    saved = before + min(1.0, slope) * (near.work - arm.work)
    return max(0.0, min(_MOST_SAVED, saved))
