"""What of a network can be changed before any format is decided, as far as that can be told without training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modeltailor.errors import CandidateError, ModelError, shown
from modeltailor.search.stages.facts import FactorFacts, GroupFacts
from modeltailor.search.stages.workshop import Workshop

if TYPE_CHECKING:
    from modeltailor.compress.structure import Factorizable

__all__ = ["Shapes", "shapes_of_file", "shapes_of_module"]

_RANK_SHARES = (0.9, 0.7, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """What can be changed; see :class:`modeltailor.search.stages.PreparedFacts` for the fields."""

    groups: tuple[GroupFacts, ...] = ()
    blocks: tuple[str, ...] = ()
    factors: tuple[FactorFacts, ...] = ()
    resolutions: tuple[float, ...] = ()
    macs: int = 0
    notes: tuple[str, ...] = ()


def shapes_of_module(workshop: Workshop) -> Shapes:
    """Return what can be changed in the workshop's PyTorch network."""
    from modeltailor.compress.structure import channel_groups, factorizable_layers, resolutions
    from modeltailor.compress.structure.cost import layer_costs

    assert workshop.module is not None
    module, example = workshop.module, workshop.example()
    macs = sum(c.macs for c in layer_costs(module, example))
    try:
        found = channel_groups(module, example)
        blocks, notes = _blocks_in_order(workshop)
        factors = _factors(factorizable_layers(module, example))
        smaller = resolutions(module, example)
    except CandidateError as error:
        return Shapes(macs=macs, notes=(f"structures cannot be changed: {error.what}",))
    groups = tuple(
        GroupFacts(name=g.name, channels=g.channels, coupled=g.coupled, macs_share=g.macs_share, kind=g.kind)
        for g in found
    )
    return Shapes(groups=groups, blocks=blocks, factors=factors, resolutions=smaller, macs=macs, notes=notes)


def _blocks_in_order(workshop: Workshop) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The removable blocks, the one that is missed least first, and notes; none where ranking them fails."""
    from modeltailor.compress.structure import TrainingData, removal_order

    assert workshop.module is not None
    data = TrainingData(inputs=workshop.calibration())
    try:
        return removal_order(workshop.module, workshop.example(), data, task=workshop.task), ()
    except (RuntimeError, MemoryError) as error:
        reason = f"{type(error).__name__}: {shown(error, 160)}"
        return (), (f"blocks are not removed, because they could not be ranked ({reason})",)


def shapes_of_file(workshop: Workshop, source: Path) -> Shapes:
    """Return what can be changed in an ONNX file itself. Nothing can be trained there, so only mild changes are worth it."""
    from modeltailor.compress.structure import NEEDS_TRAINING, onnx_factorizable, onnx_groups

    shapes = {k: v.shape for k, v in workshop.calibration().items()}
    try:
        found, refused = onnx_groups(source, input_shapes=shapes)
        factors = _factors(onnx_factorizable(source, input_shapes=shapes))
    except (CandidateError, ModelError) as error:
        return Shapes(notes=(f"structures cannot be changed: {error.what}",))
    groups = tuple(
        GroupFacts(name=g.name, channels=g.channels, coupled=g.coupled, macs_share=g.macs_share) for g in found
    )
    notes = [NEEDS_TRAINING]
    if refused:
        notes.append(f"channels of {len(refused)} layers must stay, of {refused[0].name}: {refused[0].reason}")
    return Shapes(groups=groups, factors=factors, notes=tuple(notes))


def _factors(layers: Iterable[Factorizable]) -> tuple[FactorFacts, ...]:
    return tuple(
        FactorFacts(name=f.name, ranks=tuple((s, f.rank(s)) for s in _RANK_SHARES), macs_share=f.macs_share)
        for f in layers
    )
