"""One file a command of ``modeltailor``: thin calls on the API, loaded when they are asked for.

A new command is a file ``NAME.py`` with a :class:`click.Command` called ``command``, and its name in :data:`SECTIONS`.
At import a command needs click and this package alone; heavy libraries enter inside the function.
"""

from __future__ import annotations

__all__ = ["SECTIONS"]

SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Start", ("demo", "init", "validate", "doctor")),
    ("Search", ("quick", "search", "resume", "watch")),
    ("Decide", ("report", "pick", "compare", "export", "dashboard")),
    ("Measure", ("bench", "audit", "predict", "certify", "selftest", "targets", "agent")),
    ("Shell", ("completion",)),
)
"""Titles of the help page, and the commands under each."""
