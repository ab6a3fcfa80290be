"""A workload: the model, the data and the metric, loaded and checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from modeltailor.errors import ConfigError, DataError
from modeltailor.workloads.code import load_callable, looks_like_code
from modeltailor.workloads.metric import BUILT_IN, Metric, MetricSpec, Outputs, built_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["bind_inputs", "resolve_metric"]


def resolve_metric(spec: MetricSpec, root: Path) -> Metric:
    """Return the metric that ``spec`` names.

    Raises:
        ConfigError: no metric has that name, or its function does not exist.
        DataError: importing the function raised.
    """
    if spec.name in BUILT_IN or not looks_like_code(spec.name):
        return built_in(spec)
    function = cast("Callable[[Any, Any], Any]", load_callable(spec.name, root, "metric"))

    def value(outputs: Outputs, targets: NDArray[Any]) -> float:
        seen = next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)
        return cast("float", function(seen, targets))

    return Metric(
        name=getattr(function, "__name__", spec.name),
        minimize=spec.minimize,
        unit=spec.unit,
        rows_per_sample=spec.rows_per_sample,
        value=value,
    )


def bind_inputs(
    arrays: Mapping[str, NDArray[Any]],
    names: tuple[str, ...],
    shapes: Mapping[str, tuple[int | None, ...]] | None = None,
) -> dict[str, NDArray[Any]]:
    """Give the arrays of a split the input names of a model.

    One array fits a model with one input, whatever its name; several are matched by name.

    Args:
        arrays: by the name used in the data.
        names: the model's inputs, in order.
        shapes: the model's declared shapes; ``None`` is a free dimension.

    Raises:
        ConfigError: names do not match.
        DataError: a shape does not fit.
    """
    if len(arrays) == 1 and len(names) == 1:
        bound = {names[0]: next(iter(arrays.values()))}
    elif set(arrays) == set(names):
        bound = {name: arrays[name] for name in names}
    else:
        raise ConfigError(
            "CFG-15", "data", f"the model takes inputs {', '.join(names)}; the data has {', '.join(sorted(arrays))}",
            "name the arrays x.NAME after the model's inputs",
        )  # fmt: skip
    for name, array in bound.items():
        want = (shapes or {}).get(name)
        if want is None:
            continue
        fits = len(want) == array.ndim and all(
            w is None or w == g for w, g in zip(want[1:], array.shape[1:], strict=False)
        )
        if not fits:
            shown = tuple("any" if w is None else w for w in want)
            raise DataError(
                "DATA-03",
                f"x.{name}",
                f"the model takes shape {shown}; got {array.shape}",
                "give data of the model's shape",
            )
    return {k: np.ascontiguousarray(v) if isinstance(v, np.memmap) is False else v for k, v in bound.items()}
