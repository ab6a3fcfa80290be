"""What a run decides when its study has several devices; with one device nothing here changes anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from modeltailor.compress import Format, Recipe, Settings, Site
from modeltailor.errors import CandidateError
from modeltailor.search.devices import budget_on, device_names, good_on_all, history_on, pool_of, trial_on
from modeltailor.search.elsewhere import FurtherDevice
from modeltailor.search.finalize import MOST_FINALISTS, choose_finalists
from modeltailor.search.front import Objective, front_under, recommend
from modeltailor.search.options import FormatChoice, choose_formats
from modeltailor.search.probing import Probed, probe_device, read_table
from modeltailor.search.records import RunHistory, TrialRecord
from modeltailor.search.run_folder import RunFolder
from modeltailor.search.stages import SiteFacts

__all__ = [
    "choose_on_all",
    "device_views",
    "elsewhere_limit",
    "finalists_on_all",
    "has_static",
    "probe_further",
    "publish_elsewhere",
    "study_objectives",
]

_FEWEST_FINALISTS = 8


def study_objectives(front: Sequence[Objective], devices: Sequence[FurtherDevice]) -> tuple[Objective, ...]:
    """What the study minimises: the objectives of the front, and the time elsewhere if there are further devices.

    Memory then is a limit only: more than four objectives cost the sampler more than they tell it.
    """
    return tuple(front) if not devices else ("accuracy", "latency", "size", "elsewhere")


def probe_further(
    devices: Sequence[FurtherDevice], sites: Sequence[Site], *, cache: Path | None, time_s: float
) -> dict[str, Probed]:
    """Probe each further device for what concerns those sites; by name, the notes with the device's name in front.

    Raises:
        DeviceError: a device failed.
    """
    found = {}
    for at in devices:
        try:
            table = probe_device(at.device, sites, cache=cache, time_s=time_s / len(devices))
        except CandidateError as error:  # not even fp32 runs there, so nothing is known of it
            found[at.name] = Probed(notes=(f"{at.name}: could not be probed ({error.what})",))
            continue
        probed = read_table(table, sites)
        found[at.name] = replace(probed, notes=tuple(f"{at.name}: {n}" for n in probed.notes))
    return found


def choose_on_all(
    sites: Sequence[SiteFacts],
    baselines: Sequence[TrialRecord],
    settings: Mapping[str, Settings],
    devices: Sequence[str],
    *,
    search_formats: bool = True,
) -> FormatChoice:
    """Choose formats as :func:`~modeltailor.search.options.choose_formats` does, and add what pays on further devices.

    Args:
        sites: what could be built.
        baselines: measured uniform baselines.
        settings: of each baseline, by label.
        devices: names of the further devices.
        search_formats: whether the user opened this axis.
    """
    choice = choose_formats(sites, baselines, settings, search_formats=search_formats)
    for name in devices:
        there = [seen for t in baselines if (seen := trial_on(t, name)) is not None]
        other = choose_formats(sites, there, settings, search_formats=search_formats)
        own = dict(other.options)
        choice = replace(
            choice,
            options=tuple((site, _joined(options, own[site])) for site, options in choice.options),
            settings=choice.settings if choice.uniform or not other.uniform else other.settings,
            uniform=choice.uniform or other.uniform,
            notes=(*choice.notes, *(f"{name}: {n}" for n in other.notes)),
        )
    return choice


def _joined(options: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    rest = sorted({*options, *others} - {"fp32"}, key=lambda f: (-Format.parse(f).weight_bits, f))
    return (*(f for f in ("fp32",) if f in options or f in others), *rest)


def elsewhere_limit(fp32: TrialRecord, devices: Sequence[FurtherDevice]) -> float | None:
    """The latency limits of the further devices as one ratio to the original; ``None`` unless all of them have one."""
    ratios = []
    for at in devices:
        place = fp32.elsewhere.get(at.name)
        if at.budget.latency_ms is not None and place is not None and place.latency_ms is not None:
            ratios.append(at.budget.latency_ms / place.latency_ms.value)
    if not ratios or len(ratios) < len(devices):
        return None
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def has_static(recipe: Recipe) -> bool:
    """Whether a recipe quantizes activations ahead of time, so that their signedness matters."""
    return any(f.scheme == "static" for _, f in recipe.formats)


def device_views(history: RunHistory) -> tuple[RunHistory, ...]:
    """The run as each of its devices sees it, the first one first."""
    return tuple(history_on(history, name) for name in device_names(history))


def finalists_on_all(history: RunHistory, *, minimize: bool) -> tuple[TrialRecord, ...]:
    """Return the trials worth certifying for any of the devices: fewer for each the more devices there are."""
    views = device_views(history)
    if len(views) == 1:
        return choose_finalists(history, budget_on(history), minimize=minimize)
    most = max(_FEWEST_FINALISTS, MOST_FINALISTS - 4 * (len(views) - 1))
    found: dict[str, TrialRecord] = {}
    own = {t.key: t for t in reversed(history.trials) if t.is_measured}
    chosen = [choose_finalists(view, budget_on(view), minimize=minimize, most=most) for view in views]
    for alike in zip_longest(*chosen):  # in turns: however few there is time for, each device's first are among them
        for trial in alike:
            if trial is not None:
                found.setdefault(trial.key, own[trial.key])
    for compromise in good_on_all(dict(zip(device_names(history), views, strict=True)), minimize=minimize)[:1]:
        found.setdefault(compromise.key, own[compromise.key])
    return tuple(found.values())


def publish_elsewhere(folder: RunFolder, history: RunHistory, *, minimize: bool) -> None:
    """Put each further device's recommended model and front, and the best model for all, under their public names."""
    names = device_names(history)
    by_key = {t.key: t for t in reversed(history.trials) if t.is_measured}
    views = dict(zip(names, device_views(history), strict=True))
    for name in names[1:]:
        pool = pool_of(views[name])
        front = front_under(pool.values(), budget_on(views[name]), minimize=minimize)
        best = recommend(pool.values(), budget_on(views[name]), minimize=minimize)
        folder.publish(by_key[best.key] if best else None, [by_key[f.key] for f in front], device=name)
    chosen = next(iter(good_on_all(views, minimize=minimize)), None)
    folder.publish_best(by_key[chosen.key] if chosen else None, "best-on-all.onnx")
