"""Every network of the suite passes; the quick ones in the default run, all of them in the slow one.

A network whose package is missing fails the slow run, whose declared dependency it is, and is skipped in the default
one with the reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from architectures.case import Architecture
from architectures.suite import SUITE, missing
from architectures.verdict import judge


def _named(architecture: Architecture) -> str:
    return architecture.name


@pytest.mark.parametrize("architecture", [a for a in SUITE if a.is_quick], ids=_named)
def test_quick_architecture_in_a_random_recipe(architecture: Architecture, tmp_path: Path) -> None:
    lacks = missing(architecture)
    if lacks:
        pytest.skip(lacks)
    assert judge(architecture.name, architecture.make(tmp_path)).problems == ()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("architecture", SUITE, ids=_named)
def test_architecture_in_a_random_recipe(architecture: Architecture, seed: int, tmp_path: Path) -> None:
    assert not missing(architecture), missing(architecture)
    verdict = judge(architecture.name, architecture.make(tmp_path), seed=seed)
    assert verdict.problems == ()


def test_the_suite_is_as_large_as_it_says() -> None:
    assert len({a.name for a in SUITE}) == len(SUITE)
    assert sum(a.name.startswith("timm/") for a in SUITE) >= 40
    assert sum(a.name.startswith("onnx/") for a in SUITE) == 9
