"""The reference page of the job file, made of its fields: ``python -m modeltailor.job_reference`` prints it."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from modeltailor.job import Job
from modeltailor.quantity import parse_duration_s

__all__ = ["job_reference"]

_OWN_PATH = re.compile(r"^``[\w.\[\]]+:`` ")
"""What a section's docstring begins with."""

_HEAD = """\
# The job file

What a search is told: which network, which data, which device, which limits. `modeltailor init` writes one with comments,
`modeltailor validate job.yaml` lists everything that is wrong with one, and every command that takes a job overrides any key
with `--set key=value`, for instance `--set search.trials=20`.

It is YAML. Paths start from the folder of the job file. Unknown keys are refused. Latencies are written `2 ms` or `500 us`, sizes
`200 KB` or `4 MB` (of 1,000 bytes; `KiB` has 1,024), durations `20m`, `90s` or `1h`. Only `model` and `data` must be given:

```yaml
model: {source: model.py:build, weights: weights.safetensors}
data: data.py:load
```

Short forms: `model: net.onnx` is its `source`, `data: data.py:load` its `function`, `data: images.npz` its `train`,
`metric: f1` its `name`. A section that holds comments alone counts as left out.

**Points.** `max_drop` counts in points: hundredths of the metric's unit. For a share such as accuracy (0 to 1) that is a percent
point: `max_drop: 1.0` allows 0.88 to become 0.87. For a metric with a unit of its own (`rmse`, `mae`, `cross-entropy`) it is 0.01
of that unit, whatever the size of the values: an error of 20 that may grow to 20.3 is `max_drop: 30`. `min_accuracy` is the worst
value that is allowed, in the metric's own unit: for those metrics, which are minimised, the largest.

**Shares.** Reports show percent of shares only. Of the built-ins those are `accuracy`, `top5`, `f1`, `miou`, `spearman` and
`pair-spearman`. A function of your own is taken for a share if larger is better and the original's value lies between 0 and 1;
anything else is shown in its `unit`, or in `units` if it has none. `unit: '%'` says that it is a share from 0 to 1 in any case, as
an error rate is.

**Without any limit** one point of a share may be lost, and of any other metric 1 % of what the original is measured to have: an
error of 2000 may grow to 2020, one of 0.004 to 0.00404. Once a limit is given, of whatever kind, only what is given holds.
"""

_TAIL = """
A run that is resumed must have the same job, but for `search.trials`, `search.time` and `search.trial_timeout`. A search
that had come to its end goes on if it gets more trials or more time, whatever it had stopped for; but both limits hold:
where all trials are done, more time alone adds nothing, and where the time is used up, neither do more trials.
`modeltailor resume` says which one binds.
"""


def job_reference() -> str:
    """Return the page as Markdown: one table a section, in the order of the file."""
    parts = [_HEAD]
    for path, part in _sections("", Job):
        title = f"## `{path}`" if path else "## Top level"
        said = " ".join((part.__doc__ or "").split())
        said = _OWN_PATH.sub("", said).replace("``", "`")
        rows = [_row(name, field) for name, field in part.model_fields.items()]
        lines = [title, *(["", said[:1].upper() + said[1:]] if said else []), ""]
        lines += ["| key | default | what it says |", "|---|---|---|", *rows]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts) + _TAIL


def _sections(path: str, part: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, part
    for name, field in part.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is not None:
            ends = "[]" if typing.get_origin(field.annotation) is tuple else ""
            yield from _sections(f"{path}.{name}{ends}".lstrip("."), inner)


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in typing.get_args(annotation) if (found := _model_in(a)) is not None), None)


def _row(name: str, field: FieldInfo) -> str:
    inner = _model_in(field.annotation)
    said = field.description or ""
    if inner is not None and not said:
        said = "a section of its own, below"
    return f"| `{name}` | {_default(field)} | {said} |"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "**required**"
    if value is None or value in ("", ()) or isinstance(value, BaseModel):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(str(v) for v in value)}]`"
    if any(getattr(m, "func", None) is parse_duration_s for m in field.metadata):
        return f"`{value / 60:g}m`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


if __name__ == "__main__":
    print(job_reference(), end="")
