"""The agent: the same contract as every device, and a narrow door for whatever comes over the wire."""

import contextlib
import hashlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modeltailor.errors import CandidateError, ConfigError, DeviceError
from modeltailor.targets import RuntimeOptions, TimingPlan
from modeltailor.targets.agent import AgentDevice, connect_ssh, connect_tcp, device_side, wire
from modeltailor.targets.agent.wire import AGENT_FILE, ProcessWire, TcpWire, ssh_arguments
from modeltailor.targets.contract import DeviceCase, DeviceContract
from modeltailor.targets.retrying import Retrying

SHORT = TimingPlan(pairs=1, quads=2, block_inferences=5, block_ms=2.0, warmup_s=0.05, timeout_s=30)


class Server:
    """An agent that listens, started as on a board: the file alone, no package around it."""

    def __init__(self, folder: Path, *extra: str) -> None:
        copy = folder.parent / f"{folder.name}-agent.py"
        copy.write_bytes(AGENT_FILE.read_bytes())
        self.process = subprocess.Popen(
            [sys.executable, "-I", str(copy), "serve", "--folder", str(folder), *extra], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        self.host, self.port, self.token = said["host"], said["port"], said["token"]

    def connect(self):
        return connect_tcp(self.host, self.port, self.token)()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path / "board")
    yield made
    made.stop()


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """A stand-in for ``ssh`` on the path: hands the remote command to a shell here, as sshd would."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ssh"
    program.write_text('#!/bin/sh\nfor last; do :; done\necho "$@" > "$SSH_LOG"\nexec sh -c "$last"\n')
    program.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SSH_LOG", str(tmp_path / "ssh.log"))
    monkeypatch.setenv("HOME", str(home))
    return tmp_path / "ssh.log"


class TestAgentOverTcp(DeviceContract):
    @pytest.fixture
    def case(self, server, models, one_image):
        device = AgentDevice(server.connect, name="board")
        yield DeviceCase(
            device=device, fast=models["small"], slow=models["wide"], broken=models["garbage"], inputs=one_image
        )
        device.close()


def test_over_ssh_nothing_need_be_installed_there(ssh, models, one_image):
    device = AgentDevice(connect_ssh("ssh://user@board.local:2222", python=sys.executable), name="board")
    timings = device.time((models["small"], models["wide"]), one_image, replace(SHORT, memory=True))
    assert len(timings.pairs[0].blocks_ms) == 2
    assert timings.facts[0].peak_run_bytes is not None
    assert device.describe().evidence == "measured-on-device"
    said = shlex.split(ssh.read_text().splitlines()[0])
    assert said[said.index("-p") + 1] == "2222"
    assert said[said.index("--") + 1] == "user@board.local"
    kept = list((ssh.parent / "home" / ".cache" / "modeltailor-agent").glob("device_side-*.py"))
    assert [k.read_bytes() for k in kept] == [AGENT_FILE.read_bytes()]
    device.close()


def test_ssh_that_fails_says_why(ssh, models):
    device = AgentDevice(connect_ssh("board", python="/no/such/python"), name="board")
    with pytest.raises(DeviceError, match="such/python"):
        device.describe()


def test_a_process_that_ends_before_it_has_read_the_agent_leaves_nothing_open(tmp_path, monkeypatch):
    source = tmp_path / "long.py"
    source.write_bytes(b"#" * 1_000_000)  # more than a pipe holds
    monkeypatch.setattr(wire, "AGENT_FILE", source)
    started = []
    popen = subprocess.Popen

    def start(*arguments, **keywords):
        started.append(popen(*arguments, **keywords))
        return started[-1]

    monkeypatch.setattr(wire.subprocess, "Popen", start)
    with pytest.raises(DeviceError, match="no route"):
        ProcessWire(["sh", "-c", "echo no route >&2; exit 3"], "board")
    (process,) = started
    assert process.returncode == 3
    assert process.stdin.closed
    assert process.stdout.closed
    assert process.stderr.closed


@pytest.mark.parametrize(
    "address", ["-oProxyCommand=true", "user@", "a b", "host;id", "host:22x", "u@h`id`", "ssh://-l", "$(id)@h"]
)
def test_address_cannot_become_an_option_or_a_command(address):
    with pytest.raises(ConfigError):
        ssh_arguments(address)
    with pytest.raises(ConfigError, match="plain path"):
        ssh_arguments("host", python="python3; id")


def test_wrong_token_opens_nothing(server, tmp_path):
    wire = TcpWire(server.host, server.port, "wrong")
    assert wire.ask({"verb": "put", "file": "0" * 64, "offset": 0, "size": 3}, b"abc", 5)["code"] == "TOKEN"
    with pytest.raises(DeviceError):
        wire.ask({"verb": "hello"}, b"", 5)
    wire.close()
    assert list((tmp_path / "board").iterdir()) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n", "", None, 7])
def test_only_hashes_name_files(server, tmp_path, name):
    wire = server.connect()
    assert wire.ask({"verb": "put", "file": name, "offset": 0, "size": 3}, b"abc", 5)["code"] == "BAD"
    wire.close()
    assert list((tmp_path / "board").iterdir()) == []


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b"[]\n", b'{"verb": "hello"}\n', b'{"verb": "have", "body": 99999999}\n', b"\xff\xfe\n"]
)
def test_garbage_ends_the_connection_not_the_agent(server, line):
    with socket.create_connection((server.host, server.port), timeout=5) as raw:
        raw.sendall(line)
        answer = json.loads(raw.makefile("rb").readline())
        assert not answer["ok"]
    wire = server.connect()
    assert wire.ask({"verb": "hello"}, b"", 20)["ok"]
    assert wire.ask({"verb": "exec", "command": "id"}, b"", 5) == {
        "ok": False, "code": "BAD", "what": "unknown verb", "index": None
    }  # fmt: skip
    wire.close()


def test_broken_upload_goes_on_where_it_stopped(server, models, one_image, tmp_path):
    data = models["wide"].read_bytes()
    sha = hashlib.sha256(data).hexdigest()
    wire = server.connect()
    assert wire.ask({"verb": "put", "file": sha, "offset": 0, "size": len(data)}, data[:1000], 5)["bytes"] == 1000
    wire.close()

    asked = []

    class Recording(TcpWire):
        def ask(self, message, body, timeout_s):
            asked.append((message["verb"], message.get("offset"), len(body)))
            return super().ask(message, body, timeout_s)

    device = AgentDevice(lambda: Recording(server.host, server.port, server.token), name="board")
    device.time((models["wide"],), one_image, SHORT)
    assert ("put", 1000, len(data) - 1000) in asked
    asked.clear()
    device.time((models["wide"],), one_image, SHORT)
    assert "put" not in [verb for verb, _, _ in asked]
    device.close()


def test_content_that_does_not_fit_its_hash_is_dropped(server, tmp_path):
    wire = server.connect()
    assert wire.ask({"verb": "put", "file": "0" * 64, "offset": 0, "size": 3}, b"abc", 5)["code"] == "HASH"
    wire.close()
    assert list((tmp_path / "board").iterdir()) == []


def test_full_folder_drops_what_was_not_used_for_longest(tmp_path):
    agent = device_side.Agent(str(tmp_path / "f"), limit_bytes=250)
    for k in range(3):
        data = bytes([k]) * 100
        sha = hashlib.sha256(data).hexdigest()
        assert agent.put({"file": sha, "offset": 0, "size": 100}, data) == {"bytes": -1}
        os.utime(tmp_path / "f" / sha, (k, k))
    left = {p.name for p in (tmp_path / "f").iterdir()}
    assert left == {hashlib.sha256(bytes([k]) * 100).hexdigest() for k in (1, 2)}
    with pytest.raises(device_side.Refusal, match="250 bytes"):
        agent.put({"file": "0" * 64, "offset": 0, "size": 300}, b"")


def test_hanging_model_is_stopped_there(server, models, one_image):
    device = AgentDevice(server.connect, name="board")
    with pytest.raises(CandidateError) as caught:
        device.time((models["small"], models["endless"]), one_image, replace(SHORT, timeout_s=4))
    assert (caught.value.code, caught.value.where) == ("TIMEOUT", "endless.onnx")
    assert device.time((models["small"],), one_image, SHORT).pairs
    device.close()


def test_crash_there_is_the_candidate_s(server, models, one_image):
    device = AgentDevice(server.connect, name="board")
    with pytest.raises(CandidateError) as caught:
        device.time((models["small"], models["crashing"]), one_image, SHORT)
    assert (caught.value.code, caught.value.where) == ("CRASH:ABRT", "crashing.onnx")
    device.close()


def test_memory_of_a_small_device_is_kept(save_heavy, models, one_image, tmp_path):
    small = Server(tmp_path / "small-board", "--memory-bytes", "400000000")
    device = AgentDevice(small.connect, name="small board")
    assert device.time((models["small"],), one_image, SHORT).pairs
    with pytest.raises(CandidateError, match=r"heavy\.onnx"):
        device.time((save_heavy(220_000_000),), {"v": np.ones((1, 1024), np.float32)}, SHORT)
    device.close()
    small.stop()


def test_agent_killed_in_the_middle_is_the_device_s_fault_and_a_new_one_goes_on(models, one_image, tmp_path):
    servers = [Server(tmp_path / "board")]

    def connect():  # to whichever agent runs at that time
        return servers[-1].connect()

    device = AgentDevice(connect, name="board")
    device.describe()

    def kill() -> None:
        time.sleep(0.8)
        servers[-1].stop()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(DeviceError) as caught:
        device.time((models["small"],), one_image, replace(SHORT, pairs=30))
    killer.join()
    assert caught.value.code == "DEV-06"
    with pytest.raises(DeviceError, match="cannot be reached"):
        device.time((models["small"],), one_image, SHORT)
    servers.append(Server(tmp_path / "board"))
    assert Retrying(device, attempts=2, wait_s=0).time((models["small"],), one_image, SHORT).pairs
    device.close()
    servers[-1].stop()


def test_job_stops_when_nobody_waits_for_it_any_more(server, models, one_image, tmp_path):
    device = AgentDevice(server.connect, name="board")
    device.time((models["small"],), one_image, SHORT)
    long = replace(SHORT, pairs=1, quads=1000, block_ms=50.0, timeout_s=120)
    failed = []

    def run() -> None:
        with contextlib.suppress(DeviceError, OSError, ValueError):
            device.time((models["small"],), one_image, long)
        failed.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(2.0)
    other = AgentDevice(server.connect, name="board, seen by another")
    with pytest.raises(DeviceError, match="BUSY"):
        other.time((models["small"],), one_image, SHORT)
    assert device._wire is not None
    device._wire._socket.shutdown(socket.SHUT_RDWR)  # the line breaks
    thread.join(10)
    assert failed
    deadline = time.monotonic() + 20
    while True:
        try:
            assert other.time((models["small"],), one_image, SHORT).pairs
            break
        except DeviceError:
            assert time.monotonic() < deadline
            time.sleep(0.3)
    other.close()


class Scripted:
    """A wire that answers as it is told."""

    def __init__(self, **changes):
        self.changes = changes

    def ask(self, message, body, timeout_s):
        hello = {
            "version": device_side.VERSION,
            "runtime": "onnxruntime 1.32.0",
            "providers": ["CPUExecutionProvider"],
            "processor": "p",
            "instructions": [],
        }
        loaded = {"load_ms": 1.0, "first_ms": 1.0}
        time_answer = {
            "pairs": [{"rows": [[[1.0, 1.0, 1.0, 1.0]]], "steady": [True], "loaded": [loaded]}],
            "memory": [],
            "extra": [{"singles_ms": [], "per_second": None}],
            "state": {"hottest_c": 71.0},
            "elapsed_s": 0.0,
        }
        base = {"hello": hello, "have": {"bytes": [-1, -1]}, "state": {"state": {}}, "time": time_answer}[
            message["verb"]
        ]
        return {"ok": True, **base, **self.changes.get(message["verb"], {})}

    def close(self):
        pass


def scripted(**changes):
    return AgentDevice(lambda: Scripted(**changes), name="scripted")


def test_state_of_the_device_is_kept_with_the_times(models, one_image):
    assert scripted().time((models["small"],), one_image, SHORT).conditions == (("hottest_c", 71.0),)


def test_lying_clock_is_refused(models, one_image):
    with pytest.raises(DeviceError, match="clock"):
        scripted(time={"elapsed_s": 500.0}).time((models["small"],), one_image, SHORT)


def test_other_version_and_missing_provider_are_refused():
    with pytest.raises(DeviceError, match="version 7"):
        scripted(hello={"version": 7}).describe()
    device = AgentDevice(Scripted, name="scripted", options=RuntimeOptions(provider="CUDAExecutionProvider"))
    with pytest.raises(DeviceError, match="no CUDAExecutionProvider"):
        device.describe()


def test_silent_agent_is_given_up():
    wire = ProcessWire([sys.executable, "-c", "import time; time.sleep(30)"], "silent")
    start = time.monotonic()
    with pytest.raises(DeviceError, match="did not answer within"):
        wire.ask({"verb": "hello"}, b"", 0.5)
    wire.close()
    assert time.monotonic() - start < 5
