"""Several devices in one report: what each would choose, and the model that is good on all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from modeltailor.errors import shown
from modeltailor.reports.summary import DeviceSummary, OnAllDevices, RunSummary
from modeltailor.reports.wording import bytes_text, ms_text, percent, ratio
from modeltailor.search.devices import Compromise, budget_on, device_names, good_on_all, history_on, pool_of
from modeltailor.search.front import front_under, recommend, violations
from modeltailor.search.records import RunHistory
from modeltailor.targets import Budget

__all__ = ["devices_html", "devices_markdown", "devices_text", "summarize_devices"]

_MOST_SHOWN = 12


def summarize_devices(
    history: RunHistory, names: Mapping[str, str]
) -> tuple[tuple[DeviceSummary, ...], OnAllDevices | None]:
    """Decide what a study found for each of its devices and for all of them; nothing for a study of one device.

    Args:
        history: the records of a run.
        names: of the models, by key.
    """
    if not history.run.elsewhere:
        return (), None
    minimize = bool(history.run.metric.get("minimize", False))
    views = {name: history_on(history, name) for name in device_names(history)}
    found = []
    for name, view in views.items():
        pool, budget = pool_of(view), budget_on(view)
        front = front_under(pool.values(), budget, minimize=minimize)
        best = recommend(pool.values(), budget, minimize=minimize)
        found.append(
            DeviceSummary(
                name=name,
                evidence=next((f.latency_ms.evidence for f in pool.values()), ""),
                runtime=str(view.run.device.get("runtime", "")),
                processor=str(view.run.device.get("processor", "")),
                budget={n: getattr(budget, n) for n in Budget.__dataclass_fields__},
                front=tuple(f.key for f in front),
                best=best.key if best else "",
                best_name=names.get(best.key, best.key[:8]) if best else "",
                best_latency_ms=best.latency_ms if best else None,
                best_speedup=best.speedup if best else None,
                best_size_bytes=best.size_bytes if best else None,
                kept=tuple(k for k, f in sorted(pool.items()) if not violations(f, budget, minimize=minimize)),
                failed=sum(t.outcome != "MEASURED" for t in view.trials),
            )
        )
    return tuple(found), _on_all(found, good_on_all(views, minimize=minimize), names)


def _on_all(devices: Sequence[DeviceSummary], common: Sequence[Compromise], names: Mapping[str, str]) -> OnAllDevices:
    best = list(dict.fromkeys(d.best for d in devices))
    keys = tuple(c.key for c in common)
    without = [d.name for d in devices if not d.best]

    def name(key: str) -> str:
        return names.get(key, key[:8])

    if without:
        sentence = f"No model keeps every limit on {_listed(without)}: nothing is good on all devices."
        return OnAllDevices(agreement="none", best="", keys=(), slowdowns={}, sentence=sentence)
    if not common:
        each = "; ".join(f"{d.name}: {d.best_name}" for d in devices)
        sentence = f"The devices need different models, none keeps every limit on all of them: {each}."
        return OnAllDevices(agreement="none", best="", keys=(), slowdowns={}, sentence=sentence)
    first = common[0]
    slowdowns = dict(first.slowdowns)
    if len(best) == 1:
        sentence = f"The devices agree: {name(best[0])} is the best model on all {len(devices)} devices."
        return OnAllDevices(agreement="same", best=best[0], keys=keys, slowdowns=dict.fromkeys(slowdowns, 1.0),
                            sentence=sentence)  # fmt: skip
    if first.tied:
        sentence = (
            f"The devices agree within the intervals: {name(first.key)} cannot be told apart in speed from the best model "
            f"of any of the {len(devices)}."
        )
        return OnAllDevices(agreement="tied", best=first.key, keys=keys, slowdowns=slowdowns, sentence=sentence)
    fond: dict[str, list[str]] = {}
    for d in devices:
        fond.setdefault(d.best_name, []).append(d.name)
    each = "; ".join(f"{best_name} on {_listed(there)}" for best_name, there in fond.items())
    sentence = (
        f"The devices prefer different models: {each}. The best compromise, {name(first.key)}, is at most "
        f"{percent(max(0.0, first.worst - 1.0), 1)} slower than each device's own best."
    )
    return OnAllDevices(agreement="compromise", best=first.key, keys=keys, slowdowns=slowdowns, sentence=sentence)


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _rows(summary: RunSummary) -> list[tuple[str, ...]]:
    """Device, evidence, limits of its own, models on its front, best model, its speed, latency and size."""
    rows: list[tuple[str, ...]] = []
    for d in summary.devices[:_MOST_SHOWN]:
        latency_ms, memory_bytes = d.budget.get("latency_ms"), d.budget.get("memory_bytes")
        limits = [] if latency_ms is None else [ms_text(latency_ms)]
        limits += [] if memory_bytes is None else [bytes_text(memory_bytes)]
        best = "none keeps its limits"
        speed = latency = size = "–"
        if d.best_speedup is not None and d.best_latency_ms is not None and d.best_size_bytes is not None:
            best = shown(d.best_name, 60)
            speed = f"{ratio(d.best_speedup.value)} [{ratio(d.best_speedup.low)}, {ratio(d.best_speedup.high)}]"
            latency, size = ms_text(d.best_latency_ms.value), bytes_text(d.best_size_bytes)
        limit = ", ".join(limits) or "–"
        rows.append((shown(d.name, 40), d.evidence, limit, str(len(d.front)), best, speed, latency, size))
    return rows


_HEADS = (
    "device",
    "evidence",
    "latency, memory limits",
    "models on its front",
    "its best model",
    "speedup [95 %]",
    "latency",
    "file",
)


def devices_markdown(summary: RunSummary) -> list[str]:
    """The section of ``report.md``; nothing for one device."""
    if summary.on_all is None:
        return []
    from modeltailor.reports.markdown import escaped

    lines = ["## Devices", "", escaped(summary.on_all.sentence, 600), ""]
    lines += [f"| {' | '.join(_HEADS)} |", "|---|---|---|--:|---|--:|--:|--:|"]
    return [*lines, *(f"| {' | '.join(escaped(c, 70) for c in row)} |" for row in _rows(summary)), ""]


def devices_text(summary: RunSummary) -> list[str]:
    """Lines for a terminal; nothing for one device."""
    if summary.on_all is None:
        return []
    lines = [
        f"  {name}: {best}" + ("" if speed == "–" else f", {speed}, {latency}, {size}") + f" ({evidence})"
        for name, evidence, _, _, best, speed, latency, size in _rows(summary)
    ]
    return [shown(summary.on_all.sentence, 600), *lines]


def devices_html(summary: RunSummary) -> str:
    """The section of ``report.html``; nothing for one device."""
    if summary.on_all is None:
        return ""
    sides = ["", ' class="l"', "", "", ' class="l"', "", "", ""]
    head = "".join(f'<th scope="col"{s}>{escape(h)}</th>' for h, s in zip(_HEADS, sides, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{s}>{escape(c)}</td>' for c, s in zip(row, sides, strict=True))}</tr>"
        for row in _rows(summary)
    )
    return (
        '<section id="devices" aria-labelledby="devices-h"><h2 id="devices-h">Devices</h2>'
        f'<p class="prose">{escape(shown(summary.on_all.sentence, 600))}</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Devices of the study">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        '<p class="note">The verdict above and the rest of this report hold for the first device. The other devices’ models lie in '
        "best-NAME.onnx and front-NAME/, the model that is good on all in best-on-all.onnx.</p></section>"
    )
