"""Execution providers by the names that people use, and by those of ONNX Runtime and of its perf-test program."""

from __future__ import annotations

import difflib

from modeltailor.errors import ConfigError

__all__ = ["PROVIDERS", "perf_test_name", "provider_named"]

PROVIDERS: dict[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
    "directml": "DmlExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "acl": "ACLExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "azure": "AzureExecutionProvider",
}
"""Short name to the runtime's own."""


def provider_named(text: str) -> str:
    """Return the runtime's name of a provider given by either name, in any case.

    Raises:
        ConfigError: there is no such provider.
    """
    known = {name.lower(): name for name in PROVIDERS.values()} | PROVIDERS
    wanted = text.strip().lower()
    if wanted in known:
        return known[wanted]
    close = difflib.get_close_matches(wanted, list(PROVIDERS), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(PROVIDERS)}"
    raise ConfigError("CFG-10", "provider", f"unknown execution provider {text!r}; {hint}", "mend the name")


def perf_test_name(provider: str) -> str:
    """Return what ``onnxruntime_perf_test -e`` calls a provider."""
    short = {full: name for name, full in PROVIDERS.items()}[provider]
    return {"directml": "dml"}.get(short, short)
