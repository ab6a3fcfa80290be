"""A device elsewhere, through an agent: files go there by their hash, raw times come back."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np

from modeltailor.canonical import content_key
from modeltailor.durable import sha256_bytes
from modeltailor.errors import CandidateError, DeviceError
from modeltailor.targets.agent.clock import ClockCheck
from modeltailor.targets.agent.device_side import LARGEST_CHUNK, VERSION
from modeltailor.targets.agent.upload import Pace, Source, pack, send
from modeltailor.targets.agent.wire import ProcessWire, TcpWire, Wire, ssh_arguments
from modeltailor.targets.device import DeviceFacts, Inputs, PairTimings, RunFacts, RuntimeOptions, TimingPlan, Timings
from modeltailor.targets.health import HealthLimits, wait_until_fit
from modeltailor.targets.local import pair_timings
from modeltailor.targets.lock import measurement_token
from modeltailor.targets.runtime_version import refuse_other_runtime

__all__ = ["AgentDevice", "connect_ssh", "connect_tcp"]

_SHORT_S = 60.0
_PIECE_S = 300.0
_GRACE_S = 30.0
_CLOCK_TOLERANCE = 0.25
_LEAST_PIECE = 1 << 14
_OF_THE_CANDIDATE = ("OOM", "TIMEOUT", "UNSUPPORTED")
_OLDEST_RUNTIME = ">=1.18"  # the first that reads opset 21 and IR version 10, which packed weights need
_ADVICE = {
    "BUSY": "wait for the other job, or stop it",
    "DISK": "free space on the device",
    "TOKEN": "use the token that the agent printed",
    "RUNTIME": "install onnxruntime and numpy on the device",
}


def connect_tcp(host: str, port: int, token: str) -> Callable[[], Wire]:
    """Return how to reach an agent that listens."""
    return lambda: TcpWire(host, port, token)


def connect_ssh(address: str, *, python: str = "python3") -> Callable[[], Wire]:
    """Return how to reach a device by SSH; see :func:`~modeltailor.targets.agent.wire.ssh_arguments`."""
    arguments = ssh_arguments(address, python)
    return lambda: ProcessWire(arguments, address)


class AgentDevice:
    """A device that an agent measures on.

    Before each job it is asked how it is: a hot device is left to cool, one with an empty battery refused. Its clock is
    compared with ours all along, and after a new connection its runtime must be the one that was found first.

    Args:
        connect: opens a connection; called again after one broke.
        name: of the profile.
        options: how sessions are opened there.
        wait_s: longest wait for other runs of this machine that measure on that device.
        limits: heat and battery charge that are accepted.
        runtime_version: what its runtime must be, as a profile says it; empty for any that loads our models.
    """

    def __init__(
        self,
        connect: Callable[[], Wire],
        *,
        name: str,
        options: RuntimeOptions | None = None,
        wait_s: float = 900.0,
        limits: HealthLimits | None = None,
        runtime_version: str = "",
    ) -> None:
        self.connect = connect
        self.name = name
        self.options = options or RuntimeOptions()
        self.wait_s = wait_s
        self.limits = limits or HealthLimits()
        self.runtime_version = runtime_version
        self._wire: Wire | None = None
        self._facts: DeviceFacts | None = None
        self._clock = ClockCheck(name)
        self._pace = Pace(_LEAST_PIECE, LARGEST_CHUNK)

    def describe(self) -> DeviceFacts:
        """Say what device and runtime the agent found."""
        if self._facts is None:
            self._open()
        assert self._facts is not None
        return self._facts

    def state(self) -> Mapping[str, float]:
        """Look at heat, battery, load and free disk of the device, each where it shows them."""
        found = self._ask({"verb": "state"}, b"", _SHORT_S)
        return {str(k): float(v) for k, v in found["state"].items()}

    def time(self, artifacts: Sequence[Path], inputs: Inputs, plan: TimingPlan) -> Timings:
        """Time the artifacts there, interleaved; see :class:`~modeltailor.targets.Device`."""
        if not artifacts:
            raise ValueError("nothing to time")
        for path in artifacts:
            if not path.is_file():
                raise CandidateError("UNSUPPORTED", path.name, "no such file", "build it first")
        self.describe()
        with measurement_token(self.name, wait_s=self.wait_s):
            parcels = [pack(path) for path in artifacts]
            packed = _packed(inputs)
            files: dict[str, Source] = {name: source for p in parcels for name, source in p.files.items()}
            files[sha256_bytes(packed)] = packed
            self._send(files)
            wait_until_fit(self.name, self.state, self.limits)
            job = {
                "verb": "time",
                "artifacts": [p.model for p in parcels],
                "needs": sorted({name for p in parcels for name in p.needs}),
                "inputs": sha256_bytes(packed),
                "options": {
                    "threads": self.options.intra_op_threads,
                    "spinning": self.options.spinning,
                    "provider": self.options.provider,
                    "precision": list(self.options.precision),
                },
                **{name: getattr(plan, name) for name in TimingPlan.__dataclass_fields__},
            }
            started = time.monotonic()
            found = self._ask(job, b"", plan.timeout_s + _GRACE_S, artifacts)
            self._check_elapsed(float(found["elapsed_s"]), time.monotonic() - started)
        return _timings(found, len(artifacts))

    def _check_elapsed(self, theirs_s: float, ours_s: float) -> None:
        if abs(theirs_s - ours_s) > _CLOCK_TOLERANCE * ours_s + 2.0:
            raise DeviceError(
                "DEV-09",
                self.name,
                f"its clock says that the job took {theirs_s:.1f} s, ours says {ours_s:.1f} s",
                "its times cannot be used; mend its clock",
            )

    def _send(self, files: Mapping[str, Source]) -> None:
        names = list(files)
        there: list[int] = []
        for start in range(0, len(names), 500):
            asked: dict[str, object] = {"verb": "have", "files": names[start : start + 500]}
            there += cast("list[int]", self._ask(asked, b"", _SHORT_S)["bytes"])

        def put(sha: str, offset: int, size: int, piece: bytes) -> int:
            message = {"verb": "put", "file": sha, "offset": offset, "size": size}
            return int(self._ask(message, piece, _PIECE_S)["bytes"])

        send(self.name, files, there, put, self._pace)

    # -- the connection -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Connect, and see that it is the device and the runtime that it was before."""
        self._wire = self.connect()
        self._clock = ClockCheck(self.name)
        found = self._exchange({"verb": "hello"}, b"", _SHORT_S)
        try:
            facts = self._read_facts(found)
            if self._facts is not None and facts != self._facts:
                raise DeviceError(
                    "DEV-12",
                    self.name,
                    f"it came back as {facts.runtime} on {facts.processor}; before it was {self._facts.runtime} on "
                    f"{self._facts.processor}",
                    "times of the two cannot stand beside each other; bring the old one back, or start a new run",
                )
        except DeviceError:
            self.close()
            raise
        self._facts = facts

    def _read_facts(self, found: Mapping[str, Any]) -> DeviceFacts:
        if found.get("version") != VERSION:
            raise DeviceError(
                "DEV-07",
                self.name,
                f"its agent speaks version {found.get('version')}, not {VERSION}",
                "copy the new agent",
            )
        runtime = str(found["runtime"])
        refuse_other_runtime(self.name, runtime, _OLDEST_RUNTIME)
        refuse_other_runtime(self.name, runtime, self.runtime_version)
        if self.options.provider not in found["providers"]:
            have = ", ".join(found["providers"])
            raise DeviceError(
                "DEV-02",
                self.name,
                f"its runtime has no {self.options.provider}; it has {have}",
                "choose another provider",
            )
        instructions = tuple(str(i) for i in found["instructions"])
        identity = (self.name, runtime, found["processor"], instructions, self.options)
        return DeviceFacts(
            name=self.name,
            evidence="measured-on-device",
            runtime=runtime,
            processor=str(found["processor"]),
            options=self.options,
            fingerprint=content_key(identity),
            instructions=instructions,
        )

    def _ask(
        self, message: dict[str, object], body: bytes, timeout_s: float, artifacts: Sequence[Path] = ()
    ) -> dict[str, Any]:
        if self._wire is None:
            self._open()
        return self._exchange(message, body, timeout_s, artifacts)

    def _exchange(
        self, message: dict[str, object], body: bytes, timeout_s: float, artifacts: Sequence[Path] = ()
    ) -> dict[str, Any]:
        assert self._wire is not None
        try:
            answer = self._wire.ask(message, body, timeout_s)
            if answer["ok"] and isinstance(answer.get("clock_s"), float):
                self._clock.look(cast("float", answer["clock_s"]))
        except BaseException:
            self.close()  # what is left in a broken stream has no meaning
            raise
        if answer["ok"]:
            return answer
        code, what, index = str(answer.get("code")), str(answer.get("what")), answer.get("index")
        if (
            isinstance(index, int)
            and index < len(artifacts)
            and (code in _OF_THE_CANDIDATE or code.startswith("CRASH:"))
        ):
            raise CandidateError(code, artifacts[index].name, what)
        self.close()
        kind = "DEV-08" if code == "DISK" else "DEV-06"
        raise DeviceError(kind, self.name, f"{what} ({code})", _ADVICE.get(code, ""))

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        wire, self._wire = self._wire, None
        if wire is not None:
            with contextlib.suppress(OSError):
                wire.close()


def _packed(inputs: Inputs) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{name: np.asarray(value) for name, value in inputs.items()})
    return file.getvalue()


def _bytes(memory: Sequence[Mapping[str, Any]], index: int, key: str) -> int | None:
    """A peak that the agent measured; ``None`` if it was not asked to, or its system does not tell."""
    value = memory[index][key] if memory else None
    return None if value is None else int(value)


def _timings(found: dict[str, Any], n_artifacts: int) -> Timings:
    pairs: list[PairTimings] = [
        pair_timings([[tuple(q) for q in row] for row in p["rows"]], [bool(s) for s in p["steady"]])
        for p in found["pairs"]
    ]
    extra = found["extra"]
    facts = tuple(
        RunFacts(
            load_ms=median(float(p["loaded"][i]["load_ms"]) for p in found["pairs"]),
            first_inference_ms=median(float(p["loaded"][i]["first_ms"]) for p in found["pairs"]),
            peak_load_bytes=_bytes(found["memory"], i, "load_bytes"),
            peak_run_bytes=_bytes(found["memory"], i, "run_bytes"),
            singles_ms=tuple(float(t) for t in extra[i]["singles_ms"]),
            runs_per_second=None if extra[i]["per_second"] is None else float(extra[i]["per_second"]),
        )
        for i in range(n_artifacts)
    )
    conditions = tuple((str(k), float(v)) for k, v in found["state"].items())
    return Timings(pairs=tuple(pairs), facts=facts, conditions=conditions)
