"""The reference page of the commands, made of what they say of themselves: ``python -m modeltailor.command_reference``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from modeltailor.commands.lazy_group import Command, LazyGroup

__all__ = ["EXIT_CODES", "command_reference"]

_SEARCH = (3, 4, 5, 6, 7, 129, 130, 143)

EXIT_CODES: dict[str, tuple[int, ...]] = {
    "demo": _SEARCH,
    "init": (3, 5),
    "validate": (3, 5),
    "doctor": (5,),
    "quick": _SEARCH,
    "search": _SEARCH,
    "resume": _SEARCH,
    "watch": (4, 5, 7),
    "report": (5, 7),
    "pick": (3, 4, 5, 7),
    "compare": (5, 7),
    "export": (3, 4, 5, 7),
    "dashboard": (5, 7),
    "bench": (3, 6),
    "audit": (3, 6),
    "predict": (3, 4, 6),
    "certify": (4, 5, 6, 7),
    "selftest": (3, 6),
    "targets list": (),
    "targets show": (),
    "targets new": (5,),
    "targets check": (6,),
    "targets probe": (6,),
    "agent": (5,),
    "completion": (),
}
"""Exit codes of each command beside 0 and 2, which all have; ``docs/exit-codes.md`` tells what they mean."""

_HEAD = """\
# The commands

What every command takes; its own `--help` says the same. `--debug`, anywhere in the line, shows tracebacks;
`modeltailor --version` tells the version. Quantities have units: `2ms`, `200KB`, `20m`. Where a command takes `--json`,
stdout holds one document and nothing else. Every command ends with 0, or with 2 if the line or a file that it names is
wrong and nothing was started; further codes stand with each, and [Exit codes](exit-codes.md) says what to do about them.
"""


def command_reference() -> str:
    """Return the page as Markdown: the sections of the help page, a heading and a table of options a command."""
    from modeltailor.cli import cli

    parts = [_HEAD]
    context = click.Context(cli, info_name="modeltailor")
    for title, names in cli.sections:
        parts.append(f"## {title}\n")
        for name in names:
            found = cli.get_command(context, name)
            assert found is not None
            parts += _pages(name, found, context)
    return "\n".join(parts)


def _pages(name: str, command: click.Command, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    if isinstance(command, LazyGroup):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from _pages(f"{name} {inner}", found, parent)
        return
    assert isinstance(command, Command)
    usage = f"modeltailor {name} {' '.join(command.collect_usage_pieces(context))}"
    lines = [f"### `modeltailor {name}`", "", inspect.cleandoc(command.help or ""), "", "```", usage, "```", ""]
    options = [p for p in command.params if isinstance(p, click.Option)]
    if options:
        lines += ["| option | default | what it says |", "|---|---|---|", *(_row(o, context) for o in options), ""]
    lines += ["Example:" if len(command.examples) == 1 else "Examples:", "", "```", *command.examples, "```", ""]
    if codes := EXIT_CODES[name]:
        lines += [f"Exit codes beside 0 and 2: {', '.join(f'`{c}`' for c in codes)}.", ""]
    yield "\n".join(lines)


def _row(option: click.Option, context: click.Context) -> str:
    value = "" if option.is_flag else f" {_value(option, context)}"
    names = ", ".join(f"`{name}{value if name == option.opts[-1] else ''}`" for name in option.opts)
    default = f"`{option.default}`" if option.show_default else ""
    said = (option.help or "").replace("|", "\\|")
    if option.multiple and "repeated" not in said:
        said += " May be repeated."
    return f"| {names} | {default} | {said} |"


def _value(option: click.Option, context: click.Context) -> str:
    """What stands for an option's value, with the range of a number."""
    if isinstance(option.type, click.IntRange) and option.metavar is None:
        low, high = option.type.min, option.type.max
        return f"INTEGER ({low} to {high})" if high is not None else f"INTEGER ({low} or more)"
    return option.make_metavar(context)


if __name__ == "__main__":
    print(command_reference(), end="")
