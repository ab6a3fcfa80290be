"""The public API: ``tailor`` a job, or load a run that exists."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from modeltailor.errors import ConfigError
from modeltailor.job import Job, load_job, parse_job
from modeltailor.targets import Budget, Device

if TYPE_CHECKING:
    import pandas as pd

    from modeltailor.reports import ModelSummary, RunSummary
    from modeltailor.search.run import Progress

__all__ = ["Run", "default_cache", "load_run", "tailor"]


def default_cache() -> Path:
    """The user's cache folder; ``MODELTAILOR_CACHE`` names another one."""
    named = os.environ.get("MODELTAILOR_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "modeltailor"


class Run:
    """A run that exists on disk.

    Args:
        folder: the run folder.

    Raises:
        StudyConflict: it is no run folder.
    """

    def __init__(self, folder: Path) -> None:
        from modeltailor.reports import summarize
        from modeltailor.search.run_folder import RunFolder

        self.folder = Path(folder)
        self.history = RunFolder(self.folder).read()
        self.summary: RunSummary = summarize(self.history)

    @property
    def front(self) -> pd.DataFrame:
        """The Pareto front, one row a model, fastest first."""
        from modeltailor.reports import front_frame

        return front_frame(self.summary)

    @property
    def best(self) -> ModelSummary | None:
        """The recommended model, or ``None`` if no model keeps the budget."""
        return self.summary.model_of(self.summary.best) if self.summary.best else None

    @property
    def best_path(self) -> Path | None:
        """The recommended model's file."""
        return self.folder / "best.onnx" if self.summary.best else None

    def pick(self, budget: Budget) -> ModelSummary | None:
        """The best model of the run under another budget; ``None`` if none keeps it."""
        from modeltailor.reports import pick

        return pick(self.summary, budget)

    def report(self) -> Path:
        """Write all reports again and return the HTML file's path."""
        from modeltailor.reports import write_reports

        self.summary = write_reports(self.folder, self.history)
        return self.folder / "report.html"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(self.summary.verdict.headline)}</p>" + self.front.to_html()


def load_run(folder: str | Path) -> Run:
    """Load a run folder.

    Raises:
        StudyConflict: it is no run folder.
    """
    return Run(Path(folder))


def tailor(
    job: Job | Mapping[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    root: str | Path | None = None,
    resume: bool = False,
    cache: str | Path | None = None,
    notify: Callable[[Progress], None] = lambda _: None,
    device: Device | None = None,
) -> Run:
    """Search for the Pareto-best compressed models of a job.

    Args:
        job: a :class:`Job`, the same as nested mappings, or the path of a job file.
        out: the run folder; ``runs/<name of the job file>`` if not given.
        root: folder that relative paths start from; the job file's, or the current one.
        resume: continue what stands in ``out``.
        cache: where trained structures are kept between runs; the user's cache folder if not given.
        notify: called with each step of progress.
        device: where latency is measured; the device of the job's target if not given.

    Raises:
        ModelTailorError: see the tree in :mod:`modeltailor.errors`; finished trials are always kept.
    """
    from modeltailor.reports import write_reports
    from modeltailor.search.run import RunRequest, run_search
    from modeltailor.search.run_folder import RunFolder
    from modeltailor.targets import load_profile, open_device

    if isinstance(job, (str, Path)):
        path = Path(job)
        parsed, base = load_job(path), path.resolve().parent
        name = path.stem if path.stem != "job" else path.resolve().parent.name
    else:
        parsed = job if isinstance(job, Job) else parse_job(job)
        base, name = Path.cwd(), "run"
    base = Path(root).resolve() if root is not None else base
    place = Path(out) if out is not None else Path("runs") / name
    _refuse_inputs_folder(place, parsed, base)
    profile = load_profile(parsed.target, folder=base)
    as_data = parsed.model_dump(mode="json")
    folder = RunFolder(place)

    def tell(progress: Progress) -> None:
        if progress.history is not None and (progress.trial is not None or progress.phase == "done"):
            write_reports(place, progress.history)
        notify(progress)

    request = RunRequest(
        spec=parsed.workload(base),
        device=device if device is not None else open_device(profile),
        profile=profile.model_dump(mode="json"),
        budget=parsed.limits(),
        plan=parsed.plan(),
        out=place,
        job=as_data,
        job_text=yaml.safe_dump(as_data, sort_keys=False),
        cache=Path(cache) if cache is not None else default_cache(),
        resume=resume,
    )
    history = run_search(request, tell)
    write_reports(folder.path, history)
    return Run(place)


def _refuse_inputs_folder(out: Path, job: Job, root: Path) -> None:
    place = out.resolve()
    if place == root.resolve():
        raise ConfigError("CFG-13", "--out", f"{out} is the folder of the job's own input", "choose another folder")
    for given in (job.model.source, job.model.weights, job.data.train, job.data.search):
        path = (root / given).resolve() if given else place.parent
        if path.is_dir() and given and (place == path or path in place.parents):
            raise ConfigError(
                "CFG-13", "--out", f"{out} is, or lies inside, the input {given}", "choose another folder"
            )
