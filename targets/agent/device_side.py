# ruff: noqa: PTH100, PTH103, PTH110, PTH111, PTH118, PTH123, PTH202, PTH207 - pathlib is slow to import on a board
"""The device's side of a measurement: one file that runs alone.

Needs the Python standard library, numpy and onnxruntime (Python 3.9 or newer); it imports nothing of modeltailor, so
that it can be copied to a board. Three ways to start it::

    python device_side.py serve --folder DIR [--host 127.0.0.1] [--port 0]     # prints {"port": ..., "token": ...}
    python device_side.py stdio --folder DIR                                   # speaks on its own stdin and stdout
    python device_side.py worker                                               # started by itself

A message is one line of JSON, followed by as many bytes as its ``body`` says. Verbs: ``hello``, ``have``, ``put``,
``state``, ``time``. Files are named by their SHA-256 alone; no text from outside becomes a path, a command or code.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import glob
import hashlib
import hmac
import json
import math
import os
import platform
import re
import resource
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, BinaryIO, Protocol

VERSION = 3
LARGEST_HEADER = 1 << 16
LARGEST_CHUNK = 4 << 20
LARGEST_JOB_S = 7200.0
DROPPED = 3
SHORTEST_BLOCK = 3
DRIFT = 0.10
SHORTEST_WARM_UP_S = 0.5
LONGEST_WARM_UP_S = 30.0
Json = dict[str, Any]
_SHA = re.compile(r"[0-9a-f]{64}\Z")
_TELLING = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "amx_int8",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)


# -- measuring: also used by modeltailor on its own machine ---------------------------------------------------------


def timed(run: Callable[[], object], n: int) -> list[float]:
    """Return the milliseconds of each of ``n`` calls of ``run``."""
    clock = time.perf_counter_ns
    stamps = [clock()]
    for _ in range(n):
        run()
        stamps.append(clock())
    return [(stamps[i + 1] - stamps[i]) / 1e6 for i in range(n)]


def settle(run: Callable[[], object], shortest_s: float, longest_s: float) -> tuple[bool, float]:
    """Call ``run`` until two windows agree within 2 %, at least ten times and ``shortest_s``.

    After ``longest_s`` it ends unsettled, though not before ten calls, which slow models need to be judged at all, and
    in any case after half a minute.

    Returns whether it settled, and the milliseconds of one call at the end.
    """
    start = time.perf_counter()
    now = timed(run, 1)[0]
    fewest = max(1, min(5, int(500.0 * LONGEST_WARM_UP_S / max(now, 1e-3))))  # two windows in half a minute
    last, n_done, window = 0.0, 1, fewest
    while True:
        now = median(timed(run, window))
        n_done += window
        spent_s = time.perf_counter() - start
        steady = last > 0 and abs(now - last) <= 0.02 * last
        enough = n_done >= 10 and spent_s >= (shortest_s if steady else longest_s)
        if enough or spent_s >= LONGEST_WARM_UP_S:
            return steady, now
        last = now
        window = max(fewest, min(1000, round(50.0 / max(now, 1e-3))))


def single_times(run: Callable[[], object], n: int, longest_s: float) -> list[float]:
    """Return the milliseconds of ``n`` calls one by one, of fewer once ``longest_s`` have passed."""
    until = time.perf_counter() + longest_s
    times: list[float] = []
    while len(times) < n and time.perf_counter() < until:
        times += timed(run, min(256, n - len(times)))
    return times


def calls_per_second(run: Callable[[], object], n_callers: int, seconds: float) -> float:
    """Return how many calls ``n_callers`` threads get done in a second, all together."""
    counts = [0] * n_callers
    begin = threading.Event()
    until = [0.0]

    def call(index: int) -> None:
        begin.wait()
        while time.perf_counter() < until[0]:
            run()
            counts[index] += 1

    threads = [threading.Thread(target=call, args=(i,), daemon=True) for i in range(n_callers)]
    for thread in threads:
        thread.start()
    started = time.perf_counter()
    until[0] = started + seconds
    begin.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


# Operators that work on shapes and indices: runtimes put them on the CPU on purpose, and their tensors are small.
SHAPE_WORK = (
    *("Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Cast", "Constant", "ConstantOfShape"),
    *("Range", "Expand", "Reshape", "Add", "Sub", "Mul", "Div", "Equal", "Where", "ReduceProd", "NonZero", "Identity"),
)
SHAPE_BYTES = 4096
CPU_PROVIDER = "CPUExecutionProvider"

# By provider: the lower precisions in which it may compute floats on its own, each with the place and name of its
# switch and the values for on and off. They are always set, so that a runtime's default does not decide.
PRECISION_SWITCHES: dict[str, dict[str, tuple[str, str, str, str]]] = {
    CPU_PROVIDER: {"bf16": ("session", "mlas.enable_gemm_fastmath_arm64_bfloat16", "1", "0")},  # Arm only
    "CUDAExecutionProvider": {"tf32": ("provider", "use_tf32", "1", "0")},
    "TensorrtExecutionProvider": {
        "fp16": ("provider", "trt_fp16_enable", "True", "False"),
        "bf16": ("provider", "trt_bf16_enable", "True", "False"),
        "int8": ("provider", "trt_int8_enable", "True", "False"),
    },
    "OpenVINOExecutionProvider": {"fp16": ("provider", "precision", "FP16", "ACCURACY")},
    "CoreMLExecutionProvider": {"fp16": ("provider", "AllowLowPrecisionAccumulationOnGPU", "1", "0")},
    "QNNExecutionProvider": {"fp16": ("provider", "enable_htp_fp16_precision", "1", "0")},
}


def precision_settings(provider: str, allowed: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the entries of the session and the options of the provider that allow just those lower precisions.

    Raises:
        LookupError: the provider has no such switch.
    """
    switches = PRECISION_SWITCHES.get(provider, {})
    for name in allowed:
        if name not in switches:
            raise LookupError(provider + " has no switch for " + name)
    settings: dict[str, dict[str, str]] = {"session": {}, "provider": {}}
    for name, (place, key, on, off) in switches.items():
        settings[place][key] = on if name in allowed else off
    return settings["session"], settings["provider"]


def left_behind(events: Sequence[Json], provider: str) -> tuple[list[str], int]:
    """Read off the runtime's profile which nodes did not run on ``provider``, shape work aside.

    Returns their names with operator and provider, and how many nodes did run there.
    """
    elsewhere: dict[str, None] = {}
    n_there = 0
    for event in events:
        arguments = event.get("args")
        if event.get("cat") != "Node" or not isinstance(arguments, dict) or "provider" not in arguments:
            continue
        op, ran_on = str(arguments.get("op_name", "")), str(arguments["provider"])
        if ran_on == provider:
            n_there += 1
        elif not (op in SHAPE_WORK and int(arguments.get("output_size") or 0) <= SHAPE_BYTES):
            name = str(event.get("name", "")).replace("_kernel_time", "")
            elsewhere[name + " (" + op + ", " + ran_on + ")"] = None
    return list(elsewhere), n_there


def fall_back(events: Sequence[Json], provider: str) -> str:
    """Say in one sentence what silently ran elsewhere than on ``provider``; empty if nothing did."""
    nodes, n_there = left_behind(events, provider)
    if not n_there and nodes:
        return "no node runs on " + provider + "; the runtime fell back for " + nodes[0]
    if nodes:
        return f"{len(nodes)} nodes do not run on {provider}, first {nodes[0]}"
    return ""


def providers_for(provider: str, options: dict[str, str]) -> list[Any]:
    """Return a provider with its options and the CPU behind it, as a session takes them."""
    first: Any = (provider, options) if options else provider
    return [first] if provider == CPU_PROVIDER else [first, CPU_PROVIDER]


def profile_events(open_session: Callable[[Any], Any], run: Callable[[Any], object]) -> list[Json]:
    """Run a session once under the runtime's profiler.

    ``open_session`` takes a function that sets up session options; ``run`` runs the session.
    """
    with tempfile.TemporaryDirectory(prefix="modeltailor-") as folder:

        def profiled(options: Any) -> None:
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(folder, "profile")

        session = open_session(profiled)
        run(session)
        with open(session.end_profiling(), encoding="utf-8", errors="replace") as file:
            events: list[Json] = json.load(file)
        return events


class BlockRunner(Protocol):
    """A process that holds a model: ``n`` inferences in a block, of ``inference_ms`` each."""

    n: int
    inference_ms: float

    def block(self) -> float:
        """Run a block and return the median milliseconds of an inference."""
        ...


def fit_blocks(runners: Sequence[BlockRunner], n_quads: int, left_s: float) -> int:
    """Shorten the blocks of ``runners``, then drop quads, so that slow models fit the time; at least two quads.

    Returns the number of quads.
    """
    baseline, others = runners[0], runners[1:] or runners[:1]

    def round_s() -> float:
        quads = ((r.n + DROPPED) * r.inference_ms + (baseline.n + DROPPED) * baseline.inference_ms for r in others)
        return 1.6 * 2e-3 * sum(quads)

    while n_quads * round_s() > left_s and any(r.n > SHORTEST_BLOCK for r in runners):
        for runner in runners:
            runner.n = max(SHORTEST_BLOCK, runner.n // 2)
    return max(min(2, n_quads), min(n_quads, int(left_s / max(round_s(), 1e-9))))


def measure_quads(
    runners: Sequence[BlockRunner],
    n_quads: int,
    soft: float,
    still_wanted: Callable[[], bool] = lambda: True,
) -> list[list[tuple[float, float, float, float]]]:
    """Run quads A B B A of the first runner with each other one, until ``soft`` (a ``time.monotonic`` value).

    A quad whose two baseline blocks differ by more than 10 % is measured again, at most once for each quad; the gate
    never looks at the candidate. Returns one list a candidate of (A, B, B, A) milliseconds.
    """
    baseline, candidates = runners[0], runners[1:] or runners[:1]
    spare = [n_quads] * len(candidates)
    rows: list[list[tuple[float, float, float, float]]] = [[] for _ in candidates]

    def quad(candidate: BlockRunner) -> tuple[float, float, float, float]:
        return baseline.block(), candidate.block(), candidate.block(), baseline.block()

    for done in range(n_quads):
        if (done >= 2 and time.monotonic() > soft) or not still_wanted():
            break
        for i, candidate in enumerate(candidates):
            values = quad(candidate)
            while spare[i] and abs(math.log(values[3] / values[0])) > DRIFT and time.monotonic() < soft:
                spare[i] -= 1
                values = quad(candidate)
            rows[i].append(values)
    return rows


def tells_memory() -> bool:
    """Whether this system shows a process its peak memory and lets it start anew; Linux does."""
    return os.access("/proc/self/clear_refs", os.W_OK)


def status_bytes(key: str) -> int:
    """Read a memory figure of this process, such as ``VmHWM``, in bytes."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no " + key)


def reset_peak() -> None:
    """Make ``VmHWM`` start anew."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


# Identity(x) -> y on float[1], opset 13, ir_version 8
BARE_MODEL = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a00100d"
)


# -- the worker: one process, one model ----------------------------------------------------------------------------


def _session(source: object, options: Json, adjust: Callable[[Any], None] = lambda _: None) -> Any:
    import onnxruntime as ort

    made = ort.SessionOptions()
    made.intra_op_num_threads = int(options["threads"])
    made.inter_op_num_threads = 1
    made.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    made.log_severity_level = 3
    for key in ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"):
        made.add_session_config_entry(key, "1" if options["spinning"] else "0")
    provider = str(options["provider"])
    if provider not in ort.get_available_providers():
        raise LookupError("no execution provider " + provider)
    entries, own = precision_settings(provider, [str(name) for name in options["precision"]])
    for key, value in entries.items():
        made.add_session_config_entry(key, value)
    adjust(made)
    session = ort.InferenceSession(source, made, providers=providers_for(provider, own))
    if provider not in session.get_providers():
        raise LookupError("the runtime fell back from " + provider + " to the CPU")
    return session


class _Worker:
    def __init__(self) -> None:
        self.run: Callable[[], object] = lambda: None

    def _arrays(self, path: str) -> Json:
        import numpy as np

        with np.load(path, allow_pickle=False) as arrays:
            return {name: np.ascontiguousarray(arrays[name]) for name in arrays.files}

    def _feed(self, session: Any, given: Json) -> Json:
        missing = [a.name for a in session.get_inputs() if a.name not in given]
        if missing:
            raise ValueError("takes input {!r}; given: {}".format(missing[0], ", ".join(given)))
        return {a.name: given[a.name] for a in session.get_inputs()}

    def load(self, path: str, inputs: str, options: Json) -> Json:
        gc.collect()
        gc.disable()
        start = time.perf_counter()
        session = _session(path, options)
        opened = time.perf_counter()
        feed = self._feed(session, self._arrays(inputs))
        began = time.perf_counter()
        session.run(None, feed)
        first = time.perf_counter()
        if options["provider"] != CPU_PROVIDER:
            events = profile_events(lambda adjust: _session(path, options, adjust), lambda s: s.run(None, feed))
            fallen = fall_back(events, str(options["provider"]))
            if fallen:
                raise ValueError(fallen)
        self.run = lambda: session.run(None, feed)
        return {"load_ms": (opened - start) * 1e3, "first_ms": (first - began) * 1e3}

    def warm_up(self, shortest_s: float, longest_s: float) -> Json:
        steady, ms = settle(self.run, shortest_s, longest_s)
        return {"steady": steady, "ms": ms}

    def block(self, n_dropped: int, n: int) -> Json:
        timed(self.run, n_dropped)
        return {"ms": median(timed(self.run, n))}

    def singles(self, n: int, longest_s: float) -> Json:
        return {"ms": [round(t, 6) for t in single_times(self.run, n, longest_s)]}

    def callers(self, n: int, seconds: float) -> Json:
        return {"per_second": calls_per_second(self.run, n, seconds)}

    def memory(self, path: str, inputs: str, options: Json) -> Json:
        if not tells_memory():
            return {"load_bytes": None, "run_bytes": None}
        given = self._arrays(inputs)
        bare = _session(BARE_MODEL, options)
        gc.collect()
        base = status_bytes("VmRSS")
        reset_peak()
        session = _session(path, options)
        loaded = status_bytes("VmHWM")
        reset_peak()
        feed = self._feed(session, given)
        for _ in range(4):
            session.run(None, feed)
        ran = status_bytes("VmHWM")
        del bare
        return {"load_bytes": max(0, loaded - base), "run_bytes": max(0, ran - base)}


def _die_with_parent() -> None:
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


def work(memory_bytes: int) -> None:
    """Answer commands of the agent until it closes the pipe, within a limit of memory if one is given."""
    _die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    worker = _Worker()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"ok": True, **getattr(worker, command.pop("do"))(**command)}
        except MemoryError:
            answer = {"ok": False, "code": "OOM", "what": "out of memory"}
        except LookupError as error:
            answer = {"ok": False, "code": "DEVICE", "what": str(error)}
        except Exception as error:
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            out = "bad_alloc" in text or "Failed to allocate memory" in text
            answer = {"ok": False, "code": "OOM" if out else "UNSUPPORTED", "what": text[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


# -- the agent -----------------------------------------------------------------------------------------------------


class Refusal(Exception):
    """What the agent answers instead of a result. ``index`` names the artifact at fault, if one is."""

    def __init__(self, code: str, what: str, index: int | None = None) -> None:
        super().__init__(what)
        self.code, self.what, self.index = code, what, index


class _Runner:
    """A worker process and its model, as the coordinator sees it."""

    def __init__(self, program: str, index: int, deadline: float, memory_bytes: int) -> None:
        self.index, self.deadline = index, deadline
        self.n, self.inference_ms, self.steady = 1, 0.0, False
        self.loaded: Json = {}
        environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
        self.process = subprocess.Popen(
            [sys.executable, program, "worker", "--memory-bytes", str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        self.buffer = b""

    def ask(self, do: str, **arguments: object) -> Json:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write((json.dumps({"do": do, **arguments}) + "\n").encode())
            self.process.stdin.flush()
        except OSError:
            pass  # its end is told below
        while b"\n" not in self.buffer:
            left = self.deadline - time.monotonic()
            ready = left > 0 and select.select([self.process.stdout], [], [], left)[0]
            if not ready:
                self.close()
                raise Refusal("TIMEOUT", "took longer than the job's time limit and was stopped", self.index)
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            if not part:
                code = self.process.wait()
                if code < 0:
                    name = signal.Signals(-code).name[3:]
                    raise Refusal("CRASH:" + name, "the process was killed by SIG" + name, self.index)
                raise Refusal("CRASH:EXIT", f"the process left with status {code} and no result", self.index)
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\n", 1)
        answer: Json = json.loads(line)
        if not answer.pop("ok"):
            raise Refusal(answer["code"], answer["what"], None if answer["code"] == "DEVICE" else self.index)
        return answer

    def prepare(self, job: Json, path: str, inputs: str) -> None:
        self.loaded = self.ask("load", path=path, inputs=inputs, options=job["options"])
        shortest = min(SHORTEST_WARM_UP_S, job["warmup_s"])
        warm = self.ask("warm_up", shortest_s=shortest, longest_s=job["warmup_s"])
        self.steady, self.inference_ms = warm["steady"], warm["ms"]
        self.n = max(job["block_inferences"], math.ceil(job["block_ms"] / max(self.inference_ms, 1e-4)))

    def block(self) -> float:
        return float(self.ask("block", n_dropped=min(DROPPED, self.n), n=self.n)["ms"])

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _cpuinfo(*keys: str) -> str:
    for line in _read_text("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""


def _numbers(pattern: str) -> list[tuple[str, int]]:
    """Read whole numbers from the files that match: folder and number."""
    found = []
    for path in sorted(glob.glob(pattern)):
        text = _read_text(path).strip()
        if text.lstrip("-").isdigit():
            found.append((os.path.split(path)[0], int(text)))
    return found


def system_state() -> dict[str, float]:
    """Temperature, battery, clock frequency and load, where the system shows them."""
    found: dict[str, float] = {}
    heat = [t / 1000.0 for _, t in _numbers("/sys/class/thermal/thermal_zone*/temp") if -40_000 < t < 150_000]
    if heat:
        found["hottest_c"] = max(heat)
    for folder, percent in _numbers("/sys/class/power_supply/*/capacity"):
        if _read_text(os.path.join(folder, "scope")).strip() != "Device":  # of the device itself, not of its mouse
            found["battery_percent"] = float(percent)
            found["discharging"] = float(_read_text(os.path.join(folder, "status")).strip() == "Discharging")
    now = dict(_numbers("/sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq"))
    most = dict(_numbers("/sys/devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq"))
    shares = [now[folder] / most[folder] for folder in now if most.get(folder, 0) > 0]
    if shares:
        found["frequency_share"] = max(shares)
    with contextlib.suppress(OSError):
        found["load_average_1m"] = os.getloadavg()[0]
    return found


class Agent:
    """Files and jobs of one folder. One job at a time."""

    def __init__(
        self,
        folder: str,
        token: str = "",
        limit_bytes: int = 4 << 30,
        program: str | None = None,
        memory_bytes: int = 0,
    ) -> None:
        self.folder, self.token, self.limit_bytes, self.memory_bytes = folder, token, limit_bytes, memory_bytes
        self.program = program or os.path.abspath(__file__)
        self.job = threading.Lock()
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def _path(self, sha: object, part: bool = False) -> str:
        if not isinstance(sha, str) or not _SHA.match(sha):
            raise Refusal("BAD", "a file is named by 64 hex digits")
        return os.path.join(self.folder, sha + (".part" if part else ""))

    def answer(self, message: Json, body: bytes, still_wanted: Callable[[], bool]) -> Json:
        """Answer one message.

        Raises:
            PermissionError: the token is wrong.
            Refusal: the request cannot be met, for a reason that the other side is told.
        """
        if self.token and not hmac.compare_digest(str(message.get("token", "")).encode(), self.token.encode()):
            raise PermissionError("wrong token")
        verb = message.get("verb")
        if verb not in ("hello", "have", "put", "state", "time"):
            raise Refusal("BAD", "unknown verb")
        if verb == "time":
            return self.time(message, still_wanted)
        answers = {"hello": self.hello, "have": self.have, "put": self.put, "state": self.state}
        return answers[verb](message, body)

    def state(self, message: Json, body: bytes) -> Json:
        """Say how the device is: temperature, battery, clock frequency, load, free disk."""
        return {"state": dict(system_state(), free_bytes=float(shutil.disk_usage(self.folder).free))}

    def hello(self, message: Json, body: bytes) -> Json:
        """Say what device and runtime this is."""
        try:
            import onnxruntime

            runtime = "onnxruntime " + onnxruntime.__version__
            providers = list(onnxruntime.get_available_providers())
        except ImportError:
            raise Refusal("RUNTIME", "onnxruntime is not installed for " + sys.executable) from None
        flags = set(_cpuinfo("flags", "Features").split())
        return {
            "version": VERSION,
            "runtime": runtime,
            "providers": providers,
            "processor": _cpuinfo("model name", "Model", "Hardware") or platform.processor() or platform.machine(),
            "instructions": [name for name in _TELLING if name in flags],
        }

    def have(self, message: Json, body: bytes) -> Json:
        """Bytes that are here of each file; all of a file that is whole counts as -1."""
        found = []
        for sha in list(message["files"])[:1000]:
            part = self._path(sha, part=True)
            whole = os.path.exists(self._path(sha))
            found.append(-1 if whole else os.path.getsize(part) if os.path.exists(part) else 0)
        return {"bytes": found}

    def put(self, message: Json, body: bytes) -> Json:
        """Take the next piece of a file; -1 bytes means that it is whole."""
        sha, offset, size = message["file"], int(message["offset"]), int(message["size"])
        path, part = self._path(sha), self._path(sha, part=True)
        if os.path.exists(path):
            return {"bytes": -1}
        if not 0 <= size <= self.limit_bytes:
            raise Refusal("DISK", f"files may have {self.limit_bytes} bytes; this one has {size}")
        here = os.path.getsize(part) if os.path.exists(part) else 0
        if offset != here or offset + len(body) > size:
            return {"bytes": here}
        self._make_room(size - here)
        try:
            with open(part, "ab") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Refusal("DISK", error.strerror or "cannot write") from error
        if offset + len(body) < size:
            return {"bytes": offset + len(body)}
        digest = hashlib.sha256()
        with open(part, "rb") as file:
            for chunk in iter(lambda: file.read(1 << 20), b""):
                digest.update(chunk)
        if digest.hexdigest() != sha:
            os.unlink(part)
            raise Refusal("HASH", "the content does not have the hash that names it; it was dropped")
        os.replace(part, path)
        return {"bytes": -1}

    def _make_room(self, needed: int) -> None:
        """Drop the files that were not used for longest, until ``needed`` more bytes keep the folder's limit."""
        kept = [e for e in os.scandir(self.folder) if _SHA.match(e.name.replace(".part", ""))]
        total = sum(e.stat().st_size for e in kept)
        for entry in sorted((e for e in kept if _SHA.match(e.name)), key=lambda e: e.stat().st_mtime):
            if total + needed <= self.limit_bytes:
                break
            total -= entry.stat().st_size
            os.unlink(entry.path)
        if shutil.disk_usage(self.folder).free < needed + (16 << 20):
            raise Refusal("DISK", "the device's disk is full")

    def time(self, job: Json, still_wanted: Callable[[], bool]) -> Json:
        """Measure; see ``modeltailor.targets.agent.device``."""
        paths = [self._path(sha) for sha in list(job["artifacts"])[:64]]
        inputs = self._path(job["inputs"])
        for path in (*paths, inputs, *(self._path(sha) for sha in list(job["needs"])[:4096])):
            if not os.path.exists(path):
                raise Refusal("ABSENT", "a file is no longer here; send it again")
            os.utime(path)
        if not paths or not 1 <= int(job["pairs"]) <= 1000 or not 1 <= int(job["quads"]) <= 1000:
            raise Refusal("BAD", "artifacts, pairs and quads must be 1 to 1000")
        if not self.job.acquire(blocking=False):
            raise Refusal("BUSY", "another job is running")
        try:
            return self._time(job, paths, inputs, still_wanted)
        finally:
            self.job.release()

    def _time(self, job: Json, paths: Sequence[str], inputs: str, still_wanted: Callable[[], bool]) -> Json:
        started = time.monotonic()
        deadline = started + min(float(job["timeout_s"]), LARGEST_JOB_S)
        memory = []
        for index, path in enumerate(paths if job["memory"] else ()):
            runner = _Runner(self.program, index, deadline, self.memory_bytes)
            try:
                memory.append(runner.ask("memory", path=path, inputs=inputs, options=job["options"]))
            finally:
                runner.close()
        pairs = []
        for number in range(int(job["pairs"])):
            now = time.monotonic()
            soft = now + 0.75 * (deadline - now) / (int(job["pairs"]) - number)
            runners: list[_Runner] = []
            try:
                for index, path in enumerate(paths):
                    runners.append(_Runner(self.program, index, deadline, self.memory_bytes))
                    runners[-1].prepare(job, path, inputs)
                n_quads = fit_blocks(runners, int(job["quads"]), soft - time.monotonic())
                rows = measure_quads(runners, n_quads, soft, still_wanted)
                if not still_wanted():
                    raise ConnectionError("nobody waits for the result")
                pairs.append(
                    {"rows": rows, "steady": [r.steady for r in runners], "loaded": [r.loaded for r in runners]}
                )
            finally:
                for runner in runners:
                    runner.close()
        extra = [self._extra(job, i, path, inputs, deadline) for i, path in enumerate(paths)] if still_wanted() else []
        return {
            "pairs": pairs, "memory": memory, "extra": extra, "state": system_state(),
            "elapsed_s": time.monotonic() - started,
        }  # fmt: skip

    def _extra(self, job: Json, index: int, path: str, inputs: str, deadline: float) -> Json:
        """Single inferences and concurrent callers of one artifact, in a process of its own."""
        singles, callers = int(job["singles"]), int(job["callers"])
        if not (0 <= singles <= 1_000_000 and 0 <= callers <= 256):
            raise Refusal("BAD", "singles must be at most 1,000,000 and callers at most 256")
        found: Json = {"singles_ms": [], "per_second": None}
        if not singles and not callers:
            return found
        runner = _Runner(self.program, index, deadline, self.memory_bytes)
        try:
            runner.prepare(job, path, inputs)
            left = 0.8 * max(0.1, deadline - time.monotonic()) / (len(job["artifacts"]) - index)
            if singles:
                found["singles_ms"] = runner.ask("singles", n=singles, longest_s=left)["ms"]
            if callers:
                seconds = min(float(job["callers_s"]), left)
                found["per_second"] = runner.ask("callers", n=callers, seconds=seconds)["per_second"]
        finally:
            runner.close()
        return found


def serve_stream(agent: Agent, reader: BinaryIO, writer: BinaryIO, still_wanted: Callable[[], bool]) -> None:
    """Answer the messages of one connection until it ends."""
    while True:
        line = reader.readline(LARGEST_HEADER)
        if not line:
            return
        try:
            message: Json = json.loads(line)
            size = int(message.get("body", 0))
            if not 0 <= size <= LARGEST_CHUNK:
                raise ValueError(f"a body has at most {LARGEST_CHUNK} bytes")
            body = reader.read(size) if size else b""
            if len(body) < size:
                return
            answer = {"ok": True, **agent.answer(message, body, still_wanted), "clock_s": time.perf_counter()}
        except PermissionError:
            time.sleep(0.5)
            writer.write(b'{"ok": false, "code": "TOKEN", "what": "wrong token"}\n')
            writer.flush()
            return
        except ConnectionError:
            return
        except Refusal as refusal:
            answer = {"ok": False, "code": refusal.code, "what": refusal.what, "index": refusal.index}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            answer = {"ok": False, "code": "BAD", "what": f"not a valid request ({type(error).__name__})"}
            writer.write((json.dumps(answer) + "\n").encode())
            writer.flush()
            return  # what follows in the stream has no meaning any more
        writer.write((json.dumps(answer) + "\n").encode())
        writer.flush()


def _connected(connection: socket.socket) -> Callable[[], bool]:
    def still_wanted() -> bool:
        try:
            ready = select.select([connection], [], [], 0)[0]
            return not ready or connection.recv(1, socket.MSG_PEEK) != b""
        except OSError:
            return False

    return still_wanted


def serve(folder: str, host: str, port: int, limit_bytes: int, memory_bytes: int = 0) -> None:
    """Listen for connections; each needs the token that is printed at the start.

    ``limit_bytes`` bounds the files that are kept, ``memory_bytes`` (0 for no limit) each measuring process.
    """
    agent = Agent(folder, secrets.token_urlsafe(32), limit_bytes, memory_bytes=memory_bytes)
    with socket.create_server((host, port)) as listener:
        print(json.dumps({"host": host, "port": listener.getsockname()[1], "token": agent.token}), flush=True)
        while True:
            connection, _ = listener.accept()
            connection.settimeout(LARGEST_JOB_S)

            def answer(connection: socket.socket = connection) -> None:
                with connection, contextlib.suppress(OSError), connection.makefile("rwb") as stream:
                    serve_stream(agent, stream, stream, _connected(connection))  # type: ignore[arg-type]

            threading.Thread(target=answer, daemon=True).start()


def _stdin_open() -> bool:
    poll = select.poll()
    poll.register(0, select.POLLHUP)
    return not any(event & select.POLLHUP for _, event in poll.poll(0))


def bootstrap(source: bytes, arguments: list[str]) -> None:
    """Start from source text that came over the wire: keep it as a file, for the workers, and go on."""
    folder = os.path.expanduser("~/.cache/modeltailor-agent")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    program = os.path.join(folder, f"device_side-{hashlib.sha256(source).hexdigest()[:16]}.py")
    with open(program + ".tmp", "wb") as file:
        file.write(source)
    os.replace(program + ".tmp", program)
    main(arguments, program)


def main(arguments: list[str] | None = None, program: str | None = None) -> None:
    """Start as the first argument says."""
    parser = argparse.ArgumentParser(description="Measures ONNX models on this device for modeltailor.")
    parser.add_argument("mode", choices=("serve", "stdio", "worker"))
    parser.add_argument("--folder", default=os.path.expanduser("~/.cache/modeltailor-agent"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--limit-bytes", type=int, default=4 << 30)
    parser.add_argument("--memory-bytes", type=int, default=0)
    chosen = parser.parse_args(arguments)
    if chosen.mode == "worker":
        work(chosen.memory_bytes)
    elif chosen.mode == "serve":
        serve(chosen.folder, chosen.host, chosen.port, chosen.limit_bytes, chosen.memory_bytes)
    else:
        answers = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        agent = Agent(chosen.folder, "", chosen.limit_bytes, program, chosen.memory_bytes)
        serve_stream(agent, sys.stdin.buffer, answers, _stdin_open)


if __name__ == "__main__":
    main()
