"""Commands with an example in their help, and a group that imports a command when it is called."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from typing import Any

import click

from modeltailor.errors import ConfigError

__all__ = ["Command", "LazyGroup"]


class Command(click.Command):
    """A command whose help ends with examples.

    Args:
        examples: command lines that work as they stand.
        attributes: those of :class:`click.Command`.
    """

    def __init__(self, *args: Any, examples: Sequence[str], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, each on a line of its own."""
        with formatter.section("Example" if len(self.examples) == 1 else "Examples"):
            for line in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


_LONGEST_HELP = 160
"""A whole first sentence; it wraps where the terminal is narrow."""


class LazyGroup(click.Group):
    """A group whose commands are modules of a package, listed in sections.

    Args:
        package: the package that holds a module with a ``command`` for each name.
        prefix: in front of each module's name.
        sections: title and names of each part of the help page.
        attributes: those of :class:`click.Group`.
    """

    def __init__(
        self, *, package: str, sections: Sequence[tuple[str, Sequence[str]]], prefix: str = "", **attributes: Any
    ) -> None:
        super().__init__(**attributes)
        self.package = package
        self.prefix = prefix
        self.sections = tuple((title, tuple(names)) for title, names in sections)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, in the order of the sections."""
        return [name for _, names in self.sections for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; ``None`` if there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{self.package}.{self.prefix}{cmd_name.replace('-', '_')}")
        assert isinstance(module.command, click.Command)
        return module.command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name.

        Raises:
            ConfigError: there is none of that name; says which was probably meant.
        """
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
            raise ConfigError("CFG-00", ctx.command_path, f"no such command '{name}'", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands section by section."""
        width = max(len(name) for name in self.list_commands(ctx))
        for title, names in self.sections:
            commands = [(name, self.get_command(ctx, name)) for name in names]
            rows = [
                (name.ljust(width), c.get_short_help_str(_LONGEST_HELP))
                for name, c in commands
                if c is not None and not c.hidden
            ]
            with formatter.section(title):
                formatter.write_dl(rows)
