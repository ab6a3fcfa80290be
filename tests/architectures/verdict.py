"""One network in one random mixed recipe: does it build, load and run, and does it compute what was asked for?

Checked, each with its figure:

- *float*: the prepared float model computes what the file computes (folding broke nothing);
- *simulation*: the built file computes what :mod:`architectures.simulation` computes. Both round the same values to the
  same grids, but they sum up in another order and in other types, so that a value next to the middle between two grid
  points may fall on either side, and the next layers round on: a difference ``e`` becomes about ``sqrt(e * step)`` at
  each quantizer. How far that goes depends on the network, and is measured: the weights of the simulation are moved by
  a millionth of themselves, which is what another order of summing does. The file may be ``TIMES`` as far from the
  simulation as the simulation so moves by itself, and always ``FLOOR`` of the outputs;
- *sizes*: weights, biases, constants that are no site's and at most ``OVERHEAD`` bytes a node make up the file; no
  site takes more than the arithmetic of :meth:`Composer.stored_bytes` says;
- *kernels*: at each quantized site the optimized graph executes the operator that was reported, or the report says why
  not.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from architectures.case import Case
from architectures.simulation import simulated
from modeltailor.compress import Format, Settings
from modeltailor.compress.formats import Composed, Composer, executed_kernels, kernels_agree
from modeltailor.compress.pack import unpack_model
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session, optimized_model

__all__ = ["FLOAT_LIMIT", "FLOOR", "TIMES", "Verdict", "judge", "random_recipe"]

FLOAT_LIMIT = 2e-3
FLOOR = 5e-4
TIMES = 4.0
_MILLIONTH = 1e-6
OVERHEAD = 160
_ROWS = 4  # samples that are compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found for one network.

    Attributes:
        name: of the network.
        opset: of the file.
        sites: sites, and how many of them the recipe quantizes.
        quantized: see there.
        nodes: of the prepared float graph.
        unsupported: sites and heavy operators that can only stay fp32, with the reason, each once.
        float_error: relative distance of the prepared float model to the file as it came.
        noise: relative distance of the simulation to the float model: what the recipe costs.
        gap: relative distance of the built file to the simulation.
        limit: what ``gap`` may be.
        float_bytes: of the float file.
        bytes: of the built file.
        unexplained_bytes: of the built file, beyond weights, biases and constants, a node.
        disagreeing: sites whose executed kernel differs from the report without a reason.
        explained: sites that differ and say why.
        seconds: to prepare and build.
        problems: what is wrong, in words; empty if nothing.
    """

    name: str
    opset: int
    sites: int
    quantized: int
    nodes: int
    unsupported: tuple[str, ...]
    float_error: float
    noise: float
    gap: float
    limit: float
    float_bytes: int
    bytes: int
    unexplained_bytes: float
    disagreeing: tuple[str, ...]
    explained: tuple[str, ...]
    seconds: float
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def random_recipe(composer: Composer, seed: int) -> tuple[dict[str, Format], Settings]:
    """Return a mixed recipe: a format for each site out of all that it offers, and settings.

    Weights of 2 and 3 bits turn a network of random weights to noise when every other layer has them, so they are
    drawn for one site in eight; so is nothing else left out.
    """
    rng = np.random.default_rng(seed)
    formats: dict[str, Format] = {}
    for site in composer.sites:
        offered = composer.formats(site)
        gentle = tuple(f for f in offered if f.weight_bits >= 4)
        drawn = offered if rng.random() < 0.125 else gentle
        formats[site.name] = drawn[int(rng.integers(len(drawn)))]
    weights = sum(s.weight_elements for s in composer.sites)
    settings = Settings(
        activation_signed=bool(rng.random() < 0.3),
        activation_symmetric=bool(rng.random() < 0.2),
        per_channel=bool(rng.random() < 0.8),
        range_method=str(rng.choice(["minmax", "percentile", "mse"])),  # type: ignore[arg-type]
        rounding="gptq" if weights < 1 << 19 else "nearest",
        bias_correction=bool(rng.random() < 0.7),
        equalize=bool(rng.random() < 0.3),
    )
    return formats, settings


def _run(model: bytes, feed: Mapping[str, NDArray[np.generic]], level: str = "all") -> list[NDArray[np.float64]]:
    session = open_session(model, RuntimeOptions(optimization=level))  # type: ignore[arg-type]
    names = {i.name for i in session.get_inputs()}
    given = session.run(None, {k: v for k, v in feed.items() if k in names})
    return [np.asarray(v, np.float64) for v in given]


def _distance(a: list[NDArray[np.float64]], b: list[NDArray[np.float64]]) -> float:
    """Root of the summed squares of the differences over that of ``b``, the largest of all outputs."""
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape or not np.isfinite(x).all():
            return float("inf")
        worst = max(worst, float(np.linalg.norm(x - y) / max(float(np.linalg.norm(y)), 1e-12)))
    return worst


def judge(
    name: str,
    case: Case,
    *,
    seed: int = 0,
    composer: Composer | None = None,
    formats: Mapping[str, Format] | None = None,
    settings: Settings | None = None,
) -> Verdict:
    """Build a network in a random mixed recipe and check everything.

    Args:
        name: of the network.
        case: the network.
        seed: of the recipe.
        composer: of the network, where the caller has it already.
        formats: a recipe in place of the random one; with ``settings``.
        settings: see there.
    """
    started = time.perf_counter()
    made_composer = composer or Composer(case.path, case.inputs)
    if formats is None:
        formats, settings = random_recipe(made_composer, seed)
    chosen = settings or Settings()
    made = made_composer.compose(formats, chosen)
    seconds = time.perf_counter() - started
    graph = made_composer.graph
    fixed = made_composer.calibration.fixed_batch
    rows = min(fixed or _ROWS, len(next(iter(case.inputs.values()))))
    feed = {k: np.ascontiguousarray(v[:rows]) for k, v in case.inputs.items()}
    original = _run(_whole(case), feed)
    plain = _run(made_composer.float_model(), feed)
    simulation = simulated(made_composer, formats, chosen)
    wanted = _run(simulation, feed, "none")
    moved = max(_distance(_run(_shaken(simulation, k), feed, "none"), wanted) for k in range(2))
    got = _run(made.model_bytes, feed)
    found = _Findings(
        float_error=_distance(plain, original),
        noise=_distance(wanted, plain),
        gap=_distance(got, wanted),
        limit=max(FLOOR, TIMES * moved),
    )
    unpacked = _run(unpack_model(onnx.load_from_string(made.model_bytes)).SerializeToString(), feed)
    left, overhead = _sizes(made_composer, made, formats, chosen)
    wrong, explained = _kernels(made_composer, made)
    problems = [
        *found.problems(),
        *left,
        *([] if all(map(np.array_equal, got, unpacked)) else ["unpacked it gives other outputs"]),
        *(f"{site}: executed otherwise than reported, without a reason" for site in wrong),
    ]
    return Verdict(
        name=name,
        opset=graph.opset,
        sites=len(made.sites),
        quantized=sum(r.format != "fp32" for r in made.sites),
        nodes=len(graph.model.graph.node),
        unsupported=tuple(f"{u.name}: {u.reason}" for u in made_composer.unsupported),
        float_error=found.float_error,
        noise=found.noise,
        gap=found.gap,
        limit=found.limit,
        float_bytes=len(made_composer.float_model()),
        bytes=len(made.model_bytes),
        unexplained_bytes=overhead,
        disagreeing=wrong,
        explained=explained,
        seconds=seconds,
        problems=tuple(problems),
    )


def _shaken(simulation: bytes, seed: int) -> bytes:
    """The simulation with its weights moved by a millionth of themselves."""
    rng = np.random.default_rng(seed)
    model = onnx.load_from_string(simulation)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            value = onnx.numpy_helper.to_array(tensor)
            by = 1 + np.float32(_MILLIONTH) * rng.standard_normal(value.shape, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array((value * by).astype(np.float32), tensor.name))
    return bytes(model.SerializeToString())


def _whole(case: Case) -> bytes:
    return bytes(onnx.load(case.path).SerializeToString())


@dataclass(frozen=True, slots=True)
class _Findings:
    float_error: float
    noise: float
    gap: float
    limit: float

    def problems(self) -> list[str]:
        found = []
        if not self.float_error <= FLOAT_LIMIT:
            found.append(f"the prepared float model is off by {self.float_error:.2g} of the outputs")
        if not self.gap <= self.limit:
            found.append(f"the file is off its simulation by {self.gap:.2g} of the outputs; allowed {self.limit:.2g}")
        return found


def _sizes(
    composer: Composer, made: Composed, formats: Mapping[str, Format], settings: Settings
) -> tuple[list[str], float]:
    """Return what does not add up, and the bytes a node that are neither weights nor biases nor constants."""
    problems = []
    for site, report in zip(composer.sites, made.sites, strict=True):
        fmt = formats.get(site.name, Format())
        most = composer.stored_bytes(site, fmt, settings)
        if report.stored_bytes > most:
            problems.append(f"{site.name}: {report.stored_bytes} bytes stored, at most {most} by arithmetic")
        if report.storage_bits != fmt.weight_bits:
            problems.append(f"{site.name}: {report.storage_bits} bits stored, {fmt.weight_bits} asked for")
    model = onnx.load_from_string(made.model_bytes)
    stored = sum(len(t.raw_data) or t.ByteSize() for t in model.graph.initializer)
    shared = {s.weight for s in composer.graph.sites}
    sites = sum(r.stored_bytes for r in made.sites)
    if len(shared) == len(composer.graph.sites) and len(made.model_bytes) < sites:
        problems.append(f"the file has {len(made.model_bytes)} bytes, its sites report {sites}")
    nodes = len(model.graph.node) + len(model.graph.initializer)
    rest = len(made.model_bytes) - stored
    functions = sum(f.ByteSize() for f in model.functions)
    overhead = (rest - functions) / max(nodes, 1)
    if overhead > OVERHEAD:
        problems.append(f"{overhead:.0f} bytes a node beyond tensors; at most {OVERHEAD}")
    return problems, overhead


def _kernels(composer: Composer, made: Composed) -> tuple[tuple[str, ...], tuple[str, ...]]:
    executed = executed_kernels(optimized_model(made.model_bytes), composer.sites)
    wrong, explained = [], []
    for report in made.sites:
        if report.format == "fp32" or kernels_agree(report.kernel, executed.get(report.site, "")):
            continue
        text = f"{report.site} ({report.format}): reported {report.kernel}, executed {executed.get(report.site)}"
        (explained if report.note else wrong).append(f"{text}; {report.note}" if report.note else text)
    return tuple(wrong), tuple(explained)


def as_plain(verdict: Verdict) -> dict[str, object]:
    """Return a verdict as JSON-able data."""
    return dataclasses.asdict(verdict) | {"passed": verdict.passed}
