"""``docs/commands.md`` is what the commands say of themselves, and the page of exit codes agrees with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from modeltailor.cli import cli
from modeltailor.command_reference import EXIT_CODES, command_reference

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "commands.md"


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli, info_name="modeltailor")
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from _commands(found, (*path, name))
        else:
            yield " ".join((*path, name)), found


def test_the_page_of_commands_says_what_the_commands_say() -> None:
    told = f"run: python -m modeltailor.command_reference > {PAGE.relative_to(ROOT)}"
    assert PAGE.read_text() == command_reference(), told


def test_every_command_stands_there_with_every_option_its_default_and_its_exit_codes() -> None:
    parts = re.split(r"^### `modeltailor ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    pages = {part.partition("`")[0]: part for part in parts}
    commands = dict(_commands(cli))
    assert list(pages) == list(commands)
    for name, command in commands.items():
        page = pages[name]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert f"`{parameter.opts[-1]}" in page or f"`{parameter.opts[0]}" in page, (name, parameter.opts)
                assert str(parameter.help).split("`")[0][:40] in page, (name, parameter.opts)
                if parameter.show_default:
                    assert f"`{parameter.default}`" in page, (name, parameter.opts)
        for code in EXIT_CODES[name]:
            assert f"`{code}`" in page, (name, code)
    assert set(EXIT_CODES) == set(commands)
    assert "`--seed INTEGER` |  | Of everything that is drawn." in pages["search"]
    assert "`--out PATH` | `runs/demo` |" in pages["demo"]


def test_the_page_of_exit_codes_tells_the_same_of_each_command() -> None:
    rows = [ln for ln in (ROOT / "docs" / "exit-codes.md").read_text().splitlines() if ln.startswith("| `modeltailor ")]
    told: dict[str, set[int]] = {}
    for row in rows:
        names, codes = row.strip("|").split("|")[:2]
        for name in re.findall(r"`(?:modeltailor )?([a-z ]+)`", names):
            told[name] = {int(n) for n in re.findall(r"\b\d+\b", codes)}
    search = set(EXIT_CODES["search"])
    assert told.pop("quick") | search == set(EXIT_CODES["quick"])
    for name, codes in told.items():
        assert codes == set(EXIT_CODES[name]), name
    assert {name for name, codes in EXIT_CODES.items() if codes} == {*told, "quick"}
