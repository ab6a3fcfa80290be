"""A device that was not attached: what the models would take there by prediction, beside what this machine measured."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, FiniteFloat

from modeltailor.errors import shown
from modeltailor.reports.wording import ms_text
from modeltailor.search.front import Figures
from modeltailor.search.records import IntervalRecord, RunHistory

if TYPE_CHECKING:
    from modeltailor.reports.summary import RunSummary

__all__ = ["AbsentDevice", "AbsentModel", "absent_html", "absent_markdown", "absent_text", "summarize_absent"]

_BAND = 0.8


class AbsentModel(BaseModel):
    """A model on a device that was not attached.

    Attributes:
        key: of the model.
        name: for people.
        predicted_ms: with its band; ``None`` if there is no number.
        reason: why there is none.
        here_ms: what the machine took that stood in.
        ties: keys of the other models whose bands overlap with this one's.
        to_measure: it could be the best there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    name: str
    predicted_ms: IntervalRecord | None
    reason: str
    here_ms: IntervalRecord
    ties: tuple[str, ...]
    to_measure: bool


class AbsentDevice(BaseModel):
    """What is predicted for a run's device that was not attached.

    Attributes:
        name: of the profile.
        band: share of the probability that each band holds.
        models: the original, the uniform baselines and the front, as predicted fastest first, those without a number last.
        sentence: the same in words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    band: FiniteFloat
    models: tuple[AbsentModel, ...]
    sentence: str


def summarize_absent(
    history: RunHistory, names: Mapping[str, str], figures: Mapping[str, Figures]
) -> AbsentDevice | None:
    """Decide what a report says of a device that was not attached; ``None`` if it was, or nothing was predicted.

    Args:
        history: the records of a run.
        names: of the models, by key.
        figures: of the models, by key.
    """
    known = [p for p in history.predicted if p.key in names and p.key in figures]
    if not known:
        return None
    device = str(history.run.profile.get("title") or history.run.profile.get("name"))
    models = []
    for p in known:
        ties = tuple(
            o.key for o in known
            if o.key != p.key and o.latency_ms and p.latency_ms
            and o.latency_ms.low <= p.latency_ms.high and p.latency_ms.low <= o.latency_ms.high
        )  # fmt: skip
        models.append(
            AbsentModel(
                key=p.key,
                name=names[p.key],
                predicted_ms=p.latency_ms,
                reason=p.reason,
                here_ms=figures[p.key].latency_ms,
                ties=ties,
                to_measure=p.could_be_best,
            )
        )
    models.sort(key=lambda m: (m.predicted_ms is None, m.predicted_ms.value if m.predicted_ms else 0.0, m.key))
    return AbsentDevice(
        name=str(history.run.profile.get("name")), band=_BAND, models=tuple(models), sentence=_sentence(device, models)
    )


def _sentence(device: str, models: list[AbsentModel]) -> str:
    wanted = [m for m in models if m.to_measure]
    if not any(m.predicted_ms for m in models):
        return f"{device} was not attached, and what the models take there cannot be predicted: {models[0].reason}."
    first = f"{device} was not attached: its latencies are predicted, each with a band that holds it with 80 %."
    if len(wanted) == 1:
        return f"{first} {wanted[0].name} is the one to choose there with all that is known; to-measure.json lists it."
    return (
        f"{first} {len(wanted)} models could be the one to choose there, their bands overlap: to-measure.json lists them "
        "for `modeltailor certify`."
    )


_HEADS = ("model", "predicted there", "80 % band", "measured here", "to be measured there")


def _rows(absent: AbsentDevice) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for m in absent.models:
        value = band = "–"
        if m.predicted_ms is not None:
            value = ms_text(m.predicted_ms.value)
            band = f"{ms_text(m.predicted_ms.low)} to {ms_text(m.predicted_ms.high)}"
        wanted = "yes" if m.to_measure else "no"
        note = f" ({m.reason})" if m.reason else ""
        rows.append((shown(m.name, 60), value, band, ms_text(m.here_ms.value), shown(wanted + note, 200)))
    return rows


def absent_markdown(summary: RunSummary) -> list[str]:
    """The section of ``report.md``; nothing where the device was attached."""
    if summary.absent is None:
        return []
    from modeltailor.reports.markdown import escaped

    lines = [f"## On {escaped(summary.absent.name)}, predicted", "", escaped(summary.absent.sentence, 600), ""]
    lines += [f"| {' | '.join(_HEADS)} |", "|---|--:|--:|--:|---|"]
    return [*lines, *(f"| {' | '.join(escaped(c, 200) for c in row)} |" for row in _rows(summary.absent)), ""]


def absent_text(summary: RunSummary) -> list[str]:
    """Lines for a terminal; nothing where the device was attached."""
    if summary.absent is None:
        return []
    lines = [
        f"  {'?' if m.to_measure else ' '} {name}: predicted {value} ({band}), measured here {here}"
        for m, (name, value, band, here, _) in zip(summary.absent.models, _rows(summary.absent), strict=True)
        if m.predicted_ms is not None
    ]
    return [shown(summary.absent.sentence, 600), *lines]


def absent_html(summary: RunSummary) -> str:
    """The section of ``report.html``; nothing where the device was attached."""
    if summary.absent is None:
        return ""
    sides = [' class="l"', "", "", "", ' class="l"']
    head = "".join(f'<th scope="col"{s}>{escape(h)}</th>' for h, s in zip(_HEADS, sides, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{s}>{escape(c)}</td>' for c, s in zip(row, sides, strict=True))}</tr>"
        for row in _rows(summary.absent)
    )
    return (
        '<section id="absent" aria-labelledby="absent-h">'
        f'<h2 id="absent-h">On {escape(shown(summary.absent.name, 60))}, predicted</h2>'
        f'<p class="prose">{escape(shown(summary.absent.sentence, 600))}</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Predicted latencies">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )
