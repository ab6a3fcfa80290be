"""ONNX Runtime sessions: the only place where they are created."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from modeltailor.errors import DeviceError, ModelError
from modeltailor.targets.agent.device_side import (
    BARE_MODEL,
    CPU_PROVIDER,
    fall_back,
    precision_settings,
    profile_events,
    providers_for,
)
from modeltailor.targets.device import Inputs, RuntimeOptions

if TYPE_CHECKING:
    import onnx

__all__ = [
    "NodeTime",
    "TensorSpec",
    "feed_for",
    "input_specs",
    "nearest_here",
    "open_session",
    "optimized_model",
    "output_specs",
    "profile_nodes",
    "refuse_fall_back",
    "run_batches",
    "runtime_name",
]

_LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output as the runtime sees it.

    Attributes:
        name: of the tensor.
        dtype: NumPy name such as ``float32``; the runtime's own name where NumPy has none.
        shape: sizes; a name or ``None`` where the size is free.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTime:
    """Time of one node of the optimized graph.

    Attributes:
        name: of the node, after optimization.
        op_type: operator that ran.
        domain: of the operator; empty for standard ONNX.
        provider: execution provider that ran it.
        ms: median milliseconds of a call, so that a stall of the machine counts for nothing, times the calls of one
            inference: the body of a loop runs several times, and what runs in a body is no part of the loop's own time.
        calls: number of timed calls.
        input_types: element types of the inputs as the runtime names them (``float``, ``uint8`` ...).
        input_shapes: their shapes.
        output_types: element types of the outputs.
    """

    name: str
    op_type: str
    domain: str
    provider: str
    ms: float
    calls: int
    input_types: tuple[str, ...] = ()
    input_shapes: tuple[tuple[int, ...], ...] = ()
    output_types: tuple[str, ...] = ()


def runtime_name() -> str:
    """Name and version of the runtime, as in ``onnxruntime 1.32.0``."""
    return f"onnxruntime {ort.__version__}"


def _session_options(options: RuntimeOptions) -> ort.SessionOptions:
    made = ort.SessionOptions()
    made.intra_op_num_threads = options.intra_op_threads
    made.inter_op_num_threads = 1
    made.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    made.log_severity_level = 3  # errors only
    made.graph_optimization_level = _LEVELS[options.optimization]
    spinning = "1" if options.spinning else "0"
    made.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    made.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    for key, value in _precision(options)[0].items():
        made.add_session_config_entry(key, value)
    return made


def _precision(options: RuntimeOptions) -> tuple[dict[str, str], dict[str, str]]:
    try:
        return precision_settings(options.provider, options.precision)
    except LookupError as error:
        raise DeviceError("DEV-02", options.provider, str(error), "leave it out of the profile's precision") from error


def _open(model: Path | bytes, options: RuntimeOptions, made: ort.SessionOptions) -> ort.InferenceSession:
    available = ort.get_available_providers()
    if options.provider not in available:
        raise DeviceError(
            "DEV-02",
            options.provider,
            f"this ONNX Runtime has no such execution provider; it has {', '.join(available)}",
            "install the runtime build that has it, or choose another target",
        )
    made.graph_optimization_level = _LEVELS[options.optimization]
    source = model if isinstance(model, bytes) else str(model)
    name = "model" if isinstance(model, bytes) else model.name
    if isinstance(model, Path) and not model.is_file():
        raise ModelError.missing(model)
    providers = providers_for(options.provider, _precision(options)[1])
    try:
        session = ort.InferenceSession(source, made, providers=providers)
    except Exception as error:  # the runtime's own exceptions share no base class
        raise ModelError("MODEL-08", name, f"ONNX Runtime cannot load it: {_first_line(error)}") from error
    if options.provider not in session.get_providers():
        raise DeviceError(
            "DEV-02", options.provider, "the runtime fell back to the CPU without a word", "check its drivers"
        )
    return session


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def nearest_here(options: RuntimeOptions) -> RuntimeOptions:
    """Return how this machine opens what a device elsewhere runs under ``options``: on the CPU if it lacks the provider.

    A runtime lists what it was built for; whether there are a device and its libraries, only a session shows.
    """
    try:
        open_session(BARE_MODEL, options)
    except (DeviceError, ModelError):
        return replace(options, provider=CPU_PROVIDER, precision=())
    return options


def open_session(model: Path | bytes, options: RuntimeOptions) -> ort.InferenceSession:
    """Open a session with set threads, operators one after another, and only errors logged.

    Raises:
        ModelError: the file is missing or the runtime refuses it.
        DeviceError: the execution provider is missing, or fell back to the CPU.
    """
    return _open(model, options, _session_options(options))


def refuse_fall_back(model: Path | bytes, feed: Inputs, options: RuntimeOptions) -> None:
    """Run a model once under the profiler and refuse it if nodes silently ran elsewhere than on the provider asked for.

    Work on shapes and indices may stay on the CPU, where runtimes put it on purpose. On the CPU provider itself there is
    nothing to look for.

    Raises:
        ModelError: nodes ran elsewhere; names the first of them and how many there are.
    """
    if options.provider == CPU_PROVIDER:
        return

    def open_profiled(adjust: Callable[[ort.SessionOptions], None]) -> ort.InferenceSession:
        made = _session_options(options)
        adjust(made)
        return _open(model, options, made)

    fallen = fall_back(profile_events(open_profiled, lambda session: session.run(None, feed)), options.provider)
    if fallen:
        name = "model" if isinstance(model, bytes) else model.name
        raise ModelError("MODEL-13", name, fallen, "choose formats that this provider runs, or another provider")


def _specs(arguments: Sequence[ort.NodeArg]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=a.name, dtype=_TYPES.get(a.type, a.type), shape=tuple(d if d != "" else None for d in a.shape))
        for a in arguments
    )


def _as_session(model: ort.InferenceSession | Path | bytes, options: RuntimeOptions | None) -> ort.InferenceSession:
    if isinstance(model, ort.InferenceSession):
        return model
    return open_session(model, options or RuntimeOptions())


def input_specs(model: ort.InferenceSession | Path | bytes) -> tuple[TensorSpec, ...]:
    """Return the inputs of a session or a model file, in order."""
    return _specs(_as_session(model, RuntimeOptions(optimization="none")).get_inputs())


def output_specs(model: ort.InferenceSession | Path | bytes) -> tuple[TensorSpec, ...]:
    """Return the outputs of a session or a model file, in order."""
    return _specs(_as_session(model, RuntimeOptions(optimization="none")).get_outputs())


def feed_for(session: ort.InferenceSession, inputs: Inputs) -> dict[str, NDArray[np.generic]]:
    """Pick the inputs that a session takes.

    Raises:
        ModelError: one is missing.
    """
    missing = [a.name for a in session.get_inputs() if a.name not in inputs]
    if missing:
        raise ModelError(
            "MODEL-11",
            "model",
            f"takes input {missing[0]!r}; given: {', '.join(inputs) or 'none'}",
            "name the inputs alike",
        )
    return {a.name: np.ascontiguousarray(inputs[a.name]) for a in session.get_inputs()}


def _batches(
    inputs: Inputs, batch_size: int, fixed: int | None
) -> Iterator[tuple[dict[str, NDArray[np.generic]], int]]:
    """Yield feeds and the number of their real rows; a model with a fixed batch gets its last batch filled up."""
    n_samples = len(next(iter(inputs.values())))
    step = fixed or batch_size
    for start in range(0, n_samples, step):
        feed = {name: np.ascontiguousarray(value[start : start + step]) for name, value in inputs.items()}
        n_real = min(step, n_samples - start)
        if fixed is not None and n_real < fixed:
            feed = {k: np.concatenate([v, np.repeat(v[-1:], fixed - n_real, axis=0)]) for k, v in feed.items()}
        yield feed, n_real


def run_batches(
    model: ort.InferenceSession | Path | bytes,
    inputs: Inputs,
    *,
    batch_size: int,
    output_names: Sequence[str] | None = None,
    options: RuntimeOptions | None = None,
) -> dict[str, NDArray[np.generic]]:
    """Run a model over all samples and return its outputs by name.

    Args:
        model: a session, or a model to open with ``options``.
        inputs: arrays by input name, shape ``(n_samples, ...)``.
        batch_size: samples a run; a batch size that the model fixes wins.
        output_names: outputs to fetch; all if ``None``.
        options: how a session is opened when ``model`` is none.

    Returns:
        Arrays of shape ``(n_samples, ...)``.

    Raises:
        ModelError: the runtime refuses the model, or fails while running it.
    """
    session = _as_session(model, options)
    names = list(output_names or (o.name for o in session.get_outputs()))
    sizes = {a.shape[0] for a in session.get_inputs() if a.name in inputs and a.shape}
    fixed = next((s for s in sizes if isinstance(s, int)), None)
    parts: list[list[NDArray[np.generic]]] = [[] for _ in names]
    for feed, n_real in _batches(inputs, batch_size, fixed):
        try:
            values = session.run(names, feed)
        except Exception as error:  # the runtime's own exceptions share no base class
            raise ModelError("MODEL-09", "model", f"ONNX Runtime cannot run it: {_first_line(error)}") from error
        n_given = len(next(iter(feed.values())))
        for kept, value in zip(parts, values, strict=True):
            rows = np.asarray(value)
            if rows.ndim == 0 or len(rows) != n_given:
                raise ModelError(
                    "MODEL-10",
                    "model",
                    f"every output must have one row a sample; got {rows.shape} for {n_given} samples",
                )
            kept.append(rows[:n_real])
    return {name: np.concatenate(kept) for name, kept in zip(names, parts, strict=True)}


def optimized_model(model: Path | bytes, options: RuntimeOptions | None = None) -> onnx.ModelProto:
    """Return the graph that really runs, as the runtime writes it after its optimizations.

    Raises:
        ModelError: as :func:`open_session`.
    """
    from onnx import load as load_model  # late: measuring processes do without it

    chosen = options or RuntimeOptions()
    with tempfile.TemporaryDirectory(prefix="modeltailor-") as folder:
        path = Path(folder) / "optimized.onnx"
        made = _session_options(chosen)
        made.optimized_model_filepath = str(path)
        made.log_severity_level = 4  # it warns that the file is only good for this machine, which is what is wanted
        _open(model, chosen, made)
        return load_model(path)


def profile_nodes(
    model: Path | bytes, inputs: Inputs, options: RuntimeOptions | None = None, n: int = 50
) -> tuple[NodeTime, ...]:
    """Time each node with the runtime's own profiler, in the order of execution.

    The profiler itself costs some microseconds a node: use shares, not absolute times.

    Args:
        model: file or bytes.
        inputs: one batch, fed as it is.
        options: how the session is opened.
        n: timed runs, after a tenth as many dropped ones.

    Raises:
        ModelError: the runtime refuses the model, or fails while running it.
    """
    from onnx import load as load_model  # late: measuring processes do without it

    chosen = options or RuntimeOptions()
    n_dropped = max(2, n // 10)
    with tempfile.TemporaryDirectory(prefix="modeltailor-") as folder:
        made = _session_options(chosen)
        made.enable_profiling = True
        made.profile_file_prefix = os.fspath(Path(folder) / "profile")
        made.optimized_model_filepath = os.fspath(Path(folder) / "optimized.onnx")
        made.log_severity_level = 4  # as in optimized_model
        session = _open(model, chosen, made)
        feed = feed_for(session, inputs)
        try:
            for _ in range(n + n_dropped):
                session.run(None, feed)
        except Exception as error:  # the runtime's own exceptions share no base class
            raise ModelError("MODEL-09", "model", f"ONNX Runtime cannot run it: {_first_line(error)}") from error
        finally:
            with contextlib.suppress(Exception):
                written = session.end_profiling()
        events = json.loads(Path(written).read_text(encoding="utf-8", errors="replace"))
        graph = load_model(made.optimized_model_filepath, load_external_data=False).graph
    return _node_times(events, n_dropped, {(n.name, n.op_type): n.domain for n in graph.node})


def _node_times(
    events: list[dict[str, object]], n_dropped: int, domains: dict[tuple[str, str], str]
) -> tuple[NodeTime, ...]:
    """Read the profiler's events; ``n_dropped`` runs are left out. A node's time is without the nodes in its own body."""
    runs = sum(e.get("name") == "model_run" for e in events)
    times: dict[tuple[str, ...], list[float]] = {}
    tensors: dict[tuple[str, ...], tuple[object, object]] = {}
    for event, own_us in _own_times(events):
        arguments = cast("dict[str, object]", event["args"])
        key = (
            str(event["name"]).removesuffix("_kernel_time"),
            *(str(arguments.get(k, "")) for k in ("op_name", "provider", "node_index")),
        )
        times.setdefault(key, []).append(own_us / 1000.0)
        tensors[key] = arguments.get("input_type_shape"), arguments.get("output_type_shape")
    found = []
    for key, values in times.items():
        name, op_type, provider = key[:3]
        a_run = len(values) / runs if runs else 1.0  # the body of a loop runs several times, a branch not always
        kept = values[round(n_dropped * a_run) :] or values
        found.append(
            NodeTime(
                name=name,
                op_type=op_type,
                domain=domains.get((name, op_type), ""),
                provider=provider,
                ms=median(kept) * a_run,
                calls=len(kept),
                input_types=_element_types(tensors[key][0]),
                input_shapes=_shapes(tensors[key][0]),
                output_types=_element_types(tensors[key][1]),
            )
        )
    return tuple(found)


def _own_times(events: list[dict[str, object]]) -> Iterator[tuple[dict[str, object], float]]:
    """Yield the kernels' events in the order of execution with their microseconds, those of nested kernels taken off."""
    kernels = [
        (e, float(str(e["ts"])), float(str(e["dur"])))
        for e in events
        if e.get("cat") == "Node"
        and str(e.get("name", "")).endswith("_kernel_time")
        and isinstance(e.get("args"), dict)
    ]
    kernels.sort(key=lambda k: (k[1], -k[2]))
    own = [duration for _, _, duration in kernels]
    around: list[int] = []  # kernels that have not ended yet, the innermost last
    for at, (_, start, duration) in enumerate(kernels):
        while around and kernels[around[-1]][1] + kernels[around[-1]][2] < start + duration:
            around.pop()
        if around:
            own[around[-1]] -= duration
        around.append(at)
    return ((event, max(us, 0.0)) for (event, _, _), us in zip(kernels, own, strict=True))


def _element_types(entries: object) -> tuple[str, ...]:
    return tuple(t for e in entries for t in e) if isinstance(entries, list) else ()


def _shapes(entries: object) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(s) for e in entries for s in e.values()) if isinstance(entries, list) else ()
