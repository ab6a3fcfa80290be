"""The command line in this process, and a finished run on disk that nothing was trained or timed for."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    def error(self, code: int) -> str:
        """The only error line, after checking the exit code."""
        assert self.code == code, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error[")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


Face = Callable[..., Said]


@pytest.fixture
def face(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Face:
    """Run a command in an empty folder."""
    from modeltailor.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELTAILOR_CACHE", str(tmp_path / "cache"))

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["modeltailor", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        out, err = capsys.readouterr()
        return Said(code if isinstance(code, int) else 0, out, err)

    return run


def _net(seed: int) -> bytes:
    """A small ONNX file with weights of its own; every other one stores them in 3 bits."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    from modeltailor.compress.pack import pack_planes, plane_weights, unpack_function, unpack_node

    rng = np.random.default_rng(seed)
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ("n", 16)) for n in "xy"]
    opsets = [helper.make_opsetid("", 21)]
    functions = []
    if seed % 2:
        values = rng.integers(-4, 4, (16, 16)).astype(np.int8)
        held = {
            "p": pack_planes(values, 3, signed=True),
            "o": plane_weights(3, signed=True),
            "s": np.array([16, 16], np.int64),
        }
        initializers = [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in held.items()]
        nodes = [
            unpack_node("p", "o", "s", "ints"),
            helper.make_node("Cast", ["ints"], ["w"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ]
        functions = [unpack_function(21)]
        opsets.append(helper.make_opsetid(functions[0].domain, 1))
    else:
        initializers = [numpy_helper.from_array(rng.normal(size=(16, 16)).astype(np.float32), "w")]
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, f"net{seed}", ports[:1], ports[1:], initializers)
    model = helper.make_model(graph, opset_imports=opsets, functions=functions)
    model.ir_version = 10
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture(scope="session")
def stored_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of made-up figures with real (tiny) files; do not write into it."""
    from modeltailor.reports import write_reports
    from modeltailor.reports.synthetic import synthetic_history
    from modeltailor.search.ledger import Ledger
    from modeltailor.search.run_folder import RunFolder
    from modeltailor.targets import Budget

    history = synthetic_history(24, 4, n_front=6, seed=3, budget={"max_drop": 2.0})
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "made-up")
    folder.create()
    study = folder.study(create=True)
    study.set_user_attr("run", history.run.model_dump_json())
    ledger = Ledger(study, objectives=("accuracy", "latency", "size"), budget=Budget(max_drop=2.0), minimize=False)
    for trial in history.trials:
        sha = folder.keep_artifact(_net(trial.number)) if trial.is_measured else ""
        ledger.add(trial.model_copy(update={"sha256": sha}))
    ledger.keep("finals", [f.model_dump() for f in history.finals])
    ledger.keep("stopped", history.stopped)
    folder.write_text("job.yaml", json.dumps(history.run.job))
    write_reports(folder.path, folder.read())
    folder.drop_work()
    return folder.path


@pytest.fixture
def made_run(stored_run: Path, tmp_path: Path) -> Path:
    """A private copy of the finished run."""
    place = tmp_path / "made-up"
    shutil.copytree(stored_run, place)
    return place
