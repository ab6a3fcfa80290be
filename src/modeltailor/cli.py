"""The command line: a thin call on the API. Heavy libraries load only in the command that needs them."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import click

from modeltailor import __version__
from modeltailor.errors import ConfigError, ModelTailorError, StudyConflict

__all__ = ["main"]

_STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


class _Stopped(BaseException):
    """A signal asked the run to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _quantity(parse: str) -> Any:
    def callback(_: click.Context, parameter: click.Parameter, value: str | None) -> Any:
        from modeltailor import quantity

        if value is None:
            return None
        try:
            return getattr(quantity, parse)(value)
        except ValueError as error:
            raise ConfigError(
                "CFG-07", f"--{(parameter.name or '').replace('_', '-')}", str(error), "mend this value"
            ) from error

    return callback


_BUDGET_OPTIONS = (
    click.option("--max-drop", type=float, help="Largest loss in points of the metric (1.0 = one percent point)."),
    click.option("--min-accuracy", type=float, help="Smallest allowed value of the metric."),
    click.option("--latency", callback=_quantity("parse_latency_ms"), help="Limit of one inference, e.g. 2ms."),
    click.option("--size", callback=_quantity("parse_size_bytes"), help="Limit of the file, e.g. 200KB."),
    click.option("--memory", callback=_quantity("parse_size_bytes"), help="Limit of peak memory, e.g. 64MB."),
)


def _budget_options(command: Any) -> Any:
    for option in reversed(_BUDGET_OPTIONS):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="modeltailor")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    r"""Tailor a neural network to a device and a budget.

    \b
    Start here:
      modeltailor demo
      modeltailor init
      modeltailor search job.yaml --time 20m
    """


@cli.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True, help="Run folder."
)
@click.option(
    "--time", "time_", default="170s", show_default=True, callback=_quantity("parse_duration_s"), help="Wall clock."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-q", "--quiet", is_flag=True, help="Show the result only.")
def demo(out: Path, time_: float, seed: int, quiet: bool) -> None:
    r"""Handwritten digits: train a small network, search, report into runs/demo.

    \b
    Example:
      modeltailor demo
    """
    from modeltailor.targets import Child

    weights = out.parent / f"{out.name}-inputs" / "weights.safetensors"
    if not weights.exists():
        if not quiet:
            click.echo("training a small network on handwritten digits (about 15 s)", err=True)
        with Child(threads=os.cpu_count() or 1, name="demo") as child:
            child.call("modeltailor.demo:train", timeout_s=300.0, weights=weights)
    job = {
        "model": {"source": "modeltailor.demo:build", "weights": weights.name, "student": "modeltailor.demo:student"},
        "data": "modeltailor.demo:load",
        "metric": "accuracy",
        "target": "desktop-cpu",
        "budget": {"max_drop": 1.0},
        "search": {"trials": 40, "time": time_, "seed": seed},
    }
    _search(job, out=out, root=weights.parent, resume=out.exists(), quiet=quiet, cache=None, as_json=False)


@cli.command()
@click.argument("job_file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; runs/NAME by default.")
@click.option("--trials", type=int, help="Candidates in the whole study.")
@click.option("--time", "time_", help="Wall clock of the run, e.g. 20m.")
@click.option("--seed", type=int, help="Of everything that is drawn.")
@click.option("--target", help="Profile to measure under; see `modeltailor targets list`.")
@_budget_options
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override any key, e.g. search.axes=[formats]."
)
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder for trained structures.")
@click.option("--json", "as_json", is_flag=True, help="Print summary.json on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Show the result only.")
def search(
    job_file: Path,
    out: Path | None,
    assignments: tuple[str, ...],
    resume: bool,
    cache: Path | None,
    as_json: bool,
    quiet: bool,
    **overrides: Any,
) -> None:
    r"""Search for the best models under the budget of JOB_FILE.

    \b
    Example:
      modeltailor search job.yaml --time 20m --max-drop 1.0 --size 200KB
    """
    from modeltailor.job import load_job

    where = {
        "trials": "search.trials", "time_": "search.time", "seed": "search.seed", "target": "target",
        "max_drop": "budget.max_drop", "min_accuracy": "budget.min_accuracy", "latency": "budget.latency",
        "size": "budget.size", "memory": "budget.memory",
    }  # fmt: skip
    given = tuple(f"{where[k]}={v}" for k, v in overrides.items() if v is not None)
    job = load_job(job_file, (*assignments, *given))
    name = job_file.stem if job_file.stem != "job" else job_file.resolve().parent.name
    _search(
        job,
        out=out or Path("runs") / name,
        root=job_file.resolve().parent,
        resume=resume,
        quiet=quiet,
        cache=cache,
        as_json=as_json,
    )


def _search(job: Any, *, out: Path, root: Path, resume: bool, quiet: bool, cache: Path | None, as_json: bool) -> None:
    from rich.console import Console

    from modeltailor.api import tailor
    from modeltailor.live import LiveView

    def stop(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one is immediate
        raise _Stopped(number)

    for number in _STOPPED:
        signal.signal(number, stop)
    console = Console(stderr=True)
    try:
        with LiveView(console, quiet=quiet) as view:
            run = tailor(job, out=out, root=root, resume=resume, cache=cache, notify=view)
    except _Stopped as stopped:
        click.echo(
            f"stopped by {signal.Signals(stopped.number).name}; finished trials are in {out}. "
            f"Continue: the same command with --out {out} --resume",
            err=True,
        )
        sys.exit(_STOPPED[signal.Signals(stopped.number)])
    if as_json:
        click.echo((out / "summary.json").read_text())
    else:
        _show(run, out)
    if run.best is None:
        _fail(
            ModelTailorError(
                "GOAL-01", str(out), run.summary.verdict.headline.rstrip("."), "loosen that limit, or search longer"
            ),
            code=4,
        )


def _show(run: Any, out: Path) -> None:
    from modeltailor.reports import print_summary

    print_summary(run.summary)
    click.echo(f"\nreport: {out / 'report.html'}")
    if run.best is not None:
        click.echo(f"model:  {out / 'best.onnx'}")


@cli.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
def report(run_folder: Path) -> None:
    r"""Write all reports of RUN_FOLDER again.

    \b
    Example:
      modeltailor report runs/demo
    """
    from modeltailor.api import load_run

    run = load_run(_existing(run_folder))
    run.report()
    _show(run, run_folder)


@cli.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@_budget_options
@click.option("--to", type=click.Path(path_type=Path), help="Copy the picked model here.")
def pick(run_folder: Path, to: Path | None, **limits: Any) -> None:
    r"""Another budget, no new search: the best model of RUN_FOLDER under it.

    \b
    Example:
      modeltailor pick runs/demo --size 150KB
    """
    from modeltailor.api import load_run
    from modeltailor.errors import NoFeasibleModel
    from modeltailor.reports import summarize, verdict_lines
    from modeltailor.search.run_folder import RunFolder
    from modeltailor.targets import Budget

    run = load_run(_existing(run_folder))
    budget = Budget(
        latency_ms=limits["latency"],
        size_bytes=limits["size"],
        memory_bytes=limits["memory"],
        min_accuracy=limits["min_accuracy"],
        max_drop=limits["max_drop"],
    )
    summary = summarize(run.history, budget)
    if not summary.best:
        raise NoFeasibleModel(
            "GOAL-01", run_folder, summary.verdict.headline.rstrip("."), "loosen that limit, or search longer"
        )
    for line in verdict_lines(summary):
        click.echo(line)
    found = summary.model_of(summary.best)
    assert found is not None
    source = RunFolder(run_folder).artifact(found.sha256)
    if to is not None:
        from modeltailor.durable import write_bytes

        write_bytes(to, source.read_bytes())
        source = to
    click.echo(str(source))


@cli.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("job.yaml"), show_default=True)
@click.option("--model", help="model.py:build, package.module:function, model.onnx or a Hugging Face folder.")
@click.option("--weights", default="", help="weights.safetensors")
@click.option("--data", help="data.py:load, or a .npz file with arrays x and y.")
@click.option("--metric", default="accuracy", show_default=True)
@click.option("--target", help="Profile, see `modeltailor targets list`.")
@_budget_options
@click.option("--force", is_flag=True, help="Replace an existing file.")
def init(
    out: Path,
    model: str | None,
    weights: str,
    data: str | None,
    metric: str,
    target: str | None,
    force: bool,
    **limits: Any,
) -> None:
    r"""Write a commented job.yaml; asks for what is not given.

    \b
    Example:
      modeltailor init --model model.py:build --weights weights.safetensors --data data.py:load
    """
    from modeltailor.job_template import render_job
    from modeltailor.targets import list_profiles

    if out.exists() and not force:
        raise ConfigError("CFG-13", out, "exists already", "choose another --out, or pass --force")
    ask = sys.stdin.isatty()

    def want(value: str | None, question: str, default: str | None = None) -> str:
        if value is not None:
            return value
        if ask:
            return str(click.prompt(question, default=default))
        if default is not None:
            return default
        raise ConfigError(
            "CFG-04", f"--{question.split(maxsplit=1)[0].lower()}", "is needed", "pass it, or run this in a terminal"
        )

    chosen_target = want(target, f"target device ({', '.join(p.name for p in list_profiles())})", "desktop-cpu")
    if ask and all(v is None for v in limits.values()):
        limits["max_drop"] = click.prompt("largest loss in points of the metric", default=1.0, type=float)
    text = render_job(
        model=want(model, "model (model.py:build, model.onnx, folder)"),
        weights=weights,
        data=want(data, "data (data.py:load or file.npz)"),
        metric=metric,
        target=chosen_target,
        limits={k: v for k, v in limits.items() if v is not None},
    )
    out.write_text(text)
    click.echo(f"wrote {out}; next: modeltailor search {out}")


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--target", default="desktop-cpu", show_default=True, help="Profile whose threads and provider are used.")
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Where the file leaves it free."
)
@click.option(
    "--shape", "shapes", multiple=True, metavar="NAME=1,3,32,32", help="Shape of an input with more free dimensions."
)
def audit(model: Path, target: str, batch: int, shapes: tuple[str, ...]) -> None:
    r"""What really executes in MODEL after graph optimization, and why it is not faster.

    \b
    Example:
      modeltailor audit model.onnx
    """
    from rich.console import Console
    from rich.table import Table

    from modeltailor.errors import shown
    from modeltailor.estimators.audit import audit as look
    from modeltailor.estimators.bench import example_inputs
    from modeltailor.targets import load_profile, open_device

    device = open_device(load_profile(target, folder=Path.cwd()))
    options = device.describe().options
    device.close()
    found = look(model, example_inputs(model, shapes=_shapes(shapes), batch=batch), options)
    table = Table(box=None, pad_edge=False)
    for column in ("share", "kernel", "precision", "node"):
        table.add_column(column)
    for node in sorted(found.nodes, key=lambda n: -n.share)[:20]:
        table.add_row(f"{node.share:6.1%}", node.op_type, node.precision, shown(node.name, 50))
    Console().print(table)
    for fall in found.fall_backs[:10]:
        click.echo(f"  {shown(fall.name, 50)}: {fall.reason}")
    click.echo(found.sentence)


@cli.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--target", default="desktop-cpu", show_default=True, help="Profile to measure under.")
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Where the file leaves it free."
)
@click.option(
    "--shape", "shapes", multiple=True, metavar="NAME=1,3,32,32", help="Shape of an input with more free dimensions."
)
@click.option(
    "--time", "time_", default="60s", show_default=True, callback=_quantity("parse_duration_s"), help="Wall clock."
)
def bench(files: tuple[Path, ...], target: str, batch: int, shapes: tuple[str, ...], time_: float) -> None:
    r"""Compare the latency of ONNX FILES; the first is the baseline.

    \b
    Example:
      modeltailor bench fp32.onnx int8.onnx
    """
    from rich.console import Console
    from rich.table import Table

    from modeltailor.errors import shown
    from modeltailor.estimators.bench import compare_files
    from modeltailor.targets import load_profile, open_device

    device = open_device(load_profile(target, folder=Path.cwd()))
    try:
        found = compare_files(device, files, shapes=_shapes(shapes), batch=batch, seconds=time_)
    finally:
        device.close()
    table = Table(box=None, pad_edge=False)
    for column in ("file", "speedup", "95 % interval", "latency", "load", "peak memory", "size", "verdict"):
        table.add_column(column)
    for row in found.rows:
        m = row.measured
        memory = "-" if m.peak_memory_bytes is None else f"{m.peak_memory_bytes / 1e6:.1f} MB"
        table.add_row(
            shown(row.path.name, 40), f"{m.speedup.value:.3f}x", f"{m.speedup.low:.3f} to {m.speedup.high:.3f}",
            f"{m.latency_ms.value:.3f} ms", f"{m.load_ms:.1f} ms", memory, f"{row.size_bytes:,} bytes", m.verdict,
        )  # fmt: skip
    Console().print(table)
    click.echo(f"{found.rows[0].measured.latency_ms.evidence}, {found.facts.runtime}, {found.facts.processor}")


def _shapes(given: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
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


@cli.group()
def targets() -> None:
    """Device profiles."""


@targets.command("list")
def targets_list() -> None:
    r"""List the device profiles.

    \b
    Example:
      modeltailor targets list
    """
    from rich.console import Console
    from rich.table import Table

    from modeltailor.targets import list_profiles

    table = Table(box=None, pad_edge=False)
    for column in ("name", "kind", "device", "runtime", "measured"):
        table.add_column(column)
    for p in list_profiles():
        here = "on this machine" if p.reach == "local" else "here, as a stand-in"
        table.add_row(p.name, p.kind, p.title, f"{p.provider}, {p.threads} threads", here)
    Console().print(table)


@targets.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True)
def targets_show(name: str, as_json: bool) -> None:
    r"""Show a profile with the source of each figure.

    \b
    Example:
      modeltailor targets show desktop-cpu
    """
    import yaml

    from modeltailor.targets import load_profile

    data = load_profile(name).model_dump(mode="json", exclude_none=True)
    click.echo(
        json.dumps(data, indent=2) if as_json else yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip()
    )


@targets.command("probe")
@click.argument("name", default="desktop-cpu")
def targets_probe(name: str) -> None:
    r"""Measure which number formats pay on a device; a minute, kept in the cache.

    \b
    Example:
      modeltailor targets probe desktop-cpu
    """
    from rich.console import Console
    from rich.table import Table

    from modeltailor.api import default_cache
    from modeltailor.targets import load_profile, open_device
    from modeltailor.targets.probe import probe

    device = open_device(load_profile(name, folder=Path.cwd()))
    try:
        found = probe(device, cache=default_cache() / "probes")
    finally:
        device.close()
    table = Table(box=None, pad_edge=False)
    for column in ("kind", "format", "variant", "ms", "against the first of its kind"):
        table.add_column(column)
    for e in found.entries:
        ran = e.ms is not None and e.speedup is not None
        table.add_row(
            e.kind, e.format, e.detail, f"{e.ms:.4f}" if ran else "-", f"{e.speedup:.2f}x" if ran else e.error
        )
    Console().print(table)
    click.echo(f"{found.evidence} on {found.device}; {found.seconds:.0f} s")
    if found.left_out:
        click.echo(f"not reached in time: {', '.join(found.left_out)}")


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise StudyConflict("RUN-03", folder, "no such run folder", "name a folder that `modeltailor search` made")
    return folder


def _fail(error: ModelTailorError, code: int | None = None) -> NoReturn:
    click.echo(error.line(), err=True)
    sys.exit(error.exit_code if code is None else code)


def main() -> None:
    """Run the command line; every error is one line and its exit code."""
    debug = "--debug" in sys.argv
    try:
        cli(standalone_mode=False)
    except ModelTailorError as error:
        if debug:
            traceback.print_exc()
        _fail(error)
    except click.ClickException as error:
        click.echo(f"error[CFG-00] command line: {error.format_message()} See modeltailor --help.", err=True)
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
