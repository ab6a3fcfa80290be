"""The command line: finds the command in :mod:`modeltailor.commands`, turns every error into one line and its exit code."""

from __future__ import annotations

import sys
import traceback

import click

from modeltailor import __version__
from modeltailor.commands import SECTIONS
from modeltailor.commands.lazy_group import LazyGroup
from modeltailor.errors import ModelTailorError

__all__ = ["cli", "main"]

_HELP = """Tailor a neural network to a device and a budget.

\b
Start here:
  modeltailor demo
  modeltailor init
  modeltailor search job.yaml --time 20m
"""

cli = LazyGroup(
    package="modeltailor.commands",
    sections=SECTIONS,
    name="modeltailor",
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    params=[
        click.Option(["--debug"], is_flag=True, expose_value=False, help="Show tracebacks; may stand anywhere."),
    ],
)
cli = click.version_option(__version__, prog_name="modeltailor")(cli)


def _arguments() -> tuple[list[str], bool]:
    """The arguments without ``--debug``, and whether it was among them (before a ``--``)."""
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    kept = [a for a in given[:end] if a != "--debug"]
    return kept + given[end:], len(kept) < end


def main() -> None:
    """Run the command line; every error is one line and its exit code."""
    arguments, debug = _arguments()
    try:
        code = cli.main(arguments, prog_name="modeltailor", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except ModelTailorError as error:
        if debug:
            traceback.print_exc()
        click.echo(error.line(), err=True)
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        from modeltailor.commands.usage import explain

        click.echo(explain(error).line(), err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        click.echo(
            f"error[BUG-01] modeltailor: {type(error).__name__}: {error}. This is a fault of ours; run with --debug and report it.",
            err=True,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
