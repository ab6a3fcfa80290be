"""``modeltailor completion``."""

from __future__ import annotations

import click

from modeltailor.commands.lazy_group import Command

__all__ = ["command"]


@click.command(
    cls=Command,
    examples=[
        'eval "$(modeltailor completion bash)"            # in ~/.bashrc',
        'eval "$(modeltailor completion zsh)"             # in ~/.zshrc',
        "modeltailor completion fish > ~/.config/fish/completions/modeltailor.fish",
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that lets a shell complete commands, options, targets and run folders."""
    from click.shell_completion import get_completion_class

    from modeltailor.cli import cli

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(cli, {}, "modeltailor", "_MODELTAILOR_COMPLETE").source())
