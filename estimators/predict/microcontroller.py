"""Flash and memory on a microcontroller: arithmetic, not statistics.

Weights and graph lie in flash; activations lie in one arena whose addresses are planned ahead: tensors by falling size,
each at the lowest address where no tensor that lives at the same time lies (Pisarchyk & Lee, "Efficient Memory
Management for Deep Neural Net Inference", 2020). The arena can never be smaller than the largest sum of tensors that
live at once; the plan says both.
"""

from __future__ import annotations

from dataclasses import dataclass

from modeltailor.estimators.predict.graph import ExecutedGraph
from modeltailor.targets.profile import Profile

__all__ = ["Fit", "MemoryPlan", "Placement", "fit", "plan_memory"]

_ALIGNMENT = 16
_MICROCONTROLLER = 16 * 2**20  # bytes of memory that no process of an operating system gets along with


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a tensor lies and when it lives.

    Attributes:
        name: of the tensor.
        offset: address in the arena, bytes.
        size_bytes: filled up to the alignment.
        first: kernel that writes it, or 0 for an input.
        last: last kernel that reads it; past the end for an output.
    """

    name: str
    offset: int
    size_bytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What the network needs.

    Attributes:
        flash_bytes: weights as they are stored.
        arena_bytes: activations, as planned.
        live_bytes: the largest sum of tensors that live at once: no plan needs less.
        busiest: kernel where that is.
        placements: the plan.
    """

    flash_bytes: int
    arena_bytes: int
    live_bytes: int
    busiest: str
    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether a plan fits a device.

    Attributes:
        fits: whether it does.
        reason: which limit is broken and by how much; empty if it fits.
    """

    fits: bool
    reason: str = ""


def plan_memory(graph: ExecutedGraph) -> MemoryPlan:
    """Plan the arena of a graph."""
    lives: dict[str, tuple[int, int, int]] = {}  # name -> size, first, last
    for tensor in graph.inputs:
        lives[tensor.name] = (tensor.size_bytes, 0, 0)
    for step, kernel in enumerate(graph.kernels):
        for tensor in kernel.outputs:
            lives[tensor.name] = (tensor.size_bytes, step, step)
        for tensor in kernel.inputs:
            if tensor.name in lives:
                size, first, _ = lives[tensor.name]
                lives[tensor.name] = (size, first, step)
    for tensor in graph.outputs:
        if tensor.name in lives:
            size, first, _ = lives[tensor.name]
            lives[tensor.name] = (size, first, len(graph.kernels))
    placements: list[Placement] = []
    for name, (size, first, last) in sorted(lives.items(), key=lambda item: (-item[1][0], item[1][1], item[0])):
        filled = -(-size // _ALIGNMENT) * _ALIGNMENT
        beside = sorted(
            (p for p in placements if p.first <= last and first <= p.last), key=lambda p: (p.offset, p.size_bytes)
        )
        offset = 0
        for other in beside:
            if other.offset - offset >= filled:
                break
            offset = max(offset, other.offset + other.size_bytes)
        placements.append(Placement(name=name, offset=offset, size_bytes=filled, first=first, last=last))
    sums = [sum(p.size_bytes for p in placements if p.first <= s <= p.last) for s in range(len(graph.kernels))]
    busiest = max(range(len(sums)), key=sums.__getitem__) if sums else 0
    return MemoryPlan(
        flash_bytes=graph.stored_bytes,
        arena_bytes=max((p.offset + p.size_bytes for p in placements), default=0),
        live_bytes=sums[busiest] if sums else 0,
        busiest=graph.kernels[busiest].name if sums else "",
        placements=tuple(placements),
    )


def fit(plan: MemoryPlan, profile: Profile) -> Fit:
    """Say whether a plan fits the flash and the memory of a device; a limit that the profile does not state binds not.

    A microcontroller runs weights from flash, so that its memory holds the arena alone; anything larger loads both.
    """
    broken = []
    needed = plan.arena_bytes
    if profile.flash_bytes is not None and plan.flash_bytes > profile.flash_bytes.value:
        broken.append(_over("flash", plan.flash_bytes, profile.flash_bytes.value))
    if profile.flash_bytes is None and (profile.memory_bytes is None or profile.memory_bytes.value > _MICROCONTROLLER):
        needed += plan.flash_bytes
    if profile.memory_bytes is not None and needed > profile.memory_bytes.value:
        broken.append(f"{_over('memory', needed, profile.memory_bytes.value)} at {plan.busiest!r}")
    return Fit(fits=not broken, reason="; ".join(broken))


def _over(what: str, needed: int, there: float) -> str:
    return f"needs {needed:,} bytes of {what}, the device has {int(there):,} ({needed - int(there):,} too many)"
