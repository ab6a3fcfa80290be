"""A run's study in optuna-dashboard: named parameters, figures, and the built file of every trial."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from modeltailor.errors import EnvironmentFault
from modeltailor.search.run_folder import RunFolder

__all__ = ["BuiltFiles", "serve_dashboard"]


class BuiltFiles:
    """The run's ``artifacts/`` as an artifact store of Optuna: what a run built, by identifier.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "artifacts"

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open a built file, or what was attached.

        Raises:
            ArtifactNotFound: there is none.
        """
        from optuna.artifacts.exceptions import ArtifactNotFound

        for ending in ("onnx", "attached"):
            path = self.folder / f"{artifact_id}.{ending}"
            if path.parent == self.folder and path.is_file():
                return path.open("rb")
        raise ArtifactNotFound(f"no built file {artifact_id}")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep a note or a picture that somebody attaches in the dashboard, beside the built files."""
        with (self.folder / f"{artifact_id}.attached").open("wb") as out:
            shutil.copyfileobj(content_body, out)

    def remove(self, artifact_id: str) -> None:
        """Remove what was attached; built files stay."""
        (self.folder / f"{artifact_id}.attached").unlink(missing_ok=True)


def serve_dashboard(folder: Path, *, host: str, port: int, ready: Callable[[], None] = lambda: None) -> None:
    """Serve a run's study until the process is stopped.

    Args:
        folder: of the run; it may still be going on.
        host: address to listen on.
        port: number to listen on.
        ready: called once nothing is in the way any more.

    Raises:
        EnvironmentFault: optuna-dashboard is not installed, or the port is taken.
        StudyConflict: this is no run folder.
    """
    study = RunFolder(folder).study()
    try:
        from optuna_dashboard import run_server
    except ModuleNotFoundError as error:
        raise EnvironmentFault(
            "ENV-02", "optuna-dashboard", "is not installed", "install it: pip install 'modeltailor[dashboard]'"
        ) from error
    ready()
    try:
        run_server(study._storage, host=host, port=port, artifact_store=BuiltFiles(folder))
    except OSError as error:
        raise EnvironmentFault("ENV-04", f"{host}:{port}", str(error), "choose another --port") from error
