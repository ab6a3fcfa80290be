"""Two runs side by side: what differs in how they were made, and which differences of their models are real.

Models that both runs hold (the same recipe, or the uniform setting of the same name) are compared one by one by their
speedup over fp32, each measured inside its own run, so that two machines or two days can be told apart from two models.
Many comparisons at once find differences by chance; p values are therefore adjusted (Holm 1979), and a difference is
called real below 5 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import erfc, exp, log, sqrt

from pydantic import BaseModel, ConfigDict, FiniteFloat

from modeltailor.errors import shown
from modeltailor.reports.markdown import escaped
from modeltailor.reports.summary import ModelSummary, Ratio, RunSummary
from modeltailor.reports.wording import bytes_text, change, change_text, fixed, metric_text, percent, ratio

__all__ = ["BestCompared", "DifferingFact", "RunComparison", "SharedModel", "compare", "render_comparison"]

_Z95 = 1.959964
_REAL = 0.05


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DifferingFact(_Value):
    """A fact of the conditions that is not the same in both runs."""

    fact: str
    a: str
    b: str


class SharedModel(_Value):
    """One recipe that both runs hold, or one uniform setting under the same name.

    Attributes:
        same_recipe: whether every decision is the same; uniform settings of two versions may differ in details.
        ratio: speedup in B over that in A; above 1 it is relatively faster in B.
        p_value: of "the same speedup", adjusted for the number of shared models.
        speed_differs: whether that is below 5 %.
        same_file: whether both runs built the very same bytes.
        accuracy_points: B - A on the search split; positive is better.
        accuracy_differs: whether the two intervals say so; ``False`` for the same bytes on the same data.
    """

    key: str
    name: str
    speedup_a: Ratio
    speedup_b: Ratio
    ratio: Ratio
    p_value: FiniteFloat
    speed_differs: bool
    same_file: bool
    size_a: int
    size_b: int
    accuracy_points: FiniteFloat
    accuracy_differs: bool
    same_recipe: bool = True


class BestCompared(_Value):
    """The recommended model of B against that of A; each measured against the fp32 original of its own run."""

    name_a: str
    name_b: str
    same_recipe: bool
    speed: Ratio
    speed_differs: bool
    size_ratio: FiniteFloat
    accuracy_points: FiniteFloat
    accuracy_differs: bool


class RunComparison(_Value):
    """Two runs compared; ``a`` and ``b`` are the names that the caller gave."""

    schema_version: int = 1
    a: str
    b: str
    facts: tuple[DifferingFact, ...]
    warnings: tuple[str, ...]
    best: BestCompared | None
    shared: tuple[SharedModel, ...]
    only_a: int
    only_b: int
    sentences: tuple[str, ...]


def _ratio_of(model: ModelSummary) -> Ratio:
    return Ratio(value=model.speedup.value, low=model.speedup.low, high=model.speedup.high)


def _log_error(r: Ratio) -> float:
    return log(max(r.high, 1e-12) / max(r.low, 1e-12)) / (2 * _Z95)


def _speed(a: ModelSummary, b: ModelSummary) -> tuple[Ratio, float]:
    """Speedup of b over that of a, and the two-sided p value of their being the same."""
    first, second = _ratio_of(a), _ratio_of(b)
    error = sqrt(_log_error(first) ** 2 + _log_error(second) ** 2)
    value = second.value / first.value
    p = erfc(abs(log(value)) / error / sqrt(2)) if error > 0 else float(value == 1.0)
    return Ratio(value=value, low=value * exp(-_Z95 * error), high=value * exp(_Z95 * error)), p


def _holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def _accuracy(a: ModelSummary, b: ModelSummary, minimize: bool, same_data: bool) -> tuple[float, bool]:
    """Points gained from a to b on ``search``, and whether the independent 95 % intervals of both say so."""
    first, second = a.accuracy.search, b.accuracy.search
    difference = (second.value - first.value) * (-1.0 if minimize else 1.0)
    if same_data and a.sha256 == b.sha256:
        return 100.0 * difference, False
    half = sqrt(((first.high - first.low) / 2) ** 2 + ((second.high - second.low) / 2) ** 2)
    return 100.0 * difference, abs(difference) > half


def _flat(prefix: str, values: Mapping[str, object]) -> dict[str, str]:
    out: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            out.update(_flat(f"{prefix}{name}.", value))
        else:
            out[f"{prefix}{name}"] = shown(value)
    return out


def _facts(s: RunSummary) -> dict[str, str]:
    limits = {n: v for n, v in s.budget.items() if v is not None}
    named: dict[str, object] = {
        "target": s.target, "seed": s.seed, "axes": ", ".join(s.axes), "metric": s.metric.name,
        "trials": s.search.n_trials, "evidence": s.evidence,
    }  # fmt: skip
    return {
        **_flat("", named),
        **_flat("budget ", limits),
        **_flat("", s.environment),
        **_flat("device ", {k: v for k, v in s.device.items() if k not in ("name", "evidence")}),
        **_flat("model ", {k: v for k, v in s.model.items() if k != "name"}),
        **_flat("data ", s.splits),
    }


def _warnings(a: RunSummary, b: RunSummary) -> tuple[str, ...]:
    found = []
    if a.metric.name != b.metric.name:
        found.append(f"The metrics differ ({a.metric.name}, {b.metric.name}): accuracies cannot be compared.")
    if a.model.get("digest") != b.model.get("digest"):
        found.append("The two runs tailor different networks or weights: only what was gained can be compared.")
    if a.splits.get("search") != b.splits.get("search"):
        found.append("The search splits differ: accuracies come from different samples.")
    if a.evidence != b.evidence:
        found.append(f"Latencies are {a.evidence} in one run and {b.evidence} in the other.")
    return tuple(found)


def _shared(a: RunSummary, b: RunSummary, same_data: bool) -> tuple[SharedModel, ...]:
    others = {m.key: m for m in b.models}
    uniform = {m.name: m for m in b.models if m.role == "baseline" and all(m.key != x.key for x in a.models)}
    compressed = [m for m in a.models if m.role != "fp32"]
    pairs = [
        (m, like)
        for m in compressed
        if (like := others.get(m.key) or (uniform.get(m.name) if m.role == "baseline" else None)) is not None
    ]
    speeds = [_speed(x, y) for x, y in pairs]
    adjusted = _holm([p for _, p in speeds])
    found = []
    for (x, y), (value, _), p in zip(pairs, speeds, adjusted, strict=True):
        gained, differs = _accuracy(x, y, a.metric.minimize, same_data)
        found.append(
            SharedModel(
                key=x.key, name=x.name, speedup_a=_ratio_of(x), speedup_b=_ratio_of(y), ratio=value, p_value=p,
                speed_differs=p < _REAL, same_file=bool(x.sha256) and x.sha256 == y.sha256, size_a=x.size_bytes,
                size_b=y.size_bytes, accuracy_points=gained, accuracy_differs=differs, same_recipe=x.key == y.key,
            )
        )  # fmt: skip
    return tuple(found)


def _best(a: RunSummary, b: RunSummary, same_data: bool) -> BestCompared | None:
    x, y = a.model_of(a.best), b.model_of(b.best)
    if x is None or y is None:
        return None
    speed, p = _speed(x, y)
    gained, differs = _accuracy(x, y, a.metric.minimize, same_data)
    return BestCompared(
        name_a=x.name, name_b=y.name, same_recipe=x.key == y.key, speed=speed, speed_differs=p < _REAL,
        size_ratio=y.size_bytes / x.size_bytes, accuracy_points=gained, accuracy_differs=differs,
    )  # fmt: skip


def _sentences(a: str, b: str, best: BestCompared | None, shared: Sequence[SharedModel], unit: str) -> tuple[str, ...]:
    told = []
    if best is None:
        told.append("At least one of the runs recommends no model, so there is no best to compare.")
    else:
        if best.same_recipe:
            told.append(f"Both runs recommend the same recipe ({shown(best.name_a, 80)}).")
        speed = f"{ratio(best.speed.value)} the speedup [{ratio(best.speed.low)}, {ratio(best.speed.high)}]"
        accuracy = change_text(best.accuracy_points, unit)
        told.append(
            f"The recommended model of {b} has {speed} of that of {a} ({_real(best.speed_differs)}), "
            f"{percent(best.size_ratio)} of its size, {accuracy} ({_real(best.accuracy_differs)})."
        )
    if shared:
        n = sum(s.speed_differs for s in shared)
        told.append(
            f"{len(shared)} compressed models stand in both reports; the speedup of {n} of them really differs."
            if n else f"{len(shared)} compressed models stand in both reports; no speedup differs by more than noise."
        )  # fmt: skip
    else:
        told.append("No compressed model stands in both reports.")
    return tuple(told)


def _real(differs: bool) -> str:
    return "a real difference" if differs else "not told apart from noise"


def compare(a: RunSummary, b: RunSummary, *, name_a: str = "A", name_b: str = "B") -> RunComparison:
    """Compare two runs.

    Args:
        a: the earlier or reference run.
        b: the other one; ratios are B over A, differences B - A.
        name_a: what to call the first.
        name_b: what to call the second.
    """
    same_data = a.splits.get("search") == b.splits.get("search") and a.metric == b.metric
    facts_a, facts_b = _facts(a), _facts(b)
    facts = tuple(
        DifferingFact(fact=k, a=facts_a.get(k, "–"), b=facts_b.get(k, "–"))
        for k in dict.fromkeys([*facts_a, *facts_b])
        if facts_a.get(k) != facts_b.get(k)
    )
    shared, best = _shared(a, b, same_data), _best(a, b, same_data)
    keys_a, keys_b = {m.key for m in a.models}, {m.key for m in b.models}
    return RunComparison(
        a=name_a,
        b=name_b,
        facts=facts,
        warnings=_warnings(a, b),
        best=best,
        shared=shared,
        only_a=len(keys_a - keys_b),
        only_b=len(keys_b - keys_a),
        sentences=_sentences(name_a, name_b, best, shared, a.metric.unit),
    )


def render_comparison(comparison: RunComparison, a: RunSummary, b: RunSummary) -> str:
    """Write a comparison as Markdown.

    Args:
        comparison: what :func:`compare` found.
        a: the first run.
        b: the second run.
    """
    name_a, name_b = escaped(comparison.a, 60), escaped(comparison.b, 60)
    lines = [f"# {name_a} against {name_b}", ""]
    lines += [f"- **Mind:** {escaped(w, 300)}" for w in comparison.warnings]
    lines += [*(f"- {escaped(s, 400)}" for s in comparison.sentences), ""]
    lines += ["## What each run recommends", "", f"- {name_a}: {escaped(a.verdict.headline, 400)}"]
    lines += [f"- {name_b}: {escaped(b.verdict.headline, 400)}", ""]
    lines += ["## How the runs differ", ""]
    if comparison.facts:
        lines += [f"| | {name_a} | {name_b} |", "|---|---|---|"]
        lines += [f"| {escaped(f.fact, 60)} | {escaped(f.a)} | {escaped(f.b)} |" for f in comparison.facts]
    else:
        lines.append("In nothing that was recorded.")
    lines += ["", "## The same recipes in both", ""]
    if comparison.shared:
        lines += [
            f"| model | speedup {name_a} | speedup {name_b} | ratio [95 %] | real? | file | accuracy, change |",
            "|---|--:|--:|--:|---|---|--:|",
        ]
        lines += [_shared_row(s, a.metric.unit) for s in comparison.shared]
        lines += ["", "Real: p < 0.05 after adjustment for the number of models (Holm)."]
    else:
        lines.append("None.")
    unit = a.metric.unit
    base_a, base_b = a.model_of(a.baseline), b.model_of(b.baseline)
    if base_a and base_b:
        lines += [
            "",
            f"The fp32 original: {metric_text(base_a.accuracy.search.value, unit)} and "
            f"{metric_text(base_b.accuracy.search.value, unit)}, {fixed(base_a.latency_ms.value, 3)} ms and "
            f"{fixed(base_b.latency_ms.value, 3)} ms.",
        ]
    return "\n".join([*lines, ""])


def _shared_row(s: SharedModel, unit: str) -> str:
    file = "same bytes" if s.same_file else f"{bytes_text(s.size_a)}, {bytes_text(s.size_b)}"
    real = f"yes (p = {s.p_value:.2g})" if s.speed_differs else f"no (p = {s.p_value:.2g})"
    mark = "" if s.accuracy_differs else " (noise)" if abs(s.accuracy_points) >= 0.005 else ""
    return (
        f"| {escaped(s.name, 60)} | {ratio(s.speedup_a.value)} | {ratio(s.speedup_b.value)} "
        f"| {fixed(s.ratio.value, 3)} [{fixed(s.ratio.low, 3)}, {fixed(s.ratio.high, 3)}] "
        f"| {real} | {file} | {change(s.accuracy_points, unit)}{mark} |"
    )
