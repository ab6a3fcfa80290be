"""What a profile does not state, bands from few devices, and graphs that the runtime has settled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from modeltailor.compress import Format
from modeltailor.compress.formats import Composer
from modeltailor.estimators.predict import (
    DeviceModel,
    GraphWork,
    band_factor,
    checked_factor,
    constants_of,
    executed_files,
)
from modeltailor.estimators.predict.kernel_kinds import KernelKinds
from modeltailor.estimators.predict.mixture import Mixture
from modeltailor.estimators.predict.priors import figures_of, guessed
from modeltailor.estimators.predict.traces import Trace, TracedKernel, points_of
from modeltailor.estimators.predict.work import KernelWork
from modeltailor.targets import list_profiles
from modeltailor.targets.profile import Figure, Profile


def profile(name: str = "made-up", **changes: object) -> Profile:
    made: dict[str, object] = {
        "name": name, "title": "Made up", "kind": "embedded", "runtime": "none", "bandwidth_gbps": figure(5.0),
    }  # fmt: skip
    return Profile.model_validate({**made, **changes})


def figure(value: float, source: str = "made for a test") -> Figure:
    return Figure(value=value, origin="inferred", source=source)


def pool(ratio: Callable[[int], float], kind: str = "embedded") -> list[Profile]:
    return [
        profile(f"p{i}", kind=kind, peak_gops={"fp32": figure(10.0 + i), "int8": figure((10.0 + i) * ratio(i))})
        for i in range(8)
    ]


def test_what_is_stated_is_kept_and_what_is_not_comes_from_others_that_agree() -> None:
    mine = profile(peak_gops={"fp32": figure(14.0)})
    agreeing = guessed(mine, pool(lambda _: 4.0))
    assert agreeing["fp32"] == figures_of(mine)["fp32"]
    assert math.exp(agreeing["int8"].log - agreeing["fp32"].log) == pytest.approx(4.0, rel=0.25)
    differing = guessed(mine, pool(lambda i: 1.0 if i % 2 else 8.0))
    assert differing["int8"].doubt > agreeing["int8"].doubt
    assert agreeing["int8"].doubt > agreeing["fp32"].doubt


def test_the_nearest_profiles_count_more() -> None:
    mine = profile(peak_gops={"fp32": figure(14.0)}, kind="phone")
    others = [
        *pool(lambda _: 1.5, "phone"),
        *(p.model_copy(update={"name": f"far-{p.name}"}) for p in pool(lambda _: 6.0, "gpu")),
    ]
    found = guessed(mine, others)
    assert math.exp(found["int8"].log - found["fp32"].log) < 2.7  # the middle of all would be 3


def test_a_rate_of_all_cores_is_taken_down_to_the_threads() -> None:
    four = profile(peak_gops={"fp32": figure(80.0, "4 cores, 2 GHz")}, processor="4x Core A 2 GHz")
    one = profile(peak_gops={"fp32": figure(80.0, "one core, 2 GHz")}, processor="4x Core A 2 GHz")
    all_threads = profile(peak_gops={"fp32": figure(80.0, "4 cores")}, processor="4x Core A 2 GHz", threads=4)
    logs = [figures_of(p)["fp32"].log for p in (four, one, all_threads)]
    assert logs[1] - logs[0] == pytest.approx(math.log(4.0))
    assert logs[2] == logs[1]


def test_every_shipped_profile_with_a_figure_gives_constants() -> None:
    for shipped in list_profiles():
        stated = bool(shipped.peak_gops or shipped.effective_gops or shipped.bandwidth_gbps)
        constants = constants_of(shipped)
        assert (constants is not None) == stated, shipped.name
        if constants is not None:
            assert np.isfinite(constants.log_mean).all()
            assert np.linalg.eigvalsh(constants.covariance).min() > 0


def test_bands_from_few_devices_hold_what_they_promise_on_new_ones() -> None:
    """Devices differ in how wrong the model is on them; with five known ones a plain quantile holds too little."""
    rng = np.random.default_rng(0)
    held, plain = [], []
    for _ in range(300):
        scales = np.exp(rng.normal(0, 0.7, 6))
        needed = [s * np.abs(rng.standard_normal(80)) for s in scales]
        held.append(float((needed[-1] <= band_factor(needed[:-1])).mean()))
        plain.append(float((needed[-1] <= np.quantile(np.concatenate(needed[:-1]), 0.8)).mean()))
    assert abs(np.mean(held) - 0.8) <= abs(np.mean(plain) - 0.8)
    assert 0.74 < np.mean(held) < 0.86


def test_measurements_that_fall_outside_widen_the_bands_and_others_do_not() -> None:
    def mixture(centre: float, spread: float = 0.1) -> Mixture:
        return Mixture(centres=np.array([[centre]]), spreads=np.array([[spread]]), weights=np.ones(1))

    truth, wanted = np.zeros(6), np.array([0.05, 0.11])
    assert checked_factor([mixture(0.01)] * 6, truth, wanted) == 1.0
    assert checked_factor([mixture(0.5)] * 6, truth, wanted) == pytest.approx(0.5 / (1.2816 * 0.1), rel=0.01)
    assert checked_factor([mixture(0.5)] * 3, truth[:3], wanted) == 1.0  # too few to say anything
    far = [mixture(0.2)] * 4 + [mixture(5.0, spread=0.3)] * 2  # nothing that is wanted lies so far from what is known
    assert checked_factor(far, truth, wanted) == pytest.approx(0.2 / (1.2816 * 0.1), rel=0.01)
    assert checked_factor(far[1:], truth[1:], wanted) == 1.0


def test_conversions_between_formats_are_kernels_of_their_own(tmp_path: Path, chain: Callable[..., Path]) -> None:
    """In a network that mixes fp32 and int8 something has to quantize, dequantize and reorder in between."""
    composer = Composer(chain(tmp_path / "a.onnx", [3, 16, 16, 16, 16]), {"x": np.ones((2, 3, 16, 16), np.float32)})
    sites = [s.name for s in composer.sites]
    recipes = {"fp32": [], "int8": sites, "mixed": sites[1::2]}
    for name, chosen in recipes.items():
        built = composer.compose({s: Format.parse("w8a8") for s in chosen})
        (tmp_path / f"{name}.onnx").write_bytes(built.model_bytes)
    for instructions in ((), ("avx2",)):  # read as another processor's graph, and with the layouts of this one
        board = profile(peak_gops={"fp32": figure(10.0)}, instructions=instructions)
        fp32, int8, mixed = (f.work for f in executed_files([tmp_path / f"{n}.onnx" for n in recipes], board))
        assert {k.number_format for k in fp32.kernels if k.macs} == {"fp32"}
        assert {k.number_format for k in int8.kernels if k.macs} == {"int8"}
        assert {k.number_format for k in mixed.kernels if k.macs} == {"fp32", "int8"}
        assert sum(k.macs for k in mixed.kernels) >= sum(k.macs for k in int8.kernels)
        converting = [sum(k.operator in ("QuantizeLinear", "DequantizeLinear") for k in w.kernels)
                      for w in (fp32, int8, mixed)]  # fmt: skip
        assert converting[0] == 0 < converting[1] < converting[2]


def test_the_time_of_the_profiler_itself_is_taken_out_where_the_model_was_measured_without_it() -> None:
    kernels = tuple(
        TracedKernel(name=n, operator="Conv", provider="CPUExecutionProvider", ms=ms)
        for n, ms in (("a", 0.100), ("b", 0.010), ("c", 0.002))
    )
    trace = Trace(model=Path("m.onnx"), kernels=kernels)
    calm = trace.without_profiler(0.112 - 3 * 0.0018)
    assert [k.ms for k in calm.kernels] == pytest.approx([0.0982, 0.0082, 0.0005])  # never less than a quarter
    assert [k.name for k in calm.kernels] == ["a", "b", "c"]
    assert trace.without_profiler(0.2) is trace  # the profiler adds time, it takes none away


def test_a_machine_that_was_slow_while_it_profiled_is_no_constant_of_every_kernel() -> None:
    true = {"a": 0.100, "b": 0.020, "c": 0.004}
    kernels = tuple(TracedKernel(name=n, operator="Conv", provider="x", ms=2 * ms) for n, ms in true.items())
    calm = Trace(model=Path("m.onnx"), kernels=kernels).without_profiler(sum(true.values()))
    assert calm.adds_up
    assert sum(k.ms for k in calm.kernels) == pytest.approx(sum(true.values()), rel=0.02)
    assert calm.kernels[0].ms == pytest.approx(true["a"], rel=0.1)
    assert calm.kernels[1].ms == pytest.approx(true["b"], rel=0.2)


def test_small_kernels_are_known_to_microseconds_not_to_a_tenth() -> None:
    """Two profiles that differ by five microseconds at every small kernel say the same of the large ones."""

    def network(products: int, gemms: int, small: int = 40) -> GraphWork:
        counts = (
            ("MatMul", "matmul", 10_000_000, products),
            ("Gemm", "matmul", 3_000_000, gemms),
            ("Add", "move", 0, small),
        )
        return GraphWork(
            kernels=tuple(
                KernelWork(
                    name=f"{operator}{i}", operator=operator, operator_class=kind, number_format="fp32", macs=macs,
                    padded_macs=macs, read_bytes=4096, written_bytes=4096,
                )
                for operator, kind, macs, n in counts
                for i in range(n)
            )
        )  # fmt: skip

    def log_ms(networks: Sequence[GraphWork]) -> NDArray[np.float64]:
        ms_of = {"MatMul": 0.4, "Gemm": 0.24, "Add": 0.003}
        return np.log([sum(ms_of[k.operator] for k in n.kernels) for n in networks])

    measured, wanted = [network(10, 0), network(0, 10)], [network(20, 1), network(1, 20), network(10, 10)]
    traces = []
    for work, small_ms in zip(measured, (0.001, 0.006), strict=True):
        ms = {"MatMul": 0.4, "Gemm": 0.24, "Add": small_ms}
        timed = tuple(
            TracedKernel(name=k.name, operator=k.operator, provider="x", ms=ms[k.operator]) for k in work.kernels
        )
        traces.append((Trace(model=Path("m.onnx"), kernels=timed, adds_up=True), work))
    constants = constants_of(list_profiles()[0])
    assert constants is not None
    model, noise = DeviceModel(constants=constants), np.full(2, 0.01)
    found = model.posterior(measured, log_ms(measured), noise, wanted, points_of(traces)).each()
    assert np.abs(found.median() - log_ms(wanted)).max() < 0.03


@pytest.mark.parametrize("slower", [1.0, 3.0, 6.0])
def test_a_kernel_that_takes_many_times_what_the_roofline_says_is_foretold_in_any_share(slower: float) -> None:
    """Measured where it takes a part of the time, the kernel is known where it takes all of it."""
    ms_of = {"MatMul": 0.4, "Gemm": 0.12 * slower, "FusedMatMul": 0.02}

    def network(*counts: int) -> GraphWork:
        amounts = {"MatMul": 10_000_000, "Gemm": 3_000_000, "FusedMatMul": 1_000_000}
        return GraphWork(
            kernels=tuple(
                KernelWork(
                    name=f"{operator}{i}", operator=operator, operator_class="matmul", number_format="fp32", macs=macs,
                    padded_macs=macs, read_bytes=macs // 64, written_bytes=macs // 256,
                )
                for (operator, macs), n in zip(amounts.items(), counts, strict=True)
                for i in range(n)
            )
        )  # fmt: skip

    def log_ms(networks: Sequence[GraphWork]) -> NDArray[np.float64]:
        return np.log([0.02 + sum(ms_of[k.operator] for k in n.kernels) for n in networks])

    measured = [network(10, 10, 5), network(10, 0, 5), network(4, 12, 2), network(6, 3, 10), network(8, 6, 0)]
    wanted = [network(10, 5, 5), network(10, 30, 5), network(3, 9, 1), network(20, 1, 1), network(0, 10, 0)]
    constants = constants_of(list_profiles()[0])
    assert constants is not None
    found = DeviceModel(constants=constants).posterior(measured, log_ms(measured), np.full(5, 0.01), wanted).each()
    assert np.abs(found.median() - log_ms(wanted)).max() < 0.03


def layers(n: int, *, like: str = "product", macs: int = 9_000_000, weights: int = 7_000_000) -> GraphWork:
    return GraphWork(
        kernels=tuple(
            KernelWork(
                name=f"{like}{i}", operator="Gemm", operator_class="matmul", number_format="fp32", macs=macs,
                padded_macs=macs, read_bytes=weights + 100_000, written_bytes=100_000, weight_bytes=weights,
            )
            for i in range(n)
        )
    )  # fmt: skip


def test_networks_with_half_the_weights_take_less_than_half_the_time() -> None:
    """More of the weights are still in a cache when the next inference comes to them. How much less is not sure."""
    constants = constants_of(list_profiles()[0])
    assert constants is not None
    measured, wanted = [layers(6)], [layers(3), layers(12)]
    found = DeviceModel(constants=constants).posterior(measured, np.log([12.0]), np.array([0.01]), wanted).each()
    half, double = np.exp(found.median())
    assert 5.0 < half < 5.95
    assert 24.1 < double < 29.0
    light = [layers(6, weights=2000), layers(3, weights=2000)]  # all of it stays next to the core
    found = DeviceModel(constants=constants).posterior(light[:1], np.log([12.0]), np.array([0.01]), light[1:]).each()
    assert math.exp(found.median()[0]) == pytest.approx(6.0, rel=0.01)


def test_what_a_profile_says_of_one_kernel_is_believed_where_the_same_one_takes_most_of_the_time() -> None:
    """The first convolution of a network, of three channels, takes as long as one of five times the work."""

    def network(usual: int, odd: int) -> GraphWork:
        adds = (
            KernelWork(
                name=f"add{i}", operator="Add", operator_class="move", number_format="fp32", macs=0, padded_macs=0,
                read_bytes=2000, written_bytes=1000,
            )
            for i in range(usual)
        )  # fmt: skip
        return GraphWork(kernels=(
            *layers(usual, macs=2_000_000, weights=2000).kernels,
            *layers(odd, like="odd", macs=400_000, weights=900).kernels,
            *adds,
        ))  # fmt: skip

    ms_of = {2_000_000: 0.1, 400_000: 0.1, 0: 0.003}

    def log_ms(networks: Sequence[GraphWork]) -> NDArray[np.float64]:
        return np.log([sum(ms_of[k.macs] for k in n.kernels) for n in networks])

    measured, wanted = [network(20, 1), network(12, 1)], [network(2, 10)]
    traces = [
        (
            Trace(
                model=Path("m.onnx"),
                kernels=tuple(
                    TracedKernel(name=k.name, operator=k.operator, provider="x", ms=ms_of[k.macs]) for k in n.kernels
                ),
                adds_up=True,
            ),
            n,
        )
        for n in measured
    ]
    constants = constants_of(list_profiles()[0])
    assert constants is not None
    model = DeviceModel(constants=constants)
    found = model.posterior(measured, log_ms(measured), np.full(2, 0.01), wanted, points_of(traces)).each()
    assert abs(found.median() - log_ms(wanted))[0] < 0.1


def test_weights_in_blocks_of_other_bits_run_other_code(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32), "w")
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [4, 256]) for n in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight]
    )
    source = tmp_path / "float.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), source)
    composer = Composer(source, {"x": np.ones((4, 256), np.float32)})
    made = []
    for name in ("w8-block32", "w4-block32"):
        made.append(tmp_path / f"{name}.onnx")
        made[-1].write_bytes(composer.compose({s.name: Format.parse(name) for s in composer.sites}).model_bytes)
    kernels = [k for f in executed_files(made, list_profiles()[0]) for k in f.work.kernels if k.macs]
    assert [k.variant[:6] for k in kernels] == ["8 bits", "4 bits"]
    kinds = KernelKinds.of(kernels)
    eight = kinds.covariance()[kinds.place(kernels[0])]
    assert eight[kinds.place(kernels[1])] == 0.0 < eight[kinds.place(kernels[0])]
