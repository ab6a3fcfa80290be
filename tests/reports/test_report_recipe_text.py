"""What was done to the numbers is told as it was done, and what is usual is not told."""

from __future__ import annotations

import pytest

from modeltailor.compress import Format, Recipe, Settings
from modeltailor.reports.naming import recipe_text
from modeltailor.search.records import SiteRecord

SITE = SiteRecord(
    site="a",
    kind="conv",
    format="w4a8",
    storage_bits=4,
    stored_bytes=1,
    weight_elements=2,
    executed_kernel="QLinearConv",
)


def text(settings: Settings) -> str:
    return recipe_text(Recipe(formats=(("a", Format.parse("w4a8")),), settings=settings), [SITE])


def test_usual_settings() -> None:
    assert text(Settings()).endswith("(GPTQ rounding, one scale a channel, uint8 activations, ranges by mse).")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(rounding="adaround"), "learned rounding (AdaRound), one scale"),
        (Settings(rounding="nearest"), "rounding to nearest, one scale"),
        (Settings(activation_symmetric=True, activation_signed=True), "symmetric int8 activations"),
        (
            Settings(per_channel=False, range_method="minmax"),
            "one scale a tensor, uint8 activations, ranges by minmax)",
        ),
        (Settings(equalize=True), "ranges by mse, layers equalized)"),
        (Settings(smoothing="awq"), "smoothed (AWQ)"),
        (Settings(bias_correction=False, block_symmetric=False), "biases not corrected, blocks with a zero point)"),
    ],
)
def test_unusual_settings(settings: Settings, words: str) -> None:
    assert words in text(settings)
