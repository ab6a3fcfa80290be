from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from modeltailor.errors import ConfigError, DataError
from modeltailor.workloads import BUILT_IN, MetricSpec, bind_inputs, resolve_metric

RNG = np.random.default_rng(0)
LOGITS = {"out": RNG.normal(size=(200, 7)).astype(np.float32)}
LABELS = RNG.integers(0, 7, 200)


def test_accuracy_counts_hits() -> None:
    assert BUILT_IN["accuracy"].evaluate(LOGITS, LABELS) == (LOGITS["out"].argmax(1) == LABELS).mean()


def test_top5_is_at_least_accuracy_and_one_for_five_classes() -> None:
    assert BUILT_IN["top5"].evaluate(LOGITS, LABELS) > BUILT_IN["accuracy"].evaluate(LOGITS, LABELS)
    assert BUILT_IN["top5"].evaluate({"o": LOGITS["out"][:, :5]}, LABELS % 5) == 1.0


def test_f1_equals_scikit_learn() -> None:
    from sklearn.metrics import f1_score

    assert BUILT_IN["f1"].evaluate(LOGITS, LABELS) == pytest.approx(
        f1_score(LABELS, LOGITS["out"].argmax(1), average="macro")
    )


def test_cross_entropy_equals_scikit_learn() -> None:
    from sklearn.metrics import log_loss

    p = np.exp(LOGITS["out"].astype(float))
    expected = log_loss(LABELS, p / p.sum(1, keepdims=True), labels=range(7))
    assert BUILT_IN["cross-entropy"].evaluate(LOGITS, LABELS) == pytest.approx(expected)


def test_spearman_with_ties_equals_scipy() -> None:
    a, b = RNG.integers(0, 9, 100).astype(float), RNG.integers(0, 9, 100)
    assert BUILT_IN["spearman"].evaluate({"o": a[:, None]}, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_pair_spearman_is_that_of_cosines() -> None:
    e, y = RNG.normal(size=(60, 8)), np.repeat(RNG.normal(size=30), 2)
    cosine = [e[i] @ e[i + 1] / np.linalg.norm(e[i]) / np.linalg.norm(e[i + 1]) for i in range(0, 60, 2)]
    assert BUILT_IN["pair-spearman"].evaluate({"o": e}, y) == pytest.approx(stats.spearmanr(cosine, y[::2]).statistic)


def test_errors_are_minimised_and_scores_are_not() -> None:
    assert {m.name for m in BUILT_IN.values() if m.minimize} == {"rmse", "mae", "cross-entropy"}


@pytest.mark.parametrize("name", sorted(n for n, m in BUILT_IN.items() if m.per_sample is not None))
def test_per_sample_values_average_to_the_metric(name: str) -> None:
    metric = BUILT_IN[name]
    targets = RNG.normal(size=(200, 7)) if name == "mae" else LABELS
    assert metric.per_sample is not None
    assert metric.per_sample(LOGITS, targets).mean() == pytest.approx(metric.evaluate(LOGITS, targets))


@pytest.mark.parametrize(
    ("body", "words"),
    [("raise ValueError('odd')", "odd"), ("return None", "NoneType"), ("return float('nan')", "nan"), ("return '0.5'", "str"),
     ("return outputs", "ndarray")],
)  # fmt: skip
def test_a_users_metric_that_fails_is_named(tmp_path: Path, body: str, words: str) -> None:
    (tmp_path / "m.py").write_text(f"def score(outputs, y):\n    {body}\n")
    metric = resolve_metric(MetricSpec(name="m.py:score"), tmp_path)
    with pytest.raises(DataError, match=words):
        metric.evaluate(LOGITS, LABELS)


def test_a_users_metric_keeps_its_direction(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def loss(outputs, y):\n    return float(abs(outputs).mean())\n")
    metric = resolve_metric(MetricSpec(name="m.py:loss", minimize=True, unit="V"), tmp_path)
    assert (metric.name, metric.minimize, metric.unit) == ("loss", True, "V")
    assert metric.evaluate(LOGITS, LABELS) == pytest.approx(float(np.abs(LOGITS["out"]).mean()))


def test_an_unknown_metric_lists_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="accuracy, top5"):
        resolve_metric(MetricSpec(name="acuracy"), tmp_path)


def test_inputs_bind_by_name_or_alone() -> None:
    x = np.zeros((2, 3))
    assert set(bind_inputs({"x": x}, ("pixels",))) == {"pixels"}
    assert list(bind_inputs({"b": x, "a": x}, ("a", "b"))) == ["a", "b"]
    with pytest.raises(ConfigError, match="takes inputs a, c"):
        bind_inputs({"a": x, "b": x}, ("a", "c"))
    with pytest.raises(DataError, match="takes shape"):
        bind_inputs({"x": x}, ("pixels",), {"pixels": (None, 4)})


@pytest.mark.parametrize("name", ["accuracy", "top5", "f1", "cross-entropy"])
def test_labels_in_a_column_count_as_labels(name: str) -> None:
    assert BUILT_IN[name].evaluate(LOGITS, LABELS[:, None]) == BUILT_IN[name].evaluate(LOGITS, LABELS)


@pytest.mark.parametrize(
    ("name", "outputs", "y"),
    [
        ("accuracy", LOGITS["out"][:, :1], LABELS % 2),  # one logit: its argmax is always 0
        ("accuracy", LOGITS["out"], LABELS[:100]),
        ("accuracy", LOGITS["out"], np.stack([LABELS, LABELS], axis=1)),
        ("top5", LOGITS["out"], np.stack([LABELS, LABELS], axis=1)),
        ("f1", LOGITS["out"][:, :1], LABELS % 2),
        ("miou", RNG.normal(size=(4, 3, 5, 5)), RNG.integers(0, 3, (4, 6, 5))),
        ("cross-entropy", LOGITS["out"], np.stack([LABELS, LABELS], axis=1)),
        ("mae", LOGITS["out"], LABELS),
        ("rmse", LOGITS["out"][:, 0], np.stack([LABELS, LABELS], axis=1)),
        ("spearman", LOGITS["out"], np.stack([LABELS, LABELS], axis=1)),
    ],
)
def test_what_does_not_fit_is_refused_and_never_broadcast(name: str, outputs: np.ndarray, y: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"outputs|one a sample") as caught:
        BUILT_IN[name].evaluate({"o": outputs}, y)
    assert caught.value.code == "DATA-05"


def test_a_built_in_is_not_made_into_what_it_is_not(tmp_path: Path) -> None:
    assert resolve_metric(MetricSpec(name="rmse", unit="years"), tmp_path).unit == "years"
    assert resolve_metric(MetricSpec(name="pair-spearman", rows_per_sample=2), tmp_path).rows_per_sample == 2
    with pytest.raises(ConfigError, match="rows_per_sample"):
        resolve_metric(MetricSpec(name="accuracy", rows_per_sample=4), tmp_path)
    with pytest.raises(ConfigError, match="minimize"):
        resolve_metric(MetricSpec(name="accuracy", minimize=True), tmp_path)


def test_void_pixels_are_no_class() -> None:
    rng = np.random.default_rng(0)
    scores, y = rng.normal(size=(4, 3, 5, 5)), rng.integers(0, 3, (4, 5, 5))
    kept, void = scores.copy(), y.copy()
    void[:, 0] = 255
    kept[:, :, 0] = 0.0
    cut = BUILT_IN["miou"].evaluate({"o": scores[:, :, 1:]}, y[:, 1:])
    assert BUILT_IN["miou"].evaluate({"o": kept}, void) == cut
    with pytest.raises(DataError, match="no label lies"):
        BUILT_IN["miou"].evaluate({"o": scores}, np.full_like(y, 255))
