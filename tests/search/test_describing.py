from __future__ import annotations

import importlib.metadata

import pytest

from modeltailor.search import describing
from modeltailor.targets import machine


@pytest.mark.parametrize("installed", ["onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"])
def test_a_run_names_whichever_build_of_the_runtime_is_installed(
    installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if not name.startswith("onnxruntime"):
            return real(name)
        if name != installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.99.0"

    for module in (describing, machine):
        monkeypatch.setattr(module, "version", version)
    found = describing._environment()
    assert found[installed] == "1.99.0"
    assert [name for name in found if name.startswith("onnxruntime")] == [installed]


def test_a_runtime_without_a_package_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(machine, "version", none)
    real = importlib.metadata.version
    monkeypatch.setattr(describing, "version", lambda n: none(n) if n.startswith("onnxruntime") else real(n))
    assert "unknown" in describing._environment()["onnxruntime"]
