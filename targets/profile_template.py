"""The commented profile that ``modeltailor targets new`` writes: every key that a user's own device may need."""

from __future__ import annotations

import json
import re

from modeltailor.errors import ConfigError
from modeltailor.targets.profile import Profile

__all__ = ["render_profile"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")

_HEAD = """\
# A device for modeltailor: this board or phone, with this runtime. Name it in a job file beside this one: target: {name}
# Then: modeltailor targets check {name}
name: {name}
title: {title}
kind: {kind}                # phone, embedded, desktop-cpu, gpu
runtime: {runtime}
runtime_version: {version}    # or 1.32, which takes 1.32.1 too; another one is refused
provider: {provider}        # cpu, cuda, tensorrt, openvino, coreml, qnn, xnnpack, nnapi ...; no silent fall-back
precision: {precision}      # lower precisions for floats that the provider may take: tf32, fp16, bf16, int8
threads: {threads}          # inside one operator
"""

_REACH = {
    "ssh": """\
reach: ssh                  # nothing need be installed there but numpy and onnxruntime
address: {address}          # user@host, with :port if it is not 22; keys as ssh knows them
python: python3             # the interpreter that has them
""",
    "tcp": """\
reach: tcp                  # an agent that was started there: modeltailor agent --write agent.py
address: {address}          # host:port
token_file: {name}.token    # beside this file: the line that the agent printed
""",
    "adb": """\
reach: adb                  # Android; untested on hardware so far
address: {address}          # as adb devices shows it
perf_test: onnxruntime_perf_test    # beside this file, built for the phone's processor
libraries: []               # what it needs, e.g. [libonnxruntime.so]
""",
    "local": "reach: local                # this machine is the device\n",
    "none": "reach: none                 # not attached: this machine stands in, under its threads and memory, and says so\n",
}

_TAIL = """\
hottest_c: 85               # above it the device is left to cool before it is measured on

# Figures are optional. They predict latency where the device is not attached. Each says where it comes from.
# memory_bytes: {{value: 4.0e+9, origin: spec, source: "maker's page"}}    # origin: spec, measured or inferred
# peak_gops:                # 1e9 operations a second by number format; a multiply-accumulate is two
#   fp32: {{value: 57.6, origin: inferred, source: "4 cores x 1.8 GHz x 8 operations"}}
#   int8: {{value: 115.2, origin: inferred, source: "twice fp32"}}
# bandwidth_gbps: {{value: 2.5, origin: measured, source: "stream on this board"}}
# per_operator_overhead_us: {{value: 2.0, origin: measured, source: "a chain of Identity nodes"}}
# instructions: [asimd, asimddp]
# notes: what a reader must know of the figures
"""


def render_profile(name: str, *, like: Profile | None = None, reach: str = "none", address: str = "") -> str:
    """Return a profile file with a comment on every key.

    Args:
        name: of the device.
        like: a profile whose kind, provider and threads are taken over.
        reach: ``ssh``, ``tcp``, ``adb``, ``local`` or ``none``.
        address: where ``reach`` needs one.

    Raises:
        ConfigError: the name or the way to reach it is not valid, or the address is missing.
    """
    if not _NAME.match(name):
        raise ConfigError(
            "CFG-06", "name", f"must be lower-case letters, digits, '.', '-', '_'; got {name!r}", "e.g. my-board"
        )
    if name == "local":
        raise ConfigError("CFG-06", "name", "'local' is this machine everywhere", "choose another name")
    if reach not in _REACH:
        raise ConfigError("CFG-10", "reach", f"must be one of {', '.join(_REACH)}; got {reach!r}", "choose one")
    if reach in ("ssh", "tcp", "adb") and not address:
        raise ConfigError("CFG-04", "address", f"is needed for {reach}", "name the device's address")
    text = (_HEAD + _REACH[reach] + _TAIL).format(
        name=name,
        title=json.dumps(f"{name}, like {like.title}" if like else name),
        kind=like.kind if like else "embedded",
        runtime=json.dumps(like.runtime if like else "ONNX Runtime"),
        version=json.dumps((like.runtime_version if like else "") or ">=1.18"),
        provider=like.provider if like else "cpu",
        precision=json.dumps(list(like.precision if like else ())),
        threads=like.threads if like else 1,
        address=json.dumps(address),
    )
    return "\n".join(_aligned(line) for line in text.splitlines()) + "\n"


def _aligned(line: str) -> str:
    """Put the comment behind a value into one column."""
    found = re.match(r"^([^#\s].*?\S)\s+# (.*)$", line)
    return f"{found[1]:<27} # {found[2]}" if found else line
