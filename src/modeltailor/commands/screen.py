"""The one console that commands print tables to: text is shown as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["screen"]


def screen(width: int | None = None) -> Console:
    """Return a console for standard output that takes nothing in a text for markup or for the name of a picture.

    Names of files, layers, models and devices come from outside and may hold ``[fp16]`` or ``:smile:``.

    Args:
        width: columns where the output is no terminal, so that tables are whole in a file; 80 if not given.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal or width is None:
        return console
    return Console(width=width, highlight=False, markup=False, emoji=False)
