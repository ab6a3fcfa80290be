"""The public API: ``tailor`` a job, or load a run that exists."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from modeltailor.errors import ConfigError
from modeltailor.job import Job, load_job, parse_job
from modeltailor.places import profile_of
from modeltailor.run import Run
from modeltailor.run_state import write_origin, write_state
from modeltailor.targets import Device

if TYPE_CHECKING:
    from modeltailor.search.request import Progress

__all__ = ["Run", "default_cache", "load_run", "tailor"]


def default_cache() -> Path:
    """The user's cache folder; ``MODELTAILOR_CACHE`` names another one."""
    named = os.environ.get("MODELTAILOR_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "modeltailor"


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
    others: Sequence[Device] = (),
) -> Run:
    """Search for the Pareto-best compressed models of a job.

    Args:
        job: a :class:`Job`, the same as nested mappings, or the path of a job file.
        out: the run folder; ``runs/<name of the job file>`` if not given.
        root: folder that relative paths start from; the job file's, or the current one.
        resume: continue what stands in ``out``.
        cache: where trained structures are kept between runs; the user's cache folder if not given.
        notify: called with each step of progress.
        device: where latency is measured; the device of the job's (first) target if not given.
        others: where a job with several targets measures for the further ones; their devices if not given.

    Raises:
        ModelTailorError: see the tree in :mod:`modeltailor.errors`; finished trials are always kept.
    """
    from modeltailor.reports import write_reports
    from modeltailor.search import RunRequest, run_search
    from modeltailor.search.elsewhere import FurtherDevice
    from modeltailor.search.run_folder import disk_faults
    from modeltailor.targets import open_device

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
    (first, budget), *rest = parsed.devices()
    profile = profile_of(first, base)
    further = [(profile_of(name, base), limits) for name, limits in rest]
    names = [profile.name, *(p.name for p, _ in further)]
    if len(set(names)) < len(names):
        raise ConfigError("CFG-08", "targets", f"two of them are called alike: {', '.join(names)}", "rename a profile")
    as_data = parsed.model_dump(mode="json")
    kept_structures = Path(cache) if cache is not None else default_cache()
    request = RunRequest(
        spec=parsed.workload(base),
        device=device if device is not None else open_device(profile),
        profile=profile.model_dump(mode="json"),
        budget=budget,
        plan=parsed.plan(),
        out=place,
        job=as_data,
        job_text=yaml.safe_dump(as_data, sort_keys=False),
        cache=kept_structures,
        resume=resume,
        others=tuple(
            FurtherDevice(
                name=p.name,
                device=others[i] if i < len(others) else open_device(p),
                profile=p.model_dump(mode="json"),
                budget=limits,
            )
            for i, (p, limits) in enumerate(further)
        ),
    )
    history = run_search(request, _Teller(place, base, kept_structures, notify))
    with disk_faults(place):
        write_reports(place, history)
    return Run(place)


class _Teller:
    """Writes down each step of a run (where its inputs are, its reports, its state) before anybody is told of it."""

    def __init__(self, folder: Path, root: Path, cache: Path, notify: Callable[[Progress], None]) -> None:
        self.folder = folder
        self.root = root
        self.cache = cache
        self.notify = notify
        self._is_first = True

    def __call__(self, progress: Progress) -> None:
        from modeltailor.reports import write_reports
        from modeltailor.search.run_folder import disk_faults

        with disk_faults(self.folder):
            if self._is_first:  # the folder is ours now
                write_origin(self.folder, self.root, self.cache)
                self._is_first = False
            if progress.history is not None and (progress.trial is not None or progress.phase == "done"):
                write_reports(self.folder, progress.history)
            write_state(self.folder, progress)
        self.notify(progress)


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
