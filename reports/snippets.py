"""How to load and run the chosen file under the settings it was measured with: texts that run as they are printed.

They are text only: reports never open a session themselves. Provider, threads, spinning and the switches of lower
precisions are set in every program. Where a language has no way to set them for a provider, there is no program for it,
and :func:`left_out_sentence` says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from string import Template

from modeltailor.reports.summary import RunSummary
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.agent.device_side import PRECISION_SWITCHES, precision_settings, providers_for
from modeltailor.targets.providers import PROVIDERS, perf_test_name

__all__ = ["Snippet", "left_out_sentence", "runtime_of", "snippets_for"]


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
${entries}session = ort.InferenceSession("$file", options, providers=$providers)
$check
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
  options.SetInterOpNumThreads(1);
$entries${provider}  Ort::Session session(env, ORT_TSTR("$file"), options);

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
// $needs
import ai.onnxruntime.*;
${imports}import java.nio.*;
import java.util.*;

public class Run {
  public static void main(String[] args) throws OrtException {
    OrtEnvironment env = OrtEnvironment.getEnvironment();
    OrtSession.SessionOptions options = new OrtSession.SessionOptions();
    options.setIntraOpNumThreads($threads);
    options.setInterOpNumThreads(1);
$entries$provider    try (OrtSession session = env.createSession("$file", options)) {  // Android: pass the bytes of the asset
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
  const session = await ort.InferenceSession.create("$file", {
    executionProviders: [$provider],
    intraOpNumThreads: $threads,
    interOpNumThreads: 1,
    extra: { $entries },
  });
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
onnxruntime_perf_test -e $provider -m times -r 1000 -x $threads -y 1 -C "$entries" ${own}-I "$file"
"""


_WHEELS = {
    "CPUExecutionProvider": "onnxruntime",
    "CUDAExecutionProvider": "onnxruntime-gpu",
    "TensorrtExecutionProvider": "onnxruntime-gpu",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
    "DmlExecutionProvider": "onnxruntime-directml",
    "QNNExecutionProvider": "onnxruntime-qnn",
    "CoreMLExecutionProvider": "onnxruntime",
}
"""Packages for Python by provider."""

_CPP_WAYS = {
    "CPUExecutionProvider": "",
    "CUDAExecutionProvider": "  Ort::CUDAProviderOptions provider;\n  provider.Update({$pairs});\n"
    "  options.AppendExecutionProvider_CUDA_V2(*provider);\n",
    "TensorrtExecutionProvider": "  Ort::TensorRTProviderOptions provider;\n  provider.Update({$pairs});\n"
    "  options.AppendExecutionProvider_TensorRT_V2(*provider);\n",
    "OpenVINOExecutionProvider": "  options.AppendExecutionProvider_OpenVINO_V2({$pairs});\n",
    "QNNExecutionProvider": '  options.AppendExecutionProvider("QNN", {$pairs});\n',
    "CoreMLExecutionProvider": '  options.AppendExecutionProvider("CoreML", {$pairs});\n',
    "XnnpackExecutionProvider": '  options.AppendExecutionProvider("XNNPACK");\n',
    "WebGpuExecutionProvider": '  options.AppendExecutionProvider("WebGPU");\n',
}
"""Lines of C++ that open a provider; ``$$pairs`` are its own options."""

_JAVA_WAYS = {
    "CPUExecutionProvider": "",
    "CUDAExecutionProvider": "    OrtCUDAProviderOptions provider = new OrtCUDAProviderOptions();\n"
    "$added    options.addCUDA(provider);\n",
    "TensorrtExecutionProvider": "    OrtTensorRTProviderOptions provider = new OrtTensorRTProviderOptions();\n"
    "$added    options.addTensorrt(provider);\n",
    "QNNExecutionProvider": "    options.addQnn(Map.of($listed));\n",
    "CoreMLExecutionProvider": "    options.addCoreML(Map.of($listed));\n",
    "XnnpackExecutionProvider": "    options.addXnnpack(Map.of());\n",
    "NnapiExecutionProvider": "    options.addNnapi();\n",
}
"""Lines of Java that open a provider; ``$$added`` adds its own options line by line, ``$$listed`` names them in a row."""

_JAVA_PACKAGES = {
    "CPUExecutionProvider": "com.microsoft.onnxruntime:onnxruntime, on Android :onnxruntime-android",
    "CUDAExecutionProvider": "com.microsoft.onnxruntime:onnxruntime_gpu",
    "TensorrtExecutionProvider": "com.microsoft.onnxruntime:onnxruntime_gpu",
    "QNNExecutionProvider": "com.microsoft.onnxruntime:onnxruntime-android-qnn",
    "XnnpackExecutionProvider": "com.microsoft.onnxruntime:onnxruntime-android",
    "NnapiExecutionProvider": "com.microsoft.onnxruntime:onnxruntime-android",
}

_JAVASCRIPT_WAYS = {
    "CPUExecutionProvider": '"cpu"',
    "DmlExecutionProvider": '"dml"',
    "WebGpuExecutionProvider": '"webgpu"',
}
"""Providers as onnxruntime-node names them. It passes no options on, so those that have switches are not among them."""

_TITLES = ("Python", "C++", "Java, Android", "JavaScript", "onnxruntime_perf_test")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What a session is opened with: the provider, the entries of the session, the provider's own options."""

    file: str
    threads: str
    provider: str
    entries: Mapping[str, str]
    own: Mapping[str, str]

    @property
    def build(self) -> str:
        """What must be got where no package is known to have the provider."""
        return f"a build of ONNX Runtime with {self.provider}"


def _lines(values: Mapping[str, str], line: str) -> str:
    return "".join(f"{line.format(json.dumps(k), json.dumps(v))}\n" for k, v in values.items())


def _row(values: Mapping[str, str], item: str) -> str:
    return ", ".join(item.format(json.dumps(k), json.dumps(v)) for k, v in values.items())


def _python(s: _Settings) -> Snippet:
    """Any provider can be named there, so there is always a program."""
    listed = [json.dumps(p) if isinstance(p, str) else f"({json.dumps(p[0])}, {json.dumps(p[1])})"
              for p in providers_for(s.provider, dict(s.own))]  # fmt: skip
    is_cpu = s.provider == "CPUExecutionProvider"
    check = f"""if "{s.provider}" not in session.get_providers():
    raise SystemExit("{s.provider} could not be opened: this would run on the CPU")
"""
    code = Template(_PYTHON).substitute(
        file=s.file,
        threads=s.threads,
        entries=_lines(s.entries, "options.add_session_config_entry({}, {})"),
        providers=f"[{', '.join(listed)}]",
        check="" if is_cpu else check,
    )
    wheel = _WHEELS.get(s.provider)
    needs = f"pip install {wheel} numpy" if wheel else f"{s.build}, and numpy"
    return Snippet(title="Python", language="python", needs=needs, code=code)


def _cpp(s: _Settings) -> Snippet | None:
    way = _CPP_WAYS.get(s.provider)
    if way is None:
        return None
    code = Template(_CPP).substitute(
        file=s.file,
        threads=s.threads,
        entries=_lines(s.entries, "  options.AddConfigEntry({}, {});"),
        provider=Template(way).substitute(pairs=_row(s.own, "{{{}, {}}}")),
    )
    archive = {
        "onnxruntime": "ONNX Runtime's release archive",
        "onnxruntime-gpu": "ONNX Runtime's release archive for GPUs",
    }
    kind = archive.get(_WHEELS.get(s.provider, ""), s.build)
    return Snippet(title="C++", language="cpp", needs=f"{kind}, unpacked at $ORT", code=code)


def _java(s: _Settings) -> Snippet | None:
    way = _JAVA_WAYS.get(s.provider)
    if way is None:
        return None
    needs = _JAVA_PACKAGES.get(s.provider, s.build)
    provider = Template(way).substitute(added=_lines(s.own, "    provider.add({}, {});"), listed=_row(s.own, "{}, {}"))
    code = Template(_JAVA).substitute(
        file=s.file,
        threads=s.threads,
        needs=needs,
        imports="import ai.onnxruntime.providers.*;\n" if "ProviderOptions" in provider else "",
        entries=_lines(s.entries, "    options.addConfigEntry({}, {});"),
        provider=provider,
    )
    return Snippet(title="Java, Android", language="java", needs=needs, code=code)


def _javascript(s: _Settings) -> Snippet | None:
    way = _JAVASCRIPT_WAYS.get(s.provider)
    if way is None:
        return None
    code = Template(_JAVASCRIPT).substitute(
        file=s.file, threads=s.threads, provider=way, entries=_row(s.entries, "{}: {}")
    )
    return Snippet(title="JavaScript", language="js", needs="npm install onnxruntime-node", code=code)


def _perf_test(s: _Settings) -> Snippet | None:
    if s.provider not in PROVIDERS.values():
        return None
    own = " ".join(f"{k}|{v}" for k, v in s.own.items())
    code = Template(_PERF_TEST).substitute(
        file=s.file,
        threads=s.threads,
        provider=perf_test_name(s.provider),
        entries=" ".join(f"{k}|{v}" for k, v in s.entries.items()),
        own=f'-i "{own}" ' if own else "",
    )
    needs = "built with ONNX Runtime" if s.provider == "CPUExecutionProvider" else f"of {s.build}"
    return Snippet(title="onnxruntime_perf_test", language="sh", needs=needs, code=code)


def snippets_for(file: str, options: RuntimeOptions | None = None) -> tuple[Snippet, ...]:
    """Return programs that load ``file`` under the settings that it was measured with, the one in Python first.

    Args:
        file: path as the program will see it; quotes and backslashes are refused by the caller's file names.
        options: how sessions were opened; one thread on the CPU by default.
    """
    options = options if options is not None else RuntimeOptions()
    spinning = "1" if options.spinning else "0"
    session, own = precision_settings(options.provider, options.precision)
    entries = {"session.intra_op.allow_spinning": spinning, "session.inter_op.allow_spinning": spinning, **session}
    settings = _Settings(
        file=file, threads=str(options.intra_op_threads), provider=options.provider, entries=entries, own=own
    )
    made = (_python, _cpp, _java, _javascript, _perf_test)
    return tuple(snippet for make in made if (snippet := make(settings)) is not None)


def left_out_sentence(options: RuntimeOptions) -> str:
    """Say for which languages :func:`snippets_for` has no program, and why; empty if it has one for each."""
    there = {s.title for s in snippets_for("", options)}
    missing = [title for title in _TITLES if title not in there]
    if not missing:
        return ""
    return (
        f"There is no program for {' and for '.join(missing)}: the settings that {options.provider} was measured with "
        "cannot be given there."
    )


def runtime_of(summary: RunSummary) -> RuntimeOptions:
    """How a run opened its sessions; one thread on the CPU where it does not say."""
    options = summary.device.get("options")
    known = options if isinstance(options, dict) else {}
    threads, provider = known.get("intra_op_threads"), known.get("provider")
    provider = provider if isinstance(provider, str) and provider.isidentifier() else "CPUExecutionProvider"
    precision = known.get("precision")
    named = precision if isinstance(precision, (list, tuple)) else ()
    return RuntimeOptions(
        provider=provider,
        intra_op_threads=threads if isinstance(threads, int) and threads > 0 else 1,
        spinning=known.get("spinning") is True,
        precision=tuple(p for p in named if p in PRECISION_SWITCHES.get(provider, {})),
    )
