"""Whatever the work does, the coordinator survives, says what happened, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from modeltailor.errors import CandidateError, DataError
from modeltailor.targets.isolation import Child

FAULTS = """
import ctypes, os, signal, subprocess, sys, threading, time
from modeltailor.errors import DataError

def add(a, b): return a + b
def pid(): return os.getpid()
def segv(): ctypes.string_at(0)
def abort(): os.abort()
def bad_alloc_abort():
    print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr)
    os.abort()
def fpe(): os.kill(os.getpid(), signal.SIGFPE); time.sleep(5)
def forever():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True: time.sleep(1)
def bomb():
    held = []
    while True: held.append(bytearray(50_000_000))
def unpicklable(): return lambda: 0
def flood():
    for _ in range(400): print("x" * 10_000)
    return "done"
def leave(code): os._exit(code)
def bad(): raise ValueError("wrong\\x1b[31m value")
def ours(): raise DataError("DATA-03", "x.npy", "expected 3 dimensions; got 2", "reshape it")
def stop(): sys.exit(3)
def environment(): return {k: v for k, v in os.environ.items() if k.endswith("_THREADS")}
def echo(x): return x
def orphan(path):
    code = "import os,time,sys; os.setsid(); open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    subprocess.Popen([sys.executable, "-c", code, path])
    while not (os.path.exists(path) and os.path.getsize(path)): time.sleep(0.01)
def orphan_then_hang(path): orphan(path); time.sleep(60)
def orphan_then_die(path): orphan(path); os._exit(0)
def die_later():
    threading.Timer(0.05, os._exit, (4,)).start()
    return 1
def take(n_bytes): return len(bytearray(n_bytes))
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    (tmp_path / "faults_of_work.py").write_text(FAULTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    with Child() as child:
        yield child


def run(child, name, timeout_s=20.0, **arguments):
    return child.call(f"faults_of_work:{name}", timeout_s=timeout_s, **arguments)


def gone(pid, within_s=2.0):
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_calls_share_one_process_of_their_own(child):
    assert run(child, "add", a=2, b=3) == 5
    first = run(child, "pid")
    assert first == run(child, "pid") != os.getpid()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("segv", "CRASH:SEGV"),
        ("abort", "CRASH:ABRT"),
        ("fpe", "CRASH:FPE"),
        ("bad_alloc_abort", "OOM"),
        ("unpicklable", "EVAL"),
        ("bad", "EVAL"),
        ("stop", "EVAL"),
    ],
)
def test_fault_is_named_and_the_next_call_works(child, name, code):
    with pytest.raises(CandidateError) as caught:
        run(child, name)
    assert caught.value.code == code
    assert "\x1b" not in str(caught.value)
    assert run(child, "add", a=1, b=1) == 2


@pytest.mark.parametrize("code", [0, 7])
def test_leaving_without_an_answer_is_a_fault(child, code):
    with pytest.raises(CandidateError, match=f"status {code}") as caught:
        run(child, "leave", code=code)
    assert caught.value.code == "CRASH:EXIT"


def test_timeout_kills_work_that_ignores_sigterm(child):
    pid = run(child, "pid")
    start = time.monotonic()
    with pytest.raises(CandidateError) as caught:
        run(child, "forever", timeout_s=0.5)
    assert caught.value.code == "TIMEOUT"
    assert time.monotonic() - start < 3
    assert gone(pid)
    assert run(child, "add", a=1, b=1) == 2


def test_memory_bomb_hits_the_limit(child):
    with Child(memory_bytes=300_000_000) as small:
        assert run(small, "take", n_bytes=100_000_000) == 100_000_000
        with pytest.raises(CandidateError) as caught:
            run(small, "bomb")
        assert caught.value.code == "OOM"
        assert "300,000,000" in caught.value.what
        assert run(small, "add", a=1, b=1) == 2


def test_flood_of_output_is_cut_and_harmless(child):
    assert run(child, "flood") == "done"
    with pytest.raises(CandidateError) as caught:
        run(child, "bad")
    assert "ValueError" in caught.value.detail
    assert len(caught.value.detail) < 60_000


def test_errors_of_this_package_pass_as_themselves(child):
    with pytest.raises(DataError) as caught:
        run(child, "ours")
    assert caught.value.line() == "error[DATA-03] x.npy: expected 3 dimensions; got 2. Reshape it."
    assert "in ours" in caught.value.detail


def test_large_values_travel_both_ways(child):
    data = os.urandom(3_000_000)
    assert run(child, "echo", x=data) == data


def test_threads_are_set(child):
    with Child(threads=3) as three:
        assert set(run(three, "environment").values()) == {"3"}


@pytest.mark.parametrize("name", ["orphan_then_hang", "orphan_then_die"])
def test_grandchild_in_a_session_of_its_own_is_killed(child, tmp_path, name):
    path = tmp_path / "pid"
    with pytest.raises(CandidateError):
        run(child, name, timeout_s=3, path=str(path))
    assert gone(int(path.read_text()))


def test_death_between_calls_is_not_blamed_on_the_next(child):
    assert run(child, "die_later") == 1
    time.sleep(0.4)
    assert run(child, "add", a=1, b=1) == 2


def test_close_leaves_nothing(child, tmp_path):
    path = tmp_path / "pid"
    run(child, "orphan", path=str(path))
    worker = run(child, "pid")
    before = len(list(Path("/proc/self/fd").iterdir()))
    child.close()
    child.close()
    assert gone(worker)
    assert gone(int(path.read_text()))
    assert len(list(Path("/proc/self/fd").iterdir())) < before


COORDINATOR = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits it ignored
import sys
sys.path.insert(0, sys.argv[1])
from modeltailor.targets.isolation import Child
child = Child()
print(child.call("faults_of_work:pid", timeout_s=20), flush=True)
child.call("faults_of_work:orphan_then_hang", timeout_s=60, path=sys.argv[2])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_coordinator(child, tmp_path, number):
    path = tmp_path / "pid"
    script = tmp_path / "coordinator.py"
    script.write_text(textwrap.dedent(COORDINATOR))
    popen = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert popen.stdout is not None
    worker = int(popen.stdout.readline())
    while not (path.exists() and path.stat().st_size):
        time.sleep(0.02)
    popen.send_signal(number)
    _, errors = popen.communicate(timeout=60)
    assert gone(worker)
    assert gone(int(path.read_text()))
    if number == signal.SIGINT:
        assert b"KeyboardInterrupt" in errors
