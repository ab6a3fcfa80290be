"""Tables stay small in memory: the peak of a fresh process that loads the file and runs it, as the kernel counts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from modeltailor.compress import Format
from modeltailor.compress.formats import Composer

ROWS, WIDTH = 16384, 256
FLOAT_BYTES = 4 * ROWS * WIDTH

CHILD = """
import sys
import numpy as np
import onnxruntime


def peak():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
peaks = []
for path in sys.argv[1:]:  # a small table first: what the runtime takes for itself does not count
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for _ in range(3):
        session.run(None, {"ids": np.arange(16).reshape(1, 16)})
    peaks.append(peak())
print(peaks[1] - peaks[0])
"""


def _composer(rows: int) -> Composer:
    rng = np.random.default_rng(0)
    table = numpy_helper.from_array(rng.standard_normal((rows, WIDTH), np.float32), "table.weight")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table.weight", "ids"], ["y"])],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "t", WIDTH])],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return Composer(model, {"ids": rng.integers(0, rows, (4, 8))})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(("fmt", "share"), [("w8", 0.65), ("w4", 0.35), ("w4-block32", 0.4)])
def test_a_table_never_takes_its_float_bytes(tmp_path: Path, fmt: str, share: float) -> None:
    """``share`` of the float bytes at the peak: the file's own bytes are read beside what the session keeps of them."""
    paths = []
    for rows in (32, ROWS):
        paths.append(str(tmp_path / f"{rows}.onnx"))
        Path(paths[-1]).write_bytes(_composer(rows).compose({"table": Format.parse(fmt)}).model_bytes)
    done = subprocess.run([sys.executable, "-c", CHILD, *paths], capture_output=True, text=True, check=True)
    assert int(done.stdout) < share * FLOAT_BYTES
