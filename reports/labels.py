"""Where the names of marks go in a picture, so that none covers another or leaves the frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Box", "Label", "place_labels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether they share any area."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Where one name goes: its base line's start, middle or end; a far one wants a line that leads to its mark."""

    x: float
    y: float
    anchor: Literal["start", "middle", "end"]
    far: bool = False


def place_labels(
    wanted: Sequence[tuple[float, float, float]],
    marks: Sequence[tuple[float, float]],
    frame: Box,
    *,
    height: float = 13.0,
    mark: float = 7.0,
) -> tuple[Label | None, ...]:
    """Find room for names one after another, the most important first; that one may also go further away.

    Args:
        wanted: x and y of each name's mark, and the width of the name.
        marks: x and y of every mark in the picture.
        frame: that names must stay in.
        height: of a line of text.
        mark: half the size of a mark.

    Returns:
        A place a name, or ``None`` where there is no room: that name is left out.
    """
    taken = [Box(left=x - mark, right=x + mark, top=y - mark, bottom=y + mark) for x, y in marks]
    found: list[Label | None] = []
    for i, (x, y, width) in enumerate(wanted):
        places = (
            Label(x=x + mark + 4, y=y - mark, anchor="start"),
            Label(x=x + mark + 4, y=y + mark + height * 0.6, anchor="start"),
            Label(x=x - mark - 4, y=y - mark, anchor="end"),
            Label(x=x - mark - 4, y=y + mark + height * 0.6, anchor="end"),
            Label(x=x, y=y - mark - 6, anchor="middle"),
            Label(x=x, y=y + mark + height, anchor="middle"),
            *(
                Label(x=x + side * (mark + 4), y=y + lines * height + 4, anchor="start" if side > 0 else "end")
                for lines in (2, -2, 3, -3)
                for side in (1, -1)
            ),
            *(
                Label(x=x + side * away, y=y + lines * height + 4, anchor="start" if side > 0 else "end", far=True)
                for lines in (-4, 4, -6, 6, -9, 9, -12, 12)
                for away in (mark + 14, 6 * mark + 60)
                for side in (1, -1)
                if i == 0
            ),
        )
        best = None
        for place in places:
            left = place.x - {"start": 0.0, "middle": width / 2, "end": width}[place.anchor]
            box = Box(left=left, right=left + width, top=place.y - height * 0.8, bottom=place.y + height * 0.2)
            inside = (
                box.left >= frame.left
                and box.right <= frame.right
                and box.top >= frame.top
                and box.bottom <= frame.bottom
            )
            if inside and not any(box.meets(t) for t in taken):
                best = place
                taken.append(box)
                break
        found.append(best)
    return tuple(found)
