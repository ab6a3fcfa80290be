"""``report.md``: the decision and its grounds, short enough for a pull request."""

from __future__ import annotations

import re

from modeltailor.errors import shown
from modeltailor.reports.absent import absent_markdown
from modeltailor.reports.devices import devices_markdown
from modeltailor.reports.summary import ModelSummary, RunSummary
from modeltailor.reports.verdict import limit_sentence
from modeltailor.reports.wording import bytes_text, change, metric_text, ms_text, percent, ratio, seconds_text

__all__ = ["escaped", "render_markdown"]

_LONGEST_TABLE = 14
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def escaped(text: object, longest: int = 90) -> str:
    """Text from outside as Markdown that shows it and does nothing else."""
    return _SPECIAL.sub(r"\\\1", shown(text, longest).replace("&", "&amp;").replace("\n", " "))


def _accuracy_cells(m: ModelSummary, summary: RunSummary) -> tuple[str, str]:
    unit = summary.metric.unit
    search = f"{metric_text(m.accuracy.search.value, unit)} ({change(100 * m.accuracy.search.difference, unit)})"
    test = m.accuracy.test
    return search, f"{metric_text(test.value, unit)} ({change(100 * test.difference, unit)})" if test else "–"


def _row(m: ModelSummary, summary: RunSummary) -> str:
    search, test = _accuracy_cells(m, summary)
    mark = "**→**" if m.key == summary.best else ""
    cells = [
        mark, escaped(m.name, 60), f"{ratio(m.speedup.value)} [{ratio(m.speedup.low)}, {ratio(m.speedup.high)}]",
        ms_text(m.latency_ms.value), bytes_text(m.size_bytes), search, test, "yes" if m.meets_budget else "no",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _table(models: list[ModelSummary], summary: RunSummary) -> list[str]:
    name = escaped(summary.metric.name, 30)
    return [
        f"| | model | speedup [95 %] | latency | file | {name}, search | {name}, test | in budget |",
        "|---|---|--:|--:|--:|--:|--:|---|",
        *(_row(m, summary) for m in models),
        "",
    ]


def _trust(summary: RunSummary) -> list[str]:
    search, noise = summary.search, summary.noise
    lines = [f"- Latency: {summary.evidence}, {escaped(summary.device.get('runtime', 'runtime unknown'))} on "
             f"{escaped(summary.device.get('processor', 'an unknown processor'))}."]  # fmt: skip
    if noise.screening is not None:
        final = f", ±{percent(noise.final, 1)} in the final measurement" if noise.final is not None else ""
        lines.append(
            f"- Noise: the speedup's interval is ±{percent(noise.screening, 1)} while searching{final} (median)."
        )
    failed = ", ".join(
        f"{f.count}× {escaped(f.outcome)} in {escaped(f.stage or 'a stage unknown')}" for f in search.failures
    )
    lines.append(
        f"- Trials: {search.n_trials}, of which {search.n_measured} measured and {search.n_failed} failed"
        f"{f' ({failed})' if failed else ''}; {seconds_text(search.seconds)}; seed {summary.seed}."
    )
    if search.stopped:
        lines.append(f"- The search stopped: {escaped(search.stopped, 200)}")
    versions = ", ".join(f"{escaped(k)} {escaped(v, 40)}" for k, v in list(summary.environment.items())[:8])
    if versions:
        lines.append(f"- Versions: {versions}.")
    lines += [f"- {escaped(note, 300)}" for note in summary.notes]
    return [*lines, ""]


def render_markdown(summary: RunSummary) -> str:
    """Write the report as GitHub-flavoured Markdown."""
    verdict = summary.verdict
    lines = [
        f"# modeltailor: {escaped(summary.title)} for {escaped(summary.target)}",
        "",
        f"**{escaped(verdict.headline, 400)}**",
        "",
    ]
    lines += [f"{' '.join(escaped(s, 500) for s in verdict.sentences)}", ""] if verdict.sentences else []
    chosen = summary.model_of(verdict.key)
    if chosen and chosen.limits:
        lines += [
            f"- {'✅' if c.met else '❌'} {escaped(limit_sentence(c, summary.metric), 300)}" for c in chosen.limits
        ]
        lines.append("")
    front = [m for key in summary.front if (m := summary.model_of(key))]
    if front:
        lines += ["## The front", ""]
        shown_models = front if len(front) <= _LONGEST_TABLE else _thinned(front, summary.best)
        lines += _table(shown_models, summary)
        if len(shown_models) < len(front):
            lines += [f"{len(front) - len(shown_models)} more in `summary.json` and `report.html`.", ""]
    if chosen and not chosen.on_front and chosen.role not in ("fp32", "baseline"):
        lines += ["## Chosen, beside the front", "", *_table([chosen], summary)]
    uniforms = [m for m in summary.models if m.role in ("fp32", "baseline")]
    if uniforms:
        lines += ["## The original and the uniform settings", "", *_table(uniforms, summary)]
    if chosen:
        lines += ["## The chosen model", "", escaped(chosen.recipe.text, 600), "", escaped(chosen.audit, 400), ""]
        lines += [escaped(chosen.profile.sentence, 500), ""] if chosen.profile else []
        lines += [escaped(chosen.loading, 300), ""] if chosen.loading else []
        file = summary.file if chosen.key == summary.best else chosen.file
        if file:
            lines += [f"`{file}` · {bytes_text(chosen.size_bytes)} · SHA-256 `{chosen.sha256}`", ""]
    lines += [*devices_markdown(summary), *absent_markdown(summary)]
    lines += ["## Why believe it", "", *_trust(summary)]
    return "\n".join(lines)


def _thinned(front: list[ModelSummary], best: str) -> list[ModelSummary]:
    step = (len(front) - 1) / (_LONGEST_TABLE - 1)
    kept = {front[round(i * step)].key for i in range(_LONGEST_TABLE)} | {best}
    return [m for m in front if m.key in kept]
