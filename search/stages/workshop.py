"""What the building child keeps of a run between calls: the loaded network, its data, its cached parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeltailor.errors import CandidateError, ConfigError, ModelError
from modeltailor.workloads import (
    Splits,
    WorkloadSpec,
    bind_inputs,
    load_callable,
    load_module,
    model_kind,
    open_splits,
    resolve_metric,
)

if TYPE_CHECKING:
    import torch

    from modeltailor.compress.formats import Composer
    from modeltailor.compress.structure import TrainingData
    from modeltailor.workloads.metric import Task

__all__ = ["Workshop", "open_workshop"]


@dataclass
class Workshop:
    """What one child keeps of one run.

    Attributes:
        spec: the workload as data.
        work: the run's work folder.
        cache: where trained structures are kept between runs.
        splits: of the data.
        module: the PyTorch original; ``None`` for an ONNX file.
        input_names: of the model.
        composers: those made so far, by the name of their network.
        realized: the structure realized last, by its key: its recoveries start from it.
    """

    spec: WorkloadSpec
    work: Path
    cache: Path | None
    splits: Splits
    module: torch.nn.Module | None
    input_names: tuple[str, ...]
    composers: dict[str, Composer] = field(default_factory=dict)
    realized: tuple[str, torch.nn.Module] | None = None

    def example(self, rows: int = 2) -> dict[str, torch.Tensor]:
        """Real samples for tracing and export."""
        import torch

        few = self.splits.calibration.take(slice(0, rows)).inputs
        bound = bind_inputs({k: np.array(v) for k, v in few.items()}, self.input_names)
        return {k: torch.from_numpy(v) for k, v in bound.items()}

    def calibration(self) -> dict[str, Any]:
        """The calibration split as the model takes it."""
        return bind_inputs({k: np.array(v) for k, v in self.splits.calibration.inputs.items()}, self.input_names)

    def training_data(self) -> TrainingData | None:
        """The train split; ``None`` if there is none."""
        from modeltailor.compress.structure import TrainingData

        split = self.splits.train
        if split is None:
            return None
        return TrainingData(inputs=bind_inputs(split.inputs, self.input_names), labels=split.targets)

    @property
    def task(self) -> Task | None:
        """What the outputs are, if the metric says so."""
        return resolve_metric(self.spec.metric, self.spec.root).task

    def student(self) -> Any:
        """The user's factory of students; ``None`` if there is none."""
        source = self.spec.model.student
        return load_callable(source, self.spec.root, "model.student") if source else None

    def export(self, module: torch.nn.Module, name: str) -> list[str]:
        """Write a network into the work folder as ``NAME.onnx``. Returns notes for people."""
        from modeltailor.workloads.export import export_onnx

        made = export_onnx(module, self.example(), self.work / f"{name}.onnx", input_names=self.input_names)
        return [made.note] if made.note else []

    def composer(self, name: str, seed: int) -> Composer:
        """What puts the files of a network together that lies in the work folder.

        Raises:
            CandidateError: it is gone.
        """
        from modeltailor.compress.formats import Composer

        found = self.composers.get(name)
        if found is None:
            source = self.work / f"{name}.onnx"
            if not source.exists():
                raise CandidateError("EXPORT", name, "its exported network is gone", "")
            names = {} if self.module is None else {f"{n}.weight": n for n, _ in self.module.named_modules() if n}
            found = Composer(source, self.calibration(), cache_dir=self.work / "parts", seed=seed, site_names=names)
            self.composers[name] = found
        return found


_workshops: dict[Path, Workshop] = {}


def open_workshop(spec: WorkloadSpec, work: Path, cache: Path | None, splits: Splits | None = None) -> Workshop:
    """Return this process's workshop of a run, made at the first call; ``splits`` makes it anew."""
    found = _workshops.get(work)
    if found is not None and splits is None:
        return found
    splits = splits or open_splits(work / "data")
    if model_kind(spec.model, spec.root) == "onnx":
        module, names = None, _onnx_inputs(spec.root / spec.model.source)
    else:
        module = load_module(spec.model, spec.root)
        names = _module_inputs(module, splits)
    made = Workshop(spec=spec, work=work, cache=cache, splits=splits, module=module, input_names=names)
    _workshops[work] = made
    return made


def _module_inputs(module: torch.nn.Module, splits: Splits) -> tuple[str, ...]:
    import inspect

    given = list(splits.search.inputs)
    accepted = list(inspect.signature(module.forward).parameters)
    if len(given) == 1 and given[0] not in accepted:
        return (accepted[0] if accepted and accepted[0] not in ("args", "kwargs") else "x",)
    missing = [n for n in given if n not in accepted]
    if missing:
        raise ConfigError(
            "CFG-15", "data", f"the model's forward takes {', '.join(accepted)}; the data has '{missing[0]}'",
            "name the arrays x.NAME after the arguments of forward",
        )  # fmt: skip
    return tuple(n for n in accepted if n in given)


def _onnx_inputs(path: Path) -> tuple[str, ...]:
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:
        raise ModelError(
            "MODEL-02",
            path.name,
            f"not a readable ONNX file ({path.stat().st_size:,} bytes)",
            "export or download it again",
        ) from error
    held = {i.name for i in graph.initializer}
    names = tuple(i.name for i in graph.input if i.name not in held)
    if not names or not graph.output or not graph.node:
        raise ModelError("MODEL-17", path.name, "has no inputs, no outputs or no nodes", "export it again")
    return names
