"""A run, from the workload to certified finalists: baselines first, then the sampler, every result durable at once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from modeltailor.errors import ModelTailorError, StudyConflict
from modeltailor.search.absent import TO_MEASURE, absent_profile, note_of, predict_absent, to_measure_text
from modeltailor.search.course import Course, front_objectives
from modeltailor.search.describing import job_key
from modeltailor.search.finalize import certify_finalists
from modeltailor.search.fleet import finalists_on_all, study_objectives
from modeltailor.search.groundwork import lay_groundwork
from modeltailor.search.local_executor import LocalExecutor
from modeltailor.search.loop import SearchLoop
from modeltailor.search.opening import measure_baselines, on_the_original, prepare, probe
from modeltailor.search.records import RunHistory
from modeltailor.search.request import Progress, RunRequest
from modeltailor.search.run_folder import FINALS_AMONG, RunFolder
from modeltailor.workloads import resolve_metric

if TYPE_CHECKING:
    from optuna import Study

__all__ = ["run_search"]


def run_search(request: RunRequest, notify: Callable[[Progress], None] = lambda _: None) -> RunHistory:
    """Run a search, or continue one, and return everything that was found.

    Whatever stops it, every trial that was reported before is in the run folder; ``resume`` goes on from there.

    Raises:
        ConfigError, ModelError, DataError: the input cannot be used; nothing is lost.
        StudyConflict: the folder is busy, holds another job, or a run and ``resume`` was not asked for.
        EnvironmentFault, DeviceError: disk, storage or device failed.
        KeyboardInterrupt: stopped by the user.
    """
    resolve_metric(request.spec.metric, request.spec.root)  # one that does not exist must not leave a folder behind
    folder = RunFolder(request.out)
    if folder.exists() and not request.resume:
        raise StudyConflict(
            "RUN-04",
            request.out,
            "holds a run already",
            f"continue it with `modeltailor resume {request.out}` or `modeltailor search --resume`, or choose another --out",
        )
    folder.create()
    folder.lock()
    executor = LocalExecutor(
        spec=request.spec,
        folder=folder,
        device=request.device,
        plan=request.plan,
        cache=request.cache,
        cores=os.cpu_count() or 1,
        memory=request.budget.memory_bytes is not None,
        others=request.others,
    )
    try:
        study = _open_study(request, folder)
        return _phases(Course(request, notify, folder=folder, study=study, executor=executor))
    finally:
        executor.close()
        folder.unlock()


def _open_study(request: RunRequest, folder: RunFolder) -> Study:
    objectives = study_objectives(front_objectives(request), request.others)
    study = folder.study(create=True, n_objectives=len(objectives))
    own = job_key(request.job)
    if study.user_attrs.get("job_key", own) != own:
        raise StudyConflict(
            "RUN-05", request.out, "was made for another job", "choose another --out, or resume with the same job"
        )
    study.set_user_attr("job_key", own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # metric names are marked experimental upstream
        study.set_metric_names(list(objectives))
    folder.write_text("job.yaml", request.job_text)
    return study


def _phases(course: Course) -> RunHistory:
    course.say("loading model and data")
    facts = prepare(course)
    again = course.ledger.recover()
    course.executor.remember(course.ledger.records())
    if again:
        course.folder.event("recovered", trials=again)
    if course.ledger.attribute(FINALS_AMONG) is None:  # finalists of a version that did not write it down
        _keep_among(course)
    course.phase = "baselines"
    with on_the_original():
        sites = course.timed("build", course.executor.sites)
    probed, further = probe(course, [s.site for s in sites])
    fp32, settings = measure_baselines(course, probed, further)
    course.ledger.keep("trial_timeout_s", course.plan.trial_timeout_s)
    course.phase = "search"
    course.add_notes(*facts.notes, *probed.notes)
    if not _is_over(course):
        reason = course.used_up()  # by the baselines: what a search stands on takes time, too
        if not reason:
            reason = SearchLoop(course, lay_groundwork(course, facts, fp32, settings, probed)).run()
        course.ledger.keep("stopped_at", {"trials": course.plan.trials, "time_s": course.plan.time_s})
        course.ledger.keep("stopped", reason)
    course.phase = "finals"
    _finish(course)
    course.phase = "done"
    course.say("done")
    return course.history()


def _is_over(course: Course) -> bool:
    """Whether the search stopped before, and neither more trials nor more time were given since.

    Who gives more wants more: a search that had stopped because nothing was to be gained goes on, too.
    """
    if not course.ledger.attribute("stopped"):
        return False
    plan, before = course.plan, course.ledger.attribute("stopped_at", {"trials": 0, "time_s": 0.0})
    if course.used_up():
        return True
    return bool(plan.trials <= before["trials"] and plan.time_s <= before["time_s"])


def _finish(course: Course) -> None:
    history = course.history()
    finalists = finalists_on_all(history, minimize=course.metric.minimize)
    done = {f.key: f for f in history.finals}
    if all(t.key in done for t in finalists):
        _keep_among(course)
    else:
        longest_s = max(course.plan.time_s - course.elapsed(), 0.5 * course.reserve())
        left = min(longest_s, course.reserve())
        course.say(f"certifying {len(finalists)} finalists")
        finals = course.timed(
            "finals",
            lambda: certify_finalists(course.executor, finalists, seconds=left, longest_s=longest_s, say=course.say),
        )
        course.ledger.keep("predicted", [])  # of the models that a decision could fall on before
        if finals:  # what was certified before stands beside it: it may be the one that keeps the limits on ``test``
            kept = done | {f.key: f for f in finals}
            course.ledger.keep("finals", [f.model_dump() for f in kept.values()])
            _keep_among(course)
        else:
            course.add_notes(
                "the finalists could not be measured again: figures are those of the trials, or certified before"
            )
        if 0 < len(finals) < len(finalists):
            course.add_notes(
                f"{len(finalists) - len(finals)} of {len(finalists)} finalists were not certified: they failed when measured "
                "again, or there was no time left for them"
            )
        _note_seen_samples(course, course.history())
    course.timed("predict", lambda: _predict(course))
    course.keep_times()
    course.publish(course.history())
    course.folder.event("finished", stopped=course.ledger.attribute("stopped"))
    course.folder.drop_work()


def _keep_among(course: Course) -> None:
    """Write down that the finalists, if there are any, were chosen among all that was found so far.

    After the finalists themselves: a kill between the two leaves too much in the choice, and nothing out of it.
    """
    if course.ledger.attribute("finals"):
        course.ledger.keep(FINALS_AMONG, [t.number for t in course.ledger.records()])


def _predict(course: Course) -> None:
    """Where another machine stood in for the device: predict what the models take there, list what to measure there.

    What a run that was stopped, or failed at it, left out is made up for by the next one that comes here.
    """
    history = course.history()
    profile = absent_profile(history)
    if profile is None:
        return
    if not history.predicted:
        course.say(f"predicting the latency on {profile.name}")
        shapes = {name: value.shape for name, value in course.executor.inputs().items()}
        course.drop_note(course.ledger.attribute("unpredicted", ""))
        try:
            found = predict_absent(history, course.folder.artifact, shapes)
        except ModelTailorError as error:  # what was measured stands without it
            course.add_notes(note_of(error))
            course.ledger.keep("unpredicted", note_of(error))
            return
        course.ledger.keep("predicted", [p.model_dump() for p in found])
    text = to_measure_text(course.history())
    if text:
        course.folder.write_text(TO_MEASURE, text)


def _note_seen_samples(course: Course, history: RunHistory) -> None:
    """Say it when the original does much better on ``search`` than on ``test``: it has probably seen those samples."""
    fp32 = history.baseline
    test = next((f.test_accuracy for f in history.finals if fp32 is not None and f.key == fp32.key), None)
    if fp32 is None or fp32.accuracy is None or test is None:
        return
    search = fp32.accuracy
    apart = search.high < test.low if course.metric.minimize else search.low > test.high
    if apart:
        course.add_notes(
            f"the original scores {search.value:.4f} on search and {test.value:.4f} on test: it has probably seen the "
            "search samples in training, so what retrained models lose on search says less than what they lose on test"
        )
