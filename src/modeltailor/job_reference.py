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

`model: net.onnx`, `data: data.py:load` and `metric: f1` are short for their first key (`source`, `function`, `name`).
"""

_TAIL = """
A run that is resumed must have the same job, but for `search.trials`, `search.time` and `search.trial_timeout`: with more of
them it goes on, whatever it had stopped for.
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
