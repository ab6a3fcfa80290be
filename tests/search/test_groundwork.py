"""What a search tells people before it begins."""

from __future__ import annotations

from modeltailor.search.groundwork import note_on_gains


def test_a_note_names_the_layer_that_gains_most_from_few_bits() -> None:
    effects = {
        ("a", "w2a8"): -0.004,
        ("a", "w3a8"): -0.001,
        ("b", "w2a8"): 0.02,
        ("b", "w3a8"): -0.002,
        ("c", "w2a8"): 0.01,
    }
    note = note_on_gains(effects, 0.1)
    assert note is not None
    assert "2 of 3 layers" in note
    assert "a as w2a8, by 0.004" in note


def test_gains_that_are_worth_nothing_are_not_mentioned() -> None:
    assert note_on_gains({}, 0.1) is None
    assert note_on_gains({("a", "w2a8"): 0.01}, 0.1) is None
    assert note_on_gains({("a", "w2a8"): -0.0005}, 0.1) is None
