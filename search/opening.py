"""The first phases of a run: load and check the workload, probe the devices, measure the uniform baselines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from modeltailor.canonical import plain
from modeltailor.compress import Format, Recipe, Settings, Site
from modeltailor.errors import CandidateError, DataError, ModelError, StudyConflict
from modeltailor.search.course import Course
from modeltailor.search.describing import describe_run
from modeltailor.search.fleet import has_static, probe_further
from modeltailor.search.probing import Probed, probe_device, read_table
from modeltailor.search.records import RunRecord, TrialRecord
from modeltailor.search.stages import PreparedFacts

__all__ = ["measure_baselines", "on_the_original", "prepare", "probe"]


def prepare(course: Course) -> PreparedFacts:
    """Load the workload, check that it is the one that the run was started with, and write down what holds for the run.

    Raises:
        ConfigError, ModelError, DataError: it cannot be used.
        StudyConflict: the model or the data changed since the run started.
    """
    structures = bool(set(course.plan.axes) - {"formats"})
    with on_the_original():
        facts = course.timed("prepare", lambda: course.executor.prepare(structures))
    stored = course.study.user_attrs.get("run")
    before = None if stored is None else RunRecord.model_validate_json(stored)
    if before is not None:
        _refuse_changes(course, before, facts)
        _refuse_other_devices(course, before)
    shapes = {name: value.shape for name, value in course.executor.inputs().items()}
    record = describe_run(course.request, facts, course.metric, shapes, before)
    course.study.set_user_attr("run", record.model_dump_json())
    return facts


def _refuse_changes(course: Course, before: RunRecord, facts: PreparedFacts) -> None:
    """Scores of other data, or of another model, must not stand beside those of this run."""
    digests = dict(facts.split_digests)
    scored = {n: before.splits[n]["digest"] for n in ("search", "test") if n in before.splits}
    changed = [n for n, digest in scored.items() if digest and digest != digests.get(n)]
    what = "the model" if before.model["digest"] != facts.digest else f"the {changed[0]} split" if changed else ""
    if what:
        raise StudyConflict(
            "RUN-06",
            course.request.out,
            f"{what} changed since this run started",
            "start a new run, with another --out",
        )


def _refuse_other_devices(course: Course, before: RunRecord) -> None:
    """Times of another machine, runtime or profile must not stand beside those of this run under one device's name."""
    request = course.request
    there = {"": before.device, **{d.name: d.device for d in before.elsewhere}}
    for name, device in (("", request.device), *((o.name, o.device) for o in request.others)):
        facts, known = device.describe(), there.get(name, {}).get("fingerprint")
        if known is not None and known != facts.fingerprint:
            raise StudyConflict(
                "RUN-06",
                request.out,
                f"{facts.name} is another machine, runtime or profile than when this run started",
                "start a new run, with another --out; what it has in common with this one is taken from the cache",
            )


def probe(course: Course, sites: Sequence[Site]) -> tuple[Probed, tuple[Probed, ...]]:
    """What pays on the device and on further ones; decided once a run, so that a resumed one goes on alike."""
    kept = course.ledger.attribute("probe")
    if kept is None:
        course.say("probing what pays on this device")
        table = course.timed(
            "probe",
            lambda: probe_device(course.request.device, sites, cache=course.request.cache, time_s=course.plan.time_s),
        )
        found = _with_room(read_table(table, sites), saturates=course.executor.saturates())
        kept = plain(replace(found, notes=(*found.notes, *_scored_elsewhere(course))))
        course.ledger.keep("probe", kept)
    probed = Probed(**{**kept, "notes": tuple(kept["notes"])})
    further = _probe_further(course, sites)
    course.executor.channel_multiple = max(p.channel_multiple for p in (probed, *further))
    return replace(probed, notes=(*probed.notes, *(n for p in further for n in p.notes))), further


def _with_room(probed: Probed, *, saturates: bool) -> Probed:
    if not saturates:
        return probed
    note = (
        "8-bit weights keep to 7 bits: without VNNI, integer kernels add pairs of products in 16 bits, and full 8-bit "
        "weights would saturate there"
    )
    return replace(probed, saturates=True, notes=(*probed.notes, note))


def _scored_elsewhere(course: Course) -> tuple[str, ...]:
    """Say it where the device's own provider cannot score."""
    facts, here = course.request.device.describe(), course.executor.options_here
    if facts.options.provider == here.provider:
        return ()
    return (
        f"{facts.options.provider} of {facts.name} is not on this machine: candidates are scored by the CPU here, and "
        "what executes is read off it, too; latency is measured there",
    )


def _probe_further(course: Course, sites: Sequence[Site]) -> tuple[Probed, ...]:
    others = course.request.others
    if not others:
        return ()
    kept = course.ledger.attribute("probe-elsewhere")
    if kept is None:
        course.say(f"probing what pays on {', '.join(o.name for o in others)}")
        found = course.timed(
            "probe", lambda: probe_further(others, sites, cache=course.request.cache, time_s=course.plan.time_s)
        )
        kept = {name: plain(p) for name, p in found.items()}
        course.ledger.keep("probe-elsewhere", kept)
    return tuple(Probed(**{**kept[o.name], "notes": tuple(kept[o.name]["notes"])}) for o in others)


def measure_baselines(
    course: Course, probed: Probed, further: Sequence[Probed]
) -> tuple[TrialRecord, dict[str, Settings]]:
    """Measure the original and every uniform setting, always first.

    Args:
        course: the run.
        probed: what pays on the device.
        further: what pays on further devices; where another signedness of activations pays there, both are measured.

    Returns:
        the original's record, and the settings of each uniform baseline by label.

    Raises:
        DataError, ModelError: the original itself cannot be measured.
    """
    fp32 = course.evaluate(Recipe(), "fp32", "fp32")
    if not fp32.is_measured:
        kind = DataError if fp32.stage == "score" else ModelError
        raise kind(
            "MODEL-10", "the original model", f"{fp32.outcome} while {fp32.stage}: {fp32.error}", "mend the model"
        )
    for name, place in fp32.elsewhere.items():
        if not place.is_measured:  # nothing could be compared with it there
            raise ModelError(
                "MODEL-10", "the original model", f"{place.outcome} on {name}: {place.error}",
                f"mend the model, or leave {name} out",
            )  # fmt: skip
    course.executor.baseline = course.folder.artifact(fp32.sha256)
    _reference_outputs(course, fp32)
    settings: dict[str, Settings] = {}
    everywhere = (probed, *further)
    signed = {p.activation_signed for p in everywhere}
    blocks, wide = any(p.blocks_pay for p in everywhere), any(p.wide_pays for p in everywhere)
    with on_the_original():
        uniform = course.timed("build", lambda: course.executor.baselines(blocks=blocks, wide=wide))
    for label, formats, default in uniform:
        chosen = replace(
            default,
            activation_signed=probed.activation_signed,
            reduce_range=probed.saturates,
            block_accuracy=probed.block_accuracy,
        )
        settings[label] = chosen
        recipe = Recipe(formats=tuple((s, Format.parse(f)) for s, f in formats), settings=chosen)
        if not course.time_left(reserve=True):
            break
        course.evaluate(recipe, "baseline", label)
        if len(signed) > 1 and has_static(recipe):
            other = replace(chosen, activation_signed=not probed.activation_signed)
            signedness = "int8" if other.activation_signed else "uint8"
            course.evaluate(replace(recipe, settings=other), "baseline", f"{label}, {signedness} activations")
    return fp32, settings


def _reference_outputs(course: Course, fp32: TrialRecord) -> None:
    """After a resume the original's outputs are gone with the old scratch: make them again."""
    if not (course.folder.work / "outputs-search.npz").exists():
        course.executor.score(course.executor.baseline, "search", is_reference=True)


@contextlib.contextmanager
def on_the_original() -> Iterator[None]:
    """What fails on the original is no failed candidate: the input cannot be used."""
    try:
        yield
    except CandidateError as error:
        raise ModelError(
            "MODEL-10", "the original model", f"{error.code}: {error.what}", "check that it runs on your data"
        ) from error
