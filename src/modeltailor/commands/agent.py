"""``modeltailor agent``."""

from __future__ import annotations

from pathlib import Path

import click

from modeltailor.commands.lazy_group import Command
from modeltailor.commands.options import PATH, SIZE
from modeltailor.errors import ConfigError, EnvironmentFault

__all__ = ["command"]


@click.command(
    cls=Command,
    examples=[
        "modeltailor agent --port 7070",
        "modeltailor agent --write agent.py    # then, there: python agent.py serve",
    ],
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 in a trusted network only.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 for any free one.")
@click.option(
    "--folder", type=PATH, default=Path("~/.cache/modeltailor-agent"), show_default=True, help="Where files are kept."
)
@click.option("--limit", type=SIZE, default="4GB", show_default=True, help="Most bytes that are kept there.")
@click.option("--memory", type=SIZE, help="Most memory of each measuring process.")
@click.option(
    "--write",
    type=PATH,
    help="Write the agent as one file for a device, and end.",
)
def command(host: str, port: int, folder: Path, limit: int, memory: int | None, write: Path | None) -> None:
    """Let other machines measure on this one.

    Prints host, port and token as one JSON line, then answers until it is stopped. The other side measures with
    --target tcp://HOST:PORT and the token in MODELTAILOR_AGENT_TOKEN. Over SSH no agent needs to be started.
    """
    from modeltailor.targets.agent import device_side

    if write is not None:
        if write.exists():
            raise ConfigError("CFG-13", "--write", f"{write} exists already", "choose another name")
        source = Path(device_side.__file__).read_bytes()
        try:
            write.write_bytes(source)
        except OSError as error:
            raise EnvironmentFault(
                "DISK-01", write, f"cannot write ({error.strerror})", "choose another place"
            ) from error
        click.echo(f"wrote {write}; on the device: python3 {write.name} serve --host 0.0.0.0 --port 7070")
        return
    try:
        device_side.serve(str(folder.expanduser()), host, port, limit, memory or 0)
    except OSError as error:
        raise EnvironmentFault(
            "ENV-02", f"{host}:{port}", f"cannot listen ({error.strerror or error})", "choose another --host or --port"
        ) from error
