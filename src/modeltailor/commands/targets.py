"""``modeltailor targets``: device profiles. Subcommands are the modules ``targets_NAME``."""

from __future__ import annotations

from modeltailor.commands.lazy_group import LazyGroup

__all__ = ["command"]

command = LazyGroup(
    package="modeltailor.commands",
    prefix="targets_",
    name="targets",
    help="Device profiles: list, show, new, check, probe.",
    sections=(("Commands", ("list", "show", "new", "check", "probe")),),
)
