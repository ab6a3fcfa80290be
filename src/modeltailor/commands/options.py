"""Options that several commands share, and values as people write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from modeltailor.errors import ConfigError, StudyConflict

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from modeltailor.targets import Budget

__all__ = [
    "DURATION",
    "LATENCY",
    "PATH",
    "RUN",
    "SIZE",
    "TARGET",
    "assignments_option",
    "budget_from",
    "budget_options",
    "existing_run",
    "input_shapes",
    "json_option",
    "place_to_write",
    "quiet_option",
    "replacing_option",
    "shape_options",
    "target_option",
]

F = TypeVar("F", bound=Callable[..., Any])


class _Quantity(click.ParamType[float]):
    """A number with a unit.

    Args:
        name: shown as the option's value in the help.
        parse: name of the function in :mod:`modeltailor.quantity`.
    """

    def __init__(self, name: str, parse: str) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number in the unit of the parsing function.

        Raises:
            ConfigError: it is no quantity of this kind, or not above zero.
        """
        from modeltailor import quantity

        try:
            return getattr(quantity, self.parse)(value)
        except ValueError as error:
            where = param.opts[0] if param is not None else self.name
            raise ConfigError("CFG-07", where, str(error), "mend this value") from error


LATENCY = _Quantity("ms", "parse_latency_ms")
SIZE = _Quantity("bytes", "parse_size_bytes")
DURATION = _Quantity("time", "parse_duration_s")
PATH = click.Path(path_type=Path)


class _TargetName(click.ParamType[str]):
    """The name of a device profile; completed by the shell."""

    name = "name"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """List the profiles that begin like this."""
        from click.shell_completion import CompletionItem

        from modeltailor.targets import list_profiles

        return [CompletionItem(p.name, help=p.title) for p in list_profiles() if p.name.startswith(incomplete)]


class _RunFolder(click.Path):
    """A run folder; the shell completes folders only."""

    name = "folder"

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Leave it to the shell, folders only."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir")]


TARGET = _TargetName()
RUN = _RunFolder()

target_option = click.option(
    "--target",
    type=TARGET,
    default="desktop-cpu",
    show_default=True,
    help="Profile to measure under; see `modeltailor targets list`.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else there.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Show the result only.")
replacing_option = click.option("--force", is_flag=True, help="Replace a file that is there.")
assignments_option = click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override any key, e.g. search.axes=[formats]."
)

_BUDGET = (
    click.option(
        "--max-drop",
        type=float,
        help="Largest loss in points: hundredths of the metric's unit (1.0 is 0.01 of accuracy, one percent point).",
    ),
    click.option(
        "--min-accuracy",
        type=float,
        help="Worst allowed value of the metric: the smallest, or the largest where smaller is better.",
    ),
    click.option("--latency", type=LATENCY, help="Limit of one inference, e.g. 2ms."),
    click.option("--size", type=SIZE, help="Limit of the file, e.g. 200KB."),
    click.option("--memory", type=SIZE, help="Limit of peak memory, e.g. 64MB."),
)
_SHAPES = (
    click.option(
        "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Where the file leaves it free."
    ),
    click.option(
        "--shape",
        "shapes",
        multiple=True,
        metavar="NAME=1,3,32,32",
        help="Shape of an input with more free dimensions.",
    ),
)


def budget_options(command: F) -> F:
    """Give a command ``--max-drop``, ``--min-accuracy``, ``--latency``, ``--size`` and ``--memory``."""
    for option in reversed(_BUDGET):
        command = option(command)
    return command


def shape_options(command: F) -> F:
    """Give a command ``--batch`` and ``--shape``."""
    for option in reversed(_SHAPES):
        command = option(command)
    return command


def budget_from(limits: dict[str, Any]) -> Budget:
    """Return the budget of the values of :func:`budget_options`.

    Raises:
        ConfigError: a limit is out of its range.
    """
    from modeltailor.targets import Budget

    return Budget(
        latency_ms=limits["latency"],
        size_bytes=limits["size"],
        memory_bytes=limits["memory"],
        min_accuracy=limits["min_accuracy"],
        max_drop=limits["max_drop"],
    )


def input_shapes(given: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Return shapes by input name of ``--shape NAME=1,3,32,32`` values.

    Raises:
        ConfigError: a value has another form.
    """
    made: dict[str, tuple[int, ...]] = {}
    for text in given:
        name, equals, sizes = text.rpartition("=")
        try:
            made[name] = tuple(int(s) for s in sizes.split(","))
        except ValueError:
            equals = ""
        if not equals or not name:
            raise ConfigError("CFG-15", "--shape", f"must be NAME=1,3,32,32; got '{text}'", "give every dimension")
    return made


def place_to_write(path: Path, option: str, *, replace: bool = False, runs: Sequence[Path] = ()) -> Path:
    """Return ``path`` if a file can be put there.

    Args:
        path: where a file is to be written.
        option: that named it.
        replace: whether a file that is there may be replaced.
        runs: run folders; nothing may be written into them, whatever ``replace`` says.

    Raises:
        ConfigError: its folder is not there, it is a folder itself, it lies in a run, or it exists already.
    """
    if path.is_dir():
        raise ConfigError("CFG-01", option, f"{path} is a folder", "name a file in it")
    if not path.absolute().parent.is_dir():
        raise ConfigError("CFG-01", option, f"there is no folder {path.parent}", "make it first")
    if any(run.resolve() in path.resolve().parents for run in runs):
        raise ConfigError("CFG-13", option, f"{path} lies in the run folder", "choose another place")
    if path.exists() and not replace:
        raise ConfigError("CFG-13", option, f"{path} exists already", "choose another, or pass --force")
    return path


def existing_run(folder: Path) -> Path:
    """Return ``folder`` if it is there.

    Raises:
        StudyConflict: it is not.
    """
    if not folder.is_dir():
        raise StudyConflict("RUN-03", folder, "no such run folder", "name a folder that `modeltailor search` made")
    return folder
