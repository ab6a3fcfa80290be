"""``report.html``: one file that opens offline, holds its data, and asks nothing of a network.

Python writes the verdict and packs the summary; ``templates/*.js`` format and draw it. Text from outside reaches the
page only escaped here, or as text nodes there; the content security policy allows this one script and this one style.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from html import escape
from importlib.resources import files
from string import Template

import yaml

from modeltailor.errors import shown
from modeltailor.reports.absent import absent_html
from modeltailor.reports.choice import choosable
from modeltailor.reports.devices import devices_html
from modeltailor.reports.naming import format_text
from modeltailor.reports.packing import Json, LayerTables, packed, short
from modeltailor.reports.snippets import left_out_sentence, runtime_of, snippets_for
from modeltailor.reports.summary import ModelSummary, RunSummary, TrialPoint
from modeltailor.reports.verdict import limit_sentence
from modeltailor.reports.wording import stage_text
from modeltailor.search.records import AccuracyRecord, AuditRecord

__all__ = ["page_data", "render_html"]

_SCRIPTS = ("rule.js", "inflate.js", "draw.js", "chart.js", "layers.js", "report.js")
_LONGEST_NAME = 120
_PROFILE_FACTS = ("name", "title", "kind", "processor", "provider", "threads", "memory_bytes", "flash_bytes", "notes")
_UNIT = re.compile(r"(\d) (?=%|[KMG]?B\b|ms\b|s\b|min\b|points\b)")
_LONGEST_JOB = 20_000
_MOST_MISSING = 40
_MOST_FORMATS = 12


@cache
def _template(name: str) -> str:
    return files("modeltailor.reports.templates").joinpath(name).read_text(encoding="utf-8")


def _accuracy(a: AccuracyRecord | None) -> Json:
    if a is None:
        return None
    figures: list[Json] = [a.value, a.low, a.high, a.difference, a.difference_low, a.difference_high]
    return [*(short(v) for v in figures if isinstance(v, (int, float))), a.n_samples]


def _profile(a: AuditRecord | None, between: float | None) -> Json:
    if a is None:
        return None
    return {
        "sentence": shown(a.sentence, 500),
        "evidence": a.evidence,
        "compute": [[shown(p, 20), short(s)] for p, s in a.compute_share],
        "conversions": a.conversions,
        "conversion": short(a.conversion_share),
        "layout": short(a.layout_share),
        "between": None if between is None else short(between),
        "falls": [[shown(f.node, 60), shown(f.asked, 30), shown(f.executed, 60), shown(f.reason, 200), short(f.share)]
                  for f in a.fall_backs],
        "nFalls": a.n_fall_backs,
    }  # fmt: skip


def _model(m: ModelSummary, summary: RunSummary, layers: LayerTables, eligible: bool) -> dict[str, Json]:
    order = {k: i for i, k in enumerate(x.key for x in summary.models)}
    over = m.over_uniform
    return {
        "key": m.key,
        "name": shown(m.name, _LONGEST_NAME),
        "trial": m.trial,
        "role": m.role,
        "axis": m.axis,
        "front": m.on_front,
        "eligible": eligible,
        "verdict": m.verdict,
        "file": shown(m.file, 200),
        "sha256": m.sha256,
        "size": m.size_bytes,
        "sizeRatio": m.size_ratio,
        "latency": [m.latency_ms.value, m.latency_ms.low, m.latency_ms.high],
        "evidence": m.latency_ms.evidence,
        "speed": [m.speedup.value, m.speedup.low, m.speedup.high],
        "accuracy": m.accuracy.search.value,
        "search": _accuracy(m.accuracy.search),
        "test": _accuracy(m.accuracy.test),
        "memory": m.peak_memory_bytes,
        "load": m.load_ms,
        "judged": m.judged.model_dump(),
        "meets": m.meets_budget,
        "limits": [{"met": c.met, "text": shown(limit_sentence(c, summary.metric), 300)} for c in m.limits],
        "over": {
            "key": over.key,
            "name": shown(over.name, _LONGEST_NAME),
            "speed": [over.speedup.value, over.speedup.low, over.speedup.high],
            "size": over.size_ratio,
            "points": over.accuracy_points,
            "split": over.split,
            "told": over.speed_differs,
            "toldAccuracy": over.accuracy_differs,
        }
        if over
        else None,
        "ties": [order[k] for k in m.ties],
        "audit": m.audit,
        "profile": _profile(m.profile, m.between_layers),
        "loading": m.loading,
        "missing": [shown(name, _LONGEST_NAME) for name in m.recipe.missing[:_MOST_MISSING]],
        "nMissing": len(m.recipe.missing),
        "text": shown(m.recipe.text, 600),
        **layers.pack(m.recipe.sites),
    }


def _trial(t: TrialPoint) -> list[Json]:
    latency: list[Json] = [short(v) for v in (t.latency_ms.value, t.latency_ms.low, t.latency_ms.high)] if (
        t.latency_ms) else []  # fmt: skip
    return [
        t.number, t.key, shown(t.name, _LONGEST_NAME), t.role, t.axis, shown(t.outcome, 40), shown(t.stage, 40),
        shown(t.error, 240),
        _accuracy(t.accuracy), latency,
        [short(v) for v in (t.speedup.value, t.speedup.low, t.speedup.high)] if t.speedup else [],
        t.size_bytes, t.peak_memory_bytes, short(t.finished_at_s), int(t.scored_fully), " ".join(t.reused),
    ]  # fmt: skip


def _text_map(values: dict[str, object]) -> dict[str, Json]:
    """Facts as texts, nested ones with dotted names."""
    out: dict[str, Json] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            out.update({f"{shown(name, 40)}.{k}": v for k, v in _text_map(value).items()})
        elif isinstance(value, (list, tuple)):
            out[shown(name, 40)] = shown(", ".join(str(v) for v in value), 300)
        elif value is not None and value != "":
            out[shown(name, 40)] = shown(value, 300)
    return out


def _glossary(summary: RunSummary) -> list[Json]:
    """What the formats in the names of the models mean, in the order in which they are met."""
    used = dict.fromkeys(s.format for m in summary.models if m.role not in ("fp32", "baseline") for s in m.recipe.sites)
    names = sorted(used, key=lambda name: name.startswith("fp"))
    return [[shown(name, 40), format_text(name)] for name in names[:_MOST_FORMATS]]


def page_data(summary: RunSummary) -> dict[str, Json]:
    """Everything that the page shows, packed; no figure is made here."""
    layers = LayerTables()
    eligible = {m.key for m in choosable(summary.models)}
    models: list[Json] = [_model(m, summary, layers, m.key in eligible) for m in summary.models]
    search = summary.search
    options = runtime_of(summary)
    chosen = summary.model_of(summary.verdict.key)
    snippet_file = summary.file if summary.best else (chosen.file if chosen else "")
    return {
        "metric": summary.metric.model_dump(),
        "budget": dict(summary.budget),
        "title": shown(summary.title, _LONGEST_NAME),
        "target": shown(summary.target, 60),
        "evidence": summary.evidence,
        "seed": summary.seed,
        "started": shown(summary.started_at, 40),
        "axes": list(summary.axes),
        "best": summary.best,
        "chosen": summary.verdict.key,
        "baseline": summary.baseline,
        "bestUniform": summary.best_uniform,
        "models": models,
        "layers": layers.tables(),
        "glossary": _glossary(summary),
        "trials": [_trial(t) for t in summary.trials],
        "search": {
            "trials": search.n_trials,
            "measured": search.n_measured,
            "failed": search.n_failed,
            "partly": search.n_scored_partly,
            "reused": search.n_reused,
            "failures": [
                {"outcome": shown(f.outcome, 40), "stage": shown(f.stage, 40), "count": f.count,
                 "example": shown(f.example, 300), "trials": list(f.trials[:12])}
                for f in search.failures
            ],
            "stopped": shown(search.stopped, 300),
            "seconds": search.seconds,
            "hypervolume": [[short(s), short(v)] for s, v in search.hypervolume],
            "split": [[shown(stage_text(k), 60), v] for k, v in search.time_split],
            "importance": [[shown(o.option, 80), o.accuracy, o.latency, o.n_values] for o in search.importance],
        },
        "noise": summary.noise.model_dump(),
        "device": _text_map(summary.device),
        "profile": _text_map({k: summary.profile[k] for k in _PROFILE_FACTS if k in summary.profile}),
        "splits": {shown(k, 40): _text_map(v) for k, v in summary.splits.items()},
        "environment": _text_map(dict(summary.environment)),
        "notes": [shown(n, 400) for n in summary.notes],
        "job": yaml.safe_dump(summary.job, sort_keys=False, allow_unicode=False)[:_LONGEST_JOB],
        "snippets": [
            {"title": s.title, "needs": s.needs, "code": s.code}
            for s in snippets_for(snippet_file, options)
        ],
        "snippetsLeftOut": left_out_sentence(options),
        "snippetFile": snippet_file,
    }  # fmt: skip


def _unbroken(text: str) -> str:
    """Keep a number and its unit on one line."""
    return _UNIT.sub("\\1\u00a0", text)


def _policy_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def render_html(summary: RunSummary) -> str:
    """Write the report as one HTML file."""
    style = _template("report.css")
    script = "\n".join(_template(name) for name in _SCRIPTS)
    others = len(summary.devices) - 1
    more = f" (first of {others + 1} devices)" if others > 0 else ""
    subtitle = f"{shown(summary.title, 80)} for {shown(summary.target, 60)}{more} · {shown(summary.started_at[:10])}"
    return Template(_template("report.html")).substitute(
        title=escape(f"{shown(summary.title, 80)} – modeltailor"),
        subtitle=escape(subtitle),
        headline=escape(_unbroken(shown(summary.verdict.headline, 600))),
        lead="".join(f'<p class="lead">{escape(_unbroken(shown(s, 800)))}</p>' for s in summary.verdict.sentences[:1]),
        sentences="".join(f"<p>{escape(_unbroken(shown(s, 800)))}</p>" for s in summary.verdict.sentences[1:]),
        devices_link='<a href="#devices">Devices</a>' if others > 0 else "",
        devices=_unbroken(devices_html(summary) + absent_html(summary)),
        style=style,
        style_hash=_policy_hash(style),
        script=script,
        script_hash=_policy_hash(script),
        data=packed(page_data(summary)),
    )
