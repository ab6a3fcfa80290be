"""What click finds wrong with a command line, in the words and the form of all our errors."""

from __future__ import annotations

import click

from modeltailor.errors import ConfigError

__all__ = ["explain"]


def explain(error: click.ClickException) -> ConfigError:
    """Return the error that a person sees, with exit code 2."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context is not None else "modeltailor"
    ask = f"see `{command} --help`"
    match error:
        case click.NoSuchOption():
            hint = f"did you mean '{error.possibilities[0]}'?" if error.possibilities else ask
            return ConfigError("CFG-00", command, f"no such option '{error.option_name}'", hint)
        case click.MissingParameter() if error.param is not None:
            return ConfigError("CFG-00", command, f"{_named(error.param)} is missing", ask)
        case click.BadParameter() if error.param is not None:
            what = error.message.rstrip(".")
            return ConfigError("CFG-00", command, f"{_named(error.param)}: {what[:1].lower()}{what[1:]}", ask)
        case _:
            what = error.format_message().rstrip(".")
            return ConfigError("CFG-00", command, f"{what[:1].lower()}{what[1:]}", ask)


def _named(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return parameter.make_metavar(click.Context(click.Command("")))
    return max(parameter.opts, key=len)
