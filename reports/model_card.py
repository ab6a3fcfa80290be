"""``MODEL_CARD.md``: what a person who finds ``best.onnx`` alone must know."""

from __future__ import annotations

from modeltailor.reports.markdown import escaped
from modeltailor.reports.snippets import runtime_of, snippets_for
from modeltailor.reports.summary import ModelSummary, RunSummary
from modeltailor.reports.verdict import limit_sentence
from modeltailor.reports.wording import bytes_text, change_text, metric_text, ms_text, percent, ratio

__all__ = ["render_model_card"]


def _figures(m: ModelSummary, summary: RunSummary, measured: ModelSummary | None) -> list[str]:
    unit, metric = summary.metric.unit, escaped(summary.metric.name, 40)
    rows = [
        ("file", f"`best.onnx`, {m.size_bytes} bytes ({bytes_text(m.size_bytes)}, "
                 f"{percent(m.size_ratio)} of the original)"),
        ("SHA-256", f"`{m.sha256}`"),
        *([("packed file, as it was measured", f"{measured.size_bytes} bytes ({bytes_text(measured.size_bytes)}), "
                                               f"SHA-256 `{measured.sha256}`")] if measured else []),
        ("latency", f"{ms_text(m.latency_ms.value)} [{ms_text(m.latency_ms.low)}, {ms_text(m.latency_ms.high)}] "
                    f"({m.latency_ms.evidence})"),
        ("speedup over fp32", f"{ratio(m.speedup.value)} [{ratio(m.speedup.low)}, {ratio(m.speedup.high)}]"),
        (f"{metric}, search split", _metric(m.accuracy.search.value, m.accuracy.search.low, m.accuracy.search.high,
                                            m.accuracy.search.difference, unit)),
    ]  # fmt: skip
    if m.accuracy.test:
        t = m.accuracy.test
        rows.append((f"{metric}, test split", _metric(t.value, t.low, t.high, t.difference, unit)))
    if m.peak_memory_bytes is not None:
        rows.append(("peak memory over the bare runtime", bytes_text(m.peak_memory_bytes)))
    return ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows), ""]


def _metric(value: float, low: float, high: float, difference: float, unit: str) -> str:
    return (
        f"{metric_text(value, unit)} [{metric_text(low, unit)}, {metric_text(high, unit)}], "
        f"{change_text(100 * difference, unit)} to the original"
    )


def render_model_card(summary: RunSummary, *, measured: ModelSummary | None = None) -> str:
    """Write the card of the recommended model; says so if no model keeps the budget.

    Args:
        summary: what was found.
        measured: the model as it was measured, where the summary's recommended one is its unpacked form.
    """
    best = summary.model_of(summary.best)
    head = [f"# {escaped(summary.title)}, tailored for {escaped(summary.target)}", ""]
    if best is None:
        return "\n".join([*head, escaped(summary.verdict.headline, 500), "", "There is no `best.onnx`.", ""])
    python = snippets_for("best.onnx", runtime_of(summary))[0]
    splits = ", ".join(f"{escaped(k, 30)} {escaped(v.get('samples', '?'), 20)}" for k, v in summary.splits.items())
    lines = [
        *head,
        f"{escaped(best.recipe.text, 600)}",
        "",
        *_figures(best, summary, measured),
        "## What executes",
        "",
        escaped(best.audit, 400),
        "",
        *((escaped(best.profile.sentence, 500), "") if best.profile else ()),
        *((escaped(best.loading, 300), "") if best.loading else ()),
        "## Limits it was chosen under",
        "",
        *([f"- {escaped(limit_sentence(c, summary.metric), 300)}" for c in best.limits] or ["- none"]),
        "",
        "## How to run it",
        "",
        "```python",
        python.code.rstrip(),
        "```",
        "",
        "## Where the figures come from",
        "",
        f"- Target {escaped(summary.target)}; {escaped(summary.device.get('runtime', ''))} on "
        f"{escaped(summary.device.get('processor', ''))}; evidence: {summary.evidence}.",
        f"- Samples: {splits}." if splits else "- Samples: not recorded.",
        f"- Seed {summary.seed}; started {escaped(summary.started_at, 40)}; recipe `{best.key}`.",
        "- Accuracy on other data than these splits was not measured. The original model's own limits stay.",
        *(f"- {escaped(note, 300)}" for note in summary.notes),
        "",
    ]
    return "\n".join(lines)
