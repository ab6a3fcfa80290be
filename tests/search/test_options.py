"""Which formats a search may choose from follows from what was measured on the device, and from nothing else."""

from __future__ import annotations

from modeltailor.compress import Settings, Site
from modeltailor.compress.vocabulary import SiteKind
from modeltailor.search.options import FormatChoice, choose_formats
from modeltailor.search.probing import read_table
from modeltailor.search.records import AccuracyRecord, IntervalRecord, TrialRecord
from modeltailor.search.stages import SiteFacts
from modeltailor.targets.probe import ProbeEntry, ProbeTable


def site(name: str, kind: SiteKind, *formats: str) -> SiteFacts:
    made = Site(name=name, kind=kind, weight_shape=(8, 8), weight_elements=64, macs=64, position=0)
    return SiteFacts(site=made, formats=("fp32", *formats))


MATRIX = site("m", "matmul", "fp16", "w8a8", "w4a8", "w8a16", "w8a8-dynamic", "w4a8-dynamic", "w8", "w4",
              "w8-block32", "w8-block64", "w4-block32")  # fmt: skip
TABLE = site("t", "embedding", "fp16", "w8", "w4", "w8-block32", "w4-block32", "w4-block64")


def baseline(label: str, speedup: float, **formats: str) -> TrialRecord:
    return TrialRecord(
        number=0, key=label, role="baseline", label=label, recipe={"formats": formats}, size_bytes=1,
        accuracy=AccuracyRecord(value=0.9, low=0.9, high=0.9, n_samples=1),
        speedup=IntervalRecord(value=speedup, low=speedup - 0.02, high=speedup + 0.02, evidence="measured-here"),
    )  # fmt: skip


def chosen(*baselines: TrialRecord) -> FormatChoice:
    return choose_formats([MATRIX, TABLE], baselines, {b.label: Settings() for b in baselines})


DYNAMIC = baseline("int8 dynamic", 2.5, m="w8a8-dynamic", t="w8")


def test_family_of_the_fastest_baseline_stays() -> None:
    options = dict(chosen(baseline("int8 static", 1.4, m="w8a8", t="w8"), DYNAMIC).options)
    assert options["m"] == ("fp32", "w8a8-dynamic", "w4a8-dynamic")
    options = dict(chosen(baseline("int8 static", 2.8, m="w8a8", t="w8"), DYNAMIC).options)
    assert options["m"] == ("fp32", "w8a8", "w4a8")


def test_shared_values_stay_with_the_kernel_they_run_on_where_bits_are_few() -> None:
    shared = ("codebook5", "codebook4", "codebook5a8", "codebook4a8", "codebook2a8")
    conv = site("c", "conv", "w8a8", "w4a8", "w2a8", "w8", "w4", *shared)

    def options(label: str, form: str) -> tuple[str, ...]:
        made = baseline(label, 2.0, c=form)
        return dict(choose_formats([conv], [made], {label: Settings()}).options)["c"]

    assert options("int8 static", "w8a8") == ("fp32", "w8a8", "codebook4a8", "w4a8", "codebook2a8", "w2a8")
    assert options("int8 weight-only", "w8") == ("fp32", "w8", "codebook4", "w4")


def test_block_sizes_are_searched_where_block_wise_products_are_fastest() -> None:
    options = dict(chosen(DYNAMIC, baseline("int8 block-wise", 2.9, m="w8-block32", t="w8")).options)
    assert options["m"] == ("fp32", "w8-block32", "w8-block64", "w4-block32")


def test_tables_may_have_scales_by_row_or_block_most_bits_first() -> None:
    options = dict(chosen(DYNAMIC).options)
    assert options["t"] == ("fp32", "w8-block32", "w8", "w4-block32", "w4-block64", "w4")


def test_16_bit_activations_stay_only_where_they_were_measured_to_pay() -> None:
    static = baseline("int8 static", 2.8, m="w8a8", t="w8")
    slow = baseline("int8, 16-bit activations", 0.6, m="w8a16", t="w8")
    fast = baseline("int8, 16-bit activations", 1.9, m="w8a16", t="w8")
    assert "w8a16" not in dict(chosen(static, DYNAMIC).options)["m"]
    assert "w8a16" not in dict(chosen(static, slow).options)["m"]
    assert dict(chosen(static, fast).options)["m"] == ("fp32", "w8a16", "w8a8", "w4a8")


def table(*entries: tuple[str, str, float]) -> ProbeTable:
    made = tuple(
        ProbeEntry(kind="matmul", format=f, detail=d, ms=1.0, speedup=s, low=s - 0.01, high=s + 0.01)
        for f, d, s in entries
    )
    return ProbeTable(
        device="d", fingerprint="f", evidence="measured-here", entries=made, conversion_us=None, bandwidth_gbps=None,
        left_out=(), seconds=1.0,
    )  # fmt: skip


def test_the_probe_says_whether_blocks_tensor_scales_and_16_bits_are_worth_a_baseline() -> None:
    here = read_table(
        table(
            ("w8a8", "u8s8 per channel", 2.4), ("w8a8", "u8s8 per tensor", 1.2),
            ("w8-block32", "accuracy level 1", 0.6), ("w8-block32", "accuracy level 4", 1.3),
            ("w8a16", "u16s8 per channel", 0.5),
        ),
        [MATRIX.site],
    )  # fmt: skip
    assert (here.blocks_pay, here.block_accuracy, here.per_tensor_pays, here.wide_pays) == (False, 4, False, False)
    assert any(n.startswith("w8a16 for matmul is left out") for n in here.notes)
    there = read_table(
        table(
            ("w8a8", "u8s8 per channel", 1.4), ("w8a8", "u8s8 per tensor", 1.39),
            ("w8-block32", "accuracy level 1", 1.5), ("w8-block32", "accuracy level 4", 1.3),
            ("w8a16", "u16s8 per channel", 1.2),
        ),
        [MATRIX.site],
    )  # fmt: skip
    assert (there.blocks_pay, there.block_accuracy, there.per_tensor_pays, there.wide_pays) == (True, 1, True, True)


def test_half_precision_is_a_format_beside_the_originals_not_instead_of_it() -> None:
    half = baseline("fp16", 1.8, m="fp16", t="fp16")
    recurrent = site("r", "recurrent")
    found = choose_formats(
        [MATRIX, TABLE, recurrent], [half, DYNAMIC], {"fp16": Settings(), "int8 dynamic": Settings()}
    )
    assert dict(found.options) == {"m": ("fp32", "w8a8-dynamic", "w4a8-dynamic"), "t": ("fp32", "w8-block32", "w8",
                                   "w4-block32", "w4-block64", "w4"), "r": ("fp32",)}  # fmt: skip
    alone = choose_formats([MATRIX, recurrent], [half], {"fp16": Settings()})
    assert dict(alone.options) == {"m": ("fp32", "fp16"), "r": ("fp32",)}
    closed = choose_formats([MATRIX], [half], {"fp16": Settings()}, search_formats=False)
    assert dict(closed.options) == {"m": ("fp16",)}
