"""Which channels of an ONNX graph hang together: groups, and how the channels of each tensor come from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["Entry", "Groups", "Layout", "Segment"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring entries of a channel axis that belong to one group, each channel ``repeat`` times in a row."""

    group: int
    channels: int
    repeat: int = 1

    @property
    def size(self) -> int:
        """Entries along the axis."""
        return self.channels * self.repeat


@dataclass(frozen=True, slots=True)
class Layout:
    """The channel axis of a tensor.

    Attributes:
        axis: which one, from 0.
        segments: what it is made of, in order.
    """

    axis: int
    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        """Entries along the axis."""
        return sum(s.size for s in self.segments)

    def moved(self, axis: int) -> Layout:
        """The same channels on another axis."""
        return replace(self, axis=axis)

    def repeated(self, times: int) -> Layout:
        """Each channel so many times more often: what flattening the axes behind it does."""
        return replace(self, segments=tuple(replace(s, repeat=s.repeat * times) for s in self.segments))


@dataclass(frozen=True, slots=True)
class Entry:
    """A stretch of an initializer that loses something when channels of a group go.

    Attributes:
        group: whose channels.
        tensor: the initializer.
        axis: of the tensor.
        offset: where the stretch begins.
        repeat: entries of each channel.
        side: what the stretch is to the group.
    """

    group: int
    tensor: str
    axis: int
    offset: int
    repeat: int
    side: Literal["out", "in", "entry"]


class Groups:
    """Sets of channels that can only go together; sets that meet become one."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self.channels: list[int] = []
        self.producers: list[list[str]] = []
        self._reasons: dict[int, str] = {}
        self._entries: list[Entry] = []

    def new(self, channels: int, producer: str) -> Segment:
        """Open a group."""
        self._parent.append(len(self._parent))
        self.channels.append(channels)
        self.producers.append([producer])
        return Segment(len(self._parent) - 1, channels)

    def root(self, group: int) -> int:
        """The number that a group goes by now."""
        while self._parent[group] != group:
            group = self._parent[group]
        return group

    def roots(self) -> list[int]:
        """All groups, in the order of their first producer."""
        return sorted({self.root(g) for g in range(len(self._parent))})

    def join(self, a: Layout, b: Layout, reason: str) -> None:
        """Make the channels of two axes the same; where they do not match, none of them can go, for that reason."""
        if [(s.channels, s.repeat) for s in a.segments] != [(s.channels, s.repeat) for s in b.segments]:
            self.freeze((a, b), reason)
            return
        for mine, theirs in zip(a.segments, b.segments, strict=True):
            first, second = sorted((self.root(mine.group), self.root(theirs.group)))
            if first != second:
                self._parent[second] = first
                self.producers[first] += self.producers[second]

    def freeze(self, layouts: Iterable[Layout | None], reason: str) -> None:
        """Keep all channels of these axes, and remember why."""
        for layout in layouts:
            for segment in () if layout is None else layout.segments:
                self._reasons.setdefault(segment.group, reason)

    def reason(self, root: int) -> str | None:
        """Why no channel of a group can go; ``None`` if they can."""
        return next((r for g, r in sorted(self._reasons.items()) if self.root(g) == root), None)

    def note(self, layout: Layout, tensor: str, axis: int, side: Literal["out", "in", "entry"]) -> None:
        """Remember that an axis of an initializer follows a layout."""
        offset = 0
        for segment in layout.segments:
            self._entries.append(Entry(segment.group, tensor, axis, offset, segment.repeat, side))
            offset += segment.size

    def entries(self, root: int) -> list[Entry]:
        """Everything that loses something with the channels of a group."""
        return [e for e in self._entries if self.root(e.group) == root]
