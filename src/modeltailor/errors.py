"""Every error a person can meet, and the exit code it ends with.

    ModelTailorError                 exit
    ├── ConfigError                    2   bad configuration or usage; nothing was started
    ├── ModelError                     3   the input model was rejected
    ├── DataError                      3   the input data or the metric was rejected
    ├── NoFeasibleModel                4   the run ended and no candidate meets the budget
    ├── EnvironmentFault               5   disk, storage, missing package, machine resources
    ├── DeviceError                    6   the device failed, or a measurement could not be made valid
    ├── StudyConflict                  7   the run folder is busy, or belongs to another job
    └── CandidateError                 -   one candidate failed; never leaves the trial's border

A message states the rule, then what came, then the next step. It is shown as one line,
``error[CODE] <where>: <what>. <next step>.``; text that came from outside is escaped and cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

__all__ = [
    "CandidateError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "EnvironmentFault",
    "ModelError",
    "ModelTailorError",
    "NoFeasibleModel",
    "StudyConflict",
    "shown",
]

_LONGEST_SHOWN = 200


def shown(text: object, longest: int = _LONGEST_SHOWN) -> str:
    """Return ``text`` safe for a terminal: control and direction characters escaped, cut to ``longest``."""
    out = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return out if len(out) <= longest else out[: longest - 1] + "…"


def _sentence(text: str) -> str:
    return _ended(text[0].upper() + text[1:])


def _ended(text: str) -> str:
    return text if text[-1:] in (".", "?", "!") else f"{text}."


class ModelTailorError(Exception):
    """Root of all errors that this package raises on purpose.

    Args:
        code: a stable identifier such as ``CFG-04``.
        where: the file, key, layer or split that the error is about.
        what: the rule and what came instead; one sentence without its full stop.
        next_step: what the reader can do now; one sentence without its full stop.
    """

    exit_code: ClassVar[int] = 1

    detail: str = ""
    """Text for ``--debug`` and the log: a traceback, the end of what a process printed."""

    def __init__(self, code: str, where: object, what: str, next_step: str = "") -> None:
        self.code = code
        self.where = shown(where)
        self.what = shown(what, 600)
        self.next_step = shown(next_step, 400)
        super().__init__(self.line())

    def line(self) -> str:
        """The one line that a person sees."""
        tail = f" {_sentence(self.next_step)}" if self.next_step else ""
        return f"error[{self.code}] {self.where}: {_ended(self.what)}{tail}"

    def __reduce__(self) -> tuple[type[ModelTailorError], tuple[str, str, str, str], dict[str, str]]:
        return type(self), (self.code, self.where, self.what, self.next_step), {"detail": self.detail}


class ConfigError(ModelTailorError):
    """The job file or the command line is wrong. Nothing was started."""

    exit_code = 2


class ModelError(ModelTailorError):
    """The input model cannot be used."""

    exit_code = 3

    @classmethod
    def missing(cls, path: Path) -> Self:
        """There is no file at ``path``."""
        what = "a folder, not a file" if path.is_dir() else "no such file"
        return cls("MODEL-02", path, what, "name an ONNX file")


class DataError(ModelTailorError):
    """The input data or the metric cannot be used."""

    exit_code = 3


class NoFeasibleModel(ModelTailorError):
    """The run ended and no candidate meets the budget."""

    exit_code = 4


class EnvironmentFault(ModelTailorError):
    """The machine, its disk or its installed packages do not allow the work."""

    exit_code = 5


class DeviceError(ModelTailorError):
    """The device failed, or a measurement on it could not be made valid."""

    exit_code = 6


class StudyConflict(ModelTailorError):
    """The run folder is in use, or was made for another job."""

    exit_code = 7


class CandidateError(ModelTailorError):
    """One candidate failed. ``code`` is the outcome code of the trial.

    Codes: ``CRASH:<signal>`` ``OOM`` ``TIMEOUT`` ``EXPORT`` ``EVAL`` ``UNSUPPORTED`` ``NONFINITE`` ``PARITY``
    ``NOISY`` ``AGENT`` ``DISK`` ``ABANDONED``. Where there is no trial around it (a file that crashes under ``bench``), a
    measurement could not be made.
    """

    exit_code = 6
