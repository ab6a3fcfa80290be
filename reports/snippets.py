"""How to load and run the chosen file: texts that run as they are printed.

They are text only: reports never open a session themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Template

from modeltailor.reports.summary import RunSummary

__all__ = ["Snippet", "runtime_of", "snippets_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """One way to run a model.

    Attributes:
        title: language or tool.
        language: for the code fence.
        needs: what must be installed, one line.
        code: the program.
    """

    title: str
    language: str
    needs: str
    code: str


_PYTHON = """\
import numpy as np
import onnxruntime as ort

options = ort.SessionOptions()
options.intra_op_num_threads = $threads
options.inter_op_num_threads = 1
session = ort.InferenceSession("$file", options, providers=["$provider"])

types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64,
         "tensor(int32)": np.int32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(bool)": np.bool_}
inputs = {i.name: np.zeros([d if isinstance(d, int) else 1 for d in i.shape], types[i.type])
          for i in session.get_inputs()}  # put your own data here
for output, value in zip(session.get_outputs(), session.run(None, inputs)):
    print(output.name, value.shape, value.dtype)
"""

_CPP = """\
// g++ -std=c++17 run.cpp -I$$ORT/include -L$$ORT/lib -lonnxruntime -o run
#include <onnxruntime_cxx_api.h>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

int main() {
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "modeltailor");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads($threads);
  Ort::Session session(env, ORT_TSTR("$file"), options);

  Ort::AllocatorWithDefaultOptions allocator;
  std::vector<std::string> names;
  std::vector<Ort::Value> inputs;
  for (size_t i = 0; i < session.GetInputCount(); ++i) {
    names.push_back(session.GetInputNameAllocated(i, allocator).get());
    auto type = session.GetInputTypeInfo(i);
    auto info = type.GetTensorTypeAndShapeInfo();
    std::vector<int64_t> shape = info.GetShape();
    for (auto& d : shape) if (d < 1) d = 1;
    auto value = Ort::Value::CreateTensor(allocator, shape.data(), shape.size(), info.GetElementType());
    std::memset(value.GetTensorMutableRawData(), 0, value.GetTensorSizeInBytes());  // put your own data here
    inputs.push_back(std::move(value));
  }
  std::vector<std::string> outputs;
  for (size_t i = 0; i < session.GetOutputCount(); ++i)
    outputs.push_back(session.GetOutputNameAllocated(i, allocator).get());
  std::vector<const char*> in, out;
  for (auto& n : names) in.push_back(n.c_str());
  for (auto& n : outputs) out.push_back(n.c_str());
  auto values = session.Run(Ort::RunOptions{nullptr}, in.data(), inputs.data(), inputs.size(), out.data(), out.size());
  for (size_t i = 0; i < values.size(); ++i)
    std::cout << outputs[i] << ": " << values[i].GetTensorTypeAndShapeInfo().GetElementCount() << " values\\n";
}
"""

_JAVA = """\
// Android: implementation("com.microsoft.onnxruntime:onnxruntime-android:1.22.0"); on a computer: ...:onnxruntime
import ai.onnxruntime.*;
import java.nio.*;
import java.util.*;

public class Run {
  public static void main(String[] args) throws OrtException {
    OrtEnvironment env = OrtEnvironment.getEnvironment();
    OrtSession.SessionOptions options = new OrtSession.SessionOptions();
    options.setIntraOpNumThreads($threads);
    try (OrtSession session = env.createSession("$file", options)) {  // Android: pass the bytes of the asset
      Map<String, OnnxTensor> inputs = new HashMap<>();
      for (NodeInfo node : session.getInputInfo().values()) {
        TensorInfo info = (TensorInfo) node.getInfo();
        long[] shape = info.getShape();
        int bytes = info.type.size;
        for (int i = 0; i < shape.length; i++) { if (shape[i] < 1) shape[i] = 1; bytes *= (int) shape[i]; }
        ByteBuffer data = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder());  // put your own data here
        inputs.put(node.getName(), OnnxTensor.createTensor(env, data, shape, info.type));
      }
      try (OrtSession.Result result = session.run(inputs)) {
        for (Map.Entry<String, OnnxValue> out : result)
          System.out.println(out.getKey() + " " + out.getValue().getInfo());
      }
    }
  }
}
"""

_JAVASCRIPT = """\
// npm install onnxruntime-node   (in a page: onnxruntime-web, same calls)
const ort = require("onnxruntime-node");
const ARRAYS = { float32: Float32Array, float64: Float64Array, int64: BigInt64Array, int32: Int32Array,
                 uint8: Uint8Array, int8: Int8Array, bool: Uint8Array };

async function main() {
  const session = await ort.InferenceSession.create("$file", { intraOpNumThreads: $threads });
  const inputs = {};
  session.inputNames.forEach((name, i) => {
    const info = session.inputMetadata[i];
    const shape = info.shape.map((d) => (typeof d === "number" && d > 0 ? d : 1));
    const count = shape.reduce((a, b) => a * b, 1);
    inputs[name] = new ort.Tensor(info.type, new ARRAYS[info.type](count), shape); // put your own data here
  });
  const outputs = await session.run(inputs);
  for (const name of session.outputNames) console.log(name, outputs[name].dims);
}
main();
"""

_PERF_TEST = """\
onnxruntime_perf_test -e $ep -m times -r 1000 -x $threads -y 1 -I "$file"
"""


def snippets_for(file: str, *, threads: int = 1, provider: str = "CPUExecutionProvider") -> tuple[Snippet, ...]:
    """Return programs that load ``file`` under the settings that it was measured with.

    Args:
        file: path as the program will see it; quotes and backslashes are refused by the caller's file names.
        threads: threads inside an operator.
        provider: execution provider.
    """
    ep = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}.get(provider, "cpu")
    values = {"file": file, "threads": str(threads), "provider": provider, "ep": ep}
    found = (
        ("Python", "python", "pip install onnxruntime numpy", _PYTHON),
        ("C++", "cpp", "ONNX Runtime's release archive, unpacked at $ORT", _CPP),
        ("Java, Android", "java", "com.microsoft.onnxruntime:onnxruntime or :onnxruntime-android", _JAVA),
        ("JavaScript", "js", "npm install onnxruntime-node", _JAVASCRIPT),
        ("onnxruntime_perf_test", "sh", "built with ONNX Runtime", _PERF_TEST),
    )
    return tuple(
        Snippet(title=title, language=language, needs=needs, code=Template(code).substitute(values))
        for title, language, needs, code in found
    )


def runtime_of(summary: RunSummary) -> tuple[int, str]:
    """Threads and execution provider that a run measured with; one thread on the CPU where it does not say."""
    options = summary.device.get("options")
    known = options if isinstance(options, dict) else {}
    threads, provider = known.get("intra_op_threads"), known.get("provider")
    return (
        threads if isinstance(threads, int) and threads > 0 else 1,
        provider if isinstance(provider, str) and provider.isidentifier() else "CPUExecutionProvider",
    )
