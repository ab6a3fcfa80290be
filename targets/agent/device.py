"""A device elsewhere, through an agent: files go there by their hash, raw times come back."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np

from modeltailor.canonical import content_key
from modeltailor.durable import sha256_bytes, sha256_file
from modeltailor.errors import CandidateError, DeviceError
from modeltailor.targets.agent.device_side import LARGEST_CHUNK, VERSION
from modeltailor.targets.agent.wire import ProcessWire, TcpWire, Wire, ssh_arguments
from modeltailor.targets.device import DeviceFacts, Inputs, PairTimings, RunFacts, RuntimeOptions, TimingPlan, Timings
from modeltailor.targets.local import pair_timings
from modeltailor.targets.lock import measurement_token

__all__ = ["AgentDevice", "connect_ssh", "connect_tcp"]

_SHORT_S = 60.0
_GRACE_S = 30.0
_CLOCK_TOLERANCE = 0.25
_OF_THE_CANDIDATE = ("OOM", "TIMEOUT", "UNSUPPORTED")


def connect_tcp(host: str, port: int, token: str) -> Callable[[], Wire]:
    """Return how to reach an agent that listens."""
    return lambda: TcpWire(host, port, token)


def connect_ssh(address: str, *, python: str = "python3") -> Callable[[], Wire]:
    """Return how to reach a device by SSH; see :func:`~modeltailor.targets.agent.wire.ssh_arguments`."""
    arguments = ssh_arguments(address, python)
    return lambda: ProcessWire(arguments, address)


class AgentDevice:
    """A device that an agent measures on.

    Args:
        connect: opens a connection; called again after one broke.
        name: of the profile.
        options: how sessions are opened there.
        wait_s: longest wait for other runs of this machine that measure on that device.
    """

    def __init__(
        self,
        connect: Callable[[], Wire],
        *,
        name: str,
        options: RuntimeOptions | None = None,
        wait_s: float = 900.0,
    ) -> None:
        self.connect = connect
        self.name = name
        self.options = options or RuntimeOptions()
        self.wait_s = wait_s
        self._wire: Wire | None = None
        self._facts: DeviceFacts | None = None

    def describe(self) -> DeviceFacts:
        """Say what device and runtime the agent found."""
        if self._facts is None:
            found = self._ask({"verb": "hello"}, b"", _SHORT_S)
            if found.get("version") != VERSION:
                raise DeviceError(
                    "DEV-07",
                    self.name,
                    f"its agent speaks version {found.get('version')}, not {VERSION}",
                    "copy the new agent",
                )
            if self.options.provider not in found["providers"]:
                have = ", ".join(found["providers"])
                raise DeviceError(
                    "DEV-02",
                    self.name,
                    f"its runtime has no {self.options.provider}; it has {have}",
                    "choose another provider",
                )
            instructions = tuple(str(i) for i in found["instructions"])
            identity = (self.name, found["runtime"], found["processor"], instructions, self.options)
            self._facts = DeviceFacts(
                name=self.name,
                evidence="measured-on-device",
                runtime=str(found["runtime"]),
                processor=str(found["processor"]),
                options=self.options,
                fingerprint=content_key(identity),
                instructions=instructions,
            )
        return self._facts

    def time(self, artifacts: Sequence[Path], inputs: Inputs, plan: TimingPlan) -> Timings:
        """Time the artifacts there, interleaved; see :class:`~modeltailor.targets.Device`."""
        if not artifacts:
            raise ValueError("nothing to time")
        for path in artifacts:
            if not path.is_file():
                raise CandidateError("UNSUPPORTED", path.name, "no such file", "build it first")
        self.describe()
        with measurement_token(self.name, wait_s=self.wait_s):
            names = [sha256_file(path) for path in artifacts]
            packed = _packed(inputs)
            job = {
                "verb": "time",
                "artifacts": names,
                "inputs": sha256_bytes(packed),
                "options": {
                    "threads": self.options.intra_op_threads,
                    "spinning": self.options.spinning,
                    "provider": self.options.provider,
                },
                "pairs": plan.pairs,
                "quads": plan.quads,
                "block_inferences": plan.block_inferences,
                "block_ms": plan.block_ms,
                "warmup_s": plan.warmup_s,
                "memory": plan.memory,
                "timeout_s": plan.timeout_s,
            }
            self._send({**dict(zip(names, artifacts, strict=True)), sha256_bytes(packed): packed})
            started = time.monotonic()
            found = self._ask(job, b"", plan.timeout_s + _GRACE_S, artifacts)
            self._check_clock(float(found["elapsed_s"]), time.monotonic() - started)
        return _timings(found, len(artifacts))

    def _check_clock(self, theirs_s: float, ours_s: float) -> None:
        if abs(theirs_s - ours_s) > _CLOCK_TOLERANCE * ours_s + 2.0:
            raise DeviceError(
                "DEV-09",
                self.name,
                f"its clock says that the job took {theirs_s:.1f} s, ours says {ours_s:.1f} s",
                "its times cannot be used; mend its clock",
            )

    def _send(self, files: dict[str, Path | bytes]) -> None:
        """Upload what is not there; a broken upload goes on where it stopped."""
        there = cast("list[int]", self._ask({"verb": "have", "files": list(files)}, b"", _SHORT_S)["bytes"])
        for (sha, source), start in zip(files.items(), there, strict=True):
            data = source if isinstance(source, bytes) else source.read_bytes()
            done, stuck = start, 0
            while done != -1:
                piece = data[done : done + LARGEST_CHUNK]
                message = {"verb": "put", "file": sha, "offset": done, "size": len(data)}
                reached = int(self._ask(message, piece, _SHORT_S)["bytes"])
                stuck = stuck + 1 if -1 < reached <= done else 0
                done = reached
                if stuck > 3:
                    raise DeviceError(
                        "DEV-08", self.name, f"a file does not get further than {done} bytes", "look at its disk"
                    )

    def _ask(
        self, message: dict[str, object], body: bytes, timeout_s: float, artifacts: Sequence[Path] = ()
    ) -> dict[str, Any]:
        if self._wire is None:
            self._wire = self.connect()
        try:
            answer = self._wire.ask(message, body, timeout_s)
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
        advice = {
            "BUSY": "wait for the other job, or stop it",
            "DISK": "free space on the device",
            "TOKEN": "use the token that the agent printed",
            "RUNTIME": "install onnxruntime and numpy on the device",
        }
        raise DeviceError("DEV-08" if code == "DISK" else "DEV-06", self.name, f"{what} ({code})", advice.get(code, ""))

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


def _timings(found: dict[str, Any], n_artifacts: int) -> Timings:
    pairs: list[PairTimings] = [
        pair_timings([[tuple(q) for q in row] for row in p["rows"]], [bool(s) for s in p["steady"]])
        for p in found["pairs"]
    ]
    facts = tuple(
        RunFacts(
            load_ms=median(float(p["loaded"][i]["load_ms"]) for p in found["pairs"]),
            first_inference_ms=median(float(p["loaded"][i]["first_ms"]) for p in found["pairs"]),
            peak_load_bytes=int(found["memory"][i]["load_bytes"]) if found["memory"] else None,
            peak_run_bytes=int(found["memory"][i]["run_bytes"]) if found["memory"] else None,
        )
        for i in range(n_artifacts)
    )
    conditions = tuple((str(k), float(v)) for k, v in found["state"].items())
    return Timings(pairs=tuple(pairs), facts=facts, conditions=conditions)
