"""An Android device: models and their inputs go there by adb, ONNX Runtime's perf-test program times them.

Untested on hardware: written against the program's sources and a fake ``adb``. Each block of an A B B A quad is a
start of the program, hence a fresh process.
"""

from __future__ import annotations

import math
import re
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from modeltailor.canonical import content_key
from modeltailor.durable import sha256_bytes, sha256_file
from modeltailor.errors import CandidateError, ConfigError, DeviceError
from modeltailor.targets.adb.bridge import Adb, Said
from modeltailor.targets.adb.perf_test import Ran, arguments, read, version_in
from modeltailor.targets.agent.clock import ClockCheck
from modeltailor.targets.agent.device_side import BARE_MODEL, fit_blocks, measure_quads
from modeltailor.targets.agent.upload import pack
from modeltailor.targets.device import DeviceFacts, Inputs, PairTimings, RunFacts, RuntimeOptions, TimingPlan, Timings
from modeltailor.targets.health import HealthLimits, wait_until_fit
from modeltailor.targets.local import pair_timings
from modeltailor.targets.lock import measurement_token
from modeltailor.targets.runtime_version import refuse_other_runtime

__all__ = ["AdbDevice"]

_FOLDER = "/data/local/tmp/modeltailor"
_INPUTS = "test_data_set_0"
_FIRST_RUNS = 20
_TELLING = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2")
_MODERATE = 2  # Android's thermal status from which on it slows processors down noticeably
_GRACE_S = 20.0


class AdbDevice:
    """An Android device that is reached by adb.

    Args:
        adb: the line to it.
        program: ``onnxruntime_perf_test`` for its processor.
        libraries: shared libraries that the program needs.
        name: of the profile.
        options: how sessions are opened there.
        wait_s: longest wait for other runs of this machine that measure on that device.
        limits: heat and battery charge that are accepted.
        runtime_version: what its runtime must be, as a profile says it; empty for any.

    Raises:
        ConfigError: a file is missing.
    """

    def __init__(
        self,
        adb: Adb,
        *,
        program: Path,
        libraries: Sequence[Path] = (),
        name: str,
        options: RuntimeOptions | None = None,
        wait_s: float = 900.0,
        limits: HealthLimits | None = None,
        runtime_version: str = "",
    ) -> None:
        for file in (program, *libraries):
            if not file.is_file():
                raise ConfigError("CFG-01", file, "no such file", "build onnxruntime_perf_test for Android and name it")
        self.adb = adb
        self.program = program
        self.libraries = tuple(libraries)
        self.name = name
        self.options = options or RuntimeOptions()
        self.wait_s = wait_s
        self.limits = limits or HealthLimits(hottest_c=80.0)
        self.runtime_version = runtime_version
        self._facts: DeviceFacts | None = None
        self._clock = ClockCheck(name)
        self._bin = ""
        self._known: set[str] = set()

    # -- what it is ---------------------------------------------------------------------------------------------------

    def describe(self) -> DeviceFacts:
        """Say what device it is, and which runtime is pushed to it."""
        if self._facts is None:
            properties = {
                key: self._checked(["getprop", key]).strip()
                for key in ("ro.product.model", "ro.soc.model", "ro.board.platform", "ro.build.version.release")
            }
            features = re.search(r"^Features\s*:(.*)$", self._checked(["cat", "/proc/cpuinfo"]), re.MULTILINE)
            flags = set(features[1].split()) if features else set()
            files = (self.program, *self.libraries)
            version = version_in(*(f.read_bytes() for f in files)) or "of unknown version"
            chip = properties["ro.soc.model"] or properties["ro.board.platform"] or "unknown chip"
            processor = f"{properties['ro.product.model'] or 'Android device'} ({chip})"
            runtime = f"onnxruntime {version}, perf test, Android {properties['ro.build.version.release']}"
            refuse_other_runtime(self.name, f"onnxruntime {version}", self.runtime_version)
            instructions = tuple(t for t in _TELLING if t in flags)
            identity = (self.name, runtime, processor, instructions, self.options, [sha256_file(f) for f in files])
            self._facts = DeviceFacts(
                name=self.name,
                evidence="measured-on-device",
                runtime=runtime,
                processor=processor,
                options=self.options,
                fingerprint=content_key(identity),
                instructions=instructions,
            )
        return self._facts

    def state(self) -> Mapping[str, float]:
        """Look at temperature, throttling and battery as Android reports them, and at the device's clock."""
        found: dict[str, float] = {}
        thermal = self.adb.shell(["dumpsys", "thermalservice"]).text
        current = thermal.rpartition("Current temperatures")[2]
        heat = [float(v) for v in re.findall(r"mValue=([0-9.]+), mType=0\b", current)]
        if heat:
            found["hottest_c"] = max(heat)
        status = re.search(r"Thermal Status:\s*(\d+)", thermal)
        if status:
            found["throttled"] = float(int(status[1]) >= _MODERATE)
        battery = self.adb.shell(["dumpsys", "battery"]).text
        level = re.search(r"^\s*level:\s*(\d+)", battery, re.MULTILINE)
        if level:
            found["battery_percent"] = float(level[1])
            found["discharging"] = float("powered: true" not in battery)
        warmth = re.search(r"^\s*temperature:\s*(\d+)", battery, re.MULTILINE)
        if warmth:
            found["battery_c"] = int(warmth[1]) / 10.0
        uptime = self.adb.shell(["cat", "/proc/uptime"]).text.split()
        if uptime:
            self._clock.look(float(uptime[0]))
        return found

    # -- measuring ----------------------------------------------------------------------------------------------------

    def time(self, artifacts: Sequence[Path], inputs: Inputs, plan: TimingPlan) -> Timings:
        """Time the artifacts there, interleaved; see :class:`~modeltailor.targets.Device`."""
        if not artifacts:
            raise ValueError("nothing to time")
        for path in artifacts:
            if not path.is_file():
                raise CandidateError("UNSUPPORTED", path.name, "no such file", "build it first")
        self.describe()
        with measurement_token(f"adb {self.adb.serial}", wait_s=self.wait_s):
            self._push_program()
            placed = [self._push_model(path, inputs) for path in artifacts]
            wait_until_fit(self.name, self.state, self.limits)
            deadline = time.monotonic() + plan.timeout_s
            models = [_Model(self, path, there, deadline) for path, there in zip(artifacts, placed, strict=True)]
            pairs: list[PairTimings] = []
            for number in range(plan.pairs):
                now = time.monotonic()
                soft = now + 0.75 * (deadline - now) / (plan.pairs - number)
                for model in models:
                    model.prepare(plan)
                n_quads = fit_blocks(models, plan.quads, soft - time.monotonic())
                rows = measure_quads(models, n_quads, soft)
                pairs.append(pair_timings(rows, [m.steady for m in models]))
            base = self._bare_peak(deadline) if plan.memory else 0
            facts = tuple(model.facts(plan, base) for model in models)
            conditions = tuple((k, v) for k, v in self.state().items())
        return Timings(pairs=tuple(pairs), facts=facts, conditions=conditions)

    def start(self, there: str, where: str, deadline: float, **how: float) -> Ran:
        """Start the program once on a model's folder.

        Raises:
            CandidateError: the model crashed, hung, or is refused.
            DeviceError: the device is gone, or the program does not start there.
        """
        left = deadline - time.monotonic()
        if left <= 1.0:
            raise CandidateError("TIMEOUT", where, "took longer than the job's time limit")
        result = f"{there}/result.csv"
        self._checked(["rm", "-f", result])
        chosen = arguments(
            self.options, f"{there}/model.onnx", result, runs=int(how.get("runs", 0)),
            seconds=float(how.get("seconds", 0.0)), callers=int(how.get("callers", 1)),
        )  # fmt: skip
        command = ["timeout", "-s", "KILL", str(math.ceil(left)), f"{self._bin}/{self.program.name}", *chosen]
        began = time.monotonic()
        said = self.adb.shell(["env", f"LD_LIBRARY_PATH={self._bin}", *command], timeout_s=left + _GRACE_S)
        took_s = time.monotonic() - began
        if said.code:
            raise self._failed(said, where, took_s >= left - 1.0)
        try:
            ran = read(said.text, self._checked(["cat", result]))
        except ValueError as error:
            raise DeviceError(
                "DEV-14", self.name, f"the perf test wrote nonsense ({error})", "try it by hand"
            ) from error
        self._check_clock(sum(ran.times_ms) / 1e3, took_s)
        return ran

    def _check_clock(self, theirs_s: float, ours_s: float) -> None:
        if theirs_s > 1.05 * ours_s + 0.5:
            raise DeviceError(
                "DEV-09", self.name, f"its clock says that runs took {theirs_s:.1f} s, ours says {ours_s:.1f} s for all of it",
                "its times cannot be used; mend its clock",
            )  # fmt: skip

    def _failed(self, said: Said, where: str, too_long: bool) -> CandidateError | DeviceError:
        line = said.last_line
        if said.code in (126, 127) or "CANNOT LINK" in said.text or "not executable" in said.text:
            return DeviceError(
                "DEV-14", self.name, f"the perf test does not start there ({line})",
                "build it, and its libraries, for this device's processor",
            )  # fmt: skip
        if too_long:
            return CandidateError("TIMEOUT", where, "took longer than the job's time limit and was stopped")
        if said.code == 128 + signal.SIGKILL or "bad_alloc" in said.text or "Failed to allocate" in said.text:
            return CandidateError("OOM", where, f"out of memory ({line or 'killed by the system'})")
        if said.code > 128:
            name = signal.Signals(said.code - 128).name.removeprefix("SIG")
            return CandidateError(f"CRASH:{name}", where, f"the process was killed by SIG{name}")
        return CandidateError("UNSUPPORTED", where, line or f"the perf test left with status {said.code}")

    def _bare_peak(self, deadline: float) -> int:
        """Peak memory of the program with a model that does nothing."""
        with tempfile.TemporaryDirectory(prefix="modeltailor-") as folder:
            bare = Path(folder) / "bare.onnx"
            bare.write_bytes(BARE_MODEL)
            there = self._push_model(bare, {"x": np.zeros(1, np.float32)})
        return self.start(there, self.name, deadline, runs=4).peak_bytes or 0

    # -- files there --------------------------------------------------------------------------------------------------

    def _push_program(self) -> None:
        files = (self.program, *self.libraries)
        self._bin = f"{_FOLDER}/bin-{content_key([sha256_file(f) for f in files])}"
        if self._bin in self._known:
            return
        self._checked(["mkdir", "-p", self._bin])
        for file in files:
            self._put(file, sha256_file(file), f"{self._bin}/{file.name}")
        self._checked(["chmod", "700", f"{self._bin}/{self.program.name}"])
        self._known.add(self._bin)

    def _push_model(self, path: Path, inputs: Inputs) -> str:
        """Put a model, its external data and its inputs into a folder of their own on the device."""
        parcel = pack(path)
        tensors = _tensors(inputs)
        there = f"{_FOLDER}/{content_key([*sorted(parcel.files), *map(sha256_bytes, tensors)])}"
        if there in self._known:
            return there
        self._checked(["mkdir", "-p", f"{there}/{_INPUTS}"])
        with tempfile.TemporaryDirectory(prefix="modeltailor-") as folder:
            scratch = Path(folder) / "file"

            def put(content: Path | bytes, sha: str, target: str) -> None:
                if isinstance(content, bytes):
                    scratch.write_bytes(content)
                self._put(scratch if isinstance(content, bytes) else content, sha, target)

            for index, data in enumerate(tensors):
                put(data, sha256_bytes(data), f"{there}/{_INPUTS}/input_{index}.pb")
            for sha, source in parcel.files.items():
                put(source, sha, f"{there}/{'model.onnx' if sha == parcel.model else sha}")
        self._known.add(there)
        return there

    def _put(self, source: Path, sha: str, target: str) -> None:
        """Push a file unless it is there, and see that it arrived whole."""
        if self.adb.shell(["sha256sum", target]).text.startswith(sha):
            return
        self.adb.push(source, target + ".part")
        if not self.adb.shell(["sha256sum", target + ".part"]).text.startswith(sha):
            raise DeviceError(
                "DEV-08", self.name, f"{source.name} did not arrive whole", "look at its disk and the cable"
            )
        self._checked(["mv", target + ".part", target])

    def _checked(self, command: Sequence[str]) -> str:
        said = self.adb.shell(command)
        if said.code:
            kind = "DEV-08" if "No space left" in said.text else "DEV-06"
            raise DeviceError(kind, self.name, f"{command[0]} failed there: {said.last_line}", "look at the device")
        return said.text

    def close(self) -> None:
        """Forget what lies there; the files stay for the next run."""
        self._known.clear()


class _Model:
    """A model on the device, each of whose blocks is one start of the program."""

    def __init__(self, device: AdbDevice, path: Path, there: str, deadline: float) -> None:
        self.device, self.path, self.there, self.deadline = device, path, there, deadline
        self.n, self.inference_ms, self.steady = 1, 0.0, True
        self._warm = 0
        self._first: list[Ran] = []

    def _start(self, **how: float) -> Ran:
        return self.device.start(self.there, self.path.name, self.deadline, **how)

    def prepare(self, plan: TimingPlan) -> None:
        """Find out how long an inference takes, and so how many make a warm-up and a block."""
        ran = self._start(runs=_FIRST_RUNS)
        self._first.append(ran)
        if not ran.times_ms:
            raise CandidateError("UNSUPPORTED", self.path.name, "the perf test ran it without timing it")
        self.inference_ms = median(ran.times_ms[-_FIRST_RUNS // 2 :])
        self.n = max(plan.block_inferences, math.ceil(plan.block_ms / max(self.inference_ms, 1e-4)))
        self._warm = max(3, math.ceil(1e3 * min(0.25, plan.warmup_s) / max(self.inference_ms, 1e-4)))
        self.steady = True

    def block(self) -> float:
        """Run the program once: a warm-up, then a block whose median counts."""
        times = self._start(runs=self._warm + self.n).times_ms[-self.n :]
        half = len(times) // 2
        if half and abs(median(times[half:]) / median(times[:half]) - 1.0) > 0.05:
            self.steady = False
        return median(times)

    def facts(self, plan: TimingPlan, base: int) -> RunFacts:
        """What loading showed, and single inferences, callers and memory where asked for.

        The program tells one peak of loading and running together.
        """
        peak: int | None = None
        if plan.memory:
            peaks = [r.peak_bytes for r in self._first if r.peak_bytes is not None]
            if not peaks:
                raise DeviceError("DEV-14", self.device.name, "the perf test tells no peak memory", "use a newer build")
            peak = max(0, max(peaks) - base)
        singles: tuple[float, ...] = ()
        if plan.singles:
            singles = self._start(runs=self._warm + plan.singles).times_ms[-plan.singles :]
        rate = self._start(seconds=plan.callers_s, callers=plan.callers).per_second if plan.callers else None
        loads = [r.load_ms for r in self._first if r.load_ms is not None]
        if not loads:
            raise DeviceError("DEV-14", self.device.name, "the perf test tells no load time", "use a newer build")
        firsts = [r.first_ms for r in self._first if r.first_ms is not None]
        return RunFacts(
            load_ms=median(loads),
            first_inference_ms=median(firsts) if firsts else self._first[0].times_ms[0],
            peak_load_bytes=peak,
            peak_run_bytes=peak,
            singles_ms=singles,
            runs_per_second=rate,
        )


def _tensors(inputs: Inputs) -> list[bytes]:
    """Inputs as the perf test reads them: one serialized tensor each, with its name."""
    from onnx import numpy_helper

    return [numpy_helper.from_array(np.asarray(v), k).SerializeToString() for k, v in inputs.items()]
