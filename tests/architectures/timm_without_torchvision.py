"""timm, imported where torchvision is missing or does not load: what timm takes from it is declared first, test-only.

timm's models need one class of torchvision (``FrozenBatchNorm2d``, for an ``isinstance`` check); its data loading
needs more, which no test here uses.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["load_timm"]

_NAMES = (
    "torchvision",
    "torchvision.datasets",
    "torchvision.models",
    "torchvision.models.feature_extraction",
    "torchvision.ops",
    "torchvision.ops.misc",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchvision.utils",
)


class _Declared(ModuleType):
    """A module that has a class of its own for every public name it is asked for."""

    __path__: list[str] = []  # noqa: RUF012 - what the import system asks of a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        made = type(name, (), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


class _Modes:
    """Names of interpolation, which timm keeps as keys."""

    NEAREST, BILINEAR, BICUBIC, BOX, HAMMING, LANCZOS = "nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"


def load_timm() -> ModuleType:
    """Return timm.

    Nothing stays behind in ``sys.modules`` but timm itself: other libraries look whether torchvision is there.

    Raises:
        ModuleNotFoundError: timm is not installed.
    """
    if "timm" in sys.modules:
        return sys.modules["timm"]
    before = {name: sys.modules[name] for name in _NAMES if name in sys.modules}
    for name in _NAMES:
        module = _Declared(name)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    for name in ("torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[name].InterpolationMode = _Modes  # type: ignore[attr-defined]
    try:
        return importlib.import_module("timm")
    finally:
        for name in _NAMES:
            sys.modules.pop(name, None)
        sys.modules.update(before)
