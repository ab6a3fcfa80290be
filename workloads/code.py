"""Names of user code: ``model.py:build`` or ``package.module:function``. Naming it is what allows it to run."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from modeltailor.errors import ConfigError, DataError, ModelError, shown

__all__ = ["load_callable", "looks_like_code"]


def looks_like_code(text: str) -> bool:
    """Whether ``text`` names a function (``something:name``) rather than a file."""
    place, colon, name = text.rpartition(":")
    return bool(colon) and name.isidentifier() and len(place) > 1


def load_callable(text: str, root: Path, where: str) -> Callable[..., object]:
    """Import the function that ``text`` names.

    Args:
        text: ``file.py:name`` relative to ``root``, or ``package.module:name``.
        root: folder of the job file.
        where: the key of the job file, for messages.

    Raises:
        ConfigError: the file, module or function does not exist.
        ModelError: (for ``model.*``) or DataError (else): importing it raised.
    """
    place, _, name = text.rpartition(":")
    failed = ModelError if where.startswith("model") else DataError
    try:
        if place.endswith(".py"):
            path = (root / place).resolve()
            if not path.is_file():
                raise ConfigError("CFG-01", where, f"no file {path.name} in {path.parent}", "check the path")
            alias = "modeltailor_user_" + hashlib.sha256(str(path).encode()).hexdigest()[:12]
            module = sys.modules.get(alias)
            if module is None:
                spec = importlib.util.spec_from_file_location(alias, path)
                assert spec is not None
                assert spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                sys.modules[alias] = module  # so that classes of the file pickle and dataclasses resolve
                if str(path.parent) not in sys.path:
                    sys.path.insert(0, str(path.parent))  # the file's neighbours import as they do when it runs
                try:
                    spec.loader.exec_module(module)
                except BaseException:
                    del sys.modules[alias]
                    raise
        else:
            module = importlib.import_module(place)
    except ConfigError:
        raise
    except ModuleNotFoundError as error:
        raise ConfigError(
            "CFG-11", where, f"cannot import '{shown(place)}' ({error})", "install it, or check the name"
        ) from error
    except Exception as error:
        raise failed(
            "CODE-01", where, f"importing {place} raised {type(error).__name__}: {error}", "mend that file"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigError("CFG-10", where, f"{place} has no function '{name}'", "check the name after the colon")
    result: Callable[..., object] = found
    return result
