"""The commented job file that ``modeltailor init`` writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import yaml

from modeltailor.errors import shown
from modeltailor.job import is_share, unit_of

__all__ = ["render_job"]

_TEMPLATE = """\
# A job of modeltailor. Paths start from this file's folder. Then: modeltailor search {self}
{facts}version: 1

model:
  source: {model}          # model.py:build, package.module:function, model.onnx, or a Hugging Face folder
{weights}{student}
# One .npz a split with arrays x (or x.NAME for several inputs) and y; or a function that returns
# {{"train": {{"x": ..., "y": ...}}, ...}}. What is missing is cut from train; no two splits may share samples.
data:
{data}
metric: {metric}            # accuracy, top5, f1, miou, rmse, mae, cross-entropy, spearman, pair-spearman, or metric.py:function

target: {target}            # see: modeltailor targets list

{budget}
search:
  trials: 60                # candidates in all, the uniform baselines included
  time: 20m                 # wall clock of the whole run, training included
  seed: 0
  axes: [formats, sparsity, student]
  sampler: tailor           # tailor, tpe, nsga2, nsga3, gp, random
  recovery: true            # let recipes with few bits learn again with their formats
  # training: {{temperature: 4, hard_label_weight: 0.3, features: [], assistants: auto}}   # how students learn
"""

_COMMENTED = re.compile(r"^(\s*[^#\s].*?|\s+# \w+: \S.*?)\s+# (.*)$")
_COLUMN = 30
_STUDENT = "# student(width, depth) -> module: your own narrower or shallower networks"
_LIMITS = (
    ("max_drop", "points of the metric that may be lost (percent points of a share)", "1.0"),
    ("min_accuracy", "worst allowed value of the metric", "0.9"),
    ("latency", "one inference", "2 ms"),
    ("size", "the ONNX file", "200 KB"),
    ("memory", "peak memory of loading and running", "64 MB"),
)


_LIMITS_IN_UNITS = {
    "max_drop": "hundredths of the metric's unit that may be lost: 30 for 0.3 of it",
    "min_accuracy": "worst allowed value of the metric: the largest where smaller is better",
}
"""Meanings for metrics that need not be a share: what is a point of them, nobody but the user knows."""


def _bytes(value: float) -> str:
    """Bytes in the largest decimal unit that divides them."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if value % size == 0:
            return f"{value // size:.0f} {unit}"
    return f"{value:.0f}"


def _scalar(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()


def render_job(
    *,
    model: str,
    weights: str,
    data: str,
    metric: str,
    target: str,
    limits: Mapping[str, float | int],
    student: str = "",
    facts: Sequence[str] = (),
    name: str = "job.yaml",
) -> str:
    """Return the text of a job file.

    Args:
        model: ``model.source``.
        weights: ``model.weights``; may be empty.
        data: a function, or a file for ``data.train``.
        metric: name of the metric.
        target: name of the profile.
        limits: keys of ``budget`` with values in points, milliseconds or bytes.
        student: ``model.student``; may be empty.
        facts: what was found out, for comments at the top.
        name: of the file, for the comment.
    """
    lines = []
    share = is_share(metric)
    named = dict(limits) or ({"max_drop": 1.0} if share else {})
    for key, usual, example in _LIMITS:
        meaning = usual if share else _LIMITS_IN_UNITS.get(key, usual)
        if key in named:
            value = named[key]
            text = f"{value} ms" if key == "latency" else _bytes(value) if key in ("size", "memory") else f"{value:g}"
            lines.append(f"  {key}: {text:<18} # {meaning}\n")
        else:
            lines.append(f"  # {key}: {example:<16} # {meaning}\n")
    part = f"  function: {_scalar(data)}\n" if not data.endswith(".npz") else f"  train: {_scalar(data)}\n"
    text = _TEMPLATE.format(
        self=name,
        model=_scalar(model),
        facts="".join(f"# {shown(fact, 160)}\n" for fact in facts),
        student=f"  student: {_scalar(student):<22} {_STUDENT}\n"
        if student
        else f"  # student: model.py:student   {_STUDENT}\n",
        weights=f"  weights: {_scalar(weights)}\n" if weights else "  # weights: weights.safetensors\n",
        data=part,
        metric=_scalar(metric),
        target=_scalar(target),
        budget=_budget(lines, metric, is_empty=not named),
    )
    return "\n".join(_aligned(line) for line in text.splitlines()) + "\n"


def _budget(lines: Sequence[str], metric: str, *, is_empty: bool) -> str:
    usual = ""
    if is_empty:
        usual = "; without any, 1 % of the original's value may be lost"
        usual += "" if unit_of(metric) else ", or one point of a share"
    return f"budget:                     # hard limits, any subset{usual}\n{''.join(lines)}"


def _aligned(line: str) -> str:
    """Put the comment behind a line's content at a column of its own."""
    found = _COMMENTED.match(line)
    return f"{found[1] + ' ':<{_COLUMN}}# {found[2]}" if found else line
