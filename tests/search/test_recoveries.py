from __future__ import annotations

from dataclasses import replace

from modeltailor.compress import Format, Recipe, Settings, Structure, Training, recipe_from_plain
from modeltailor.search.plan import SearchPlan
from modeltailor.search.records import AccuracyRecord, IntervalRecord, SiteRecord, TrialRecord
from modeltailor.search.recoveries import propose_recovery
from modeltailor.search.stages import GroupFacts, PreparedFacts
from modeltailor.search.structures import plan_recoveries

NAMES = ("first", "a", "b", "last")
ELEMENTS = {"first": 500, "a": 20_000, "b": 40_000, "last": 500}
OPTIONS = dict.fromkeys(NAMES, ("fp32", "w8a8", "w4a8", "w3a8", "w2a8"))
TRAINING = Training(epochs=2.0)
BOX = (0.1, 1.1, 1.1)


def record(
    number: int, loss: float, speedup: float, bits: int, *, role: str = "search", structure: Structure | None = None,
    recovery: Training | None = None, half: float = 0.001,
) -> TrialRecord:  # fmt: skip
    names = {} if bits == 32 else {n: Format.parse(f"w{bits}a8") for n in NAMES}
    recipe = Recipe(structure=structure or Structure(), formats=tuple(names.items()), recovery=recovery)
    accuracy = AccuracyRecord(
        value=0.9 - loss, low=0.88, high=0.92, difference=-loss, difference_low=-loss - half,
        difference_high=-loss + half, n_samples=1000,
    )  # fmt: skip
    fast = IntervalRecord(value=speedup, low=speedup, high=speedup, evidence="measured-here")
    sites = tuple(
        SiteRecord(site=n, kind="conv", format=f"w{bits}a8", storage_bits=bits, stored_bytes=ELEMENTS[n] * bits // 8,
                   weight_elements=ELEMENTS[n], executed_kernel="QLinearConv")
        for n in NAMES
    )  # fmt: skip
    size = 10_000 + sum(ELEMENTS.values()) * bits // 8
    return TrialRecord(
        number=number, key=recipe.key, role=role, recipe=recipe.to_plain(), size_bytes=size,  # type: ignore[arg-type]
        latency_ms=fast, speedup=fast, accuracy=accuracy, sites=sites,
    )  # fmt: skip


FP32 = record(0, 0.0, 1.0, 32, role="fp32")
INT8 = record(1, 0.0, 2.0, 8, role="baseline")


def test_few_bits_learn_again_where_the_front_is_far_from_them() -> None:
    found = propose_recovery([FP32, INT8], options=OPTIONS, training=TRAINING, reference=BOX)
    assert found is not None
    bits = {site: f.weight_bits for site, f in found.recipe.formats}
    assert bits["first"] == bits["last"] == 8
    assert max(bits["a"], bits["b"]) <= 3
    assert found.recipe.recovery == TRAINING
    assert found.gain > 0


def test_the_same_history_gives_the_same_proposal_and_nothing_is_proposed_twice() -> None:
    history = [FP32, INT8]
    seen = set()
    for number in range(2, 12):
        found = propose_recovery(history, options=OPTIONS, training=TRAINING, reference=BOX)
        again = propose_recovery(history, options=OPTIONS, training=TRAINING, reference=BOX)
        assert found == again
        if found is None:
            break
        assert found.recipe.key not in seen
        seen.add(found.recipe.key)
        failed = TrialRecord(
            number=number, key=found.recipe.key, role="search", recipe=found.recipe.to_plain(), outcome="NONFINITE"
        )
        history = [*history, failed]
    else:
        raise AssertionError("proposals never end")
    assert seen


def test_a_faster_structure_is_preferred() -> None:
    cut = record(2, 0.003, 3.0, 8, structure=Structure(removed=("x",)))
    found = propose_recovery([FP32, INT8, cut], options=OPTIONS, training=TRAINING, reference=BOX)
    assert found is not None
    assert found.recipe.structure.removed == ("x",)


def test_recoveries_that_came_out_badly_make_few_bits_less_attractive() -> None:
    hopeful = propose_recovery([FP32, INT8], options=OPTIONS, training=TRAINING, reference=BOX)
    assert hopeful is not None
    bad = [replace_loss(INT8, hopeful.recipe, 2, 0.2)]
    sober = propose_recovery([FP32, INT8, *bad], options=OPTIONS, training=TRAINING, reference=BOX)
    assert sober is None or mean_bits(sober.recipe) > mean_bits(hopeful.recipe)


def test_within_a_tight_box_only_what_keeps_it_is_proposed() -> None:
    tight = (0.002, 1.1, 1.1)
    found = propose_recovery([FP32, INT8], options=OPTIONS, training=TRAINING, reference=tight)
    assert found is not None
    assert mean_bits(found.recipe) >= 3.9


def test_there_is_a_plan_only_where_something_can_be_trained() -> None:
    facts = PreparedFacts(
        kind="torch", digest="d", parameters=1, input_names=("x",), fixed_batch=None,
        split_sizes=(("train", 10_000),), split_digests=(), macs=40_000_000,
        groups=(GroupFacts(name="g", channels=16, coupled=False, macs_share=0.5),),
    )  # fmt: skip
    asked = SearchPlan(axes=("formats",), time_s=900.0)
    plan = plan_recoveries(facts, asked, cores=2)
    assert plan is not None
    assert plan.most * plan.train_s <= 0.25 * 900.0
    assert plan_recoveries(facts, replace(asked, axes=("sparsity",)), cores=2) is None
    assert plan_recoveries(replace(facts, kind="onnx"), asked, cores=2) is None
    assert plan_recoveries(replace(facts, split_sizes=()), asked, cores=2) is None
    assert plan_recoveries(facts, replace(asked, recovery=False), cores=2) is None


def mean_bits(recipe: Recipe) -> float:
    return sum(f.weight_bits * ELEMENTS[s] for s, f in recipe.formats) / sum(ELEMENTS.values())


def replace_loss(like: TrialRecord, recipe: Recipe, number: int, loss: float) -> TrialRecord:
    accuracy = like.accuracy
    assert accuracy is not None
    worse = accuracy.model_copy(
        update={"difference": -loss, "difference_low": -loss - 0.001, "difference_high": -loss + 0.001}
    )
    return like.model_copy(
        update={
            "number": number,
            "key": recipe.key,
            "recipe": recipe.to_plain(),
            "accuracy": worse,
            "size_bytes": 30_000,
        }
    )


def test_what_learns_is_rounded_on_the_grid_that_it_learned_on() -> None:
    moved = Settings(equalize=True, smoothing="awq", per_channel=False, range_method="percentile")
    recipe = replace(recipe_from_plain(INT8.recipe), settings=moved)
    record = INT8.model_copy(update={"recipe": recipe.to_plain(), "key": recipe.key})
    found = propose_recovery([FP32, record], options=OPTIONS, training=TRAINING, reference=BOX)
    assert found is not None
    settings = found.recipe.settings
    assert (settings.equalize, settings.smoothing, settings.per_channel) == (False, "none", True)
    assert settings.range_method == "percentile"
