"""The answer in words: what to ship, what it gains, whether each limit is kept and by how much, how sure that is."""

from __future__ import annotations

from modeltailor.errors import shown
from modeltailor.reports.summary import Comparison, LimitCheck, MetricFacts, ModelSummary, Verdict
from modeltailor.reports.wording import amount, bytes_text, change_text, fixed, metric_text, ms_text, percent, ratio
from modeltailor.search.front import weighed_excess

__all__ = ["limit_sentence", "verdict_of"]

_WIDE = 0.05
_MANY_TIMES = 1.0
"""From twice a limit on, a percentage says less than a factor."""

_NO_CHANGE = 0.005
"""Percent of 1, or of what the original has where the metric is no share: less is called no change."""

_LIMIT_NAMES = {"latency": "latency", "size": "file size", "memory": "peak memory", "drop": "accuracy loss",
                "accuracy": "accuracy"}  # fmt: skip


def _value(check: LimitCheck, value: float, metric: MetricFacts) -> str:
    match check.unit:
        case "ms":
            return ms_text(value)
        case "bytes":
            return bytes_text(value)
        case "points" if metric.unit in ("", "%"):
            return f"{fixed(value, 2)} points"
        case "points":
            return f"{amount(value / 100)} {metric.unit}"
        case "metric":
            return metric_text(value, metric.unit)


def limit_sentence(check: LimitCheck, metric: MetricFacts) -> str:
    """One limit in words, for instance ``latency kept with 12 % to spare (at worst 1.76 ms, limit 2.00 ms)``."""
    name = _LIMIT_NAMES[check.limit]
    if check.value is None or check.margin is None:
        return f"{name} not kept: it was not measured"
    by_share = check.unit in ("ms", "bytes")
    room = percent(abs(check.margin), 1) if by_share else change_text(check.margin, metric.unit, signed=False)
    edge = "" if check.unit == "bytes" else "at worst "  # bytes are exact, the others are the bad end of an interval
    figures = f"{edge}{_value(check, check.value, metric)}, limit {_value(check, check.allowed, metric)}"
    if check.met:
        return f"{name} kept with {room} to spare ({figures})"
    if by_share and -check.margin >= _MANY_TIMES:
        return f"{name} missed, {ratio(1.0 - check.margin)} what is allowed ({figures})"
    return f"{name} missed by {room} ({figures})"


def _original(model: ModelSummary) -> float:
    """The original's value of the metric, as the model was compared with it."""
    return model.accuracy.search.value - model.accuracy.search.difference


def _is_no_change(points: float, model: ModelSummary, metric: MetricFacts) -> bool:
    scale = 1.0 if metric.unit in ("", "%") else abs(_original(model)) or 1.0
    return abs(points) < _NO_CHANGE * scale


def _accuracy_words(model: ModelSummary, metric: MetricFacts) -> str:
    test = model.accuracy.test
    record, split = (test, "test") if test else (model.accuracy.search, "search")
    loss = 100.0 * record.difference * (1.0 if metric.minimize else -1.0)
    if _is_no_change(loss, model, metric):
        return f"no change of {metric.name} on the {split} split"
    lost = change_text(loss, metric.unit, signed=False)
    if metric.minimize:
        return f"{metric.name} {lost} {'worse' if loss > 0 else 'better'} on the {split} split"
    return f"{lost} of {metric.name} {'lost' if loss > 0 else 'gained'} on the {split} split"


def _over(comparison: Comparison, model: ModelSummary, metric: MetricFacts) -> str:
    speed = comparison.speedup
    if not comparison.speed_differs:
        pace = "as fast (within the noise)"
    elif speed.value >= 1.2:
        pace = f"{ratio(speed.value)} as fast"
    else:
        pace = f"{percent(abs(speed.value - 1), 1)} {'faster' if speed.value > 1 else 'slower'}"
    smaller = 1.0 - comparison.size_ratio
    size = f"{percent(abs(smaller))} {'smaller' if smaller > 0 else 'larger'}" if abs(smaller) >= 0.005 else "as large"
    points = comparison.accuracy_points
    if _is_no_change(points, model, metric):
        return f"{pace}, {size}, with the same {metric.name} ({comparison.split} split)"
    change = f"{change_text(points, metric.unit, signed=False)} {'better' if points > 0 else 'worse'} in {metric.name}"
    doubt = "" if comparison.accuracy_differs else ", within the noise"
    return f"{pace}, {size} and {change} ({comparison.split} split{doubt})"


def _sureness(model: ModelSummary, finished: bool) -> str:
    half = (model.speedup.high - model.speedup.low) / (2 * model.speedup.value)
    where = {
        "measured-on-device": "measured on the device itself",
        "measured-here": "measured on this machine, which stands in for the device",
        "predicted": "predicted, not measured",
    }[model.latency_ms.evidence]
    span = f"{ratio(model.speedup.low)} to {ratio(model.speedup.high)} (95 %, ±{percent(half, 1)})"
    first = f"Latency was {where}; the speedup lies in {span}"
    wide = " That is wide: more time or a quieter machine would tell close models apart." if half > _WIDE else ""
    if model.verdict == "certified":
        return f"{first}, measured again in fresh processes after the search.{wide}"
    if model.verdict == "compared":
        return f"{first}, measured again after the search, in fewer fresh processes than a certificate asks for.{wide}"
    if model.verdict:
        return f"{first}, but the final measurement stayed {model.verdict}: do not rely on small differences.{wide}"
    note = (
        "it was not among the finalists that were measured again" if finished else "it has not been measured again yet"
    )
    return f"{first}; {note}.{wide}"


def verdict_of(
    model: ModelSummary | None, *, met: bool, metric: MetricFacts, finished: bool, file: str = ""
) -> Verdict:
    """Put the decision into words.

    Args:
        model: the recommended model, or the nearest one if none keeps every limit.
        met: whether it keeps every limit.
        metric: what accuracy means in this run.
        finished: whether finalists have been measured again.
        file: what to ship, as the reader knows it; the model's name if there is no file.
    """
    if model is None:
        return Verdict(
            status="empty", key="", headline="Nothing has been measured yet.", sentences=(), limits=(), binding=None
        )
    name = shown(model.name, 90)
    figures = (
        f"{ratio(model.speedup.value)} as fast as fp32, {bytes_text(model.size_bytes)} "
        f"({percent(model.size_ratio)} of the original), {_accuracy_words(model, metric)}"
    )
    sentences: list[str] = []
    told = ""
    binding = None
    if met and model.role == "fp32":
        headline = "Keep the original: no compressed model that was found beats it within the budget."
    elif met:
        headline = f"Ship {shown(file, 90) or name}: {figures}."
        told = f"It is trial {model.trial}: {name}. {model.audit}"
    else:
        missed = [c for c in model.limits if not c.met]
        binding = max(missed, key=lambda c: _excess(c, model, metric))
        headline = f"No model keeps every limit. Nearest is {name}: {limit_sentence(binding, metric)}."
        told = f"It is trial {model.trial}, {figures}."
    if model.over_uniform and model.role != "fp32":
        if model.over_uniform.key == model.key:
            sentences.append("It is itself the best uniform setting; the search found nothing better for this budget.")
        else:
            other = shown(model.over_uniform.name, 60)
            sentences.append(
                f"Against {other}, the best uniform setting, it is {_over(model.over_uniform, model, metric)}."
            )
    if told:
        sentences.append(told)
    if model.role != "fp32":
        sentences.append(_sureness(model, finished))
    if model.ties:
        n = len(model.ties)
        sentences.append(
            f"{n} other model{'s' * (n > 1)} of the front cannot be told apart from it in speed and {metric.name}."
        )
    return Verdict(
        status="met" if met else "unmet",
        key=model.key,
        headline=headline,
        sentences=tuple(sentences),
        limits=tuple(limit_sentence(c, metric) for c in model.limits),
        binding=binding,
    )


def _excess(check: LimitCheck, model: ModelSummary, metric: MetricFacts) -> float:
    """How badly a limit is missed, weighed as :func:`modeltailor.search.front.nearest` does."""
    if check.margin is None:
        return 1.0
    if check.unit in ("ms", "bytes"):
        return -check.margin
    return weighed_excess(-check.margin, _original(model), minimize=metric.minimize)
